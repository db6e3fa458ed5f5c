"""Runs and leases in SQL.

Not here: the guarantees (`ports/runs.py`), approvals (`interrupts.py`). Rules: an operation that decides over several
rows (a queue's limit, the next run) first takes a lock by name, so that two instances never decide at once; every step
that names an owner is fenced by owner and attempt.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.interrupts import SqlInterrupts, insert_input, unbind
from narthex.adapters.stores.sql.operation import (
    Operation,
    Shape,
    found,
    marks,
    number,
    padded,
    reads,
    writes,
)
from narthex.adapters.stores.sql.retention import not_past
from narthex.adapters.stores.sql.threads import MAX_LIMIT
from narthex.domain.runs import ACTIVE, RunState, after, before, fairest, queue_full
from narthex.domain.threads import thread_not_found
from narthex.ports.broker import Position
from narthex.ports.runs import MAX_REPORT, LeaseSeen, Queue, Run, RunOutcome
from narthex.ports.threads import KEEPS_ALL, Kept

RUN: Final = Shape(Run)
MAX_CLIENT_RUNS: Final = 20  # runs that clients of one tenant gave the same id; the newest ones are looked at
_LEASE: Final = Shape(LeaseSeen)
_OUTCOME: Final = Shape(RunOutcome, bounded=("usage", "result"), most=MAX_REPORT)


def _in(*states: RunState) -> str:
    """The condition of a statement: a run is in one of these states."""
    names = [f"'{state}'" for state in states]
    return f"state = {names[0]}" if len(names) == 1 else f"state IN ({', '.join(names)})"


# Few runs are active, and queries for them are frequent. The condition repeats the text of the partial indexes, because
# SQLite uses them only then: a query's cost depends on the number of active runs, not of ended ones.
_ACTIVE: Final = _in(*(state for state in RunState if state in ACTIVE))
_QUEUED: Final = _in(*before("claimed"))
_RUNNING: Final = _in(*before("returned"))
_HELD: Final = f"tenant = ? AND run_id = ? AND owner = ? AND attempt = ? AND {_RUNNING}"
_QUEUE_LOCK: Final = (
    "narthex queue"  # claims and take-overs of all instances, one at a time: milliseconds each
)


class SqlRuns(SqlInterrupts):
    """The Runs port over an engine."""

    @writes
    def start(self, run: Run, *, queue_limit: int, run_input: str = "") -> Operation[tuple[Run, bool]]:
        """See the port."""
        yield from self._dialect.locked(f"queue {run.thread_id}")
        before = yield from _by_client_message(run.tenant, run.user_id, run.client_message_id)
        if before is not None:
            return before, False
        if not (yield from self._dialect.held(run.tenant, run.thread_id)):  # deleted since the caller's check
            raise thread_not_found()
        of_thread = f"FROM runs WHERE thread_id = ? AND tenant = ? AND {_ACTIVE} AND"
        rows = yield (
            f"SELECT (SELECT count(*) {of_thread} {_QUEUED}), (SELECT count(*) {of_thread} {_RUNNING})",
            (run.thread_id, run.tenant) * 2,
        )
        queued, running = rows[0]
        if queued >= queue_limit and queued + running:
            raise queue_full(queue_limit)
        kept = yield from insert_run(self._dialect, run, (yield from _place_of(run)))
        if kept is None:  # the same message to another thread, at the same moment
            kept = yield from _by_client_message(run.tenant, run.user_id, run.client_message_id)
            assert kept is not None
            return kept, False
        if run_input:
            yield insert_input(run, run_input)
        return kept, True

    @reads
    def get(self, tenant: str, run_id: str) -> Operation[Run | None]:
        """See the port."""
        return _get(tenant, run_id)

    @reads
    def given(self, run: Run) -> Operation[tuple[str, str]]:
        """See the port."""
        rows = yield (
            """SELECT (SELECT input FROM run_inputs WHERE run_id = ? AND tenant = ?),
            (SELECT state FROM agent_states WHERE thread_id = ? AND agent = ? AND tenant = ?)""",
            (run.run_id, run.tenant, run.thread_id, run.agent, run.tenant),
        )
        return rows[0][0] or "", rows[0][1] or ""

    @reads
    def by_client_run(self, tenant: str, client_run_id: str) -> Operation[list[Run]]:
        """See the port."""
        if not client_run_id:
            return []
        rest = "FROM runs WHERE tenant = ? AND client_run_id = ? AND client_run_id <> '' ORDER BY number DESC LIMIT ?"
        return (yield from RUN.many(rest, tenant, client_run_id, MAX_CLIENT_RUNS))

    @reads
    def agent_states(self, tenant: str, thread_id: str) -> Operation[dict[str, str]]:
        """See the port."""
        rows = yield (
            "SELECT agent, state FROM agent_states WHERE thread_id = ? AND tenant = ? ORDER BY agent",
            (thread_id, tenant),
        )
        return {str(agent): str(state) for agent, state in rows}

    @reads
    def by_client_message(self, tenant: str, user_id: str, client_message_id: str) -> Operation[Run | None]:
        """See the port."""
        return _by_client_message(tenant, user_id, client_message_id)

    @writes
    def claim(
        self, owner: str, now: float, lease_s: float, limit: int, agents: Collection[str]
    ) -> Operation[list[Run]]:
        """See the port."""
        yield from self._dialect.locked(_QUEUE_LOCK)
        limit = min(limit, MAX_LIMIT)
        names = padded(agents)
        rows = yield _claimable(len(names)), (owner, *names, limit)
        claimed: list[Run] = []
        running = {tenant: int(count) for tenant, _, count in rows}
        for run_id in fairest([(tenant, run_id) for tenant, run_id, _ in rows], running, limit):
            taken = yield (
                f"""UPDATE runs SET state = '{after("claimed")}', owner = ?, lease_until = ?, beat = beat + 1,
                attempt = attempt + 1 WHERE run_id = ? AND {_QUEUED} RETURNING {RUN.columns}""",
                (owner, now + lease_s, run_id),
            )
            claimed += RUN.read_all(taken)  # empty when the run was cancelled a moment ago
        return claimed

    @writes
    def give_back(self, run: Run, now: float) -> Operation[Run | None]:
        """See the port; the moment of a start without a beginning is forgotten."""
        wanted = "cancel_requested_by = ''"
        rows = yield (
            f"""UPDATE runs SET owner = '', lease_until = 0, beat = beat + 1, attempt = attempt - 1,
            state = CASE WHEN {wanted} THEN '{after("given_back")}' ELSE '{after("cancelled")}' END,
            unclosed = CASE WHEN {wanted} THEN unclosed ELSE 1 END,
            finished_at = CASE WHEN {wanted} THEN finished_at ELSE ? END,
            started_at = CASE WHEN attempt = 1 THEN 0 ELSE started_at END
            WHERE {_HELD} RETURNING {RUN.columns}""",
            (now, run.tenant, run.run_id, run.owner, run.attempt),
        )
        return RUN.first(rows)

    @reads
    def queue(self) -> Operation[Queue]:
        """See the port."""
        rows = yield _QUEUE, ()
        heads = [(agent, run_id, oldest_at) for _, agent, run_id, oldest_at in rows if agent is not None]
        return Queue(
            length=int(rows[0][0]),
            oldest_at=min((float(oldest_at) for *_, oldest_at in heads), default=float("inf")),
            heads={str(agent): str(run_id) for agent, run_id, _ in heads},
        )

    @reads
    def queue_position(self, tenant: str, run_id: str) -> Operation[int]:
        """See the port."""
        run = yield from _get(tenant, run_id)
        if run is None or run.state not in before("claimed"):
            return 0
        older = f"{_ACTIVE} AND {_QUEUED} AND tenant = ? AND"
        find = f"SELECT {_IN_THREAD} FROM runs WHERE run_id = ?"
        [mine] = yield find, (run_id,)
        count = "SELECT count(*) FROM runs WHERE"
        before_it = f"{count} thread_id = ? AND {older} ({_IN_THREAD}) < (?, ?, ?, ?)"
        in_thread = yield from number(before_it, run.thread_id, tenant, *mine)
        active = f"{count} tenant = ? AND user_id = ? AND {_ACTIVE} AND {_RUNNING}"
        if (yield from number(active, tenant, run.user_id)) < run.concurrent_limit:
            return in_thread
        before_it = f"{count} user_id = ? AND {older} ({_ACROSS}) < (?, ?, ?)"
        return max(in_thread, (yield from number(before_it, run.user_id, tenant, *mine[1:])))

    @writes
    def renew(self, owner: str, now: float, lease_s: float, held: Collection[str]) -> Operation[list[str]]:
        """See the port."""
        names = padded(held)
        rows = yield (
            f"""UPDATE runs SET lease_until = ?, beat = beat + 1 WHERE owner = ? AND {_ACTIVE}
            AND ({_QUEUED} OR run_id IN ({marks(len(names))})) RETURNING run_id, state""",
            (now + lease_s, owner, *names),
        )
        return [run_id for run_id, state in rows if state in before("returned")]

    @writes
    def started(self, run: Run, at: Position, now: float) -> Operation[bool]:
        """See the port; the moment of the first attempt is kept."""
        return found(
            f"""UPDATE runs SET start_offset = ?, start_epoch = ?,
            started_at = CASE WHEN started_at = 0 THEN ? ELSE started_at END WHERE {_HELD} RETURNING 1""",
            *(at.offset, at.epoch, now, run.tenant, run.run_id, run.owner, run.attempt),
        )

    @writes
    def finish(
        self,
        run: Run,
        *,
        state: str,
        count: int,
        digest: str,
        text: str,
        error: str,
        now: float,
        error_message: str = "",
        usage: str = "[]",
        result: str = "null",
        agent_state: str | None = None,
    ) -> Operation[bool]:
        """See the port."""
        ours = yield from found(
            f"""UPDATE runs SET state = ?, "count" = ?, digest = ?, "text" = ?, error = ?, error_message = ?,
            "usage" = ?, result = ?, finished_at = ?, lease_until = 0 WHERE {_HELD} RETURNING 1""",
            *(state, count, digest, text, error, error_message, usage, result, now),
            *(run.tenant, run.run_id, run.owner, run.attempt),
        )
        if not ours:
            return False
        yield "DELETE FROM run_inputs WHERE run_id = ?", (run.run_id,)
        if agent_state is not None:
            yield (
                """INSERT INTO agent_states (thread_id, agent, tenant, state) VALUES (?, ?, ?, ?)
                ON CONFLICT (thread_id, agent) DO UPDATE SET state = excluded.state""",
                (run.thread_id, run.agent, run.tenant, agent_state),
            )
        return True

    @writes
    def request_cancel(self, tenant: str, run_id: str, by: str, now: float) -> Operation[Run | None]:
        """See the port; the first requesting user is recorded."""
        rows = yield (
            f"""UPDATE runs SET finished_at = CASE WHEN {_QUEUED} THEN ? ELSE finished_at END,
            unclosed = CASE WHEN {_QUEUED} THEN 1 ELSE unclosed END,
            cancel_requested_by = CASE cancel_requested_by WHEN '' THEN ? ELSE cancel_requested_by END,
            state = CASE WHEN {_QUEUED} THEN '{after("cancelled")}' ELSE state END
            WHERE run_id = ? AND tenant = ? AND {_ACTIVE} RETURNING {RUN.columns}""",
            (now, by, run_id, tenant),
        )
        if rows:
            return RUN.read(rows[0])
        return (yield from _get(tenant, run_id))

    @reads
    def cancel_requests(self, owner: str) -> Operation[list[Run]]:
        """See the port."""
        return RUN.many(
            f"""FROM runs WHERE owner = ? AND {_ACTIVE}
            AND {_RUNNING} AND cancel_requested_by <> '' ORDER BY run_id LIMIT ?""",
            *(owner, MAX_LIMIT),
        )

    @reads
    def leases(self) -> Operation[list[LeaseSeen]]:
        """See the port."""
        return _LEASE.many(f"FROM runs WHERE {_ACTIVE} AND ({_RUNNING} OR owner <> '')")

    @writes
    def take_over(
        self, owner: str, lapsed: Sequence[LeaseSeen], now: float, lease_s: float
    ) -> Operation[list[Run]]:
        """See the port."""
        yield from self._dialect.locked(_QUEUE_LOCK)
        taken: list[Run] = []
        for seen in lapsed[:MAX_LIMIT]:
            same = "tenant = ? AND run_id = ? AND state = ? AND owner = ? AND attempt = ? AND beat = ?"
            # `lease_until` is what a version 2 changes instead of `beat`.
            same += " AND lease_until = ? AND agent = ? AND restartable = ?"
            known = _LEASE.values(seen)
            if seen.state not in before("taken_over"):  # a reservation: any node may claim the run now
                yield f"UPDATE runs SET owner = '', beat = beat + 1 WHERE {same}", known
                continue
            rows = yield (
                f"""UPDATE runs SET owner = ?, lease_until = ?, beat = beat + 1, attempt = attempt + 1
                WHERE {same} RETURNING {RUN.columns}""",
                (owner, now + lease_s, *known),
            )
            taken += RUN.read_all(rows)
        return taken

    @writes
    def unreserve(self, owner: str, waiting: Collection[str]) -> Operation[int]:
        """See the port."""
        names = padded(waiting)
        others = f"(parent_run_id = '' OR parent_run_id NOT IN ({marks(len(names))}))"
        return release(f"owner = ? AND {_QUEUED} AND {others}", owner, *names)

    @writes
    def release(self, owner: str, asked: Collection[tuple[str, str]] = ()) -> Operation[int]:
        """See the port."""
        for tenant, interrupt_id in asked:
            yield unbind(owner, tenant, interrupt_id)
        return (yield from release("owner = ?", owner))

    @reads
    def unclosed(self, limit: int) -> Operation[list[Run]]:
        """See the port."""
        return RUN.many("FROM runs WHERE unclosed = 1 ORDER BY run_id LIMIT ?", min(limit, MAX_LIMIT))

    @writes
    def closed(self, run: Run) -> Operation[None]:
        """See the port."""
        yield (
            """UPDATE runs SET unclosed = 0, state = ?, "count" = ?, digest = ?, "text" = ?, error = ?,
            error_message = ?, result = ? WHERE tenant = ? AND run_id = ? AND unclosed = 1""",
            (
                *(run.state, run.count, run.digest, run.text, run.error, run.error_message, run.result),
                *(run.tenant, run.run_id),
            ),
        )
        yield "DELETE FROM run_inputs WHERE run_id = ?", (run.run_id,)

    @reads
    def active_in_thread(self, tenant: str, thread_id: str) -> Operation[list[Run]]:
        """See the port."""
        rest = f"FROM runs WHERE thread_id = ? AND tenant = ? AND {_ACTIVE} ORDER BY {_IN_THREAD}"
        return RUN.many(rest, thread_id, tenant)

    @reads
    def active_in_threads(self, tenant: str, thread_ids: Sequence[str]) -> Operation[list[tuple[str, str]]]:
        """See the port."""
        names = padded(thread_ids)
        rows = yield (
            f"""SELECT thread_id, run_id FROM runs WHERE thread_id IN ({marks(len(names))}) AND tenant = ?
            AND {_ACTIVE} ORDER BY {_IN_THREAD}""",
            (*names, tenant),
        )
        return [(str(row[0]), str(row[1])) for row in rows]

    @reads
    def list_in_thread(self, tenant: str, thread_id: str, limit: int) -> Operation[list[Run]]:
        """See the port."""
        return RUN.many(
            """FROM runs WHERE thread_id = ? AND tenant = ?
            ORDER BY queue_place DESC, number DESC, created_at DESC, run_id DESC LIMIT ?""",
            *(thread_id, tenant, min(limit, MAX_LIMIT)),
        )

    @reads
    def outcomes(
        self,
        tenant: str,
        thread_id: str,
        *,
        since: float,
        before: float | None,
        before_id: str = "",
        run_ids: Collection[str],
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> Operation[list[RunOutcome]]:
        """See the port."""
        names = padded(run_ids)
        until, end = "", []
        if before is not None:
            until = " AND (r.created_at < ? OR (r.created_at = ? AND r.run_id < ?))"
            end = [before, before, before_id]
        hidden, moments = not_past(kept, "r.created_at")
        newest_first = yield from _OUTCOME.many(
            f"""FROM runs r JOIN threads t ON t.thread_id = r.thread_id
            WHERE r.thread_id = ? AND r.tenant = ? AND NOT r.{_ACTIVE}
            AND (r.run_id IN ({marks(len(names))}) OR (r.created_at >= ?{until})){hidden}
            ORDER BY r.created_at DESC, r.run_id DESC LIMIT ?""",
            *(thread_id, tenant, *names, since, *end, *moments, min(limit, MAX_LIMIT)),
            alias="r",
        )
        return newest_first[::-1]

    @reads
    def active_count(self, tenant: str, user_id: str) -> Operation[int]:
        """See the port."""
        return number(
            f"SELECT count(*) FROM runs WHERE tenant = ? AND user_id = ? AND {_ACTIVE}", tenant, user_id
        )


def insert_run(dialect: Dialect, run: Run, place: int) -> Operation[Run | None]:
    """Insert with the next number; None when (tenant, user, client_message_id) exists already."""
    its_number = yield from number(dialect.numbered)
    rows = yield (
        f"""{RUN.into("runs", "queue_place", "number")}
        ON CONFLICT (tenant, user_id, client_message_id) DO NOTHING RETURNING {RUN.columns}""",
        (*RUN.values(run), place, its_number),
    )
    return RUN.first(rows)


def _place_of(run: Run) -> Operation[int]:
    """A run's place in its thread's queue, which is its message's place in the log."""
    rows = yield (
        "SELECT place FROM messages WHERE thread_id = ? AND message_id = ?",
        (run.thread_id, run.message_id),
    )
    if not rows:
        rows = yield "SELECT coalesce(max(queue_place), 0) FROM runs WHERE thread_id = ?", (run.thread_id,)
    return int(rows[0][0])


