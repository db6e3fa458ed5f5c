"""Threads, members, messages and search in SQL.

Not here: the guarantees (`ports/threads.py`), deletion by plan (`retention.py`), the search index (`dialect.py`).
Rules: every statement names the tenant or a thread id that was just checked against it.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from narthex.adapters.stores.sql.dialect import Dialect, words
from narthex.adapters.stores.sql.joining import count_members, held_role
from narthex.adapters.stores.sql.memberships import count_owned
from narthex.adapters.stores.sql.operation import (
    Adapter,
    Operation,
    Row,
    Shape,
    Statement,
    each,
    found,
    marks,
    reads,
    writes,
)
from narthex.adapters.stores.sql.retention import (
    MAX_THREADS,
    cut_done,
    delete_orphans,
    delete_thread,
    inherited,
    log_cuts,
    not_past,
    note_plan,
    orphans,
    purge,
    renewed,
)
from narthex.domain.agent_input import is_same_result
from narthex.domain.threads import threads_limit
from narthex.ports.broker import Position
from narthex.ports.threads import (
    KEEPS_ALL,
    Departure,
    Hit,
    Kept,
    LogCut,
    Membership,
    Message,
    OwnerPlan,
    PostResult,
    Purged,
    Thread,
    ThreadMember,
)

MAX_LIMIT: Final = 200
EPOCH_STEP: Final = (
    1 << 40
)  # more than the highest offset of any channel, and less than 2^63 in eight million epochs
MOMENT_S: Final = 0.0005  # a client that names a message by its moment may have rounded it to a millisecond

_THREAD: Final = Shape(Thread)
_MEMBER: Final = Shape(ThreadMember)
_MESSAGE: Final = Shape(Message)
_HIT: Final = Shape(Hit)


class SqlThreads(Adapter):
    """The Threads port over an engine."""

    @writes
    def create(
        self,
        thread: Thread,
        *,
        plan: str = "",
        plan_at: float = 0.0,
        limit: int | None = None,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[bool]:
        """See the port."""
        if limit is not None:
            # Two concurrent creations must not both take the last slot.
            yield from self._dialect.locked(f"threads {thread.tenant} {thread.created_by}")
            if (yield "SELECT 1 FROM threads WHERE thread_id = ?", (thread.thread_id,)):
                return False
            if (yield from count_owned(thread.tenant, thread.created_by, kept)) >= limit:
                raise threads_limit(limit)
        rows = yield (
            f"""{_THREAD.into("threads", "plan", "plan_at", "oldest_at")}
            ON CONFLICT (thread_id) DO NOTHING RETURNING seq""",
            (*_THREAD.values(thread), plan, plan_at, thread.created_at),
        )
        if not rows:
            return False
        yield from renewed(thread)
        yield from each(self._dialect.search_added("threads", rows[0][0]))
        owner = ThreadMember(user_id=thread.created_by, role="owner", joined_at=thread.created_at)
        yield _member_row(thread.tenant, thread.thread_id, owner)
        return True

    @reads
    def get(self, tenant: str, thread_id: str, *, kept: Kept = KEEPS_ALL) -> Operation[Thread | None]:
        """See the port."""
        return _get(tenant, thread_id, kept)

    @reads
    def list_for(
        self,
        tenant: str,
        user_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[list[Thread]]:
        """See the port."""
        older, place_values = _older(tenant, before, before_id)
        condition, values = not_past(kept, "t.updated_at")
        return _THREAD.many(
            f"""FROM members m JOIN threads t ON t.thread_id = m.thread_id
            WHERE m.tenant = ? AND m.user_id = ? AND t.tenant = m.tenant{older}{condition}
            ORDER BY t.updated_at DESC, t.seq DESC LIMIT ?""",
            *(tenant, user_id, *place_values, *values, _bounded(limit)),
            alias="t",
        )

    @writes
    def rename(self, tenant: str, thread_id: str, title: str, now: float, *, by: str = "") -> Operation[bool]:
        """See the port."""
        if by and not (yield from held_role(self._dialect, tenant, thread_id, by)):
            return False
        if (yield from _get(tenant, thread_id)) is None:
            return False
        yield from each(self._dialect.search_titled(thread_id, False))
        yield (
            """UPDATE threads SET title = ?, updated_at = CASE WHEN updated_at < ? THEN ? ELSE updated_at END
            WHERE thread_id = ? AND tenant = ?""",
            (title, now, now, thread_id, tenant),
        )
        yield from each(self._dialect.search_titled(thread_id, True))
        return True

    @writes
    def delete(self, tenant: str, thread_id: str, *, by: str = "") -> Operation[str]:
        """See the port."""
        if by and (yield from held_role(self._dialect, tenant, thread_id, by)) != "owner":
            return "absent"
        return (yield from delete_thread(self._dialect, tenant, thread_id))

    @reads
    def members(self, tenant: str, thread_id: str) -> Operation[list[ThreadMember]]:
        """See the port."""
        return _members(tenant, thread_id)

    @reads
    def still_members(self, asked: Collection[Membership]) -> Operation[set[Membership]]:
        """See the port."""
        wanted = set(asked)
        pairs = list({(one.thread_id, one.user_id) for one in wanted})
        pairs += [("", "")] * ((1 << len(pairs).bit_length()) - len(pairs))  # as `padded`
        places = ", ".join(["(?, ?)"] * len(pairs))
        rows = yield (
            f"SELECT tenant, thread_id, user_id FROM members WHERE (thread_id, user_id) IN (VALUES {places})",
            tuple(itertools.chain.from_iterable(pairs)),
        )
        return wanted & {Membership(*row) for row in rows}

    @reads
    def role(
        self, tenant: str, thread_id: str, user_id: str, *, kept: Kept = KEEPS_ALL
    ) -> Operation[str | None]:
        """See the port."""
        return _role(tenant, thread_id, user_id, kept)

    @writes
    def add_member(
        self, tenant: str, thread_id: str, member: ThreadMember, *, limit: int | None
    ) -> Operation[str]:
        """See the port."""
        # Two concurrent joins must not both take the last slot.
        yield from self._dialect.locked(f"members {thread_id}")
        if (yield from _get(tenant, thread_id, suffix=self._dialect.hold)) is None:
            return "absent"
        if (yield from _role(tenant, thread_id, member.user_id)) is not None:
            return "present"
        if limit is not None and (yield from count_members(tenant, thread_id)) >= limit:
            return "full"
        yield _member_row(tenant, thread_id, member)
        return "added"

    @writes
    def remove_member(
        self, tenant: str, thread_id: str, user_id: str, *, by: str = ""
    ) -> Operation[Departure]:
        """See the port."""
        # The lock also keeps two concurrent departures from each counting on the other.
        role = yield from held_role(self._dialect, tenant, thread_id, by or user_id)
        if by and role != "owner":
            return Departure(outcome="forbidden")
        members = yield from _members(tenant, thread_id)
        rest = [member for member in members if member.user_id != user_id]
        if len(rest) == len(members):
            return Departure(outcome="absent")
        if not rest:
            return Departure(outcome="last")
        of_one = "thread_id = ? AND tenant = ? AND user_id = ?"
        yield f"DELETE FROM members WHERE {of_one}", (thread_id, tenant, user_id)
        if by:
            yield "DELETE FROM thread_links WHERE thread_id = ? AND tenant = ?", (thread_id, tenant)
        ended = yield (
            "DELETE FROM invitations WHERE thread_id = ? AND tenant = ? AND invited_by = ? RETURNING user_id, hidden",
            (thread_id, tenant, user_id),
        )
        withdrawn = tuple(sorted(str(invited) for invited, hidden in ended if not hidden))
        if rest[0].role == "owner":  # owners come first
            return Departure(outcome="removed", withdrawn=withdrawn)
        heir = rest[0].user_id
        yield f"UPDATE members SET role = 'owner' WHERE {of_one}", (thread_id, tenant, heir)
        yield inherited(tenant, thread_id)
        return Departure(outcome="removed", heir=heir, withdrawn=withdrawn)

    @writes
    def mark_read(self, tenant: str, thread_id: str, user_id: str, offset: int) -> Operation[bool]:
        """See the port."""
        return found(
            """UPDATE members SET read_offset = CASE WHEN read_offset < ? THEN ? ELSE read_offset END
            WHERE thread_id = ? AND user_id = ? AND tenant = ? RETURNING 1""",
            *(offset, offset, thread_id, user_id, tenant),
        )

    async def add_messages(
        self, tenant: str, messages: list[Message], places: Sequence[Position] | None = None
    ) -> None:
        """See the port; ignores messages of threads that the tenant does not have."""
        if messages:
            await self._engine.write(_add_messages(self._dialect, tenant, messages, places))

    @writes
    def answer_calls(self, tenant: str, thread_id: str, answers: Sequence[Message]) -> Operation[bool]:
        """See the port."""
        of_call = "thread_id = ? AND message_id = ? AND tenant = ? AND role = 'tool'"
        open_calls: list[tuple[int, Message]] = []
        for answer in sorted(answers, key=lambda one: one.message_id):  # one order of locks for all
            named = (thread_id, answer.message_id, tenant)
            rows = yield f"SELECT seq, detail FROM messages WHERE {of_call}{self._dialect.seize}", named
            if not rows:
                continue
            same = is_same_result(str(rows[0][1]), answer.detail)
            if same is False:
                return False
            if same is None:
                open_calls.append((int(rows[0][0]), answer))
        for seq, answer in open_calls:
            yield from each(self._dialect.search_pruned([seq]))
            yield (
                f"UPDATE messages SET content = ?, detail = ? WHERE {of_call}",
                (answer.content, answer.detail, thread_id, answer.message_id, tenant),
            )
            yield from each(self._dialect.search_added("messages", seq))
        return True

    @writes
    def post(self, tenant: str, message: Message, after: Position) -> Operation[PostResult]:
        """See the port; ignores a thread that the tenant does not have, as `add_messages` does."""
        thread_id = message.thread_id
        if not (yield from self._dialect.held(tenant, thread_id)):
            return PostResult(fresh=True)
        base = yield from _epoch_base(thread_id, after.epoch)
        place = (base + after.offset + 1, after.epoch, after.offset)  # its place, if no other is faster
        if (yield from _insert_message(self._dialect, tenant, message, place)):
            yield _touched(tenant, thread_id, message.created_at)
            return PostResult(fresh=True)
        rows = yield (
            """SELECT "offset", epoch, said_after, role, author, content FROM messages
            WHERE thread_id = ? AND message_id = ? AND tenant = ?""",
            (thread_id, message.message_id, tenant),
        )
        offset, epoch, said_after, *stored = rows[0]
        if stored != [message.role, message.author, message.content]:
            return PostResult(fresh=False, same=False)
        if said_after < 0:
            return PostResult(fresh=False, at=Position(offset, epoch))
        return PostResult(fresh=False, after=Position(said_after, epoch))

    @writes
    def posted(
        self, tenant: str, thread_id: str, message_id: str, first: Position, last: int
    ) -> Operation[bool]:
        """See the port."""
        if not (yield "SELECT 1 FROM threads WHERE tenant = ? AND thread_id = ?", (tenant, thread_id)):
            return False
        base = yield from _epoch_base(thread_id, first.epoch)
        return (
            yield from found(
                """UPDATE messages SET place = ?, "offset" = ?, epoch = ?, said_after = -1
                WHERE thread_id = ? AND message_id = ? AND tenant = ? RETURNING 1""",
                *(base + first.offset, last, first.epoch, thread_id, message_id, tenant),
            )
        )

    @reads
    def messages(
        self,
        tenant: str,
        thread_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[list[Message]]:
        """See the port."""
        older, place_values = yield from _place_before(thread_id, before, before_id)
        condition, values = _message_kept(kept)
        newest_first = yield from _MESSAGE.many(
            f"""FROM messages x WHERE thread_id = ? AND tenant = ?{older}{condition}
            ORDER BY place DESC, created_at DESC, seq DESC LIMIT ?""",
            *(thread_id, tenant, *place_values, *values, _bounded(limit)),
        )
        return newest_first[::-1]

    @reads
    def messages_after(
        self,
        tenant: str,
        thread_id: str,
        *,
        after_id: str,
        until_id: str,
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[list[Message]]:
        """See the port."""
        bounds = ""
        places: Row = ()
        for name, sign in ((after_id, ">"), (until_id, "<=")):
            row = yield (
                "SELECT place, created_at, seq FROM messages WHERE thread_id = ? AND message_id = ?",
                (thread_id, name),
            )
            if row:
                bounds += f" AND (x.place, x.created_at, x.seq) {sign} (?, ?, ?)"
                places += row[0]
        condition, values = _message_kept(kept)
        return (
            yield from _MESSAGE.many(
                f"""FROM messages x WHERE thread_id = ? AND tenant = ?{bounds}{condition}
                ORDER BY place, created_at, seq LIMIT ?""",
                *(thread_id, tenant, *places, *values, _bounded(limit)),
            )
        )

    @reads
    def search(
        self, tenant: str, user_id: str, text: str, *, limit: int, kept: Kept = KEEPS_ALL
    ) -> Operation[list[Hit]]:
        """See the port; all words must occur, the last may be the beginning of one."""
        wanted = words(text)
        if not wanted:
            return []
        rows = yield self._dialect.search(tenant, user_id, wanted, _bounded(limit), partial(not_past, kept))
        return _HIT.read_all(rows)

    @writes
    def note_plan(self, owner: OwnerPlan) -> Operation[int]:
        """See the port."""
        return note_plan(owner)

    async def purge(self, kept: Kept, *, limit: int, now: float) -> Purged:
        """See the port; at most `retention.MAX_BATCH` rows. The last batch also deletes what earlier versions left."""
        purged = await self._engine.write(purge(self._dialect, kept, limit, now))
        if not purged.more and (left := await self._engine.read(orphans(MAX_THREADS))):
            await self._engine.write(delete_orphans(left))
        return purged

    @reads
    def log_cuts(self, limit: int) -> Operation[list[LogCut]]:
        """See the port."""
        return log_cuts(_bounded(limit))

    @writes
    def log_cut_done(self, cut: LogCut) -> Operation[None]:
        """See the port."""
        return cut_done(cut)


def _get(tenant: str, thread_id: str, kept: Kept = KEEPS_ALL, suffix: str = "") -> Operation[Thread | None]:
    condition, values = not_past(kept, "t.updated_at")
    rest = f"FROM threads t WHERE thread_id = ? AND tenant = ?{condition}{suffix}"
    return _THREAD.one(rest, thread_id, tenant, *values)


def _older(tenant: str, before: float | None, before_id: str) -> Statement:
    """` AND …` with its values: threads that come after the last page's last in descending (updated_at, seq)."""
    if before is None:
        return "", ()
    if not before_id:
        return " AND t.updated_at < ?", (before,)
    last = "coalesce((SELECT seq FROM threads WHERE thread_id = ? AND tenant = ?), 0)"
    return (
        f" AND (t.updated_at < ? OR (t.updated_at = ? AND t.seq < {last}))",
        (before, before, before_id, tenant),
    )


