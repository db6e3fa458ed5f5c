"""The runs of this node: those executing, those waiting for an answer, and those that could not be ended yet.

Not here: finding runs to claim (`loops`), executing one (`execution`). Rules: one task per run, owned here. A run that
this node owns and could not end (broker or store down, a bug) stays in `unfinished` and is tried again; it is never
forgotten while its lease is ours. No agent begins while the node drains: its run is queued again, so that every run
that a drain meets has the whole grace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from narthex.app.runs.closing import close_cancelled
from narthex.app.runs.conversation import given_to, load
from narthex.app.runs.endings import Abandoned, Cancelled, Completed, Ending, Failed, GivenBack, Lost
from narthex.app.runs.execution import Execution, finish, notify_members
from narthex.app.runs.journal import BrokerGone
from narthex.app.runs.lease import Lease, OwnershipLost
from narthex.app.runs.run_log_state import RunLogState, read_back
from narthex.app.runs.run_trace import RunTrace, begin_trace
from narthex.app.runs.services import RunServices
from narthex.app.runs.session import AgentSession, answer_of
from narthex.app.tasks import Tasks
from narthex.domain import events as ev
from narthex.domain.event_order import EventOrder
from narthex.domain.runs import RUN_ERRORS, RunState
from narthex.errors import NarthexError, Overloaded
from narthex.ports.broker import Control
from narthex.ports.runs import Interrupt, Run

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

RACES: Final = 50
"""Times that a takeover reads the log again because the old owner, a zombie, was faster with a seq. The zombie
ends at its first lost race, so even a lively one is overtaken long before."""


class LocalRuns:
    """See the module.

    Args:
        services: shared.
        on_free: called whenever a run ended, so that the next can be claimed.

    Attributes:
        executions: by run id, while an agent works or a run is being ended.
        leases: by run id, from claim to end.
        waiting: by the id of the run that asked: sessions that wait for an answer.
        unfinished: by run id: runs that this node owns and must still end, and how (None: find out).
        reserving: this node has reserved queued runs for itself, which must be renewed.
    """

    def __init__(self, services: RunServices, on_free: Callable[[], None]) -> None:
        self.services = services
        self.executions: dict[str, Execution] = {}
        self.leases: dict[str, Lease] = {}
        self.waiting: dict[str, AgentSession] = {}
        self.unfinished: dict[str, tuple[Run, Ending | None]] = {}
        self.reserving = False
        self._on_free = on_free
        self._ended = asyncio.Event()
        # For each running one: its own task, its notice's, and one that ends while the next begins.
        self.tasks = Tasks("runs", services.limits.max_running * 3, self._bug)

    @property
    def draining(self) -> bool:
        """Whether only agents that wait here go on."""
        return self.services.coverage.draining

    # -- beginning -----------------------------------------------------------------------------------------

    def begin(self, run: Run, until: float) -> None:
        """Execute a run that this node claimed or took over; its lease holds until the loop time `until`."""
        self.give_up(run.run_id)  # a run taken over may have been its own, from before a long pause
        self.leases[run.run_id] = Lease(until, self.services.now)
        self._spawn(run, None)

    def give_up(self, run_id: str) -> bool:
        """Another node owns the run, or a later attempt of ours: stop, publish nothing."""
        lease, execution = self.leases.pop(run_id, None), self.executions.pop(run_id, None)
        self.unfinished.pop(run_id, None)
        if lease is not None:
            lease.lose()
        return execution is not None and execution.end(Lost())

    def retry_unfinished(self) -> None:
        """Try again to end the `unfinished` runs."""
        held, self.unfinished = self.unfinished, {}
        for run_id, (run, ending) in held.items():
            if run_id in self.leases:
                self._spawn(run, ending)

    def _spawn(self, run: Run, ending: Ending | None) -> None:
        try:
            self.tasks.spawn(self._run(run, self.leases[run.run_id], ending))
        except Overloaded:  # too many tasks beside the runs; its lease is ours, so it must not be forgotten
            self.unfinished[run.run_id] = (run, ending)
        self.services.meter.gauge("runs_active", len(self.leases))

    def run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run dispensable work beside the runs, as a task owned here; dropped when the limit is reached."""
        try:
            self.tasks.spawn(work)
        except Overloaded:
            self.services.meter.count("messages_ignored", reason="run")

    async def _run(self, run: Run, lease: Lease, ending: Ending | None) -> None:
        outcome: Ending = Abandoned()
        trace = begin_trace(self.services.tracer, run)
        deliveries = self.services.deliveries
        if deliveries is not None:
            deliveries.executes(run, trace, trace.span)
        try:
            outcome = await self._execute(run, lease, ending, trace)
            if isinstance(outcome, GivenBack):
                await self._give_back(run)
            if isinstance(outcome, Abandoned) and not run.restartable:
                ending = ending or Failed("log_unavailable", RUN_ERRORS["log_unavailable"])
        except OwnershipLost:
            outcome = Lost()
        except (BrokerGone, NarthexError) as fault:
            log.warning("run_not_ended", run_id=run.run_id, reason=str(fault) or type(fault).__name__)
        except Exception:
            log.exception("run_bug", run_id=run.run_id)
            self.services.meter.count("run_bugs")
            self.services.meter.count("bugs", where="runs")
            ending = Failed("internal", RUN_ERRORS["internal"])
            trace.fail("internal")
        finally:
            if deliveries is not None:
                deliveries.ended(run)
            trace.end(outcome)
            if isinstance(outcome, Abandoned) and not self.draining and not lease.lost:
                self.unfinished[run.run_id] = (run, ending)
            elif self.leases.get(run.run_id) is lease:
                del self.leases[run.run_id]
            self.services.meter.gauge("runs_active", len(self.leases))
            self._ended.set()
            self._on_free()

    async def _execute(self, run: Run, lease: Lease, ending: Ending | None, trace: RunTrace) -> Ending:
        for _ in range(RACES):
            # Of a first attempt too: a store that went back in time offers runs that have long begun, or ended.
            log_state, order = await read_back(self.services, run)
            if log_state.terminal is not None:
                await finish(self.services, run, log_state, await given_to(self.services, run))
                return Completed()
            if ending is None and self._is_for_others(run, log_state):
                return GivenBack()
            try:
                return await self._once(run, lease, ending, log_state, order, trace)
            except OwnershipLost:
                if lease.lost or not await self._still_ours(run):
                    raise
        raise OwnershipLost

    def _is_for_others(self, run: Run, log_state: RunLogState) -> bool:
        """Whether other nodes can begin the run and this one should not: its agent has not begun, and does not wait
        here for an answer; this node drains, or took the run over from a dead owner and does not have the agent.
        """
        if _has_begun(run, log_state) or run.parent_run_id in self.waiting:
            return False
        return self.draining or not self.services.coverage.covers(run.agent)

    async def _give_back(self, run: Run) -> None:
        services = self.services
        kept = await services.runs.give_back(run, services.now())
        if kept is None:
            return
        log.info("run_given_back", run_id=run.run_id, agent=run.agent, state=kept.state)
        if kept.unclosed:  # cancelled meanwhile; a loop of any node repeats what fails here
            await close_cancelled(services, self.drop_waiting, kept)
        else:
            await services.broker.control(Control("runs_available", {}))

    async def _still_ours(self, run: Run) -> bool:
        kept = await self.services.runs.get(run.tenant, run.run_id)
        return kept is not None and kept.state == RunState.RUNNING and kept.owner == self.services.owner

    async def _once(
        self,
        run: Run,
        lease: Lease,
        ending: Ending | None,
        log_state: RunLogState,
        order: EventOrder,
        trace: RunTrace,
    ) -> Ending:
        given = await given_to(self.services, run)
        execution = Execution(
            self.services,
            run,
            lease,
            log_state=log_state,
            order=order,
            trace=trace,
            given=given,
            suspend=self._suspend,
        )
        self.executions[run.run_id] = execution
        try:
            return await self._drive(execution, run, ending, log_state)
        finally:
            if self.executions.get(run.run_id) is execution:
                del self.executions[run.run_id]
            await execution.journal.close()

    async def _drive(
        self, execution: Execution, run: Run, ending: Ending | None, log_state: RunLogState
    ) -> Ending:
        """Find out what the run needs, and do it."""
        session = self.waiting.pop(run.parent_run_id, None) if run.parent_run_id else None
        if session is not None and session.waiting and not log_state.seq:
            log_state.broken = False  # its agent waits here, so nothing of it was in a log that is gone
        agent = self.services.agents.get(run.agent)
        if ending is None:
            ending = self._ending_at_once(run, log_state, session, known=agent is not None)
        if ending is not None or agent is None:
            if session is not None:
                await session.stop(self.services.limits.stop_grace_s)
            return await execution.conclude(ending or Failed("agent_unknown", RUN_ERRORS["agent_unknown"]))
        if session is not None:
            return await self._resume(execution, run, session)
        messages, user = await load(self.services, run)
        restart = 0
        if _has_begun(run, log_state) or (run.parent_run_id and not agent.resumable):
            restart = max(2, run.attempt)
        answered = await self._answers(run) if run.parent_run_id else []
        session = AgentSession(
            self.services,
            agent,
            messages,
            user,
            execution.given,
            [answer_of(one) for one in answered],
            log_state.steered.all,
        )
        openings = [] if log_state.seq else [_answered(one) for one in answered]
        outcome = await execution.main(
            session,
            restart=restart,
            openings=openings,
            may_begin=lambda: bool(restart) or not self.draining,
            began=lambda: self._announce(run),
        )
        return self._checked(run, outcome)

    async def _answers(self, run: Run) -> list[Interrupt]:
        """The questions that the run's parent ended with."""
        return await self.services.runs.interrupts_of(run.tenant, run.thread_id, [run.parent_run_id])

    def _ending_at_once(
        self, run: Run, log_state: RunLogState, session: AgentSession | None, *, known: bool
    ) -> Ending | None:
        """The ending of a run whose agent must not run (again); None when it must."""
        if run.cancel_requested_by:
            return Cancelled(run.cancel_requested_by)
        if session is not None and session.waiting:
            return None
        agent = self.services.agents.get(run.agent)
        coroutine_gone = bool(run.parent_run_id) and not (agent is not None and agent.resumable)
        begun = _has_begun(run, log_state)
        if (begun or coroutine_gone) and not (
            run.restartable and run.attempt <= self.services.limits.max_attempts
        ):
            code = "log_lost" if begun and (log_state.broken or not log_state.seq) else "owner_lost"
            return Failed(code, RUN_ERRORS[code])
        return None if known else Failed("agent_unknown", RUN_ERRORS["agent_unknown"])

    async def _resume(self, execution: Execution, run: Run, session: AgentSession) -> Ending:
        found = {one.interrupt_id: one for one in await self._answers(run)}
        if any(name not in found for name in session.asked):
            raise OwnershipLost  # the thread was deleted meanwhile
        kept = [found[name] for name in session.asked]
        session.continues(execution.given)
        outcome = await execution.main(
            session,
            openings=[_answered(one) for one in kept],
            answers=[answer_of(one) for one in kept],
            began=lambda: self._announce(run),
        )
        return self._checked(run, outcome)

    def _checked(self, run: Run, outcome: Ending) -> Ending:
        """Check a question: if its run could not be ended, no user can answer it."""
        if isinstance(outcome, Lost | Abandoned | GivenBack):
            session = self.waiting.pop(run.run_id, None)
            if session is not None:
                session.cancel()
        return outcome

    def _announce(self, run: Run) -> None:
        """Notify every device of every member that a run began, beside the run, which does not wait for it."""
        value: dict[str, object] = {"parentRunId": run.parent_run_id} if run.parent_run_id else {}
        self.run_beside(notify_members(self.services, run, "narthex.run_began", value))

    # -- waiting for answers -------------------------------------------------------------------------------

    def _suspend(self, run: Run, session: AgentSession) -> bool:
        if len(self.waiting) >= self.services.limits.max_waiting or self.draining:
            return False
        self.waiting[run.run_id] = session
        session.on_expired = lambda: self._forget(run.run_id)
        return True

    def _forget(self, run_id: str) -> None:
        self.waiting.pop(run_id, None)

    def drop_given_up(self) -> None:
        """End sessions whose agent stopped waiting by a time-out of its own: no run will bind them."""
        for run_id, session in list(self.waiting.items()):
            if not session.waiting:
                del self.waiting[run_id]
                session.cancel()

    async def drop_waiting(self, run_id: str) -> None:
        """The answer's run was cancelled before it began: end the session that waits for it."""
        session = self.waiting.pop(run_id, None)
        if session is not None:
            await session.stop(self.services.limits.stop_grace_s)

    # -- stopping ------------------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Let runs finish for `grace_s`; then hand restartable ones over and end the others (`draining`)."""
        try:
            async with asyncio.timeout(grace_s):
                while self.leases:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            pass
        for execution in list(self.executions.values()):
            if execution.run.restartable:
                execution.end(Abandoned())
            else:
                execution.end(Failed("draining", RUN_ERRORS["draining"]))
        await self.tasks.drain(self.services.limits.stop_grace_s + 2)

    async def close(self) -> None:
        """Stop all runs now; other nodes take over after the release of the leases."""
        self.services.coverage.draining = True
        for execution in list(self.executions.values()):
            execution.end(Abandoned())
        await self.tasks.drain(self.services.limits.stop_grace_s + 1)
        waiting, self.waiting = self.waiting, {}
        for session in waiting.values():
            session.cancel()
        for session in waiting.values():
            await session.stop(self.services.limits.stop_grace_s)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Tenant and id of each question whose agent waits here."""
        return [(one.user.tenant, name) for one in self.waiting.values() for name in one.asked]

    def _bug(self, fault: BaseException) -> None:
        log.error("run_task_failed", exc_info=fault)


def _answered(interrupt: Interrupt) -> ev.Event:
    """CUSTOM narthex.answered, of one question."""
    payload: Any = msgspec.json.decode(interrupt.payload or "null")
    value = {"interruptId": interrupt.interrupt_id, "by": interrupt.answered_by, "payload": payload}
    if interrupt.status == "cancelled":
        value["status"] = interrupt.status
    return ev.custom("narthex.answered", value)


def _has_begun(run: Run, log_state: RunLogState) -> bool:
    """Whether the run's agent may have been at work already, by every trace there is.

    An agent begins only after RUN_STARTED is in the log. So a log that reaches back to the run's start and has no event
    of it is proof that it has not begun. A missing log proves nothing: the store's state may be from before
    (an operator restored both from a copy). For a log that was merely cut, the store's state counts.
    """
    if log_state.seq:
        return True
    if log_state.reach == "cut":
        return run.attempt > 1 or bool(run.started_at)
    return log_state.reach == "gone"
