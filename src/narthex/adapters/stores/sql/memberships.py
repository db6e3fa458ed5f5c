"""Invitations, blocked users and additions per day in SQL.

Not here: the guarantees (`ports/memberships.py`), links (`links.py`), common statements of both (`joining.py`). Rules:
changes of a thread's members hold the thread's lock, as in `threads.py`; changes of a day's additions hold the
inviter's lock, which is always taken second.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.stores.sql import links
from narthex.adapters.stores.sql.joining import additions as count_additions
from narthex.adapters.stores.sql.joining import (
    count_addition,
    count_members,
    has_blocked,
    held_role,
    is_member,
    join,
)
from narthex.adapters.stores.sql.operation import Adapter, Operation, Shape, number, reads, writes
from narthex.adapters.stores.sql.retention import not_past
from narthex.ports.memberships import (
    MAX_BLOCKED,
    MAX_PENDING,
    Acceptance,
    Addition,
    Invitation,
    Joined,
    LinkedThread,
    ShownInvitation,
    ThreadLink,
)
from narthex.ports.threads import KEEPS_ALL, Kept

MAX_LIMIT: Final = 200

_INVITATION: Final = Shape(Invitation)
_SHOWN: Final = Shape(ShownInvitation)


class SqlMemberships(Adapter):
    """The Memberships port over an engine."""

    @writes
    def add(
        self, invitation: Invitation, *, direct: bool, additions: int, since: float
    ) -> Operation[Addition]:
        """See the port."""
        tenant, thread_id, user_id = invitation.tenant, invitation.thread_id, invitation.user_id
        yield from self._dialect.locked(f"members {thread_id}", f"additions {tenant} {invitation.invited_by}")
        if not (yield from self._dialect.held(tenant, thread_id)):
            return "absent"
        # The inviter may have been removed since the caller's check; `remove_member` holds the same lock.
        if not (yield from is_member(tenant, thread_id, invitation.invited_by)):
            return "absent"
        of_thread = (thread_id, tenant)
        if (yield from is_member(tenant, thread_id, user_id)):
            return "present"
        # An expired invitation neither counts nor prevents a new one.
        expired = "DELETE FROM invitations WHERE thread_id = ? AND tenant = ? AND created_at < ?"
        yield expired, (*of_thread, since)
        rows = yield (
            "SELECT hidden FROM invitations WHERE thread_id = ? AND tenant = ? AND user_id = ?",
            (*of_thread, user_id),
        )
        hidden = yield from has_blocked(tenant, user_id, invitation.invited_by)
        # A hidden invitation prevents only one by another blocked inviter. Otherwise a blocked member who invites first
        # would prevent all other members' invitations.
        if rows and not direct and (hidden or not rows[0][0]):
            return "pending"
        others = "SELECT count(*) FROM invitations WHERE thread_id = ? AND tenant = ? AND user_id <> ?"
        places = yield from number(others, *of_thread, user_id)
        if (yield from count_members(tenant, thread_id)) + places >= invitation.member_limit:
            return "full"
        if (yield from count_additions(tenant, invitation.invited_by, invitation.created_at)) >= additions:
            return "spent"
        if hidden and direct:
            return "blocked"
        if direct:
            yield from join(tenant, thread_id, user_id, invitation.created_at)
        else:
            of_user = "FROM invitations WHERE tenant = ? AND user_id = ? AND"
            yield f"DELETE {of_user} created_at < ?", (tenant, user_id, since)
            if (yield from number(f"SELECT count(*) {of_user} hidden = 0", tenant, user_id)) >= MAX_PENDING:
                return "crowded"
            if rows:
                yield f"DELETE {of_user} thread_id = ?", (tenant, user_id, thread_id)
            kept = msgspec.structs.replace(invitation, hidden=hidden)
            yield _INVITATION.into("invitations"), _INVITATION.values(kept)
        yield from count_addition(tenant, invitation.invited_by, invitation.created_at)
        return "added" if direct else "hidden" if hidden else "invited"

    @reads
    def additions(self, tenant: str, user_id: str, now: float) -> Operation[int]:
        """See the port."""
        return count_additions(tenant, user_id, now)

    @reads
    def invitations(
        self,
        tenant: str,
        user_id: str,
        *,
        since: float,
        before: float | None,
        before_id: str,
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[list[ShownInvitation]]:
        """See the port."""
        limit = max(0, min(limit, MAX_LIMIT))
        condition, values = not_past(kept, "t.updated_at")
        older, bounds = "", tuple[object, ...]()
        if before is not None and before_id:
            older = " AND (i.created_at < ? OR (i.created_at = ? AND i.thread_id > ?))"
            bounds = (before, before, before_id)
        elif before is not None:
            older, bounds = " AND i.created_at < ?", (before,)
        rows = yield (
            f"""SELECT i.thread_id, t.title, i.invited_by, i.inviter_name, i.created_at FROM invitations i
            JOIN threads t ON t.thread_id = i.thread_id AND t.tenant = i.tenant
            WHERE i.tenant = ? AND i.user_id = ? AND i.hidden = 0 AND i.created_at >= ?{older}{condition}
            ORDER BY i.created_at DESC, i.thread_id LIMIT ?""",
            (tenant, user_id, since, *bounds, *values, limit),
        )
        return _SHOWN.read_all(rows)

    @reads
    def invited(self, tenant: str, thread_id: str, *, since: float) -> Operation[list[Invitation]]:
        """See the port."""
        open_ones = "tenant = ? AND thread_id = ? AND created_at >= ?"
        rest = f"FROM invitations WHERE {open_ones} ORDER BY created_at, user_id"
        return _INVITATION.many(rest, tenant, thread_id, since)

    @writes
    def accept(
        self, tenant: str, thread_id: str, user_id: str, *, now: float, since: float, kept: Kept = KEEPS_ALL
    ) -> Operation[Acceptance]:
        """See the port."""
        yield from self._dialect.locked(f"members {thread_id}")
        condition, values = not_past(kept, "t.updated_at")
        thread = f"SELECT 1 FROM threads t WHERE thread_id = ? AND tenant = ?{condition}{self._dialect.hold}"
        if not (yield thread, (thread_id, tenant, *values)):
            return "absent"
        if (yield from is_member(tenant, thread_id, user_id)):
            return "present"
        rows = yield (
            """SELECT member_limit FROM invitations WHERE thread_id = ? AND tenant = ? AND user_id = ?
            AND hidden = 0 AND created_at >= ?""",
            (thread_id, tenant, user_id, since),
        )
        if not rows:
            return "absent"
        if (yield from count_members(tenant, thread_id)) >= rows[0][0]:
            return "full"
        yield from join(tenant, thread_id, user_id, now)
        return "joined"

    @writes
    def withdraw(
        self, tenant: str, thread_id: str, user_id: str, *, hidden: bool = True, by: str = ""
    ) -> Operation[Invitation | None]:
        """See the port."""
        if by and (yield from held_role(self._dialect, tenant, thread_id, by)) == "owner":
            by = ""
        rows = yield (
            f"""DELETE FROM invitations WHERE thread_id = ? AND tenant = ? AND user_id = ?
            {"" if hidden else "AND hidden = 0"} {"AND invited_by = ?" if by else ""}
            RETURNING {_INVITATION.columns}""",
            (thread_id, tenant, user_id, *([by] if by else [])),
        )
        return _INVITATION.first(rows)

    @writes
    def block(self, tenant: str, user_id: str, blocked_id: str, now: float) -> Operation[bool]:
        """See the port."""
        yield from self._dialect.locked(f"blocks {tenant} {user_id}")
        yield (
            "UPDATE invitations SET hidden = 1 WHERE tenant = ? AND user_id = ? AND invited_by = ?",
            (tenant, user_id, blocked_id),
        )
        if (yield from has_blocked(tenant, user_id, blocked_id)):
            return True
        count = "SELECT count(*) FROM blocks WHERE tenant = ? AND user_id = ?"
        if (yield from number(count, tenant, user_id)) >= MAX_BLOCKED:
            return False
        yield (
            "INSERT INTO blocks (tenant, user_id, blocked_id, created_at) VALUES (?, ?, ?, ?)",
            (tenant, user_id, blocked_id, now),
        )
        return True

    @writes
    def unblock(self, tenant: str, user_id: str, blocked_id: str) -> Operation[None]:
        """See the port."""
        yield (
            "DELETE FROM blocks WHERE tenant = ? AND user_id = ? AND blocked_id = ?",
            (tenant, user_id, blocked_id),
        )

    @reads
    def blocked(self, tenant: str, user_id: str) -> Operation[list[str]]:
        """See the port."""
        rows = yield (
            "SELECT blocked_id FROM blocks WHERE tenant = ? AND user_id = ? ORDER BY blocked_id",
            (tenant, user_id),
        )
        return [str(row[0]) for row in rows]

    @writes
    def make_link(self, link: ThreadLink) -> Operation[bool]:
        """See the port."""
        return links.make(self._dialect, link)

    @reads
    def link(self, tenant: str, thread_id: str, *, now: float) -> Operation[ThreadLink | None]:
        """See the port."""
        return links.of_thread(tenant, thread_id, now)

    @writes
    def revoke_link(self, tenant: str, thread_id: str, *, by: str) -> Operation[bool]:
        """See the port."""
        return links.revoke(self._dialect, tenant, thread_id, by)

    @reads
    def linked(
        self, tenant: str, digest: str, user_id: str, *, now: float, kept: Kept = KEEPS_ALL
    ) -> Operation[LinkedThread | None]:
        """See the port."""
        return links.shown(tenant, digest, user_id, now, kept)

    @writes
    def join_by_link(
        self, tenant: str, digest: str, user_id: str, *, since: float, now: float, kept: Kept = KEEPS_ALL
    ) -> Operation[Joined]:
        """See the port."""
        return links.join(self._dialect, tenant, digest, user_id, since=since, now=now, kept=kept)

    @reads
    def owned(self, tenant: str, user_id: str, kept: Kept = KEEPS_ALL) -> Operation[int]:
        """See the port."""
        return count_owned(tenant, user_id, kept)


def count_owned(tenant: str, user_id: str, kept: Kept) -> Operation[int]:
    """The number of threads that a user owns, without those past their plan's limit."""
    condition, values = not_past(kept, "t.updated_at")
    return number(
        f"""SELECT count(*) FROM members m JOIN threads t ON t.thread_id = m.thread_id AND t.tenant = m.tenant
        WHERE m.tenant = ? AND m.user_id = ? AND m.role = 'owner'{condition}""",
        *(tenant, user_id, *values),
    )