def _members(tenant: str, thread_id: str) -> Operation[list[ThreadMember]]:
    return _MEMBER.many(
        """FROM members WHERE thread_id = ? AND tenant = ?
        ORDER BY CASE role WHEN 'owner' THEN 0 ELSE 1 END, joined_at, user_id""",
        *(thread_id, tenant),
    )


def _role(tenant: str, thread_id: str, user_id: str, kept: Kept = KEEPS_ALL) -> Operation[str | None]:
    condition, moments = _of_kept_thread(kept, "m", "t.updated_at")
    rows = yield (
        f"SELECT role FROM members m WHERE thread_id = ? AND user_id = ? AND tenant = ?{condition}",
        (thread_id, user_id, tenant, *moments),
    )
    return str(rows[0][0]) if rows else None


def _member_row(tenant: str, thread_id: str, member: ThreadMember) -> Statement:
    return _MEMBER.into("members", "tenant", "thread_id"), (*_MEMBER.values(member), tenant, thread_id)


def _epoch_base(thread_id: str, epoch: str) -> Operation[int]:
    """The number that is added to offsets of an epoch so that a thread's places ascend across epochs."""
    find = "SELECT base FROM log_epochs WHERE thread_id = ? AND epoch = ?", (thread_id, epoch)
    rows = yield find
    if not rows:
        yield (
            f"""INSERT INTO log_epochs (thread_id, epoch, base)
            SELECT ?, ?, coalesce(max(base) + {EPOCH_STEP}, 0) FROM log_epochs WHERE thread_id = ?
            ON CONFLICT (thread_id, epoch) DO NOTHING""",
            (thread_id, epoch, thread_id),
        )
        rows = yield find
    return int(rows[0][0])


