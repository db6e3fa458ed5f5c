"""Invitations and links to threads, blocked users and the day's count of additions, as the app needs them kept.

Guarantees: as `ports/threads.py`: durable when a write returns, atomic, and nothing of another tenant exists.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from narthex.ports.threads import KEEPS_ALL, Kept

MAX_PENDING: Final = 500
"""Open invitations of one user: one page of the list shows 200, and a flood must not grow a stranger's list."""
MAX_BLOCKED: Final = 1_000
"""Users that one user may block."""

Addition = Literal[
    "added", "invited", "present", "pending", "hidden", "blocked", "full", "crowded", "spent", "absent"
]
Acceptance = Literal["joined", "present", "full", "absent"]
Joining = Literal["joined", "present", "full", "spent", "blocking", "absent"]


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An open invitation.

    Attributes:
        member_limit: how many members the thread may have by the inviter's plan.
        hidden: the invited user has blocked the inviter: they are not shown it and cannot accept it, and the thread's
            members see no difference.
    """

    thread_id: str
    tenant: str
    user_id: str
    invited_by: str
    created_at: float
    member_limit: int
    inviter_name: str = ""
    hidden: bool = False


class ShownInvitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation as the invited user is shown it."""

    thread_id: str
    title: str
    invited_by: str
    inviter_name: str
    created_at: float


class ThreadLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link by which users of the tenant join a thread. A thread has at most one.

    Attributes:
        digest: SHA-256 of its token in hex. The token is not stored.
        created_by: the owner of the thread who made it. It is open only while they are an owner.
        member_limit: how many members the thread may have by that owner's plan.
        additions: how many users that owner may add in a UTC day; each user who joins counts.
    """

    thread_id: str
    tenant: str
    digest: str
    created_by: str
    creator_name: str
    created_at: float
    expires_at: float
    member_limit: int
    additions: int


class LinkedThread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread as a user with the token of its link is shown it.

    Attributes:
        members: how many it has.
        role: the reader's; empty: they are no member.
    """

    thread_id: str
    title: str
    created_by: str
    creator_name: str
    members: int
    expires_at: float
    role: str


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What became of `join_by_link`; `invited`: an open invitation was answered by it."""

    outcome: Joining
    thread_id: str = ""
    invited: bool = False


class Memberships(Protocol):
    """Who was asked into which thread, and who wants nothing from whom. `limit` is at most 200."""

    async def add(self, invitation: Invitation, *, direct: bool, additions: int, since: float) -> Addition:
        """Invite a user, or with `direct` make them a member at once.

        Args:
            invitation: who, where, by whom, when.
            direct: without asking them.
            additions: how many the inviter may make in the UTC day of `created_at`; one is counted for every
                outcome that is `added`, `invited` or `hidden`.
            since: invitations from before then are over.

        Returns:
            `added`, `invited`; `hidden` (invited, but the user has blocked the inviter), `blocked` (the same with
            `direct`: nothing was stored); `present` (a member already), `pending` (invited already), `full` (members
            and open invitations are `member_limit`), `crowded` (the user has `MAX_PENDING` invitations), `spent`
            (`additions` are used), `absent` (no such thread, or the inviter is no member of it).
        """

    async def additions(self, tenant: str, user_id: str, now: float) -> int:
        """How many additions the user has made in the UTC day of `now`."""

    async def invitations(
        self,
        tenant: str,
        user_id: str,
        *,
        since: float,
        before: float | None,
        before_id: str,
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[ShownInvitation]:
        """The user's open invitations, newest first; pages as `Threads.list_for`."""

    async def invited(self, tenant: str, thread_id: str, *, since: float) -> list[Invitation]:
        """The open invitations to a thread, oldest first."""

    async def accept(
        self, tenant: str, thread_id: str, user_id: str, *, now: float, since: float, kept: Kept = KEEPS_ALL
    ) -> Acceptance:
        """Make the invited user a member: `joined`; `present` (they are one), `full`, or `absent` (no open
        invitation, or no such thread any more).
        """

    async def withdraw(
        self, tenant: str, thread_id: str, user_id: str, *, hidden: bool = True, by: str = ""
    ) -> Invitation | None:
        """Delete an invitation, declined (then `hidden` is False) or taken back; `by`: only that inviter's. None:
        there was none.
        """

    async def block(self, tenant: str, user_id: str, blocked_id: str, now: float) -> bool:
        """Take no invitations from `blocked_id` any more, and hide the open ones; False: `MAX_BLOCKED` are."""

    async def unblock(self, tenant: str, user_id: str, blocked_id: str) -> None:
        """Take invitations again; idempotent."""

    async def blocked(self, tenant: str, user_id: str) -> list[str]:
        """Whom the user has blocked, by id."""

    async def make_link(self, link: ThreadLink) -> bool:
        """Open a link to a thread; an earlier one of the thread is over. False: `created_by` owns no such thread."""

    async def link(self, tenant: str, thread_id: str, *, now: float) -> ThreadLink | None:
        """The thread's open link. A link is open until `expires_at`, unless it is revoked or replaced, its thread is
        deleted, or its maker is no owner of the thread any more.
        """

    async def revoke_link(self, tenant: str, thread_id: str) -> bool:
        """Close the thread's link; False: there was none."""

    async def linked(
        self, tenant: str, digest: str, user_id: str, *, now: float, kept: Kept = KEEPS_ALL
    ) -> LinkedThread | None:
        """The thread to which an open link leads; None: no such link, or its maker has blocked `user_id`."""

    async def join_by_link(
        self, tenant: str, digest: str, user_id: str, *, since: float, now: float, kept: Kept = KEEPS_ALL
    ) -> Joined:
        """Make `user_id` a member of the thread to which an open link leads; counts as an addition by its maker.
        Invitations from before `since` are over.

        Returns:
            `joined`; `present` (a member already), `full` (members and open invitations of others are `member_limit`),
            `spent` (the maker's additions of the day are used), `blocking` (`user_id` has blocked the maker), `absent`
            (as `linked`).
        """

    async def owned(self, tenant: str, user_id: str, kept: Kept = KEEPS_ALL) -> int:
        """How many threads the user owns."""
