"""The interface of the store for credentials: users, tickets, refresh tokens, revocations, signing keys.

Not here: verifying credentials (`ports/tokens.py`, app). Guarantees: secrets arrive hashed (SHA-256 hex or argon2id)
except private keys, which the store keeps as given; "use once" methods are atomic across instances: of many parallel
calls exactly one succeeds.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account of the embedded provider. `blocked_at` 0.0 means not blocked."""

    user_id: str
    tenant: str
    email: str
    name: str
    plan: str
    permissions: tuple[str, ...] = ()
    password_hash: str = ""
    created_at: float = 0.0
    blocked_at: float = 0.0


class RefreshToken(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a refresh family, which is one sign-in. `token_hash` is SHA-256 hex; `used_at` 0.0 means unused.

    Attributes:
        family: the sign-in; access tokens name it too, and all of its tokens end together.
        environment: the environment of the sign-in; it counts in no other.
        source: the identity source that authenticated the user (`app/provider.py`); each refresh asks it again.
        signed_in_at: the moment at which the user authenticated.
    """

    token_hash: str
    family: str
    tenant: str
    user_id: str
    created_at: float
    expires_at: float
    used_at: float = 0.0
    environment: str = ""
    source: str = ""
    signed_in_at: float = 0.0


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key: `purpose` is `provider`, `e2e` or `guard`; `jwk` the private JWK as JSON text.

    Of the keys whose `not_before` has passed, the newest signs. A key is published for verification until `retire_at`
    (0.0: no end).
    """

    kid: str
    purpose: str
    algorithm: str
    jwk: str
    created_at: float
    not_before: float
    retire_at: float = 0.0


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is `jti`, `session`, `subject` or `issued_before`.

    Attributes:
        tenant: empty for `jti` of any tenant.
        value: the jti, the sign-in's family, the subject, or for `issued_before` the subject (`*`: all of the tenant).
        at: the moment of the revocation.
        cut: seconds since the epoch, for `issued_before` only: it revokes tokens with `iat` < `cut`, and without `iat`.
        until: the moment until which it is kept (exp + leeway + grace).
    """

    kind: str
    tenant: str
    value: str
    at: float
    until: float
    cut: float = 0.0
    reason: str = ""


class RevocationChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Revocations that were written after a position, in the order of writing.

    Attributes:
        position: the start of the next call.
        changed: the revocations' current state; a removed or ended one has its `until` in the past.
        more: there is more after `position`: call again at once.
    """

    position: int
    changed: list[Revocation]
    more: bool = False


class Credentials(Protocol):
    """See the module's guarantees."""

    async def upsert_user(self, user: User) -> User:
        """Insert, or update name, plan, permissions and hash of the same (tenant, email); returns the kept row."""

    async def user_by_email(self, tenant: str, email: str) -> User | None:
        """By lower-cased e-mail."""

    async def user(self, tenant: str, user_id: str) -> User | None:
        """By id."""

    async def block_user(self, tenant: str, user_id: str, at: float) -> bool:
        """Set `blocked_at` (0.0 unblocks); False when there is no such user."""

    async def put_ticket(self, ticket_hash: str, identity: str, expires_at: float) -> None:
        """Keep a ticket: `identity` is JSON of an `Identity`."""

    async def take_ticket(self, ticket_hash: str, now: float) -> str | None:
        """Use a ticket up: of parallel calls one gets the identity, the others None; None also when it has expired."""

    async def peek_ticket(self, ticket_hash: str, now: float) -> str | None:
        """As `take_ticket` without using it up (preflight)."""

    async def spend(self, mark_hash: str, expires_at: float) -> bool:
        """Store a mark that can be used once until `expires_at`: of parallel calls one gets True, all others False."""

    async def put_refresh(self, token: RefreshToken, *, replaces: str = "") -> bool:
        """Keep a refresh token.

        Args:
            token: the new link of a family.
            replaces: hash of the used token that it follows. When that token is gone, because its family was revoked
                meanwhile, the new one is not kept: a revocation and a refresh at the same moment end the session.

        Returns:
            Whether it was kept.
        """

    async def use_refresh(self, token_hash: str, now: float) -> tuple[str, RefreshToken | None]:
        """`ok` and the token (now used), `reused` and the token (family must be revoked), or `unknown`."""

    async def revoke_family(self, family: str) -> None:
        """Delete every refresh token of a family."""

    async def revoke_user_refresh(self, tenant: str, user_id: str) -> None:
        """Delete every refresh token of a user."""

    async def add_key(self, key: SigningKey, *, only_if_none: bool = False) -> SigningKey:
        """Insert a key. With `only_if_none`, a live key that the purpose already has is returned instead, so that
        instances that start together agree.
        """

    async def keys(self, purpose: str) -> list[SigningKey]:
        """All kept keys of a purpose, newest first."""

    async def retire_key(self, kid: str, retire_at: float) -> bool:
        """Set the moment at which the key stops being published; False when it is unknown."""

    async def add_revocation(self, revocation: Revocation) -> None:
        """Keep a revocation; the same (kind, tenant, value) is replaced if the new one reaches further."""

    async def remove_revocation(self, kind: str, tenant: str, value: str, now: float) -> bool:
        """End a revocation (a user is unblocked): its `until` becomes `now`; False when there is none."""

    async def revocation_changes(self, after: int, limit: int) -> RevocationChanges:
        """Revocations that were added, extended or removed after a position; 0: all.

        The cost depends on the number of changes, not of kept rows. No change is skipped: a position covers every write
        of any instance up to it. A caller whose last call is an hour ago starts from 0, because ended revocations are
        deleted by then. A store that went back in time (a restored copy, a standby that lagged) to before the position
        sends the caller back to 0: its next changes have numbers that were given before.
        """

    async def expire(self, now: float) -> int:
        """Delete expired tickets, refresh tokens and keys, and revocations that ended an hour ago; returns the count.
        Where `now` is ahead of the store's own clock, the store's clock counts.
        """
