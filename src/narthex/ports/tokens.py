"""Verifying a bearer token, by role. Keys, fetches and libraries are the adapters' (`adapters/tokens`).

Guarantees: never raises for a bad token; says `Unavailable` only when it cannot tell; fetches nothing that a
token names; returns without waiting whenever the keys are at hand.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from narthex.domain.verdict import Verdict

MAX_TOKEN_BYTES = 8 * 1024


class VerifierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """For health: `status` healthy or degraded, and why; `breaker` states by traffic class."""

    status: str
    detail: str
    latency_ms: float = 0.0
    breakers: dict[str, str] = {}


class TokenVerifier(Protocol):
    """Whoever can tell what a token is worth."""

    def verify(self, token: str, *, now: float, traffic: str) -> Verdict | Awaitable[Verdict]:
        """Judge a token.

        Args:
            token: as the client sent it, not yet looked at; at most `MAX_TOKEN_BYTES`, longer is malformed.
            now: seconds since the epoch.
            traffic: `user` or `e2e`: which breaker partition a needed fetch belongs to.

        Returns:
            The verdict, or an awaitable of it when I/O is needed. The caller bounds the wait with its one
            handshake deadline and treats a time-out as `Unavailable`.
        """

    async def check(self) -> VerifierStatus:
        """Whether keys are there and usable (health): mint-and-verify where it owns the key, else key age."""

    async def start(self) -> None:
        """Load or fetch keys. A missing issuer is not an error here: `check` says degraded."""

    async def stop(self) -> None:
        """End background refresh."""
