"""Users, tickets, refresh tokens, signing keys and revocations in SQL. See `ports/credentials.py`.

Rules: "use once" is one statement that only the first caller finds something to change with.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Engine, Operation, Shape
from narthex.ports.credentials import RefreshToken, Revocation, RevocationChanges, SigningKey, User

MAX_CHANGES: Final = 5_000  # revocations in one answer: about 20 ms
ENDED_S: Final = 3_600.0  # an ended revocation stays so long, so that every instance sees that it ended

_USER: Final = Shape(User)
_REFRESH: Final = Shape(RefreshToken)
_KEY: Final = Shape(SigningKey)
_REVOCATION: Final = Shape(Revocation)


class SqlCredentials:
    """The Credentials port over an engine."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect

    async def upsert_user(self, user: User) -> User:
        """See the port; the e-mail is kept in lower case."""
        return await self._engine.write(_upsert_user(user))

    async def user_by_email(self, tenant: str, email: str) -> User | None:
        """See the port."""
        return await self._engine.read(_user("email", tenant, email.lower()))

    async def user(self, tenant: str, user_id: str) -> User | None:
        """See the port."""
        return await self._engine.read(_user("user_id", tenant, user_id))

    async def block_user(self, tenant: str, user_id: str, at: float) -> bool:
        """See the port."""
        return await self._engine.write(_block_user(tenant, user_id, at))

    async def put_ticket(self, ticket_hash: str, identity: str, expires_at: float) -> None:
        """See the port."""
        await self._engine.write(_put_ticket(ticket_hash, identity, expires_at))

    async def take_ticket(self, ticket_hash: str, now: float) -> str | None:
        """See the port."""
        return await self._engine.write(_take_ticket(ticket_hash, now))

    async def peek_ticket(self, ticket_hash: str, now: float) -> str | None:
        """See the port."""
        return await self._engine.read(_peek_ticket(ticket_hash, now))

    async def spend(self, mark_hash: str, expires_at: float) -> bool:
        """See the port; kept among the tickets, which expire alike: a hash of a mark is no hash of a ticket."""
        return await self._engine.write(_spend(mark_hash, expires_at))

    async def put_refresh(self, token: RefreshToken, *, replaces: str = "") -> bool:
        """See the port."""
        return await self._engine.write(_put_refresh(token, replaces))

    async def use_refresh(self, token_hash: str, now: float) -> tuple[str, RefreshToken | None]:
        """See the port; one that expired unused is `unknown`."""
        return await self._engine.write(_use_refresh(token_hash, now))

    async def revoke_family(self, family: str) -> None:
        """See the port."""
        await self._engine.write(_delete_refresh(self._dialect, "family = ?", family))

    async def revoke_user_refresh(self, tenant: str, user_id: str) -> None:
        """See the port."""
        await self._engine.write(
            _delete_refresh(self._dialect, "tenant = ? AND user_id = ?", tenant, user_id)
        )

    async def add_key(self, key: SigningKey, *, only_if_none: bool = False) -> SigningKey:
        """See the port; live is what is not retired at the new key's `created_at`."""
        return await self._engine.write(_add_key(self._dialect, key, only_if_none))

    async def keys(self, purpose: str) -> list[SigningKey]:
        """See the port."""
        return await self._engine.read(_keys(purpose))

    async def retire_key(self, kid: str, retire_at: float) -> bool:
        """See the port."""
        return await self._engine.write(_retire_key(kid, retire_at))

    async def add_revocation(self, revocation: Revocation) -> None:
        """See the port; `cut` and `until` each only ever grow."""
        await self._engine.write(_add_revocation(revocation))

    async def remove_revocation(self, kind: str, tenant: str, value: str, now: float) -> bool:
        """See the port."""
        return await self._engine.write(_remove_revocation(kind, tenant, value, now))

    async def revocation_changes(self, after: int, limit: int) -> RevocationChanges:
        """See the port; at most `MAX_CHANGES`."""
        return await self._engine.read(_revocation_changes(after, max(1, min(limit, MAX_CHANGES))))

    async def expire(self, now: float) -> int:
        """See the port."""
        return await self._engine.write(_expire(self._dialect, now))


