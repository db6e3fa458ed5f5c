"""Notifies a thread's members of the places of queued runs whenever the queue of the thread moves, and a node that can
claim the next one, where this node cannot.

Not here: the order of the queue (ports/runs). Rules: a notice is best effort (`run.get` always knows); a place is
sent once; a run that waits only for its user's other threads gets a notice when it is queued, and when it began.
"""

from __future__ import annotations

import structlog

from narthex.app.runs.services import RunServices, node_of
from narthex.domain.runs import RunState
from narthex.errors import NarthexError
from narthex.ports.broker import Control
from narthex.ports.runs import Run

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

NAME = "narthex.queued"


async def notify_queue(services: RunServices, tenant: str, thread_id: str) -> None:
    """Send the place of every queued run of a thread: the number of runs before it, 0 for the next one."""
    try:
        active = await services.runs.active_in_thread(tenant, thread_id)
        if active and active[0].state == RunState.QUEUED:
            await _wake_owner(services, active[0])
        waiting = [run for run in active if run.state == RunState.QUEUED and not run.parent_run_id]
        for run in waiting:
            position = await services.runs.queue_position(tenant, run.run_id)
            value = {"threadId": thread_id, "runId": run.run_id, "position": position, "by": run.user_id}
            await services.notify_members(
                tenant, thread_id, NAME, value, key=f"{NAME}:{run.run_id}:{position}"
            )
    except NarthexError as fault:
        services.meter.count("run_notices_lost")
        log.warning("run_notice_lost", thread_id=thread_id, notice=NAME, code=fault.code)


async def _wake_owner(services: RunServices, run: Run) -> None:
    """The next run of a thread may be another node's: one that reserved it, or any that may claim it."""
    if run.owner == services.owner:
        return
    if run.owner:
        await services.broker.control(Control("runs_available", {}, node_of(run.owner)))
    elif run.agent not in services.coverage.claimable():
        await services.broker.control(Control("runs_available", {}))
