"""The interface of a source of keys to the router: one issuer's rules, and verdicts with its keys.

Not here: the sources themselves (`static_keys.py`, `signing.py`, `jwks.py`, `introspection.py`).
"""

from __future__ import annotations

from typing import Protocol

from narthex.adapters.tokens.compact import Compact
from narthex.domain.verdict import Verdict
from narthex.ports.later import Later
from narthex.ports.tokens import VerifierStatus


class TokenSource(Protocol):
    """Verifies the tokens of one issuer."""

    async def check(self) -> VerifierStatus:
        """As `TokenVerifier.check`."""

    async def start(self) -> None:
        """As `TokenVerifier.start`."""

    async def stop(self) -> None:
        """As `TokenVerifier.stop`."""


class KeySource(TokenSource, Protocol):
    """Keys of one issuer, wherever they come from."""

    @property
    def issuers(self) -> tuple[str, ...]:
        """The exact `iss` values that it answers for; empty: tokens whose issuer no other source claims."""

    def knows(self, algorithm: str, kid: str) -> bool:
        """Whether the keys at hand could serve such a token (chooses among sources of one issuer)."""

    def verify(self, token: Compact, *, now: float, traffic: str) -> Later[Verdict]:
        """The verdict; an awaitable only when keys must be fetched first."""


class OpaqueSource(TokenSource, Protocol):
    """Verifies tokens that are not JWTs (RFC 7662)."""

    def verify(self, token: str, *, now: float, traffic: str) -> Later[Verdict]:
        """The verdict; an awaitable when the issuer must be asked."""
