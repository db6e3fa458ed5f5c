"""Hides rows past their owner's plan by one condition, and deletes them in bounded batches, in SQL.

`ports/threads.py` has the guarantees. Rules: only `not_past` compares the limit; every deletion writes its `log_cuts`
row in the same transaction; a batch locks the threads that it works on and skips those that another instance holds.
"""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.operation import Operation, Shape, Statement, each, found, marks
from narthex.ports.threads import Kept, LogCut, OwnerPlan, Purged, Thread

MAX_BATCH: Final = 1_000  # rows in one transaction: about 20 ms of the writer
MAX_THREADS: Final = 50  # checked in one batch, and locked on PostgreSQL

_CUT: Final = Shape(LogCut)


def not_past(kept: Kept, moment: str) -> Statement:
    """` AND …` with its values: `moment` (a column) is not past the limit of thread `t`'s plan.

    Empty when no plan has a limit. Comparisons, not a CASE: PostgreSQL then knows the parameters' types.
    """
    if not kept:
        return "", ()
    each_plan = " OR ".join(f"t.plan = ? AND {moment} < ?" for _ in kept)
    return f" AND NOT ({each_plan})", [value for pair in kept.items() for value in pair]


def note_plan(owner: OwnerPlan) -> Operation[int]:
    """See `Threads.note_plan`."""
    rows = yield (
        """UPDATE threads SET plan = ?, plan_at = ? WHERE tenant = ? AND plan <> ? AND plan_at <= ?
        AND thread_id IN (SELECT thread_id FROM members WHERE tenant = ? AND user_id = ? AND role = 'owner')
        RETURNING 1""",
        (owner.plan, owner.at, owner.tenant, owner.plan, owner.at, owner.tenant, owner.user_id),
    )
    return len(rows)


def inherited(tenant: str, thread_id: str) -> Statement:
    """After a change of owner, keep everything until the new owner's plan is known."""
    return "UPDATE threads SET plan = '', plan_at = 0 WHERE thread_id = ? AND tenant = ?", (thread_id, tenant)


def delete_thread(dialect: Dialect, tenant: str, thread_id: str) -> Operation[str]:
    """See `Threads.delete`. It seizes the thread first; the start of a run holds it, and so comes before or after."""
    of_thread = "WHERE thread_id = ? AND tenant = ?"
    if not (yield from found(f"SELECT 1 FROM threads {of_thread}{dialect.seize}", thread_id, tenant)):
        return "absent"
    active = f"SELECT 1 FROM runs {of_thread} AND state IN ('queued', 'running') LIMIT 1"
    if (yield from found(active, thread_id, tenant)):
        return "busy"
    yield from each(dialect.search_removed(thread_id))
    yield "DELETE FROM log_epochs WHERE thread_id = ?", (thread_id,)
    tables = ("thread_links", "invitations", "interrupts", "run_inputs", "agent_states", "runs", "messages")
    for table in (*tables, "members", "threads"):
        yield f"DELETE FROM {table} {of_thread}", (thread_id, tenant)
    yield _cut(LogCut(tenant=tenant, thread_id=thread_id, before=0.0))
    return "deleted"


def renewed(thread: Thread) -> Operation[None]:
    """A new thread may have the id of a deleted one: what is left of that one does not belong to it. A log that is not
    cut yet is cut up to what is older than the new thread.
    """
    yield 'UPDATE log_cuts SET "before" = ? WHERE thread_id = ?', (thread.created_at, thread.thread_id)
    for table in _UNKNOWN_TO_5:
        yield f"DELETE FROM {table} WHERE thread_id = ?", (thread.thread_id,)


_UNKNOWN_TO_5: Final = ("run_inputs", "agent_states")
"""Tables of schema 6: programs of earlier versions, which may serve the same store, leave their rows when they delete
a thread, and the inputs of the runs that they end."""
_ORPHANS: Final = {
    "run_inputs": "NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = o.run_id AND r.state IN ('queued', 'running'))",
    "agent_states": "NOT EXISTS (SELECT 1 FROM threads t WHERE t.thread_id = o.thread_id)",
}


def orphans(limit: int) -> Operation[list[tuple[str, str]]]:
    """Table and thread id of rows that belong to nothing any more. Only a read: it looks at whole tables."""
    found: list[tuple[str, str]] = []
    for table, condition in _ORPHANS.items():
        rows = yield f"SELECT DISTINCT thread_id FROM {table} o WHERE {condition} LIMIT ?", (limit,)
        found += [(table, str(row[0])) for row in rows]
    return found


def delete_orphans(found: list[tuple[str, str]]) -> Operation[None]:
    """Delete what `orphans` found, as far as it is still so."""
    for table, thread_id in found:
        yield f"DELETE FROM {table} AS o WHERE thread_id = ? AND {_ORPHANS[table]}", (thread_id,)


