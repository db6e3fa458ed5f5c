"""One run on this node: RUN_STARTED, the agent at work, and exactly one terminal event.

Not here: the agent's coroutine (`session`), checking its output (`intake`), writing the log (`journal`).
The order of the end makes a crash at any point recoverable: the approval (if one) is stored, open
messages and tool calls are closed, the terminal event becomes durable, the run is compacted to messages, and only then
does the store mark it as over. The next owner repeats the missing steps; all are idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from narthex.app.runs import endings
from narthex.app.runs.compaction import compact
from narthex.app.runs.endings import (
    Abandoned,
    AgentFault,
    Cancelled,
    Completed,
    Ending,
    Failed,
    GivenBack,
    Interrupted,
    Lost,
)
from narthex.app.runs.intake import Intake
from narthex.app.runs.journal import BrokerGone, Journal
from narthex.app.runs.lease import Lease, OwnershipLost
from narthex.app.runs.naming import name_thread
from narthex.app.runs.queue_notices import notify_queue
from narthex.app.runs.run_log_state import RunLogState
from narthex.app.runs.run_trace import NO_RUN_TRACE, RunTrace
from narthex.app.runs.services import RunServices
from narthex.app.runs.session import AgentSession
from narthex.app.runs.unread import answer_unread
from narthex.domain import events as ev
from narthex.domain.agent_input import AgentInput
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.event_order import EventOrder
from narthex.domain.events import Event
from narthex.domain.identity import Identity
from narthex.domain.runs import RUN_ERRORS, RunState
from narthex.domain.steered_texts import SteeredText
from narthex.errors import DependencyError, NarthexError
from narthex.ports.agents import AgentError, Answer
from narthex.ports.broker import Position
from narthex.ports.runs import Run

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

TOKEN_KINDS: Final = {
    "input": "inputTokens",
    "output": "outputTokens",
    "reasoning": "reasoningTokens",
    "cached_input": "cachedInputTokens",
    "cache_write_input": "cacheWriteInputTokens",
}
"""Label of the metric → member of AG-UI's TokenUsage; reasoning and cached tokens are part of output and input."""
MAX_WORDS = 2_000  # characters of an agent's own text in RUN_ERROR: an explanation, not an answer
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class _NotBegun(Exception):
    """The agent must not begin here any more."""


