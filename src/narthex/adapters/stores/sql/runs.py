"""Runs, leases and approvals in SQL. See `ports/runs.py` for what is promised.

Rules: whatever decides over several rows (a queue's limit, who is next) holds a lock by name first, so that
two instances never decide at once; every step that names an owner is fenced by owner and attempt.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.interrupts import SqlInterrupts
from narthex.adapters.stores.sql.operation import Engine, Operation, Row, Shape, marks, padded
from narthex.adapters.stores.sql.retention import not_past
from narthex.adapters.stores.sql.threads import MAX_LIMIT
from narthex.domain.runs import queue_full
from narthex.errors import ClientError
from narthex.ports.broker import Position
from narthex.ports.runs import LeaseSeen, Run, RunOutcome
from narthex.ports.threads import KEEPS_ALL, Kept

RUN: Final = Shape(Run)
_LEASE: Final = Shape(LeaseSeen)
_OUTCOME: Final = Shape(RunOutcome)
# Of the runs that there ever were few are active, and those are asked for all day. The condition is in the words of the
# partial indexes, because SQLite sees no further: what is asked costs what is active, however many runs have ended.
_ACTIVE: Final = "state IN ('queued', 'running')"
_HELD: Final = "tenant = ? AND run_id = ? AND owner = ? AND attempt = ? AND state = 'running'"
_QUEUE_LOCK: Final = (
    "narthex queue"  # claims and take-overs of all instances, one at a time: milliseconds each
)


class SqlRuns(SqlInterrupts):
    """The Runs port over an engine."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        super().__init__(engine, dialect)

    async def start(self, run: Run, *, queue_limit: int) -> tuple[Run, bool]:
        """See the port."""
        return await self._engine.write(_start(self._dialect, run, queue_limit))

    async def get(self, tenant: str, run_id: str) -> Run | None:
        """See the port."""
        return await self._engine.read(_get(tenant, run_id))

    async def by_client_message(self, tenant: str, user_id: str, client_message_id: str) -> Run | None:
        """See the port."""
        return await self._engine.read(_by_client_message(tenant, user_id, client_message_id))

    async def claim(self, owner: str, now: float, lease_s: float, limit: int) -> list[Run]:
        """See the port."""
        return await self._engine.write(_claim(self._dialect, owner, now, lease_s, limit))

    async def queue_position(self, tenant: str, run_id: str) -> int:
        """See the port."""
        return await self._engine.read(_queue_position(tenant, run_id))

    async def renew(self, owner: str, now: float, lease_s: float, held: Collection[str]) -> list[str]:
        """See the port."""
        return await self._engine.write(_renew(owner, now + lease_s, held))

    async def started(self, run: Run, at: Position, now: float) -> bool:
        """See the port; the moment of the first attempt is kept."""
        return await self._engine.write(_started(run, at, now))

    async def finish(
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
    ) -> bool:
        """See the port."""
        outcome = (state, count, digest, text, error, error_message, now)
        return await self._engine.write(_finish(run, outcome))

    async def request_cancel(self, tenant: str, run_id: str, by: str, now: float) -> Run | None:
        """See the port; the first to ask is the one who is noted."""
        return await self._engine.write(_request_cancel(tenant, run_id, by, now))

    async def cancel_requests(self, owner: str) -> list[Run]:
        """See the port."""
        return await self._engine.read(_cancel_requests(owner))

    async def leases(self) -> list[LeaseSeen]:
        """See the port."""
        return await self._engine.read(_leases())

    async def take_over(
        self, owner: str, lapsed: Sequence[LeaseSeen], now: float, lease_s: float
    ) -> list[Run]:
        """See the port."""
        return await self._engine.write(_take_over(self._dialect, owner, lapsed, now + lease_s))

    async def release(self, owner: str) -> int:
        """See the port."""
        return await self._engine.write(release("owner = ?", owner))

    async def unclosed(self, limit: int) -> list[Run]:
        """See the port."""
        return await self._engine.read(_unclosed(limit))

    async def closed(self, run: Run, count: int, digest: str) -> None:
        """See the port."""
        await self._engine.write(_closed(run, count, digest))

    async def active_in_thread(self, tenant: str, thread_id: str) -> list[Run]:
        """See the port."""
        return await self._engine.read(_active_in_thread(tenant, thread_id))

    async def list_in_thread(self, tenant: str, thread_id: str, limit: int) -> list[Run]:
        """See the port."""
        return await self._engine.read(_list_in_thread(tenant, thread_id, limit))

    async def outcomes(
        self,
        tenant: str,
        thread_id: str,
        *,
        since: float,
        before: float | None,
        run_ids: Collection[str],
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[RunOutcome]:
        """See the port."""
        window = (since, before, min(limit, MAX_LIMIT))
        return await self._engine.read(_outcomes(tenant, thread_id, window, run_ids, kept))

    async def active_count(self, tenant: str, user_id: str) -> int:
        """See the port."""
        return await self._engine.read(_active_count(tenant, user_id))


def insert_run(dialect: Dialect, run: Run, place: int) -> Operation[Run | None]:
    """Insert as given, numbered; None when (tenant, user, client_message_id) is there already."""
    number = yield dialect.numbered, ()
    rows = yield (
        (
            f"INSERT INTO runs ({RUN.columns}, place, number) VALUES ({RUN.placeholders}, ?, ?)"
            f" ON CONFLICT (tenant, user_id, client_message_id) DO NOTHING RETURNING {RUN.columns}"
        ),
        (*RUN.values(run), place, number[0][0]),
    )
    return RUN.first(rows)


def _place_of(run: Run) -> Operation[int]:
    """A run's place in its thread's queue: its message's in the log."""
    rows = yield (
        "SELECT place FROM messages WHERE thread_id = ? AND message_id = ?",
        (run.thread_id, run.message_id),
    )
    if not rows:
        rows = yield "SELECT coalesce(max(place), 0) FROM runs WHERE thread_id = ?", (run.thread_id,)
    return int(rows[0][0])


def _start(dialect: Dialect, run: Run, queue_limit: int) -> Operation[tuple[Run, bool]]:
    if dialect.lock is not None:
        yield dialect.lock, (f"queue {run.thread_id}",)
    before = yield from _by_client_message(run.tenant, run.user_id, run.client_message_id)
    if before is not None:
        return before, False
    if not (
        yield (
            f"SELECT 1 FROM threads WHERE thread_id = ? AND tenant = ?{dialect.hold}",
            (run.thread_id, run.tenant),
        )
    ):  # deleted since the caller looked
        raise ClientError(
            "thread_not_found", "There is no such thread for you.", "Use thread.list.", number=404
        )
    of_thread = f"FROM runs WHERE thread_id = ? AND tenant = ? AND {_ACTIVE} AND state"
    rows = yield (
        f"SELECT (SELECT count(*) {of_thread} = 'queued'), (SELECT count(*) {of_thread} = 'running')",
        (run.thread_id, run.tenant) * 2,
    )
    queued, running = rows[0]
    if queued >= queue_limit and queued + running:
        raise queue_full(queue_limit)
    kept = yield from insert_run(dialect, run, (yield from _place_of(run)))
    if kept is None:  # the same message to another thread, at the same moment
        kept = yield from _by_client_message(run.tenant, run.user_id, run.client_message_id)
        assert kept is not None
        return kept, False
    return kept, True


def _get(tenant: str, run_id: str) -> Operation[Run | None]:
    rows = yield f"SELECT {RUN.columns} FROM runs WHERE run_id = ? AND tenant = ?", (run_id, tenant)
    return RUN.first(rows)


def _by_client_message(tenant: str, user_id: str, client_message_id: str) -> Operation[Run | None]:
    rows = yield (
        f"SELECT {RUN.columns} FROM runs WHERE tenant = ? AND user_id = ? AND client_message_id = ?",
        (tenant, user_id, client_message_id),
    )
    return RUN.first(rows)


_IN_THREAD: Final = "place, number, created_at, run_id"  # moments only among runs that a version 2 wrote
_ACROSS: Final = "number, created_at, run_id"

# The queued runs that may run now: first of an idle thread, within their user's quota, not reserved for another
# node. At most `limit` a tenant are looked at further, the oldest first. Whether a reservation still counts is
# `take_over`'s to say: no clock does.
_CLAIMABLE: Final = """
WITH heads AS (
    SELECT q.*, row_number() OVER
        (PARTITION BY q.thread_id ORDER BY q.place, q.number, q.created_at, q.run_id) AS turn
    FROM runs q WHERE q.state IN ('queued', 'running') AND q.state = 'queued'
), busy AS (
    SELECT tenant, user_id, count(*) AS running FROM runs
    WHERE state IN ('queued', 'running') AND state = 'running' GROUP BY tenant, user_id
), free AS (
    SELECT h.*, coalesce(b.running, 0) AS user_running, row_number()
        OVER (PARTITION BY h.tenant, h.user_id ORDER BY h.number, h.created_at, h.run_id) AS user_place
    FROM heads h LEFT JOIN busy b ON b.tenant = h.tenant AND b.user_id = h.user_id
    WHERE h.turn = 1 AND (h.owner = '' OR h.owner = ?)
      AND NOT EXISTS (SELECT 1 FROM runs r
          WHERE r.thread_id = h.thread_id AND r.state IN ('queued', 'running') AND r.state = 'running')
), candidates AS (
    SELECT f.*, row_number()
        OVER (PARTITION BY f.tenant ORDER BY f.number, f.created_at, f.run_id) AS tenant_place
    FROM free f WHERE f.user_place <= f.concurrent_limit - f.user_running
)
SELECT c.tenant, c.run_id,
    coalesce((SELECT sum(b.running) FROM busy b WHERE b.tenant = c.tenant), 0) AS tenant_running
FROM candidates c WHERE c.tenant_place <= ? ORDER BY c.number, c.created_at, c.run_id
"""


def _claim(dialect: Dialect, owner: str, now: float, lease_s: float, limit: int) -> Operation[list[Run]]:
    if dialect.lock is not None:
        yield dialect.lock, (_QUEUE_LOCK,)
    limit = min(limit, MAX_LIMIT)
    rows = yield _CLAIMABLE, (owner, limit)
    claimed: list[Run] = []
    for run_id in _fairest(rows, limit):
        taken = yield (
            (
                "UPDATE runs SET state = 'running', owner = ?, lease_until = ?, beat = beat + 1, attempt = attempt + 1"
                f" WHERE run_id = ? AND state = 'queued' RETURNING {RUN.columns}"
            ),
            (owner, now + lease_s, run_id),
        )
        claimed += RUN.read_all(taken)  # empty when it was cancelled a moment ago
    return claimed


def _fairest(rows: list[Row], limit: int) -> list[str]:
    """Up to `limit` run ids of (tenant, run_id, tenant_running) rows, oldest first: always the next of the
    tenant with the fewest running, those picked here counted in; among equals the oldest.
    """
    waiting: dict[str, list[tuple[int, str]]] = {}
    running: Counter[str] = Counter()
    for age, (tenant, run_id, count) in enumerate(rows):
        waiting.setdefault(tenant, []).append((age, run_id))
        running[tenant] = int(count)
    for queue in waiting.values():
        queue.reverse()
    picked: list[str] = []
    while waiting and len(picked) < limit:
        tenant = min(waiting, key=lambda name: (running[name], waiting[name][-1]))
        picked.append(waiting[tenant].pop()[1])
        running[tenant] += 1
        if not waiting[tenant]:
            del waiting[tenant]
    return picked


def _queue_position(tenant: str, run_id: str) -> Operation[int]:
    run = yield from _get(tenant, run_id)
    if run is None or run.state != "queued":
        return 0
    older = f"{_ACTIVE} AND state = 'queued' AND tenant = ? AND"
    find = f"SELECT {_IN_THREAD} FROM runs WHERE run_id = ?"
    [mine] = yield find, (run_id,)
    rows = yield (
        f"SELECT count(*) FROM runs WHERE thread_id = ? AND {older} ({_IN_THREAD}) < (?, ?, ?, ?)",
        (run.thread_id, tenant, *mine),
    )
    in_thread = int(rows[0][0])
    rows = yield (
        f"SELECT count(*) FROM runs WHERE tenant = ? AND user_id = ? AND {_ACTIVE} AND state = 'running'",
        (tenant, run.user_id),
    )
    if rows[0][0] < run.concurrent_limit:
        return in_thread
    rows = yield (
        f"SELECT count(*) FROM runs WHERE user_id = ? AND {older} ({_ACROSS}) < (?, ?, ?)",
        (run.user_id, tenant, *mine[1:]),
    )
    return max(in_thread, int(rows[0][0]))


def _renew(owner: str, until: float, held: Collection[str]) -> Operation[list[str]]:
    # Padded to a power of two: a dozen statements to prepare, not one for every number of runs.
    names = [*held, *[""] * ((1 << len(held).bit_length()) - len(held))]
    rows = yield (
        (
            "UPDATE runs SET lease_until = ?, beat = beat + 1 WHERE owner = ? AND state IN ('queued', 'running')"
            f" AND (state = 'queued' OR run_id IN ({marks(len(names))})) RETURNING run_id, state"
        ),
        (until, owner, *names),
    )
    return [run_id for run_id, state in rows if state == "running"]


def _started(run: Run, at: Position, now: float) -> Operation[bool]:
    rows = yield (
        (
            "UPDATE runs SET start_offset = ?, start_epoch = ?,"
            " started_at = CASE WHEN started_at = 0 THEN ? ELSE started_at END"
            f" WHERE {_HELD} RETURNING 1"
        ),
        (at.offset, at.epoch, now, run.tenant, run.run_id, run.owner, run.attempt),
    )
    return bool(rows)


def _finish(run: Run, outcome: tuple[str, int, str, str, str, str, float]) -> Operation[bool]:
    rows = yield (
        (
            'UPDATE runs SET state = ?, "count" = ?, digest = ?, "text" = ?, error = ?, error_message = ?,'
            f" finished_at = ?, lease_until = 0 WHERE {_HELD} RETURNING 1"
        ),
        (*outcome, run.tenant, run.run_id, run.owner, run.attempt),
    )
    return bool(rows)


def _request_cancel(tenant: str, run_id: str, by: str, now: float) -> Operation[Run | None]:
    rows = yield (
        (
            "UPDATE runs SET finished_at = CASE state WHEN 'queued' THEN ? ELSE finished_at END,"
            " unclosed = CASE state WHEN 'queued' THEN 1 ELSE unclosed END,"
            " cancel_requested_by = CASE cancel_requested_by WHEN '' THEN ? ELSE cancel_requested_by END,"
            " state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END"
            f" WHERE run_id = ? AND tenant = ? AND state IN ('queued', 'running') RETURNING {RUN.columns}"
        ),
        (now, by, run_id, tenant),
    )
    if rows:
        return RUN.read(rows[0])
    return (yield from _get(tenant, run_id))


def _cancel_requests(owner: str) -> Operation[list[Run]]:
    rows = yield (
        (
            f"SELECT {RUN.columns} FROM runs WHERE owner = ? AND state IN ('queued', 'running')"
            " AND state = 'running' AND cancel_requested_by <> '' ORDER BY run_id LIMIT ?"
        ),
        (owner, MAX_LIMIT),
    )
    return RUN.read_all(rows)


def _leases() -> Operation[list[LeaseSeen]]:
    rows = yield (
        (f"SELECT {_LEASE.columns} FROM runs WHERE {_ACTIVE} AND (state = 'running' OR owner <> '')"),
        (),
    )
    return _LEASE.read_all(rows)


def _take_over(
    dialect: Dialect, owner: str, lapsed: Sequence[LeaseSeen], until: float
) -> Operation[list[Run]]:
    if dialect.lock is not None:
        yield dialect.lock, (_QUEUE_LOCK,)
    taken: list[Run] = []
    for seen in lapsed[:MAX_LIMIT]:
        same = "tenant = ? AND run_id = ? AND state = ? AND owner = ? AND attempt = ? AND beat = ?"
        same += " AND lease_until = ?"  # what a version 2 moves instead of `beat`
        known = (
            *(seen.tenant, seen.run_id, seen.state, seen.owner, seen.attempt, seen.beat),
            seen.lease_until,
        )
        if seen.state == "queued":  # a reservation: anybody may claim it now
            yield f"UPDATE runs SET owner = '', beat = beat + 1 WHERE {same}", known
            continue
        rows = yield (
            (
                "UPDATE runs SET owner = ?, lease_until = ?, beat = beat + 1, attempt = attempt + 1"
                f" WHERE {same} RETURNING {RUN.columns}"
            ),
            (owner, until, *known),
        )
        taken += RUN.read_all(rows)
    return taken


def release(whose: str, *values: object) -> Operation[int]:
    """End the leases and reservations that the condition `whose` names."""
    rows = yield (
        (
            f"UPDATE runs SET owner = '', lease_until = 0, beat = beat + 1 WHERE {whose}"
            " AND state IN ('queued', 'running') RETURNING 1"
        ),
        values,
    )
    return len(rows)


def _unclosed(limit: int) -> Operation[list[Run]]:
    rows = yield (
        f"SELECT {RUN.columns} FROM runs WHERE unclosed = 1 ORDER BY run_id LIMIT ?",
        (min(limit, MAX_LIMIT),),
    )
    return RUN.read_all(rows)


def _closed(run: Run, count: int, digest: str) -> Operation[None]:
    yield (
        (
            'UPDATE runs SET unclosed = 0, "count" = ?, digest = ? WHERE tenant = ? AND run_id = ?'
            " AND unclosed = 1"
        ),
        (count, digest, run.tenant, run.run_id),
    )


def _active_in_thread(tenant: str, thread_id: str) -> Operation[list[Run]]:
    rows = yield (
        (
            f"SELECT {RUN.columns} FROM runs WHERE thread_id = ? AND tenant = ? AND state IN ('queued', 'running')"
            f" ORDER BY {_IN_THREAD}"
        ),
        (thread_id, tenant),
    )
    return RUN.read_all(rows)


def _list_in_thread(tenant: str, thread_id: str, limit: int) -> Operation[list[Run]]:
    rows = yield (
        (
            f"SELECT {RUN.columns} FROM runs WHERE thread_id = ? AND tenant = ?"
            " ORDER BY place DESC, number DESC, created_at DESC, run_id DESC LIMIT ?"
        ),
        (thread_id, tenant, min(limit, MAX_LIMIT)),
    )
    return RUN.read_all(rows)


def _outcomes(
    tenant: str,
    thread_id: str,
    window: tuple[float, float | None, int],
    run_ids: Collection[str],
    kept: Kept,
) -> Operation[list[RunOutcome]]:
    since, before, limit = window
    names = padded(run_ids)
    until, end = ("", []) if before is None else (" AND r.created_at < ?", [before])
    hidden, moments = not_past(kept, "r.created_at")
    rows = yield (
        (
            f"SELECT {_OUTCOME.of('r')} FROM runs r JOIN threads t ON t.thread_id = r.thread_id"
            " WHERE r.thread_id = ? AND r.tenant = ? AND r.state NOT IN ('queued', 'running')"
            f" AND (r.run_id IN ({marks(len(names))}) OR (r.created_at >= ?{until})){hidden}"
            " ORDER BY r.created_at DESC, r.run_id DESC LIMIT ?"
        ),
        (thread_id, tenant, *names, since, *end, *moments, limit),
    )
    return _OUTCOME.read_all(rows)[::-1]


def _active_count(tenant: str, user_id: str) -> Operation[int]:
    rows = yield (
        "SELECT count(*) FROM runs WHERE tenant = ? AND user_id = ? AND state IN ('queued', 'running')",
        (tenant, user_id),
    )
    return int(rows[0][0])