def log_cuts(limit: int) -> Operation[list[LogCut]]:
    """See `Threads.log_cuts`."""
    return _CUT.many("FROM log_cuts ORDER BY seq LIMIT ?", limit)


def cut_done(cut: LogCut) -> Operation[None]:
    """See `Threads.log_cut_done`."""
    yield 'DELETE FROM log_cuts WHERE thread_id = ? AND "before" = ?', (cut.thread_id, cut.before)


def purge(dialect: Dialect, kept: Kept, limit: int, now: float) -> Operation[Purged]:
    """See `Threads.purge`. Moments are moved back by as much as the instance's clock is ahead of the store's."""
    rows = yield f"SELECT {dialect.clock}", ()
    ahead_s = max(0.0, now - float(rows[0][0]))
    kept = {plan: moment - ahead_s for plan, moment in kept.items()}
    left = limit = max(1, min(limit, MAX_BATCH))
    threads = messages = runs = 0
    for plan, moment in kept.items():
        past = yield (
            f"""SELECT t.thread_id, t.tenant, t.updated_at FROM threads t
            WHERE t.plan = ? AND t.plan <> '' AND t.oldest_at < ? AND (t.updated_at >= ?
            OR NOT EXISTS (SELECT 1 FROM runs r WHERE r.thread_id = t.thread_id
            AND r.state IN ('queued', 'running'))) ORDER BY t.oldest_at LIMIT ?{dialect.take}""",
            (plan, moment, moment, min(left, MAX_THREADS)),
        )
        for thread_id, tenant, updated_at in past:
            gone = yield from _prune_messages(dialect, thread_id, moment, left)
            messages, left = messages + gone, left - gone
            gone = yield from _prune_runs(dialect, thread_id, moment, left)
            runs, left = runs + gone, left - gone
            if left < 1:  # the next call checks the thread again: it may not be done
                break
            if updated_at < moment:
                outcome = yield from delete_thread(dialect, tenant, thread_id)
                threads += outcome == "deleted"
            else:
                yield from _pruned(thread_id, tenant, moment)
            left -= 1
        if left < 1 or len(past) == MAX_THREADS:
            return Purged(threads=threads, messages=messages, runs=runs, more=True)
    return Purged(threads=threads, messages=messages, runs=runs)


def _prune_messages(dialect: Dialect, thread_id: str, moment: float, limit: int) -> Operation[int]:
    rows = yield (
        "SELECT seq FROM messages WHERE thread_id = ? AND created_at < ? ORDER BY created_at, seq LIMIT ?",
        (thread_id, moment, limit),
    )
    seqs = [int(row[0]) for row in rows]
    if seqs:
        yield from each(dialect.search_pruned(seqs))
        yield f"DELETE FROM messages WHERE seq IN ({marks(len(seqs))})", seqs
    return len(seqs)


def _prune_runs(dialect: Dialect, thread_id: str, moment: float, limit: int) -> Operation[int]:
    """Delete ended runs, except those whose question may still be answered."""
    if limit < 1:
        return 0
    rows = yield (
        f"""SELECT run_id FROM runs r WHERE thread_id = ? AND created_at < ? AND finished_at < ?
        AND state NOT IN ('queued', 'running') AND NOT EXISTS (SELECT 1 FROM interrupts i
        WHERE i.tenant = r.tenant AND i.thread_id = r.thread_id AND i.run_id = r.run_id
        AND i.expires_at > {dialect.clock}) ORDER BY created_at LIMIT ?""",
        (thread_id, moment, moment, limit),
    )
    ids = [row[0] for row in rows]
    for table in ("interrupts", "run_inputs", "runs"):
        if ids:
            condition = f"thread_id = ? AND run_id IN ({marks(len(ids))})"
            yield f"DELETE FROM {table} WHERE {condition}", (thread_id, *ids)
    return len(ids)


def _pruned(thread_id: str, tenant: str, moment: float) -> Operation[None]:
    """Record that the thread has lost everything older than `moment`, which is to be cut from its log."""
    rows = yield "SELECT min(created_at) FROM messages WHERE thread_id = ?", (thread_id,)
    oldest = moment if rows[0][0] is None else max(moment, rows[0][0])
    yield "UPDATE threads SET oldest_at = ? WHERE thread_id = ?", (oldest, thread_id)
    yield _cut(LogCut(tenant=tenant, thread_id=thread_id, before=moment))


def _cut(cut: LogCut) -> Statement:
    upsert = f'{_CUT.into("log_cuts")} ON CONFLICT (thread_id) DO UPDATE SET "before" = excluded."before"'
    return upsert, _CUT.values(cut)
