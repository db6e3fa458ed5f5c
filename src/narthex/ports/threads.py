"""The interface of the store for threads, their members and their messages.

Not here: live events (`ports/broker.py`), invitations and links (`ports/memberships.py`). Guarantees: a write returns
once it is durable; every read and write names the tenant, and rows of another tenant are absent. Rows past the limit of
their owner's plan (`kept`) are absent as well, whether or not `purge` has deleted them. A deletion writes a `LogCut` in
the same step, so that a crash before the log's deletion only delays it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import msgspec

from narthex.ports.broker import Position

Kept = Mapping[str, float]
"""Plan → the moment before which nothing of its owners' threads is kept. A plan that is not in it keeps all, also one
that the settings no longer define, because a mistake in a file must not delete threads.
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
    """A user's membership in a thread: `role` is `owner` or `member`; `read_offset` their read marker."""

    user_id: str
    role: str
    joined_at: float
    read_offset: int = 0


class Membership(NamedTuple):
    """The key of a membership: a user and a thread."""

    tenant: str
    thread_id: str
    user_id: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One finished message: a person's, or one to which a run's deltas were compacted.

    Attributes:
        message_id: as in the AG-UI events.
        role: `user`, `assistant`, `reasoning`, `tool` or `activity` (AG-UI's: what `detail` has, for pages only).
        author: the user id, or the agent's name.
        run_id: empty for a person's message.
        content: its text; for a `tool` message the result.
        detail: further data for the page (tool name, arguments); JSON text, `{}` when there is none.
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
    """The result of `post`.

    Attributes:
        fresh: the message is new; False: its id was stored before.
        at: for a message that was stored before and is in the log: the position of its last event.
        after: for one that was stored before and is not known to be in the log: the log's end before its first publish.
        same: whether the stored message has the same author and text; else its id is taken.
    """

    fresh: bool
    at: Position | None = None
    after: Position | None = None
    same: bool = True


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A full-text hit: the message's id and thread, and a snippet with `[` `]` around the found words."""

    thread_id: str
    title: str
    message_id: str
    snippet: str
    created_at: float


class OwnerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of a user; `at` is the `iat` of the token that says so."""

    tenant: str
    user_id: str
    plan: str
    at: float


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """The number of rows that one `purge` deleted; `more`: it stopped at its limit, call again."""

    threads: int = 0
    messages: int = 0
    runs: int = 0
    more: bool = False


class LogCut(msgspec.Struct, frozen=True, kw_only=True):
    """A pending deletion from a thread's channel log: all of it (`before` 0.0), or everything older than `before`."""

    tenant: str
    thread_id: str
    before: float


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `remove_member`.

    Attributes:
        outcome: `removed`; or nothing changed: `last` (they are the only member), `absent` (they are no member),
            `forbidden` (`by` does not own the thread).
        heir: the user who became the owner because the only owner left; else empty.
        withdrawn: users whose open invitations by the removed user ended, without those whose invitation was hidden.
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

        `limit` is the most threads that owner may have, None for any number. Raises ClientError `threads_limit`
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

    async def rename(self, tenant: str, thread_id: str, title: str, now: float, *, by: str = "") -> bool:
        """Set the title; False when there is no such thread, or `by` is given and no member of it. Atomic: nothing
        changes once the removal of `by` has returned.
        """

    async def delete(self, tenant: str, thread_id: str, *, by: str = "") -> str:
        """Delete the rows of the thread, its members, messages, runs and search entries: `deleted`; `busy` (a run is
        queued or running: nothing changed) or `absent` (no such thread, or `by` is given and no owner of it). Atomic:
        a run that starts meanwhile finds no thread, and a user who was removed deletes none.
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

    async def remove_member(self, tenant: str, thread_id: str, user_id: str, *, by: str = "") -> Departure:
        """Remove a member and the invitations that they made. A thread has an owner as long as it has members: when the
        last owner leaves, the longest-standing member becomes the owner. The last member stays. Atomic.

        `by` is the acting user, where it is another one than `user_id`: outcome `forbidden` unless they own the
        thread; the thread's link is closed as well, or the removed user could join again by it.
        """

    async def mark_read(self, tenant: str, thread_id: str, user_id: str, offset: int) -> bool:
        """Move the read marker forward, never back; False when they are no member."""

    async def add_messages(
        self, tenant: str, messages: list[Message], places: Sequence[Position] | None = None
    ) -> None:
        """Insert; a message whose id is stored already is left unchanged (idempotent). Touches `updated_at`.

        `places` are the positions in the thread's log of each message's first event: they are the order of `messages`.
        Without them a message comes after all stored ones.
        """

    async def answer_calls(self, tenant: str, thread_id: str, answers: Sequence[Message]) -> bool:
        """Store the results of calls: `content` and `detail` of messages with role `tool`, which replace the stored
        ones; a call without a row is left out. False, and nothing is stored, if one of the calls has another result
        (`domain.agent_input.is_same_result`): of two that come at once, one is stored. Idempotent.
        """

    async def post(self, tenant: str, message: Message, after: Position) -> PostResult:
        """Insert a person's message before it is published; `after` is the log's end. The same id again changes
        nothing and returns the state of the first. Touches `updated_at`.
        """

    async def posted(self, tenant: str, thread_id: str, message_id: str, first: Position, last: int) -> bool:
        """Record that the message is in the log, with the position of its first event and the offset of its last. False
        when the store does not have it (any more).
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
        """The newest `limit` messages, oldest first, in the order of the log and not of their moments. To page back,
        `before_id` is the id of the last page's first message and `before` its `created_at`, which alone is the bound
        where the id is not known (any more).
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
        `after_id` and up to and including `until_id`. An id that does not exist (any more) is no bound.
        """

    async def search(
        self, tenant: str, user_id: str, text: str, *, limit: int, kept: Kept = KEEPS_ALL
    ) -> list[Hit]:
        """Full text over messages and titles of threads that the user is a member of, best first."""

    # -- the limit of history ------------------------------------------------------------------------------

    async def note_plan(self, owner: OwnerPlan) -> int:
        """Apply the plan to the owner's threads, unless a later token named another; returns the number of changes."""

    async def purge(self, kept: Kept, *, limit: int, now: float) -> Purged:
        """Delete rows past their owner's plan, oldest first, at most `limit` rows of threads, messages and runs.

        `now` is the caller's clock, from which the moments of `kept` come: where it is ahead of the store's own, the
        moments are moved back by as much, so that a wrong clock deletes nothing.

        A thread last updated before its plan's moment is deleted as a whole, unless a run of it is queued or running;
        of other threads, the older messages and ended runs are deleted. Several instances may purge at once: each row
        is deleted and counted once.
        """

    async def log_cuts(self, limit: int) -> list[LogCut]:
        """Cuts that deletions (`delete`, `purge`) left to do in the broker, oldest first."""

    async def log_cut_done(self, cut: LogCut) -> None:
        """Mark a cut as done. A cut that was replaced meanwhile (another purge, a new thread with the id) stays."""
