"""One token, one issuer's rules and keys, one verdict: the order of checks that every key source shares.

Rules: pure but for the signature's arithmetic; the order is algorithm, key, signature, claims, expiry, so that a
client learns nothing about the claims of an unsigned or forged token.
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.tokens.claims import ClaimRules, identity_from
from narthex.adapters.tokens.compact import Compact
from narthex.adapters.tokens.keys import MAX_TRIES, KeyTable
from narthex.domain.verdict import Rejected, Valid

HMAC_DEFAULT: Final = frozenset({"HS256"})
ASYMMETRIC_DEFAULT: Final = frozenset({"RS256", "ES256", "EdDSA", "Ed25519"})
"""Algorithms that are allowed where settings name none (docs/settings.md)."""

BAD_SIGNATURE: Final = "The signature does not verify."


class IssuerRules(msgspec.Struct, frozen=True, kw_only=True):
    """Accepted from one issuer: claims, and algorithms (as far as its keys support them)."""

    claims: ClaimRules
    algorithms: frozenset[str]


def verify_token(token: Compact, keys: KeyTable, rules: IssuerRules, now: float) -> Valid | Rejected:
    """The verdict on a token, given the keys at hand.

    Returns:
        `Valid`, or `Rejected` with `algorithm_not_allowed`, `unknown_key` (the key set has no such `kid`: a
        source that can fetch may ask again), `token_invalid` (signature) or a fault of the claims.
    """
    algorithm, kid = token.algorithm, token.key_id
    if algorithm not in rules.algorithms:
        return Rejected("algorithm_not_allowed", key_id=kid)
    candidates = keys.select(algorithm, kid)
    if not candidates:
        if not keys.knows(kid):
            return Rejected("unknown_key", key_id=kid, algorithm=algorithm)
        return Rejected(
            "algorithm_not_allowed", key_id=kid, log_detail="no key with this `kid` serves the algorithm"
        )
    for key in candidates:
        if key.verifies(algorithm, token.signing_input, token.signature):
            break
    else:
        if keys.cut_off(algorithm, kid):
            detail = f"The token names no key (`kid`), and {MAX_TRIES} of the issuer's many keys were tried."
            return Rejected("unknown_key", detail, key_id=kid, algorithm=algorithm)
        return Rejected("token_invalid", BAD_SIGNATURE, key_id=kid, algorithm=algorithm)
    outcome = identity_from(token.claims, rules.claims, now)
    if isinstance(outcome, Rejected):
        return msgspec.structs.replace(outcome, key_id=key.kid, algorithm=algorithm)
    return Valid(outcome, key.kid, algorithm)