def _upsert_user(user: User) -> Operation[User]:
    kept = msgspec.structs.replace(user, email=user.email.lower())
    changing = ("name", "plan", "permissions", "password_hash")
    rows = yield (
        (
            f"INSERT INTO users ({_USER.columns}) VALUES ({_USER.placeholders}) ON CONFLICT (tenant, email)"
            f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changing)} RETURNING {_USER.columns}"
        ),
        _USER.values(kept),
    )
    return _USER.read(rows[0])


def _user(column: str, tenant: str, value: str) -> Operation[User | None]:
    rows = yield f"SELECT {_USER.columns} FROM users WHERE tenant = ? AND {column} = ?", (tenant, value)
    return _USER.first(rows)


def _block_user(tenant: str, user_id: str, at: float) -> Operation[bool]:
    rows = yield (
        "UPDATE users SET blocked_at = ? WHERE tenant = ? AND user_id = ? RETURNING 1",
        (at, tenant, user_id),
    )
    return bool(rows)


def _put_ticket(ticket_hash: str, identity: str, expires_at: float) -> Operation[None]:
    yield (
        "INSERT INTO tickets (ticket_hash, identity, expires_at) VALUES (?, ?, ?)",
        (ticket_hash, identity, expires_at),
    )


def _take_ticket(ticket_hash: str, now: float) -> Operation[str | None]:
    rows = yield "DELETE FROM tickets WHERE ticket_hash = ? RETURNING identity, expires_at", (ticket_hash,)
    return str(rows[0][0]) if rows and rows[0][1] > now else None


def _peek_ticket(ticket_hash: str, now: float) -> Operation[str | None]:
    rows = yield (
        "SELECT identity FROM tickets WHERE ticket_hash = ? AND expires_at > ?",
        (ticket_hash, now),
    )
    return str(rows[0][0]) if rows else None


def _spend(mark_hash: str, expires_at: float) -> Operation[bool]:
    rows = yield (
        (
            "INSERT INTO tickets (ticket_hash, identity, expires_at) VALUES (?, '', ?)"
            " ON CONFLICT (ticket_hash) DO NOTHING RETURNING 1"
        ),
        (mark_hash, expires_at),
    )
    return bool(rows)


def _put_refresh(token: RefreshToken, replaces: str) -> Operation[bool]:
    if replaces:
        # Locks the link before: a revocation waits for it, and then finds the new link too (`_delete_refresh`).
        rows = yield (
            "UPDATE refresh_tokens SET used_at = used_at WHERE token_hash = ? RETURNING 1",
            (replaces,),
        )
        if not rows:
            return False
    yield (
        f"INSERT INTO refresh_tokens ({_REFRESH.columns}) VALUES ({_REFRESH.placeholders})",
        _REFRESH.values(token),
    )
    return True


def _use_refresh(token_hash: str, now: float) -> Operation[tuple[str, RefreshToken | None]]:
    rows = yield (
        (
            "UPDATE refresh_tokens SET used_at = ? WHERE token_hash = ? AND used_at = 0 AND expires_at > ?"
            f" RETURNING {_REFRESH.columns}"
        ),
        (now, token_hash, now),
    )
    if rows:
        return "ok", _REFRESH.read(rows[0])
    rows = yield (
        f"SELECT {_REFRESH.columns} FROM refresh_tokens WHERE token_hash = ? AND used_at <> 0",
        (token_hash,),
    )
    return ("reused", _REFRESH.read(rows[0])) if rows else ("unknown", None)


def _delete_refresh(dialect: Dialect, condition: str, *values: object) -> Operation[None]:
    if dialect.seize:
        # Waits for refreshes under way. What they add is seen by the next statement, not by one that waited itself.
        yield (
            f"SELECT token_hash FROM refresh_tokens WHERE {condition} ORDER BY token_hash{dialect.seize}",
            values,
        )
    yield f"DELETE FROM refresh_tokens WHERE {condition}", values


