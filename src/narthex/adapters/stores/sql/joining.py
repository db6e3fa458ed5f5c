"""Reads and writes the rows that every way into a thread needs, in SQL: members, a user's additions per day, blocks.

Rules: callers hold the lock of the thread (`held_role` takes it), and then that of the adding user's additions.
"""

from __future__ import annotations

from typing import Final

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Operation, found, number

DAY_S: Final = 86_400.0


def is_member(tenant: str, thread_id: str, user_id: str) -> Operation[bool]:
    """Whether the user is in the thread."""
    find = "SELECT 1 FROM members WHERE thread_id = ? AND tenant = ? AND user_id = ?"
    return found(find, thread_id, tenant, user_id)


def count_members(tenant: str, thread_id: str) -> Operation[int]:
    """The number of the thread's members."""
    return number("SELECT count(*) FROM members WHERE thread_id = ? AND tenant = ?", thread_id, tenant)


def held_role(dialect: Dialect, tenant: str, thread_id: str, user_id: str) -> Operation[str]:
    """The user's role in the thread, empty for none; it cannot change until the transaction ends."""
    yield from dialect.locked(f"members {thread_id}")
    rows = yield (
        "SELECT role FROM members WHERE thread_id = ? AND tenant = ? AND user_id = ?",
        (thread_id, tenant, user_id),
    )
    return str(rows[0][0]) if rows else ""


def join(tenant: str, thread_id: str, user_id: str, now: float) -> Operation[None]:
    """Insert the member, which answers their open invitation."""
    yield (
        "DELETE FROM invitations WHERE thread_id = ? AND tenant = ? AND user_id = ?",
        (thread_id, tenant, user_id),
    )
    yield (
        """INSERT INTO members (thread_id, user_id, tenant, role, joined_at, read_offset)
        VALUES (?, ?, ?, 'member', ?, 0)""",
        (thread_id, user_id, tenant, now),
    )


def additions(tenant: str, user_id: str, now: float) -> Operation[int]:
    """The number of additions that the user has made in the UTC day of `now`."""
    find = "SELECT used FROM additions WHERE tenant = ? AND user_id = ? AND day = ?"
    return number(find, tenant, user_id, int(now // DAY_S))


def count_addition(tenant: str, user_id: str, now: float) -> Operation[None]:
    """Count one more addition."""
    day = int(now // DAY_S)
    yield "DELETE FROM additions WHERE tenant = ? AND user_id = ? AND day < ?", (tenant, user_id, day - 1)
    yield (
        """INSERT INTO additions (tenant, user_id, day, used) VALUES (?, ?, ?, 1)
        ON CONFLICT (tenant, user_id, day) DO UPDATE SET used = additions.used + 1""",
        (tenant, user_id, day),
    )


def has_blocked(tenant: str, user_id: str, blocked_id: str) -> Operation[bool]:
    """Whether the user blocks invitations from `blocked_id`."""
    find = "SELECT 1 FROM blocks WHERE tenant = ? AND user_id = ? AND blocked_id = ?"
    return found(find, tenant, user_id, blocked_id)
