"""The interface of the store for invitations and links to threads, blocked users and the day's count of additions.

Not here: members themselves (`ports/threads.py`), permission to invite (app). Guarantees, as in `ports/threads.py`: a
write is durable when it returns, and atomic; rows of another tenant are absent.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from narthex.ports.threads import KEEPS_ALL, Kept

MAX_PENDING: Final = 500
"""Open invitations of one user: one page of the list shows 200, and a flood must not grow another user's list."""
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
        member_limit: the most members that the thread may have by the inviter's plan.
        hidden: the invited user has blocked the inviter: they do not see the invitation and cannot accept it, and the
            thread's members see no difference.
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
    """An invitation as the invited user sees it."""

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
        member_limit: the most members that the thread may have by that owner's plan.
        additions: the most users that owner may add in a UTC day; each user who joins counts.
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
    """A thread as a user with the token of its link sees it.

    Attributes:
        members: the number of its members.
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
    """The result of `join_by_link`; `invited`: it answered an open invitation."""

    outcome: Joining
    thread_id: str = ""
    invited: bool = False


class Memberships(Protocol):
    """Invitations, links and blocks between users. `limit` is at most 200."""

    async def add(self, invitation: Invitation, *, direct: bool, additions: int, since: float) -> Addition:
        """Invite a user, or with `direct` make them a member at once.

        Args:
            invitation: the invited user, the thread, the inviter and the moment.
            direct: add the user without asking them.
            additions: the most that the inviter may make in the UTC day of `created_at`; each outcome `added`,
                `invited` or `hidden` counts as one.
            since: invitations from before this moment have expired.

        Returns:
            `added`, `invited`; `hidden` (invited, but the user has blocked the inviter), `blocked` (the same with
            `direct`: nothing was stored); `present` (a member already), `pending` (invited already), `full` (members
            and open invitations are `member_limit`), `crowded` (the user has `MAX_PENDING` invitations), `spent`
            (`additions` are used), `absent` (no such thread, or the inviter is no member of it).
        """

    async def additions(self, tenant: str, user_id: str, now: float) -> int:
        """The number of additions that the user has made in the UTC day of `now`."""

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
        """Delete an invitation, declined (then `hidden` is False) or withdrawn; `by`: only if that user made it or owns
        the thread. None: there was none.
        """

    async def block(self, tenant: str, user_id: str, blocked_id: str, now: float) -> bool:
        """Block invitations from `blocked_id`, and hide the open ones; False: the user already blocks `MAX_BLOCKED`."""

    async def unblock(self, tenant: str, user_id: str, blocked_id: str) -> None:
        """Allow invitations again; idempotent."""

    async def blocked(self, tenant: str, user_id: str) -> list[str]:
        """The users whom the user has blocked, by id."""

    async def make_link(self, link: ThreadLink) -> bool:
        """Open a link to a thread and end its earlier one. False: `created_by` owns no such thread."""

    async def link(self, tenant: str, thread_id: str, *, now: float) -> ThreadLink | None:
        """The thread's open link. A link is open until `expires_at`, unless it is revoked or replaced, its thread is
        deleted, or its maker is no owner of the thread any more.
        """

    async def revoke_link(self, tenant: str, thread_id: str, *, by: str) -> bool:
        """Close the thread's link; False: there was none, or `by` does not own the thread."""

    async def linked(
        self, tenant: str, digest: str, user_id: str, *, now: float, kept: Kept = KEEPS_ALL
    ) -> LinkedThread | None:
        """The thread to which an open link leads; None: no such link, or its maker has blocked `user_id`."""

    async def join_by_link(
        self, tenant: str, digest: str, user_id: str, *, since: float, now: float, kept: Kept = KEEPS_ALL
    ) -> Joined:
        """Make `user_id` a member of the thread to which an open link leads; counts as an addition by its maker.

        Invitations from before `since` have expired.

        Returns:
            `joined`; `present` (a member already), `full` (members and open invitations of others are `member_limit`),
            `spent` (the maker's additions of the day are used), `blocking` (`user_id` has blocked the maker), `absent`
            (as `linked`).
        """

    async def owned(self, tenant: str, user_id: str, kept: Kept = KEEPS_ALL) -> int:
        """The number of threads that the user owns."""
