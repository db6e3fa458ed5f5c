"""Manages members of threads: invitations, links, leaving, blocking. `Gateway.threads` is one.

Not here: a thread's events (`feed`). Rules: a method is one RPC of docs/protocol.md, under the same name; errors are
those of `Gateway.rpc`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol

import msgspec


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An open invitation. `created_at` is seconds since the epoch."""

    thread_id: str
    title: str
    invited_by: str
    inviter_name: str
    created_at: float


class ThreadLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link to a thread. `token` is shown this once; `expires_at` is seconds since the epoch."""

    token: str
    expires_at: float


class OpenLink(msgspec.Struct, frozen=True, kw_only=True):
    """A thread's open link, without its token. Moments are seconds since the epoch."""

    created_by: str
    created_at: float
    expires_at: float


class LinkedThread(msgspec.Struct, frozen=True, kw_only=True):
    """A thread as a user with the token of its link sees it.

    `role` is yours, and `thread_id` the thread's, both empty unless you are a member already.
    """

    thread_id: str
    title: str
    created_by: str
    creator_name: str
    members: int
    expires_at: float
    role: str


class Many(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a call for many threads: `failed` is thread id → error name."""

    done: list[str]
    failed: dict[str, str]


class _Rpc(Protocol):
    def __call__(
        self, method: str, params: Mapping[str, Any] | None = None, *, repeat: bool = False
    ) -> Awaitable[Any]:
        """`Gateway.rpc`."""


class Threads:
    """See the module."""

    def __init__(self, rpc: _Rpc) -> None:
        self._rpc = rpc

    async def add_member(self, thread_id: str, user_id: str) -> str:
        """Invite a user: `invited`, or `member` when the gateway adds members at once or they are one already."""
        answer = await self._rpc(
            "thread.members.add", {"thread_id": thread_id, "user_id": user_id}, repeat=True
        )
        return str(answer.get("state", "member"))  # a gateway of the previous version returns no state

    async def remove_member(self, thread_id: str, user_id: str) -> None:
        """Remove a member (owners), or withdraw an invitation (owners, and the inviter)."""
        await self._rpc("thread.members.remove", {"thread_id": thread_id, "user_id": user_id})

    async def invitations(self, limit: int = 200) -> list[Invitation]:
        """The newest `limit` (1-200) of your open invitations."""
        answer = await self._rpc("thread.invitations", {"limit": limit}, repeat=True)
        return msgspec.convert(answer["invitations"], list[Invitation])

    async def accept(self, thread_id: str) -> None:
        """Become a member of a thread that you were invited to. Harmless when repeated."""
        await self._rpc("thread.invitation.accept", {"thread_id": thread_id}, repeat=True)

    async def decline(self, thread_ids: Iterable[str]) -> Many:
        """Decline invitations, up to 200 at once. The inviter is not notified."""
        answer = await self._rpc("thread.invitation.decline", {"thread_ids": list(thread_ids)})
        return Many(done=answer["declined"], failed=answer["failed"])

    async def leave(self, thread_ids: Iterable[str]) -> Many:
        """Leave threads, up to 200 at once."""
        answer = await self._rpc("thread.leave", {"thread_ids": list(thread_ids)})
        return Many(done=answer["left"], failed=answer["failed"])

    async def make_link(self, thread_id: str, days: int = 7) -> ThreadLink:
        """Open a link (1-30 days) by which users of the tenant join the thread; ends an earlier one. For owners."""
        answer = await self._rpc("thread.link", {"thread_id": thread_id, "days": days}, repeat=True)
        return msgspec.convert(answer, ThreadLink)

    async def link(self, thread_id: str) -> OpenLink | None:
        """The thread's open link. For owners."""
        answer = await self._rpc("thread.link.get", {"thread_id": thread_id}, repeat=True)
        return msgspec.convert(answer["link"], OpenLink | None)

    async def revoke_link(self, thread_id: str) -> None:
        """Close the thread's link; its members stay. For owners."""
        await self._rpc("thread.link.revoke", {"thread_id": thread_id}, repeat=True)

    async def preview(self, token: str) -> LinkedThread:
        """The thread that you would join by the link with this token. Changes nothing."""
        return msgspec.convert(
            await self._rpc("thread.link.preview", {"token": token}, repeat=True), LinkedThread
        )

    async def join(self, token: str) -> str:
        """Become a member by the link with this token; returns the thread's id. Harmless when repeated."""
        return str((await self._rpc("thread.join", {"token": token}, repeat=True))["thread_id"])

    async def block(self, user_id: str) -> None:
        """Block invitations by a user; they are not notified."""
        await self._rpc("user.block", {"user_id": user_id}, repeat=True)

    async def unblock(self, user_id: str) -> None:
        """Allow invitations by a user again."""
        await self._rpc("user.unblock", {"user_id": user_id}, repeat=True)

    async def blocked(self) -> list[str]:
        """The ids of the users whom you have blocked."""
        return [str(one) for one in (await self._rpc("user.blocked", repeat=True))["users"]]
