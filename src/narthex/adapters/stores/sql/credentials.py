"""Users, tickets, refresh tokens, signing keys and revocations in SQL. See `ports/credentials.py`.

Rules: "use once" is one statement that changes a row for the first caller only.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Adapter, Operation, Shape, reads, writes
from narthex.ports.credentials import RefreshToken, Revocation, RevocationChanges, SigningKey, User

MAX_CHANGES: Final = 5_000  # revocations in one answer: about 20 ms
ENDED_S: Final = 3_600.0  # an ended revocation stays this long, so that every instance sees its end

_USER: Final = Shape(User)
_REFRESH: Final = Shape(RefreshToken)
_KEY: Final = Shape(SigningKey)
_REVOCATION: Final = Shape(Revocation)


class SqlCredentials(Adapter):
    """The Credentials port over an engine."""

    @writes
    def upsert_user(self, user: User) -> Operation[User]:
        """See the port; the e-mail is kept in lower case."""
        kept = msgspec.structs.replace(user, email=user.email.lower())
        changing = ("name", "plan", "permissions", "password_hash")
        rows = yield (
            (
                f"INSERT INTO users ({_USER.columns}) VALUES ({_USER.placeholders}) ON CONFLICT (tenant, email)"
                f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changing)}"
                f" RETURNING {_USER.columns}"
            ),
            _USER.values(kept),
        )
        return _USER.read(rows[0])

    @reads
    def user_by_email(self, tenant: str, email: str) -> Operation[User | None]:
        """See the port."""
        return _user("email", tenant, email.lower())

    @reads
    def user(self, tenant: str, user_id: str) -> Operation[User | None]:
        """See the port."""
        return _user("user_id", tenant, user_id)

    @writes
    def block_user(self, tenant: str, user_id: str, at: float) -> Operation[bool]:
        """See the port."""
        rows = yield (
            "UPDATE users SET blocked_at = ? WHERE tenant = ? AND user_id = ? RETURNING 1",
            (at, tenant, user_id),
        )
        return bool(rows)

    @writes
    def put_ticket(self, ticket_hash: str, identity: str, expires_at: float) -> Operation[None]:
        """See the port."""
        yield (
            "INSERT INTO tickets (ticket_hash, identity, expires_at) VALUES (?, ?, ?)",
            (ticket_hash, identity, expires_at),
        )

    @writes
    def take_ticket(self, ticket_hash: str, now: float) -> Operation[str | None]:
        """See the port."""
        rows = yield (
            "DELETE FROM tickets WHERE ticket_hash = ? RETURNING identity, expires_at",
            (ticket_hash,),
        )
        return str(rows[0][0]) if rows and rows[0][1] > now else None

    @reads
    def peek_ticket(self, ticket_hash: str, now: float) -> Operation[str | None]:
        """See the port."""
        rows = yield (
            "SELECT identity FROM tickets WHERE ticket_hash = ? AND expires_at > ?",
            (ticket_hash, now),
        )
        return str(rows[0][0]) if rows else None

    @writes
    def spend(self, mark_hash: str, expires_at: float) -> Operation[bool]:
        """See the port; stored among the tickets, which expire alike: a mark's hash never equals a ticket's."""
        rows = yield (
            (
                "INSERT INTO tickets (ticket_hash, identity, expires_at) VALUES (?, '', ?)"
                " ON CONFLICT (ticket_hash) DO NOTHING RETURNING 1"
            ),
            (mark_hash, expires_at),
        )
        return bool(rows)

    @writes
    def put_refresh(self, token: RefreshToken, *, replaces: str = "") -> Operation[bool]:
        """See the port."""
        if replaces:
            # Locks the previous link: a revocation waits for it, and then finds the new link too (`_delete_refresh`).
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

    @writes
    def use_refresh(self, token_hash: str, now: float) -> Operation[tuple[str, RefreshToken | None]]:
        """See the port; one that expired unused is `unknown`."""
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

    @writes
    def revoke_family(self, family: str) -> Operation[None]:
        """See the port."""
        return _delete_refresh(self._dialect, "family = ?", family)

    @writes
    def revoke_user_refresh(self, tenant: str, user_id: str) -> Operation[None]:
        """See the port."""
        return _delete_refresh(self._dialect, "tenant = ? AND user_id = ?", tenant, user_id)

    @writes
    def add_key(self, key: SigningKey, *, only_if_none: bool = False) -> Operation[SigningKey]:
        """See the port; a key is live if it is not retired at the new key's `created_at`."""
        if self._dialect.lock is not None:
            yield self._dialect.lock, (f"signing keys {key.purpose}",)
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

    @reads
    def keys(self, purpose: str) -> Operation[list[SigningKey]]:
        """See the port."""
        rows = yield (
            f"SELECT {_KEY.columns} FROM signing_keys WHERE purpose = ? ORDER BY created_at DESC, kid",
            (purpose,),
        )
        return _KEY.read_all(rows)

    @writes
    def retire_key(self, kid: str, retire_at: float) -> Operation[bool]:
        """See the port."""
        rows = yield "UPDATE signing_keys SET retire_at = ? WHERE kid = ? RETURNING 1", (retire_at, kid)
        return bool(rows)

    @writes
    def add_revocation(self, revocation: Revocation) -> Operation[None]:
        """See the port; `cut` and `until` each only ever grow."""
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

    @writes
    def remove_revocation(self, kind: str, tenant: str, value: str, now: float) -> Operation[bool]:
        """See the port."""
        change = yield from _next_change()
        rows = yield (
            (
                'UPDATE revocations SET "at" = ?, "until" = ?, cut = 0, change = ?'
                ' WHERE kind = ? AND tenant = ? AND value = ? AND "until" > ? RETURNING 1'
            ),
            (now, now, change, kind, tenant, value, now),
        )
        return bool(rows)

    @reads
    def revocation_changes(self, after: int, limit: int) -> Operation[RevocationChanges]:
        """See the port; at most `MAX_CHANGES`."""
        limit = max(1, min(limit, MAX_CHANGES))
        rows = yield (
            f"SELECT {_REVOCATION.columns}, change FROM revocations WHERE change > ? ORDER BY change LIMIT ?",
            (after, limit),
        )
        # An older program beside this one writes no numbers: its few revocations are read each time, until they end.
        unnumbered = yield (
            f'SELECT {_REVOCATION.columns} FROM revocations WHERE change = 0 ORDER BY "until" DESC LIMIT ?',
            (limit,),
        )
        return RevocationChanges(
            position=int(rows[-1][-1]) if rows else after,
            changed=_REVOCATION.read_all(rows) + _REVOCATION.read_all(unnumbered),
            more=len(rows) == limit,
        )

    @writes
    def expire(self, now: float) -> Operation[int]:
        """See the port."""
        total = 0
        rows = yield f"SELECT {self._dialect.clock}", ()
        now = min(
            now, float(rows[0][0])
        )  # an instance with a fast clock deletes no rows that others still need
        for table, condition, stays_s in _EXPIRED:
            # Counted in the database: RETURNING would transfer every row.
            rows = yield f"SELECT count(*) FROM {table} WHERE {condition}", (now - stays_s,)
            if rows[0][0]:
                yield f"DELETE FROM {table} WHERE {condition}", (now - stays_s,)
                total += int(rows[0][0])
        return total


def _user(column: str, tenant: str, value: str) -> Operation[User | None]:
    rows = yield f"SELECT {_USER.columns} FROM users WHERE tenant = ? AND {column} = ?", (tenant, value)
    return _USER.first(rows)


def _delete_refresh(dialect: Dialect, condition: str, *values: object) -> Operation[None]:
    if dialect.seize:
        # Waits for refreshes under way. The next statement sees their rows; a statement that waits itself would not.
        yield (
            f"SELECT token_hash FROM refresh_tokens WHERE {condition} ORDER BY token_hash{dialect.seize}",
            values,
        )
    yield f"DELETE FROM refresh_tokens WHERE {condition}", values


def _next_change() -> Operation[int]:
    """Numbers in the order of commit: the counter's row is locked until then."""
    rows = yield "UPDATE counters SET value = value + 1 WHERE name = 'revocations' RETURNING value", ()
    return int(rows[0][0])


_EXPIRED: Final = (
    ("tickets", "expires_at <= ?", 0.0),
    ("refresh_tokens", "expires_at <= ?", 0.0),
    ("signing_keys", "retire_at <> 0 AND retire_at <= ?", 0.0),
    ("revocations", '"until" <= ?', ENDED_S),
)
