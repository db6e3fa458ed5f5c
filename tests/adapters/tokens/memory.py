"""A `Credentials` in memory, for tests of the layers above the port."""

from __future__ import annotations

import time

import msgspec

from narthex.errors import DependencyError
from narthex.ports.credentials import (
    Credentials,
    RefreshToken,
    Revocation,
    RevocationChanges,
    SigningKey,
    User,
)


class MemoryCredentials:
    """Keeps everything in dicts. `away` makes every call raise `DependencyError`; `reads` counts `keys` calls."""

    def __init__(self) -> None:
        self.users: dict[tuple[str, str], User] = {}
        self.tickets: dict[str, tuple[str, float]] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.kept_keys: dict[str, SigningKey] = {}
        self.kept_revocations: dict[tuple[str, str, str], Revocation] = {}
        self.change_of: dict[tuple[str, str, str], int] = {}
        self.changes = 0
        self.away = False
        self.reads = 0

    def _reach(self) -> None:
        if self.away:
            raise DependencyError("store", "The store is away.", "Wait.")

    async def upsert_user(self, user: User) -> User:
        self._reach()
        user = msgspec.structs.replace(user, email=user.email.lower())
        for key, kept in self.users.items():
            if (kept.tenant, kept.email) == (user.tenant, user.email):
                self.users[key] = msgspec.structs.replace(
                    kept,
                    name=user.name,
                    plan=user.plan,
                    permissions=user.permissions,
                    password_hash=user.password_hash,
                )
                return self.users[key]
        self.users[user.tenant, user.user_id] = user
        return user

    async def user_by_email(self, tenant: str, email: str) -> User | None:
        self._reach()
        found = [user for user in self.users.values() if (user.tenant, user.email) == (tenant, email.lower())]
        return found[0] if found else None

    async def user(self, tenant: str, user_id: str) -> User | None:
        self._reach()
        return self.users.get((tenant, user_id))

    async def block_user(self, tenant: str, user_id: str, at: float) -> bool:
        self._reach()
        found = self.users.get((tenant, user_id))
        if found is not None:
            self.users[tenant, user_id] = msgspec.structs.replace(found, blocked_at=at)
        return found is not None

    async def put_ticket(self, ticket_hash: str, identity: str, expires_at: float) -> None:
        self._reach()
        self.tickets[ticket_hash] = (identity, expires_at)

    async def take_ticket(self, ticket_hash: str, now: float) -> str | None:
        found = await self.peek_ticket(ticket_hash, now)
        self.tickets.pop(ticket_hash, None)
        return found

    async def peek_ticket(self, ticket_hash: str, now: float) -> str | None:
        self._reach()
        identity, expires_at = self.tickets.get(ticket_hash, ("", 0.0))
        return identity if expires_at > now else None

    async def spend(self, mark_hash: str, expires_at: float) -> bool:
        self._reach()
        if mark_hash in self.tickets:
            return False
        self.tickets[mark_hash] = ("", expires_at)
        return True

    async def put_refresh(self, token: RefreshToken, *, replaces: str = "") -> bool:
        self._reach()
        if replaces and replaces not in self.refresh:
            return False
        self.refresh[token.token_hash] = token
        return True

    async def use_refresh(self, token_hash: str, now: float) -> tuple[str, RefreshToken | None]:
        self._reach()
        found = self.refresh.get(token_hash)
        if found is None or found.expires_at <= now:
            return "unknown", None
        if found.used_at:
            return "reused", found
        self.refresh[token_hash] = used = msgspec.structs.replace(found, used_at=now)
        return "ok", used

    async def revoke_family(self, family: str) -> None:
        self._reach()
        self.refresh = {key: kept for key, kept in self.refresh.items() if kept.family != family}

    async def revoke_user_refresh(self, tenant: str, user_id: str) -> None:
        self._reach()
        self.refresh = {
            key: kept
            for key, kept in self.refresh.items()
            if (kept.tenant, kept.user_id) != (tenant, user_id)
        }

    async def add_key(self, key: SigningKey, *, only_if_none: bool = False) -> SigningKey:
        self._reach()
        if only_if_none:
            for kept in self.kept_keys.values():
                if kept.purpose == key.purpose and not 0 < kept.retire_at <= key.created_at:
                    return kept
        self.kept_keys[key.kid] = key
        return key

    async def keys(self, purpose: str) -> list[SigningKey]:
        self._reach()
        self.reads += 1
        found = [key for key in self.kept_keys.values() if key.purpose == purpose]
        return sorted(found, key=lambda key: key.created_at, reverse=True)

    async def retire_key(self, kid: str, retire_at: float) -> bool:
        self._reach()
        if kid not in self.kept_keys:
            return False
        self.kept_keys[kid] = msgspec.structs.replace(self.kept_keys[kid], retire_at=retire_at)
        return True

    async def add_revocation(self, revocation: Revocation) -> None:
        self._reach()
        key = (revocation.kind, revocation.tenant, revocation.value)
        kept = self.kept_revocations.get(key, revocation)
        if kept is not revocation:
            if revocation.until <= kept.until and revocation.cut <= kept.cut:
                return
            revocation = msgspec.structs.replace(
                revocation, until=max(revocation.until, kept.until), cut=max(revocation.cut, kept.cut)
            )
        self._changed(key, revocation)

    def _changed(self, key: tuple[str, str, str], revocation: Revocation) -> None:
        self.kept_revocations.pop(key, None)  # the newest change is the last
        self.kept_revocations[key] = revocation
        self.changes += 1
        self.change_of[key] = self.changes

    async def remove_revocation(self, kind: str, tenant: str, value: str, now: float) -> bool:
        self._reach()
        kept = self.kept_revocations.get((kind, tenant, value))
        if kept is None or kept.until <= now:
            return False
        ended = msgspec.structs.replace(kept, at=now, until=now, cut=0.0)
        self._changed((kind, tenant, value), ended)
        return True

    async def revocation_changes(self, after: int, limit: int) -> RevocationChanges:
        self._reach()
        if after > self.changes:
            return RevocationChanges(position=0, changed=[], more=True)
        found = [key for key in self.kept_revocations if self.change_of[key] > after][:limit]
        return RevocationChanges(
            position=self.change_of[found[-1]] if found else after,
            changed=[self.kept_revocations[key] for key in found],
            more=len(found) == limit,
        )

    async def expire(self, now: float) -> int:
        self._reach()
        now = min(now, time.time())
        before = len(self.tickets) + len(self.refresh) + len(self.kept_keys) + len(self.kept_revocations)
        self.tickets = {key: kept for key, kept in self.tickets.items() if kept[1] > now}
        self.refresh = {key: kept for key, kept in self.refresh.items() if kept.expires_at > now}
        self.kept_keys = {key: kept for key, kept in self.kept_keys.items() if not 0 < kept.retire_at <= now}
        self.kept_revocations = {
            key: kept for key, kept in self.kept_revocations.items() if kept.until > now - 3600
        }
        after = len(self.tickets) + len(self.refresh) + len(self.kept_keys) + len(self.kept_revocations)
        return before - after


def as_port(fake: MemoryCredentials) -> Credentials:
    """The fake as the port: mypy checks that it has every method."""
    return fake