def _get(tenant: str, run_id: str) -> Operation[Run | None]:
    return RUN.one("FROM runs WHERE run_id = ? AND tenant = ?", run_id, tenant)


def _by_client_message(tenant: str, user_id: str, client_message_id: str) -> Operation[Run | None]:
    rest = "FROM runs WHERE tenant = ? AND user_id = ? AND client_message_id = ?"
    return RUN.one(rest, tenant, user_id, client_message_id)


_IN_THREAD: Final = (
    "queue_place, number, created_at, run_id"  # moments only order runs that a version 2 wrote
)
_ACROSS: Final = "number, created_at, run_id"

_FOR_ANY: Final = "h.owner = ''"  # Only `take_over` ends a reservation: no clock does.


def _candidates(mine: str) -> str:
    """The queued runs that may run now: first of an idle thread, within their user's quota, and `mine`. At most `limit`
    per tenant are considered further, the oldest first.
    """
    return f"""
WITH heads AS (
    SELECT q.*, row_number() OVER
        (PARTITION BY q.thread_id ORDER BY q.queue_place, q.number, q.created_at, q.run_id) AS turn
    FROM runs q WHERE q.{_ACTIVE} AND q.{_QUEUED}
), busy AS (
    SELECT tenant, user_id, count(*) AS running FROM runs
    WHERE {_ACTIVE} AND {_RUNNING} GROUP BY tenant, user_id
), free AS (
    SELECT h.*, coalesce(b.running, 0) AS user_running, row_number()
        OVER (PARTITION BY h.tenant, h.user_id ORDER BY h.number, h.created_at, h.run_id) AS user_place
    FROM heads h LEFT JOIN busy b ON b.tenant = h.tenant AND b.user_id = h.user_id
    WHERE h.turn = 1 AND {mine}
      AND NOT EXISTS (SELECT 1 FROM runs r
          WHERE r.thread_id = h.thread_id AND r.{_ACTIVE} AND r.{_RUNNING})
), candidates AS (
    SELECT f.*, row_number()
        OVER (PARTITION BY f.tenant ORDER BY f.number, f.created_at, f.run_id) AS tenant_place
    FROM free f WHERE f.user_place <= f.concurrent_limit - f.user_running
)
"""