class Execution:
    """Executes one run; see the module.

    Args:
        services: shared.
        run: as claimed.
        lease: its lease, extended by the engine.
        log_state: the run's part of the log, after a takeover.
        order: the order checker in the state after `log_state`.
        trace: gets what happens.
        given: what the client sent beside the message, with the state that counts.
        suspend: keeps a session that waits for an answer; False when the limit is reached, or the node drains.
    """

    def __init__(
        self,
        services: RunServices,
        run: Run,
        lease: Lease,
        *,
        log_state: RunLogState | None = None,
        order: EventOrder | None = None,
        trace: RunTrace = NO_RUN_TRACE,
        given: AgentInput | None = None,
        suspend: Callable[[Run, AgentSession], bool] = lambda _run, _session: False,
    ) -> None:
        self.services = services
        self.run = run
        self.lease = lease
        self.trace = trace
        self.journal = Journal(services, run, lease, log_state or RunLogState(), self.trace)
        self.intake = Intake(run.run_id, self.journal, order or EventOrder(), services.limits, self.trace)
        self._suspend = suspend
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._cancel_at: float | None = None
        self._stopped = False
        self._kept = False  # the session waits on this node for an answer
        self.session: AgentSession | None = None
        self.given = given or AgentInput()
        self.steered_by: dict[str, Identity] = {}
        self._steered: set[str] = set()  # ids of the texts that its agent was given

    # -- from outside --------------------------------------------------------------------------------------

    def end(self, ending: Ending) -> bool:
        """Ask the run to end with `ending`; the first request wins. Returns whether this one did."""
        if self._ending.done():
            return False
        self._ending.set_result(ending)
        return True

    def cancel(self, by: str) -> None:
        """Cancel for a user; the agent's time to stop is measured from here."""
        if self.end(Cancelled(by)):
            self._cancel_at = self._loop.time()

    @property
    def ending(self) -> bool:
        """Whether the ending is decided."""
        return self._ending.done() or self.intake.closed

    async def steer(self, text: str, by: Identity, message_id: str = "") -> bool:
        """Accept `text` for the agent: the log has it then, and a run of its own answers it if the agent does not take
        it before this run's end (`unread`). False when the run cannot accept it; with `message_id`, the message that
        the text is of, also when the agent reads no texts.

        Raises:
            DependencyError: the log cannot be reached.
        """
        session = self.session
        if self.ending or session is None:
            return False
        again = message_id in self._steered or self.journal.log.steered.knows(message_id)
        if not again and (not session.accepts_steering or (message_id and not session.reads_steering)):
            return False
        self.steered_by[by.subject] = by
        given = SteeredText(
            steer_id=message_id or uuid.uuid4().hex, text=text, by=by.subject, message_id=message_id
        )
        try:
            if not again:  # else the same message came twice: the agent gets it once
                # Without a wait between them: so the agent is not unbound meanwhile, and no text is over the limit.
                self.intake.add_own(given.accepted())
                session.steer_with(given)
                self._steered.add(given.steer_id)
            await self.journal.flush()
        except (OwnershipLost, AgentFault):
            return False  # the run ends, or continues elsewhere
        except BrokerGone as fault:
            raise DependencyError("broker", "The run's log is not writable.", "Try again.") from fault
        return True

    def agent_done(self, task: asyncio.Task[None]) -> None:
        """The agent's coroutine ended while bound to this run."""
        if task.cancelled():
            self.end(Failed("agent_failed", "The agent cancelled itself."))
            return
        fault = task.exception()
        if fault is not None:
            self.end(self._ending_of(fault))
        elif self.intake.taken == 0 and not self.run.parent_run_id:
            self.end(Failed("agent_silent", RUN_ERRORS["agent_silent"]))
        elif left := self.intake.left_open():
            self.end(Failed("agent_event_order", f"The agent returned while {left} was open."))
        else:
            self.end(Completed())

    def _ending_of(self, fault: BaseException) -> Ending:
        match fault:
            case AgentFault():
                return Failed(fault.code, _words(fault.message))
            case AgentError():
                code = fault.code if _CODE.fullmatch(str(fault.code)) else "agent_failed"
                return Failed(code, _words(fault.message))
            case OwnershipLost():
                return Lost()
            case BrokerGone():
                return Abandoned()
            case _:
                log.warning("agent_raised", run_id=self.run.run_id, agent=self.run.agent, exc_info=fault)
                words = f": {fault}" if self.services.limits.show_errors and str(fault) else "."
                return Failed("agent_failed", _words(f"The agent raised {type(fault).__name__}{words}"))

    # -- the life of the run -------------------------------------------------------------------------------

    async def main(
        self,
        session: AgentSession,
        *,
        restart: int = 0,
        openings: Sequence[Event] = (),
        answers: list[Answer] | None = None,
        may_begin: Callable[[], bool] = lambda: True,
        began: Callable[[], None] = lambda: None,
    ) -> Ending:
        """Run to the end.

        Args:
            session: the agent, new, or waiting for the answer that this run brings.
            restart: number of this attempt, which voids the output of an earlier one; 0: there was none.
            openings: events to publish before the agent's first one (`narthex.answered`).
            answers: those that let a waiting session continue.
            may_begin: asked once, before RUN_STARTED.
            began: called when the log has RUN_STARTED.

        Returns:
            The ending: `Lost`, `Abandoned` and `GivenBack` were not published.
        """
        self.session = session
        deadline_s = self.services.limits.run_deadline_s
        timer = self._loop.call_later(
            deadline_s,
            lambda: self.end(Failed("agent_timeout", f"The agent did not finish within {deadline_s:g} s.")),
        )
        ending: Ending = Abandoned()
        try:
            await self._open(restart, openings, may_begin)
            began()
            session.bind(self, self.services.now() + deadline_s)
            if answers is not None:
                session.answer(answers)
            ending = await self.conclude(await self._wait())
        except OwnershipLost:
            ending = Lost()
        except BrokerGone:
            ending = Abandoned()
        except _NotBegun:
            ending = GivenBack()
        finally:
            timer.cancel()
            self.intake.closed = True
            if not (self._kept and isinstance(ending, Interrupted)):
                await self._stop(session)
            await self.journal.close()
        return ending

    async def _open(
        self,
        restart: int = 0,
        openings: Sequence[Event] = (),
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """Note the position where the run's events begin, then publish the first ones durably."""
        run = self.run
        if self.journal.log.seq == 0:
            position = self.journal.log.top  # as it was read a moment ago
            if position is None:
                channel = channel_key(run.tenant, thread_channel(run.thread_id))
                position = (await self.services.broker.history(channel, limit=0)).top
                self.journal.log.top = position
            # The noted position proves that the run's log is gone; one of the next log would not.
            if self.journal.log.broken:
                position = Position(run.start_offset, run.start_epoch)
            now = self.services.now()
            if not await self.services.runs.started(run, position, now):
                raise OwnershipLost
            if not may_begin():
                raise _NotBegun
            self.run = msgspec.structs.replace(run, started_at=run.started_at or now)
            await self._start()
            self.services.meter.observe("run_start_seconds", max(0.0, self.services.now() - run.created_at))
        if restart:
            changed = self.journal.log.agent_state.changed
            await self.intake.restart(restart)
            if changed:  # what the void attempt did to the state is void for clients too
                with contextlib.suppress(AgentFault):  # a state that no event can hold
                    await self.intake.own(
                        ev.state_snapshot({} if self.given.state is None else self.given.state)
                    )
        for opening in openings:
            await self.intake.own(opening)
        await self.journal.flush()

    async def _start(self) -> None:
        """Publish RUN_STARTED, without an input that no event can hold (the stored state may make it too deep): a run
        without RUN_STARTED could not even end.
        """
        run = self.run
        started = ev.run_started(
            run.thread_id,
            run.run_id,
            parent_run_id=run.parent_run_id or self.given.parent_run_id,
            run_input=self.given.shown(run.thread_id, run.run_id),
        )
        try:
            await self.intake.own(started)
        except AgentFault as fault:
            if started.pop("input", None) is None:
                raise
            log.warning("run_input_not_shown", run_id=run.run_id, reason=fault.message)
            await self.intake.own(started)

    async def _wait(self) -> Ending:
        """Wait for the end; announce now and then that a silent agent still works."""
        silence_s = self.services.limits.silence_s
        failed = self.journal.failed
        while True:
            quiet_s = self._loop.time() - self.journal.last_at
            awaited: set[asyncio.Future[Any]] = {self._ending, failed}
            await asyncio.wait(
                awaited,
                timeout=max(0.01, silence_s - quiet_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._ending.done():
                return self._ending.result()
            if failed.done():
                await self.journal.flush()  # raises the journal's failure
            if self._loop.time() - self.journal.last_at >= silence_s:
                await self.intake.own(ev.custom("narthex.working", {"silent_s": silence_s}))

    async def conclude(self, ending: Ending) -> Ending:
        """End the run with `ending`: all steps of the module's order.

        Raises:
            OwnershipLost, BrokerGone: as `Journal.put`; the run is not over.
        """
        if isinstance(ending, Lost | Abandoned | GivenBack):
            return ending
        if self.journal.log.seq == 0:
            await self._open()
        ending = await self._settle(ending)
        self.intake.closed = True
        if isinstance(ending, Failed):
            self.trace.fail(ending.code)
        if self.session is not None and not self._kept:
            await self._stop(self.session)
        report = self.session.take_report() if self.session is not None else None
        self.trace.stopped(report.usage if report is not None else ())
        await self.intake.close_all()
        await self.journal.finish(endings.terminal(ending, self.run.thread_id, self.run.run_id, report))
        if self._cancel_at is not None:
            self.services.meter.observe("run_cancel_seconds", self._loop.time() - self._cancel_at)
        await finish(self.services, self.run, self.journal.log, self.given, self.steered_by)
        return ending

    async def _settle(self, ending: Ending) -> Ending:
        """Store a question before a member can see it, so that it can be answered at once. An agent that can go on
        anywhere need not wait on this node.
        """
        if not isinstance(ending, Interrupted):
            return ending
        assert self.session is not None
        self._kept = self._suspend(self.run, self.session)
        if not self._kept and not self.session.agent.resumable:
            if self.services.coverage.draining:
                return Failed("draining", RUN_ERRORS["draining"])
            return Failed("agent_failed", "Too many agents on this node are already waiting for answers.")
        for interrupt in ending.interrupts:
            node = interrupt.node if self._kept else ""
            await self.services.runs.open_interrupt(msgspec.structs.replace(interrupt, node=node))
        return ending

    async def _stop(self, session: AgentSession) -> None:
        session.unbind()
        if self._stopped:
            return
        self._stopped = True
        if not await session.stop(self.services.limits.stop_grace_s):
            self.services.meter.count("agents_left_behind")
            log.error("agent_ignores_cancel", run_id=self.run.run_id, agent=self.run.agent)


def _words(text: object) -> str:
    """An agent's own text for RUN_ERROR: bounded, and valid in JSON."""
    return str(text)[:MAX_WORDS].encode("utf-8", "replace").decode()


async def finish(
    services: RunServices,
    run: Run,
    log_state: RunLogState,
    given: AgentInput,
    steered_by: Mapping[str, Identity] | None = None,
) -> None:
    """After the terminal event is durable: compact, begin runs for the texts that the agent left unread, update the
    store, notify the members' devices. `given` is the run's input, from whose state the agent's events went on;
    `steered_by` are the senders of texts, as far as this node knows them.

    Raises:
        OwnershipLost: another owner updated the store.
        DependencyError: not done; repeat.
    """
    await compact(services, run, log_state)
    await answer_unread(services, run, log_state, steered_by or {})
    ended = log_state.applied_to(run)
    state, error = ended.state, ended.error
    kept = await services.runs.finish(
        run,
        state=state,
        count=ended.count,
        digest=ended.digest,
        text=ended.text,
        error=error,
        error_message=ended.error_message,
        now=ended.finished_at or services.now(),
        usage=ended.usage,
        result=ended.result,
        agent_state=await log_state.agent_state.after(given.state, lambda: asyncio.sleep(0)),
    )
    if not kept:
        raise OwnershipLost
    services.meter.observe(
        "run_seconds", max(0.0, (ended.finished_at or services.now()) - run.created_at), state=state
    )
    services.meter.count("runs", state=state, error=error if error in RUN_ERRORS or not error else "agent")
    for entry in msgspec.json.decode(ended.usage, type=list[dict[str, Any]]):
        for kind, member in TOKEN_KINDS.items():
            if isinstance(number := entry.get(member), int) and number > 0:
                services.meter.count("run_tokens", number, agent=run.agent, kind=kind)
    log.info(
        "run_ended",
        run_id=run.run_id,
        agent=run.agent,
        state=state,
        error=error,
        count=log_state.seq,
        duration_ms=round((services.now() - run.created_at) * 1000),
        attempt=run.attempt,
    )
    await notify_members(services, run, "narthex.run_ended", {"state": state, "error": error})
    if state == RunState.FINISHED and not run.parent_run_id:
        await name_thread(services, run, log_state.transcript.text)
    await notify_queue(services, run.tenant, run.thread_id)


async def notify_members(services: RunServices, run: Run, name: str, more: dict[str, object]) -> None:
    """Send a notice to every device of the thread's members. It only speeds up what the thread's channel contains, so
    a broker that is down costs the notice and nothing else.
    """
    value: dict[str, object] = {
        "threadId": run.thread_id,
        "runId": run.run_id,
        "agent": run.agent,
        "by": run.user_id,
        **more,
    }
    try:
        await services.notify_members(run.tenant, run.thread_id, name, value, key=f"{name}:{run.run_id}")
    except NarthexError as fault:
        services.meter.count("run_notices_lost")
        log.warning("run_notice_lost", run_id=run.run_id, notice=name, code=fault.code)