def _add_messages(
    dialect: Dialect, tenant: str, messages: list[Message], places: Sequence[Position] | None
) -> Operation[None]:
    wanted = sorted({message.thread_id for message in messages})
    rows = yield (
        f"SELECT thread_id FROM threads WHERE tenant = ? AND thread_id IN ({marks(len(wanted))}){dialect.hold}",
        (tenant, *wanted),
    )
    ours = {row[0] for row in rows}
    bases: dict[tuple[str, str], int] = {}
    for number, message in enumerate(messages):
        if message.thread_id not in ours:
            continue
        place, epoch = 0, ""  # an unknown place: the schema's trigger makes it the last
        if places is not None:
            epoch = places[number].epoch
            base = bases.get((message.thread_id, epoch))
            if base is None:
                base = yield from _epoch_base(message.thread_id, epoch)
                bases[message.thread_id, epoch] = base
            place = base + places[number].offset
        yield from _insert_message(dialect, tenant, message, (place, epoch, -1))
    for thread_id in sorted(ours):
        newest = max(message.created_at for message in messages if message.thread_id == thread_id)
        yield _touched(tenant, thread_id, newest)


def _insert_message(
    dialect: Dialect, tenant: str, message: Message, place: tuple[int, str, int]
) -> Operation[bool]:
    """Insert with its `place`, `epoch` and `said_after`; False when its id exists already."""
    rows = yield (
        f"""{_MESSAGE.into("messages", "tenant", "place", "epoch", "said_after")}
        ON CONFLICT (thread_id, message_id) DO NOTHING RETURNING seq""",
        (*_MESSAGE.values(message), tenant, *place),
    )
    if rows:
        yield from each(dialect.search_added("messages", rows[0][0]))
    return bool(rows)


