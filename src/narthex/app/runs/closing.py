"""The end of a run that was cancelled in the queue: its two events, so that every run has its end in the log.

The store marks the run `unclosed` from the moment of the cancel until the terminal event is known to be in the log. The
node that takes the cancel closes the run at once. If it cannot (the broker is down, or the node dies), the loop of any
node that runs agents finds the run and closes it. Every step may be repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from narthex.app.runs.compaction import compact
from narthex.app.runs.endings import Cancelled, terminal
from narthex.app.runs.execution import notify_members
from narthex.app.runs.journal import Journal
from narthex.app.runs.lease import Lease, OwnershipLost
from narthex.app.runs.queue_notices import notify_queue
from narthex.app.runs.run_log_state import RunLogState, read_back
from narthex.app.runs.services import RunServices
from narthex.domain import events as ev
from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.broker import Control
from narthex.ports.runs import Run

_NEVER = float("inf")


async def close_cancelled(
    services: RunServices, drop_waiting: Callable[[str], Awaitable[None]], run: Run
) -> None:
    """Publish the missing ones of the two events, and note in the store that they are there.

    Args:
        services: shared.
        drop_waiting: `LocalRuns.drop_waiting`.
        run: it is `unclosed`.

    Raises:
        BrokerGone: not closed; repeat.
        DependencyError: the same.
    """
    if run.parent_run_id:  # it would have carried a waiting agent on
        await drop_waiting(run.parent_run_id)
        await services.broker.control(Control("run", {"op": "drop", "run_id": run.parent_run_id}))
    log, _ = await read_back(services, run)
    if log.terminal is None:
        try:
            log = await _published(services, run, log)
        except OwnershipLost:
            return  # another node is closing it at this moment, and was faster
    # Messages: only of a run that had ended, which the store forgot when it went back in time.
    await compact(services, run, log)
    ended = log.applied_to(run)
    await services.runs.closed(ended)
    # Its thread was deleted: so is its log. (That the run is gone proves nothing: a store may go back in time.)
    if await services.threads.get(run.tenant, run.thread_id) is None:
        await services.broker.remove(channel_key(run.tenant, thread_channel(run.thread_id)))
        return
    await notify_members(services, run, "narthex.run_ended", {"state": ended.state, "error": ended.error})
    await notify_queue(services, run.tenant, run.thread_id)


async def _published(services: RunServices, run: Run, log: RunLogState) -> RunLogState:
    if log.seq == 0:
        log.broken = False  # no agent was at work: the two events are all there is
    event = terminal(Cancelled(run.cancel_requested_by), run.thread_id, run.run_id)
    journal = Journal(services, run, Lease(_NEVER), log)
    try:
        if log.seq == 0:
            await journal.put(ev.run_started(run.thread_id, run.run_id, parent_run_id=run.parent_run_id))
        await journal.finish(event)
    finally:
        await journal.close()
    return journal.log
