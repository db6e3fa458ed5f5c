"""The `TokenVerifier` that the app sees: takes a token apart once and hands it to the issuer that it claims.

Not here: keys. Rules: the unverified `iss` only chooses whose keys to try, and each source compares it again
after the signature; keys of one issuer are never tried on another's tokens, whatever their `kid`; a reserved
issuer that is not configured here never falls through to another issuer's keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from narthex.adapters.tokens.compact import Compact, looks_like_jwt, take_apart
from narthex.adapters.tokens.sources import KeySource, OpaqueSource, TokenSource
from narthex.domain.verdict import Rejected, Verdict
from narthex.ports.later import Later
from narthex.ports.tokens import MAX_TOKEN_BYTES, VerifierStatus

E2E_ISSUER: Final = "narthex-e2e"
PROVIDER_ISSUER: Final = "narthex"


class TokenRouter:
    """Implements `narthex.ports.tokens.TokenVerifier` over any number of sources.

    Args:
        sources: key sources; several may claim one issuer, then the one that knows algorithm and `kid` is asked.
        opaque: verifies tokens that are not JWTs; None: they are malformed.
    """

    def __init__(self, sources: Iterable[KeySource], *, opaque: OpaqueSource | None = None) -> None:
        keyed = list(sources)
        self._opaque = opaque
        self._sources: list[TokenSource] = [*keyed, *([opaque] if opaque is not None else [])]
        self._by_issuer: dict[str, list[KeySource]] = {}
        self._unclaimed = [source for source in keyed if not source.issuers]
        for source in keyed:
            for issuer in source.issuers:
                self._by_issuer.setdefault(issuer, []).append(source)

    def verify(self, token: str, *, now: float, traffic: str) -> Later[Verdict]:
        """See the port. A plain verdict whenever the keys are at hand."""
        if self._opaque is not None and len(token) <= MAX_TOKEN_BYTES and not looks_like_jwt(token):
            return self._opaque.verify(token, now=now, traffic=traffic)
        parts = take_apart(token)
        if isinstance(parts, Rejected):
            return parts
        candidates = self._by_issuer.get(parts.issuer)
        if candidates is None:
            if parts.issuer == E2E_ISSUER:
                return Rejected("e2e_not_allowed_here", key_id=parts.key_id)
            candidates = self._unclaimed
            if not candidates:
                if self._opaque is not None:  # RFC 7662 serves any kind of token
                    return self._opaque.verify(token, now=now, traffic=traffic)
                return self._nobody(parts)
        if len(candidates) > 1:
            for source in candidates:
                if source.knows(parts.algorithm, parts.key_id):
                    return source.verify(parts, now=now, traffic=traffic)
        return candidates[0].verify(parts, now=now, traffic=traffic)

    def _nobody(self, parts: Compact) -> Rejected:
        if not self._sources:
            return Rejected("wrong_issuer", "No issuer is configured here.", key_id=parts.key_id)
        detail = "" if parts.issuer else "The claim `iss` is missing."
        return Rejected("wrong_issuer", detail, key_id=parts.key_id, algorithm=parts.algorithm)

    async def check(self) -> VerifierStatus:
        """Degraded when any source is; the details of all, joined."""
        if not self._sources:
            return VerifierStatus(status="degraded", detail="no issuer is configured")
        found = [await source.check() for source in self._sources]
        bad = [status for status in found if status.status != "healthy"]
        return VerifierStatus(
            status="degraded" if bad else "healthy",
            detail="; ".join(status.detail for status in (bad or found)),
            latency_ms=max(status.latency_ms for status in found),
            breakers={name: state for status in found for name, state in status.breakers.items()},
        )

    async def start(self) -> None:
        """Start every source; none of them fails for a missing issuer."""
        await asyncio.gather(*(source.start() for source in self._sources))

    async def stop(self) -> None:
        """Stop every source."""
        for source in self._sources:
            await source.stop()
