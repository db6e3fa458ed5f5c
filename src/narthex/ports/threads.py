"""Threads, their members and their messages, as the app needs them kept. Live events are the broker's.

Guarantees: a write returns once it is durable; every read and write names the tenant, and a row of another
tenant is as absent as one that does not exist.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. Moments are seconds since the epoch."""

    thread_id: str
    tenant: str
    title: str
    created_by: str
    created_at: float
    updated_at: float


class ThreadMember(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's place in a thread: `role` is `owner` or `member`; `read_offset` their read marker."""

    user_id: str
    role: str
    joined_at: float
    read_offset: int = 0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One finished message: a person's, or what a run's deltas were compacted to.

    Attributes:
        message_id: as in the AG-UI events.
        role: `user`, `assistant`, `reasoning` or `tool`.
        author: the user id, or the agent's name.
        run_id: empty for a person's message.
        content: its text; for a `tool` message the result.
        detail: what the page needs besides (tool name, arguments); JSON text, `{}` when nothing.
        offset: the channel offset of its last event (0 when unknown), so that a client can continue live.
    """

    message_id: str
    thread_id: str
    role: str
    author: str
    content: str
    created_at: float
    run_id: str = ""
    detail: str = "{}"
    offset: int = 0


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A full-text hit: the message's place and a snippet with `[` `]` around the found words."""

    thread_id: str
    title: str
    message_id: str
    snippet: str
    created_at: float


class Threads(Protocol):
    """Threads of all tenants. `limit` is at most 200 everywhere."""

    async def create(self, thread: Thread) -> bool:
        """Insert the thread with `created_by` as its owner; False when the id exists in any tenant."""

    async def get(self, tenant: str, thread_id: str) -> Thread | None:
        """The thread, or None."""

    async def list_for(self, tenant: str, user_id: str, *, before: float | None, limit: int) -> list[Thread]:
        """Threads that the user is a member of, most recently updated first, `updated_at` < `before`."""

    async def rename(self, tenant: str, thread_id: str, title: str, now: float) -> bool:
        """Set the title; False when there is no such thread."""

    async def delete(self, tenant: str, thread_id: str) -> bool:
        """Really delete the thread, its members, messages, runs and search entries."""

    async def members(self, tenant: str, thread_id: str) -> list[ThreadMember]:
        """All members, owners first; empty when there is no such thread."""

    async def role(self, tenant: str, thread_id: str, user_id: str) -> str | None:
        """The user's role in the thread, or None: not a member or no such thread."""

    async def add_member(
        self, tenant: str, thread_id: str, member: ThreadMember, *, limit: int | None
    ) -> str:
        """`added`, `present`, `full` (the thread has `limit` members) or `absent` (no such thread); atomic."""

    async def remove_member(self, tenant: str, thread_id: str, user_id: str) -> bool:
        """False when they were no member."""

    async def mark_read(self, tenant: str, thread_id: str, user_id: str, offset: int) -> bool:
        """Move the read marker forward, never back; False when they are no member."""

    async def add_messages(self, tenant: str, messages: list[Message]) -> None:
        """Insert; a message id that is there already is left as it is (idempotent). Touches `updated_at`."""

    async def messages(
        self, tenant: str, thread_id: str, *, before: float | None, limit: int
    ) -> list[Message]:
        """The newest `limit` messages with `created_at` < `before`, oldest first."""

    async def search(self, tenant: str, user_id: str, text: str, *, limit: int) -> list[Hit]:
        """Full text over messages and titles of threads that the user is a member of, best first."""

    async def purge(self, tenant: str, user_id: str, older_than: float) -> list[str]:
        """Delete threads created by the user and last updated before; returns their ids."""
