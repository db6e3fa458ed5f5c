"""The interfaces for verifying and signing tokens and hashing passwords.

Not here: keys, fetches and libraries (`adapters/tokens`). Guarantees: a verifier never raises for a bad token; it
returns `Unavailable` only when it cannot verify; it never fetches a URL that a token names; it returns without waiting
whenever it has the keys.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from narthex.domain.identity import Identity
from narthex.domain.verdict import Verdict
from narthex.ports.later import Later

MAX_TOKEN_BYTES = 8 * 1024


class VerifierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """For health: `status` (healthy or degraded) with its reason; `breaker` states by traffic class."""

    status: str
    detail: str
    latency_ms: float = 0.0
    breakers: dict[str, str] = {}


class TokenVerifier(Protocol):
    """Verifies tokens; see the module's guarantees."""

    def verify(self, token: str, *, now: float, traffic: str) -> Later[Verdict]:
        """Verify a token.

        Args:
            token: as the client sent it, unchecked; at most `MAX_TOKEN_BYTES`, longer is malformed.
            now: seconds since the epoch.
            traffic: `user` or `e2e`: the breaker partition of a fetch, if one is needed.

        Returns:
            The verdict, or an awaitable of it when I/O is needed. The caller bounds the wait with its one
            handshake deadline and treats a time-out as `Unavailable`.
        """

    async def check(self) -> VerifierStatus:
        """Whether the keys are usable (health): mint and verify where it owns the key, else the keys' age."""

    async def start(self) -> None:
        """Load or fetch keys. A missing issuer is not an error here: `check` says degraded."""

    async def stop(self) -> None:
        """End background refresh."""


class TokenMint(Protocol):
    """Signs our own tokens: one issuer, keys kept in the store (`adapters/tokens/signing.py`).

    Guarantees: every instance on the same store admits its tokens; a token never outlives its key.
    """

    @property
    def issuer(self) -> str:
        """The `iss` of its tokens."""

    def mint(self, identity: Identity, *, ttl_s: float, now: float) -> str:
        """Sign a token for `identity`; its `issued_at`, `expires_at` and `issuer` are set here.

        Args:
            identity: the user to name; an empty `token_id` gets a random `jti`.
            ttl_s: seconds of life, cut to the longest that a key stays published.
            now: seconds since the epoch.

        Raises:
            DependencyError: no signing key was loaded yet.
        """

    def seal(self, values: dict[str, str], *, ttl_s: float, now: float) -> str:
        """Sign values that a browser keeps for us; neither encrypted nor a token. Raises DependencyError."""

    def unseal(self, sealed: str, now: float) -> dict[str, str] | None:
        """The values that any instance on the same store sealed; None: `sealed` is not ours, altered, or too old."""

    def public_keys(self) -> dict[str, object]:
        """The published JWK set (RFC 7517), private members left out."""


class PasswordHashes(Protocol):
    """Verifies passwords (argon2id); bounded, because each hash takes tens of megabytes and milliseconds."""

    async def verify(self, encoded: str, password: str) -> bool:
        """Whether the password is right. An empty `encoded` takes as long as a real one and gives False, so that
        the time does not reveal whether an account exists. Raises Overloaded when too many wait.
        """
