"""Users, tickets, refresh tokens, signing keys and revocations in SQL. See `ports/credentials.py`.

Rules: "use once" is one statement that changes a row for the first caller only.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Adapter, Operation, Shape, found, number, reads, writes
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
            f"""{_USER.into("users")} ON CONFLICT (tenant, email)
            DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in changing)} RETURNING {_USER.columns}""",
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
        change = "UPDATE users SET blocked_at = ? WHERE tenant = ? AND user_id = ? RETURNING 1"
        return found(change, at, tenant, user_id)

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
        return found(
            """INSERT INTO tickets (ticket_hash, identity, expires_at) VALUES (?, '', ?)
            ON CONFLICT (ticket_hash) DO NOTHING RETURNING 1""",
            *(mark_hash, expires_at),
        )

    @writes
    def put_refresh(self, token: RefreshToken, *, replaces: str = "") -> Operation[bool]:
        """See the port."""
        if replaces:
            # Locks the previous link: a revocation waits for it, and then finds the new link too (`_delete_refresh`).
            lock = "UPDATE refresh_tokens SET used_at = used_at WHERE token_hash = ? RETURNING 1"
            if not (yield lock, (replaces,)):
                return False
        yield _REFRESH.into("refresh_tokens"), _REFRESH.values(token)
        return True

    @writes
    def use_refresh(self, token_hash: str, now: float) -> Operation[tuple[str, RefreshToken | None]]:
        """See the port; one that expired unused is `unknown`."""
        rows = yield (
            f"""UPDATE refresh_tokens SET used_at = ? WHERE token_hash = ? AND used_at = 0 AND expires_at > ?
            RETURNING {_REFRESH.columns}""",
            (now, token_hash, now),
        )
        if rows:
            return "ok", _REFRESH.read(rows[0])
        reused = yield from _REFRESH.one(
            "FROM refresh_tokens WHERE token_hash = ? AND used_at <> 0", token_hash
        )
        return ("reused" if reused else "unknown"), reused

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
        yield from self._dialect.locked(f"signing keys {key.purpose}")
        if only_if_none:
            live = yield from _KEY.one(
                """FROM signing_keys WHERE purpose = ? AND (retire_at = 0 OR retire_at > ?)
                ORDER BY not_before DESC, created_at DESC, kid LIMIT 1""",
                *(key.purpose, key.created_at),
            )
            if live is not None:
                return live
        yield _KEY.into("signing_keys"), _KEY.values(key)
        return key

    @reads
    def keys(self, purpose: str) -> Operation[list[SigningKey]]:
        """See the port."""
        return _KEY.many("FROM signing_keys WHERE purpose = ? ORDER BY created_at DESC, kid", purpose)

    @writes
    def retire_key(self, kid: str, retire_at: float) -> Operation[bool]:
        """See the port."""
        return found("UPDATE signing_keys SET retire_at = ? WHERE kid = ? RETURNING 1", retire_at, kid)

    @writes
    def add_revocation(self, revocation: Revocation) -> Operation[None]:
        """See the port; `cut` and `until` each only ever grow."""
        change = yield from _next_change()
        yield (
            f"""{_REVOCATION.into("revocations", "change")} ON CONFLICT (kind, tenant, value) DO UPDATE SET
            "at" = excluded."at", reason = excluded.reason, change = excluded.change,
            cut = CASE WHEN excluded.cut > revocations.cut THEN excluded.cut ELSE revocations.cut END, "until" =
            CASE WHEN excluded."until" > revocations."until" THEN excluded."until" ELSE revocations."until" END
            WHERE excluded."until" > revocations."until" OR excluded.cut > revocations.cut""",
            (*_REVOCATION.values(revocation), change),
        )

    @writes
    def remove_revocation(self, kind: str, tenant: str, value: str, now: float) -> Operation[bool]:
        """See the port."""
        change = yield from _next_change()
        return (
            yield from found(
                """UPDATE revocations SET "at" = ?, "until" = ?, cut = 0, change = ?
                WHERE kind = ? AND tenant = ? AND value = ? AND "until" > ? RETURNING 1""",
                *(now, now, change, kind, tenant, value, now),
            )
        )

    @reads
    def revocation_changes(self, after: int, limit: int) -> Operation[RevocationChanges]:
        """See the port; at most `MAX_CHANGES`."""
        limit = max(1, min(limit, MAX_CHANGES))
        rows = yield (
            f"SELECT {_REVOCATION.columns}, change FROM revocations WHERE change > ? ORDER BY change LIMIT ?",
            (after, limit),
        )
        if not rows and after > (yield "SELECT value FROM counters WHERE name = 'revocations'", ())[0][0]:
            return RevocationChanges(position=0, changed=[], more=True)
        # An older program beside this one writes no numbers: its few revocations are read each time, until they end.
        old = yield from _REVOCATION.many(
            'FROM revocations WHERE change = 0 ORDER BY "until" DESC LIMIT ?', limit
        )
        return RevocationChanges(
            position=int(rows[-1][-1]) if rows else after,
            changed=_REVOCATION.read_all(rows) + old,
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
            count = yield from number(f"SELECT count(*) FROM {table} WHERE {condition}", now - stays_s)
            if count:
                yield f"DELETE FROM {table} WHERE {condition}", (now - stays_s,)
                total += count
        return total


def _user(column: str, tenant: str, value: str) -> Operation[User | None]:
    return _USER.one(f"FROM users WHERE tenant = ? AND {column} = ?", tenant, value)


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
    return number("UPDATE counters SET value = value + 1 WHERE name = 'revocations' RETURNING value")


_EXPIRED: Final = (
    ("tickets", "expires_at <= ?", 0.0),
    ("refresh_tokens", "expires_at <= ?", 0.0),
    ("signing_keys", "retire_at <> 0 AND retire_at <= ?", 0.0),
    ("revocations", '"until" <= ?', ENDED_S),
)