def _add_key(dialect: Dialect, key: SigningKey, only_if_none: bool) -> Operation[SigningKey]:
    if dialect.lock is not None:
        yield dialect.lock, (f"signing keys {key.purpose}",)
    if only_if_none:
        rows = yield (
            (
                f"SELECT {_KEY.columns} FROM signing_keys WHERE purpose = ? AND (retire_at = 0 OR retire_at > ?)"
                " ORDER BY not_before DESC, created_at DESC, kid LIMIT 1"
            ),
            (key.purpose, key.created_at),
        )
        if rows:
            return _KEY.read(rows[0])
    yield f"INSERT INTO signing_keys ({_KEY.columns}) VALUES ({_KEY.placeholders})", _KEY.values(key)
    return key


def _keys(purpose: str) -> Operation[list[SigningKey]]:
    rows = yield (
        f"SELECT {_KEY.columns} FROM signing_keys WHERE purpose = ? ORDER BY created_at DESC, kid",
        (purpose,),
    )
    return _KEY.read_all(rows)


def _retire_key(kid: str, retire_at: float) -> Operation[bool]:
    rows = yield "UPDATE signing_keys SET retire_at = ? WHERE kid = ? RETURNING 1", (retire_at, kid)
    return bool(rows)


def _next_change() -> Operation[int]:
    """Numbers in the order of commit: the counter's row is locked until then."""
    rows = yield "UPDATE counters SET value = value + 1 WHERE name = 'revocations' RETURNING value", ()
    return int(rows[0][0])


def _add_revocation(revocation: Revocation) -> Operation[None]:
    change = yield from _next_change()
    yield (
        (
            f"INSERT INTO revocations ({_REVOCATION.columns}, change) VALUES ({_REVOCATION.placeholders}, ?)"
            ' ON CONFLICT (kind, tenant, value) DO UPDATE SET "at" = excluded."at", reason = excluded.reason,'
            " cut = CASE WHEN excluded.cut > revocations.cut THEN excluded.cut ELSE revocations.cut END,"
            ' "until" = CASE WHEN excluded."until" > revocations."until" THEN excluded."until"'
            ' ELSE revocations."until" END, change = excluded.change'
            ' WHERE excluded."until" > revocations."until" OR excluded.cut > revocations.cut'
        ),
        (*_REVOCATION.values(revocation), change),
    )


def _remove_revocation(kind: str, tenant: str, value: str, now: float) -> Operation[bool]:
    change = yield from _next_change()
    rows = yield (
        (
            'UPDATE revocations SET "at" = ?, "until" = ?, cut = 0, change = ?'
            ' WHERE kind = ? AND tenant = ? AND value = ? AND "until" > ? RETURNING 1'
        ),
        (now, now, change, kind, tenant, value, now),
    )
    return bool(rows)


def _revocation_changes(after: int, limit: int) -> Operation[RevocationChanges]:
    rows = yield (
        f"SELECT {_REVOCATION.columns}, change FROM revocations WHERE change > ? ORDER BY change LIMIT ?",
        (after, limit),
    )
    # An older program beside this one numbers nothing: its few are read each time, until they end.
    unnumbered = yield (
        f'SELECT {_REVOCATION.columns} FROM revocations WHERE change = 0 ORDER BY "until" DESC LIMIT ?',
        (limit,),
    )
    return RevocationChanges(
        position=int(rows[-1][-1]) if rows else after,
        changed=_REVOCATION.read_all(rows) + _REVOCATION.read_all(unnumbered),
        more=len(rows) == limit,
    )


_EXPIRED: Final = (
    ("tickets", "expires_at <= ?", 0.0),
    ("refresh_tokens", "expires_at <= ?", 0.0),
    ("signing_keys", "retire_at <> 0 AND retire_at <= ?", 0.0),
    ("revocations", '"until" <= ?', ENDED_S),
)


def _expire(dialect: Dialect, now: float) -> Operation[int]:
    total = 0
    rows = yield f"SELECT {dialect.clock}", ()
    now = min(
        now, float(rows[0][0])
    )  # an instance whose clock is ahead deletes nothing that others still need
    for table, condition, stays_s in _EXPIRED:
        # Counted in the database: RETURNING would carry every row over here.
        rows = yield f"SELECT count(*) FROM {table} WHERE {condition}", (now - stays_s,)
        if rows[0][0]:
            yield f"DELETE FROM {table} WHERE {condition}", (now - stays_s,)
            total += int(rows[0][0])
    return total