@cache
def _claimable(agents: int) -> str:
    """What a node with this many agents may claim."""
    mine = f"(h.owner = ? OR ({_FOR_ANY} AND h.agent IN ({marks(agents)})))"
    return f"""{_candidates(mine)}SELECT c.tenant, c.run_id,
    coalesce((SELECT sum(b.running) FROM busy b WHERE b.tenant = c.tenant), 0) AS tenant_running
FROM candidates c WHERE c.tenant_place <= ? ORDER BY c.number, c.created_at, c.run_id
"""


# The number of queued runs, once at least, and beside it each agent with its oldest candidate.
_QUEUE: Final = f"""{_candidates(_FOR_ANY)}, places AS (
    SELECT c.agent, c.run_id, min(c.created_at) OVER (PARTITION BY c.agent) AS oldest_at,
        row_number() OVER (PARTITION BY c.agent ORDER BY c.number, c.created_at, c.run_id) AS agent_place
    FROM candidates c
)
SELECT (SELECT count(*) FROM runs WHERE {_ACTIVE} AND {_QUEUED}), p.agent, p.run_id, p.oldest_at
FROM (SELECT 1 AS one) AS o LEFT JOIN (SELECT * FROM places WHERE agent_place = 1) AS p ON o.one = 1
"""


def release(whose: str, *values: object) -> Operation[int]:
    """End the leases and reservations that the condition `whose` selects."""
    rows = yield (
        f"UPDATE runs SET owner = '', lease_until = 0, beat = beat + 1 WHERE {whose} AND {_ACTIVE} RETURNING 1",
        values,
    )
    return len(rows)