def _touched(tenant: str, thread_id: str, at: float) -> Statement:
    return (
        "UPDATE threads SET updated_at = ? WHERE thread_id = ? AND tenant = ? AND updated_at < ?",
        (at, thread_id, tenant, at),
    )


def _message_kept(kept: Kept) -> Statement:
    """The condition on `messages x` that leaves out rows past the plan of the thread's owner, and its values."""
    return _of_kept_thread(kept, "x", "x.created_at")


def _of_kept_thread(kept: Kept, alias: str, moment: str) -> Statement:
    """` AND …` with its values: `moment` of a row of `alias` is not past the plan of its thread's owner."""
    condition, values = not_past(kept, moment)
    if condition:
        condition = f" AND EXISTS (SELECT 1 FROM threads t WHERE t.thread_id = {alias}.thread_id{condition})"
    return condition, values


def _place_before(thread_id: str, before: float | None, before_id: str) -> Operation[Statement]:
    """` AND …` with its values: messages before the last page's first message in the order of the log.

    Without an id, the message of that moment is the bound (clients keep moments in milliseconds); if there is none,
    messages that were written before the moment.
    """
    if before is None:
        return "", ()
    columns = "SELECT place, created_at, seq FROM messages WHERE thread_id = ?"
    rows: list[Row] = []
    if before_id:
        rows = yield f"{columns} AND message_id = ?", (thread_id, before_id)
    else:
        rows = yield (
            f"{columns} AND created_at BETWEEN ? AND ? ORDER BY abs(created_at - ?), place, seq LIMIT 1",
            (thread_id, before - MOMENT_S, before + MOMENT_S, before),
        )
    if not rows:
        return " AND x.created_at < ?", (before,)
    return " AND (x.place, x.created_at, x.seq) < (?, ?, ?)", rows[0]


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_LIMIT))
