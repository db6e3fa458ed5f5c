"""A test's own issuer: key pairs of every kind, and tokens signed correctly or wrongly on purpose."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any, Final

from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.keys import ALGORITHMS, sign_compact
from narthex.adapters.tokens.verification import IssuerRules

NOW = 1_800_000_000.0  # what is compared to the second sets it to the moment
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "narthex-tests"
SECRET: Final = "0123456789abcdef0123456789abcdef-tests"


@cache
def rsa_key(number: int = 1) -> RSAKey:
    """An RSA key pair; the same one for the same number."""
    return RSAKey.generate_key(2048, {"kid": f"rsa-{number}", "use": "sig"})


@cache
def ec_key(curve: str = "P-256", number: int = 1) -> ECKey:
    """An EC key pair."""
    return ECKey.generate_key(curve, {"kid": f"ec-{curve}-{number}", "use": "sig"})


@cache
def ed_key(number: int = 1) -> OKPKey:
    """An Ed25519 key pair."""
    return OKPKey.generate_key("Ed25519", {"kid": f"ed-{number}", "use": "sig"})


@cache
def hmac_key() -> OctKey:
    """The shared secret as a key."""
    return OctKey.import_key(SECRET)


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that are admitted; a claim with the value `...` is left out."""
    found: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(NOW) + 600,
        "iat": int(NOW) - 10,
        "jti": "token-1",
        **changes,
    }
    return {name: value for name, value in found.items() if value is not ...}


def token(key: Key, algorithm: str, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token really signed by `key`; `header` adds members, `kid` comes from the key."""
    kid = key.get("kid")
    named = {"kid": kid} if kid else {}
    return sign_compact({"alg": algorithm, **named, **(header or {})}, claims(**changes), algorithm, key)


def hs_token(header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token of the shared secret."""
    return token(hmac_key(), "HS256", header, **changes)


def encoded(raw: bytes | dict[str, Any]) -> str:
    """Base64url of bytes or of an object's JSON."""
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(
    header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: Key, algorithm: str
) -> str:
    """A signed token of any bytes, for JSON that no library would write."""
    from joserfc.jws import JWSRegistry

    signing_input = f"{encoded(header)}.{encoded(payload)}"
    signature = JWSRegistry.algorithms[algorithm].sign(signing_input.encode(), key)
    return f"{signing_input}.{encoded(signature)}"


def rules(**changes: Any) -> IssuerRules:
    """The rules of the test's issuer; `algorithms` is changed there, the rest in its claims' rules."""
    algorithms = frozenset(changes.pop("algorithms", ALGORITHMS))
    settled = {"issuer": ISSUER, "audiences": (AUDIENCE,), **changes}
    return IssuerRules(claims=ClaimRules(**settled), algorithms=algorithms)
