"""Verifying a bearer token, by role. Keys, fetches and libraries are the adapters' (`adapters/tokens`).

Guarantees: never raises for a bad token; says `Unavailable` only when it cannot tell; fetches nothing that a
token names; returns without waiting whenever the keys are at hand.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from narthex.domain.identity import Identity
from narthex.domain.verdict import Verdict
from narthex.ports.later import Later

MAX_TOKEN_BYTES = 8 * 1024


class VerifierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """For health: `status` healthy or degraded, and why; `breaker` states by traffic class."""

    status: str
    detail: str
    latency_ms: float = 0.0
    breakers: dict[str, str] = {}


class TokenVerifier(Protocol):
    """Whoever can tell what a token is worth."""

    def verify(self, token: str, *, now: float, traffic: str) -> Later[Verdict]:
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


class TokenMint(Protocol):
    """Whoever signs tokens of our own: one issuer, keys kept in the store (`adapters/tokens/signing.py`).

    Guarantees: what it mints, every instance on the same store admits; a token never outlives its key.
    """

    @property
    def issuer(self) -> str:
        """The `iss` of its tokens."""

    @property
    def max_ttl_s(self) -> float:
        """The longest life that a token can be given."""

    def mint(self, identity: Identity, *, ttl_s: float, now: float) -> str:
        """Sign a token for `identity`; its `issued_at`, `expires_at` and `issuer` are set here.

        Args:
            identity: whom to name; an empty `token_id` gets a random `jti`.
            ttl_s: seconds of life, at most `max_ttl_s` (longer is cut to it).
            now: seconds since the epoch.

        Raises:
            DependencyError: no signing key was loaded yet.
        """

    def seal(self, values: dict[str, str], *, ttl_s: float, now: float) -> str:
        """Sign values that a browser keeps for us for a while; not encrypted, and no token. Raises DependencyError."""

    def unseal(self, sealed: str, now: float) -> dict[str, str] | None:
        """What `seal` of any instance on the same store was given; None: it is not ours, altered, or too old."""

    def public_keys(self) -> dict[str, object]:
        """The published JWK set (RFC 7517), private members left out."""


class PasswordHashes(Protocol):
    """Hashing people's passwords (argon2id); bounded, because each takes tens of megabytes and milliseconds."""

    async def hash(self, password: str) -> str:
        """The encoded hash, with salt and parameters. Raises Overloaded when too many wait."""

    async def verify(self, encoded: str, password: str) -> bool:
        """Whether it is the password. An empty `encoded` takes as long as a real one and is False, so that
        the time does not tell whether an account exists. Raises Overloaded when too many wait.
        """
