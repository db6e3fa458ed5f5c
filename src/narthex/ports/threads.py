"""Threads, their members and their messages, as the app needs them kept. Live events are the broker's.

Guarantees: a write returns once it is durable; every read and write names the tenant, and a row of another
tenant is as absent as one that does not exist. What is past the limit of its owner's plan (`kept`) is absent as
well, whether or not `purge` has been there; what is deleted leaves a `LogCut` in the same step, so that a crash
before its log has gone delays that and forgets nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec

from narthex.ports.broker import Position

Kept = Mapping[str, float]
"""Plan → the moment before which nothing of its owners' threads is kept. A plan that is not in it keeps all: so
does one that settings no longer know, because a slip in a file must not delete anybody's threads.
"""
KEEPS_ALL: Final[Kept] = MappingProxyType({})


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


class Membership(NamedTuple):
    """That a user is a member of a thread."""

    tenant: str
    thread_id: str
    user_id: str


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


class PostResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `say` found.

    Attributes:
        fresh: the message is new; False: its id was there.
        at: of one that was there and is in the log: the position of its last event.
        after: of one that was there and is not known to be in the log: the log's end before it was first published.
    """

    fresh: bool
    at: Position | None = None
    after: Position | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A full-text hit: the message's place and a snippet with `[` `]` around the found words."""

    thread_id: str
    title: str
    message_id: str
    snippet: str
    created_at: float


class OwnerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which plan somebody is on, `at` the moment that their token says so (its `iat`)."""

    tenant: str
    user_id: str
    plan: str
    at: float


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """What one `purge` deleted; `more`: it stopped at its limit, call again."""

    threads: int = 0
    messages: int = 0
    runs: int = 0
    more: bool = False


class LogCut(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to go from a thread's channel log: all of it (`before` 0.0), or what is older than `before`."""

    tenant: str
    thread_id: str
    before: float


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """What became of `remove_member`.

    Attributes:
        outcome: `removed`, `last` (they are the only member: nothing changed) or `absent` (they are no member).
        heir: who became the owner, because the only one left; else empty.
        withdrawn: users whose open invitations by the removed user ended, without those who were not shown theirs.
    """

    outcome: str
    heir: str = ""
    withdrawn: tuple[str, ...] = ()


class Threads(Protocol):
    """Threads of all tenants. `limit` is at most 200 everywhere but in `purge`."""

    async def create(
        self,
        thread: Thread,
        *,
        plan: str = "",
        plan_at: float = 0.0,
        limit: int | None = None,
        kept: Kept = KEEPS_ALL,
    ) -> bool:
        """Insert the thread with `created_by` as its owner; False when the id exists in any tenant.

        `limit` is how many threads that owner may have, None for any number. Raises ClientError `threads_limit`
        (429) at the limit: nothing is inserted.

        `plan` is the owner's, as `OwnerPlan`; empty: not known, and then everything is kept.
        """

    async def get(self, tenant: str, thread_id: str, *, kept: Kept = KEEPS_ALL) -> Thread | None:
        """The thread, or None."""

    async def list_for(
        self,
        tenant: str,
        user_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Thread]:
        """Threads that the user is a member of, most recently updated first, `updated_at` < `before`; with
        `before_id`, the last page's last thread, those of the same moment that come after it too.
        """

    async def rename(self, tenant: str, thread_id: str, title: str, now: float) -> bool:
        """Set the title; False when there is no such thread."""

    async def delete(self, tenant: str, thread_id: str) -> str:
        """Really delete the thread, its members, messages, runs and search entries: `deleted`; `busy` (a run is
        queued or running: nothing changed) or `absent`. Atomic: a run that starts meanwhile finds no thread.
        """

    async def members(self, tenant: str, thread_id: str) -> list[ThreadMember]:
        """All members, owners first; empty when there is no such thread."""

    async def still_members(self, asked: Collection[Membership]) -> set[Membership]:
        """Those of `asked`, at most some hundreds, that exist."""

    async def role(self, tenant: str, thread_id: str, user_id: str, *, kept: Kept = KEEPS_ALL) -> str | None:
        """The user's role in the thread, or None: not a member or no such thread."""

    async def add_member(
        self, tenant: str, thread_id: str, member: ThreadMember, *, limit: int | None
    ) -> str:
        """`added`, `present`, `full` (the thread has `limit` members) or `absent` (no such thread); atomic."""

    async def remove_member(self, tenant: str, thread_id: str, user_id: str) -> Departure:
        """Take somebody out, with the invitations that they made. A thread has an owner as long as it has members:
        after the last owner it is who has been there longest. The last member stays. Atomic.
        """

    async def mark_read(self, tenant: str, thread_id: str, user_id: str, offset: int) -> bool:
        """Move the read marker forward, never back; False when they are no member."""

    async def add_messages(
        self, tenant: str, messages: list[Message], places: Sequence[Position] | None = None
    ) -> None:
        """Insert; a message id that is there already is left as it is (idempotent). Touches `updated_at`.

        `places` are the positions in the thread's log of each message's first event: they are the order of `messages`.
        Without them a message comes after all that are there.
        """

    async def post(self, tenant: str, message: Message, after: Position) -> PostResult:
        """Insert a person's message before it is published; `after` is the log's end. The same id again changes
        nothing and says what became of the first. Touches `updated_at`.
        """

    async def posted(self, tenant: str, thread_id: str, message_id: str, first: Position, last: int) -> bool:
        """The message is in the log: the position of its first event, and the offset of its last. False when the store
        does not have it (any more).
        """

    async def messages(
        self,
        tenant: str,
        thread_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Message]:
        """The newest `limit` messages, oldest first, in the order of the log, whatever their moments say. Those before
        the last page's first message: `before_id` is its id and `before` its `created_at`, which names it alone where
        the id is not known (any more).
        """

    async def messages_after(
        self,
        tenant: str,
        thread_id: str,
        *,
        after_id: str,
        until_id: str,
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Message]:
        """The oldest `limit` messages in the order of the log, oldest first: after the last page's last message
        `after_id` and up to `until_id`, that one included. An id that is not there (any more) is no bound.
        """

    async def search(
        self, tenant: str, user_id: str, text: str, *, limit: int, kept: Kept = KEEPS_ALL
    ) -> list[Hit]:
        """Full text over messages and titles of threads that the user is a member of, best first."""

    # -- the limit of history ------------------------------------------------------------------------------

    async def note_plan(self, owner: OwnerPlan) -> int:
        """The owner's threads follow their plan, unless a later token said another; how many changed."""

    async def purge(self, kept: Kept, *, limit: int, now: float) -> Purged:
        """Delete what is past its owner's plan, oldest first, at most `limit` rows of threads, messages and runs.
        `now` is the caller's clock, from which the moments of `kept` come: where it is ahead of the store's own, the
        moments are moved back by as much, so that a clock that is wrong deletes nothing.

        A thread last updated before its plan's moment goes as a whole, unless a run of it is queued or running;
        of others the older messages and ended runs go. Several instances may purge at once: each row is deleted
        and counted once.
        """

    async def log_cuts(self, limit: int) -> list[LogCut]:
        """What deletions (`delete`, `purge`) left to do in the broker, oldest first."""

    async def log_cut_done(self, cut: LogCut) -> None:
        """It is done. A cut that was replaced meanwhile (another purge, a new thread with the id) stays."""
