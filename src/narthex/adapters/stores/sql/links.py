"""Links by which users join a thread, in SQL.

Not here: the guarantees (`ports/memberships.py`). Rules: one condition decides whether a link is open (`_OPEN`); locks
are those of `memberships.py`, in the same order.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

import msgspec

from narthex.adapters.stores.sql import joining
from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Operation, Shape, found
from narthex.adapters.stores.sql.retention import not_past
from narthex.ports.memberships import Joined, LinkedThread, ThreadLink
from narthex.ports.threads import Kept

_LINK: Final = Shape(ThreadLink)
# A program of schema 3 deletes a thread and leaves its link: a link older than its thread belongs to an earlier thread.
_OPEN: Final = (
    "FROM thread_links l JOIN threads t ON t.thread_id = l.thread_id AND t.tenant = l.tenant"
    " JOIN members o ON o.thread_id = l.thread_id AND o.tenant = l.tenant AND o.user_id = l.created_by"
    " AND o.role = 'owner' WHERE l.tenant = ? AND l.expires_at > ? AND l.created_at >= t.created_at"
)


def make(dialect: Dialect, link: ThreadLink) -> Operation[bool]:
    """See the port."""
    yield from dialect.locked(f"members {link.thread_id}")
    rows = yield (
        f"""SELECT t.created_at FROM threads t JOIN members o ON o.thread_id = t.thread_id AND o.tenant = t.tenant
        WHERE t.thread_id = ? AND t.tenant = ? AND o.user_id = ? AND o.role = 'owner'{dialect.hold}""",
        (link.thread_id, link.tenant, link.created_by),
    )
    if not rows:
        return False
    # A slow clock must not make the link older than its thread.
    link = msgspec.structs.replace(link, created_at=max(link.created_at, float(rows[0][0])))
    changed = ", ".join(f'"{name}" = excluded."{name}"' for name in _LINK.names if name != "thread_id")
    yield f"{_LINK.into('thread_links')} ON CONFLICT (thread_id) DO UPDATE SET {changed}", _LINK.values(link)
    return True


def of_thread(tenant: str, thread_id: str, now: float) -> Operation[ThreadLink | None]:
    """See the port."""
    return _LINK.one(f"{_OPEN} AND l.thread_id = ?", tenant, now, thread_id, alias="l")


def revoke(dialect: Dialect, tenant: str, thread_id: str, by: str) -> Operation[bool]:
    """See the port."""
    if (yield from joining.held_role(dialect, tenant, thread_id, by)) != "owner":
        return False
    revoked = "DELETE FROM thread_links WHERE thread_id = ? AND tenant = ? RETURNING 1"
    return (yield from found(revoked, thread_id, tenant))


def shown(tenant: str, digest: str, user_id: str, now: float, kept: Kept) -> Operation[LinkedThread | None]:
    """See the port."""
    link = yield from _open(tenant, digest, user_id, now, kept)
    if link is None:
        return None
    of_thread = (link.thread_id, tenant)
    title = yield "SELECT title FROM threads WHERE thread_id = ? AND tenant = ?", of_thread
    roles = yield "SELECT user_id, role FROM members WHERE thread_id = ? AND tenant = ?", of_thread
    return LinkedThread(
        thread_id=link.thread_id,
        title=title[0][0],
        created_by=link.created_by,
        creator_name=link.creator_name,
        members=len(roles),
        expires_at=link.expires_at,
        role=next((role for member, role in roles if member == user_id), ""),
    )


def join(
    dialect: Dialect, tenant: str, digest: str, user_id: str, *, since: float, now: float, kept: Kept
) -> Operation[Joined]:
    """See the port."""
    link = yield from _open(tenant, digest, user_id, now, kept)
    if link is not None and dialect.lock is not None:
        yield from dialect.locked(f"members {link.thread_id}", f"additions {tenant} {link.created_by}")
        link = yield from _open(tenant, digest, user_id, now, kept)  # it may have been revoked meanwhile
    if link is None:
        return Joined(outcome="absent")
    thread_id = link.thread_id
    if not (yield from dialect.held(tenant, thread_id)):
        return Joined(outcome="absent")
    if (yield from joining.is_member(tenant, thread_id, user_id)):
        return Joined(outcome="present", thread_id=thread_id)
    if (yield from joining.has_blocked(tenant, user_id, link.created_by)):
        return Joined(outcome="blocking")
    members = yield from joining.count_members(tenant, thread_id)
    asked = yield (
        "SELECT user_id FROM invitations WHERE thread_id = ? AND tenant = ? AND created_at >= ?",
        (thread_id, tenant, since),
    )
    others = [row for row in asked if row[0] != user_id]
    if members + len(others) >= link.member_limit:
        return Joined(outcome="full")
    if (yield from joining.additions(tenant, link.created_by, now)) >= link.additions:
        return Joined(outcome="spent")
    yield from joining.join(tenant, thread_id, user_id, now)
    yield from joining.count_addition(tenant, link.created_by, now)
    return Joined(outcome="joined", thread_id=thread_id, invited=len(others) < len(asked))


def _open(tenant: str, digest: str, user_id: str, now: float, kept: Kept) -> Operation[ThreadLink | None]:
    """The open link with this digest; None also for a user whom its maker has blocked."""
    condition, values = not_past(kept, "t.updated_at")
    link = yield from _LINK.one(
        f"{_OPEN} AND l.digest = ?{condition}", tenant, now, digest, *values, alias="l"
    )
    if link is not None and (yield from joining.has_blocked(tenant, link.created_by, user_id)):
        return None
    return link
