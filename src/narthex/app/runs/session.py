"""One agent coroutine: its input, steering, asking. It may live through several runs.

    bind(execution) → the agent's items go into that run's intake
    ask()           → the run ends with an interrupt; the coroutine waits, bound to no run
    answer(payload) → after bind() to the run that the answer opened, `ask` returns
    stop()          → CancelledError in the agent; after a grace it is left behind

Rules: the coroutine runs in one task that this object owns. Between an `ask` and its answer none of the agent's
output can reach a log. An agent that ignores its cancellation is cancelled again on every `stop` and
never gets anything through, because its intake is closed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from narthex.app.loop_watch import AGENT_TASK
from narthex.app.runs.endings import AgentFault, Ending, Interrupted, Report
from narthex.app.runs.intake import Intake
from narthex.app.runs.run_trace import RunTrace
from narthex.app.runs.services import RunServices
from narthex.app.tasks import retrieve_error
from narthex.domain import events as ev
from narthex.domain.agent_ids import in_thread
from narthex.domain.agent_input import AgentInput
from narthex.domain.answer_permission import answerer_fault
from narthex.domain.answer_schema import schema_fault
from narthex.domain.digest import canonical
from narthex.domain.ids import valid_id
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds
from narthex.domain.runs import ACTIVE
from narthex.domain.steered_texts import SteeredText
from narthex.errors import DependencyError
from narthex.ports.agents import Agent, AgentUser, Answer, ChatMessage, Question
from narthex.ports.runs import Interrupt, Run
from narthex.ports.tracing import NO_SPAN, Span

STEER_LIMIT: Final = 32  # texts that users may send ahead of an agent that does not read them
MAX_QUESTIONS: Final = 20  # of one `ask_all`
_TOO_DEEP: Final = f"RUN_FINISHED would have more than {MAX_EVENT_DEPTH} levels"
_CLEAN_UP_S: Final = 10.0  # after an approval expired


class BoundRun(Protocol):
    """The agent's current run, as far as its session needs it (`execution.Execution`)."""

    run: Run
    intake: Intake
    trace: RunTrace

    def end(self, ending: Ending) -> bool:
        """Ask the run to end with `ending`."""

    def agent_done(self, task: asyncio.Task[None]) -> None:
        """The agent's coroutine ended while bound to this run."""


class AgentSession:
    """A running agent; also the `RunInput` that it gets.

    Args:
        services: shared.
        agent: to run.
        messages: the conversation.
        user: the user who started the run.
        given: what the client sent beside the message, with the state that counts.
        resume: answers to questions of a coroutine that is gone.
        steered: the texts that users sent to an earlier attempt.

    Attributes:
        asked: ids of the questions whose answers it waits for, in the agent's order.
        on_expired: called when they expired.
        reads_steering: whether the agent began to read the texts of users.
    """

    def __init__(
        self,
        services: RunServices,
        agent: Agent,
        messages: list[ChatMessage],
        user: AgentUser,
        given: AgentInput | None = None,
        resume: Sequence[Answer] = (),
        steered: Iterable[SteeredText] = (),
    ) -> None:
        self._services = services
        self.agent = agent
        self._messages = messages
        self._user = user
        self.given = given or AgentInput()
        self._resume = list(resume)
        self._report = Report()
        self._execution: BoundRun | None = None
        self._bound = asyncio.Event()
        self._run_id = ""
        self._thread_id = ""
        self._deadline = 0.0
        self._span: Span = NO_SPAN
        self._attempt = 1
        self._unread = deque(steered)
        self._steered_now = asyncio.Event()
        self.reads_steering = False
        self._waiting: asyncio.Future[list[Answer]] | None = None
        self._expired = False
        self._left_behind = False
        self.asked: tuple[str, ...] = ()
        self.on_expired: Callable[[], None] = lambda: None
        self.task: asyncio.Task[None] | None = None

    # -- RunInput ------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """See `ports.agents.RunInput`."""
        return self._run_id

    @property
    def thread_id(self) -> str:
        """See `ports.agents.RunInput`."""
        return self._thread_id

    @property
    def messages(self) -> list[ChatMessage]:
        """See `ports.agents.RunInput`."""
        return self._messages

    @property
    def user(self) -> AgentUser:
        """See `ports.agents.RunInput`."""
        return self._user

    @property
    def deadline(self) -> float:
        """See `ports.agents.RunInput`."""
        return self._deadline

    @property
    def attempt(self) -> int:
        """See `ports.agents.RunInput`."""
        return self._attempt

    @property
    def state(self) -> Any:
        """See `ports.agents.RunInput`."""
        return self.given.state

    @property
    def tools(self) -> list[dict[str, Any]]:
        """See `ports.agents.RunInput`."""
        return self.given.tools

    @property
    def context(self) -> list[dict[str, Any]]:
        """See `ports.agents.RunInput`."""
        return self.given.context

    @property
    def forwarded(self) -> dict[str, Any]:
        """See `ports.agents.RunInput`."""
        return self.given.forwarded

    @property
    def parent_run_id(self) -> str:
        """See `ports.agents.RunInput`."""
        return self.given.parent_run_id

    @property
    def protocol_version(self) -> str:
        """See `ports.agents.RunInput`."""
        return self.given.protocol_version

    @property
    def resume(self) -> list[Answer]:
        """See `ports.agents.RunInput`."""
        return self._resume

    def report(self, *, usage: Sequence[Mapping[str, Any]] = (), result: Any = None) -> None:
        """See `ports.agents.RunInput`."""
        added = [dict(entry) for entry in usage]
        exact = canonical({"type": "RUN_FINISHED", "usage": self._report.usage + added, "result": result})
        if json_depth_exceeds(exact, MAX_EVENT_DEPTH):
            raise AgentFault(
                "agent_event_invalid",
                f"The agent reported usage or a result that nests too deep: {_TOO_DEEP}.",
            )
        size = len(exact)
        if size > (most := self._services.limits.max_event_bytes):
            raise AgentFault(
                "agent_flood", f"The agent reported {size} bytes of usage and result; at most {most}."
            )
        self._report.usage += added
        if result is not None:
            self._report.result = result

    @property
    def steer(self) -> AsyncIterator[str]:
        """See `ports.agents.RunInput`."""
        return self._steered()

    async def _steered(self) -> AsyncIterator[str]:
        self.reads_steering = True
        while True:
            execution = self._execution
            if not self._unread or execution is None or execution.intake.closed:
                self._steered_now.clear()
                await self._steered_now.wait()
                continue
            given = self._unread.popleft()
            # The proof stands in the log before anything that the agent does about the text. Without a wait: an agent
            # that stops waiting has either the proof and the text, or neither.
            execution.intake.add_own(given.taken())
            yield given.text

    async def ask(self, schema: Mapping[str, Any], text: str, *, answerable_by: str = "") -> Any:
        """See `ports.agents.RunInput`."""
        (answer,) = await self.ask_all([Question(schema=schema, text=text, answerable_by=answerable_by)])
        return answer.payload

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """See `ports.agents.RunInput`."""
        if not 0 < len(questions) <= MAX_QUESTIONS:
            raise ValueError(f"{len(questions)} questions; ask 1 to {MAX_QUESTIONS} at once")
        for question in questions:
            fault = schema_fault(question.schema) or answerer_fault(question.answerable_by)
            if fault:
                raise ValueError(fault)
        execution = await self._bound_execution()
        if self._waiting is not None:
            raise AgentFault(
                "agent_event_order", "ask was called while an earlier ask waited for its answer."
            )
        await execution.intake.close_text()
        if left := execution.intake.left_open():
            raise AgentFault("agent_event_order", f"ask was called while {left} was open; close it first.")
        interrupts: list[Interrupt] = []
        for question in questions:
            taken = {one.interrupt_id for one in interrupts}
            interrupts.append(await self._interrupt(execution.run, question, taken))
        most = self._services.limits.max_event_bytes
        size = sum(
            len(one.schema) + len(one.detail) + len(one.text.encode("utf-8", "replace")) for one in interrupts
        )
        if size > most:
            raise AgentFault(
                "agent_flood", f"ask was called with a question of {size} bytes; at most {most}."
            )
        outcome = ev.interrupted(
            [_event(one, question) for one, question in zip(interrupts, questions, strict=True)]
        )
        _check_outcome(outcome)
        self._waiting = asyncio.get_running_loop().create_future()
        self.asked = tuple(one.interrupt_id for one in interrupts)
        self.unbind()
        execution.end(Interrupted(tuple(interrupts), outcome))
        try:
            answers = await self._answered(interrupts[0])
            self._span.enter()  # of the run in which the agent continues
            return answers
        finally:
            self._waiting = None

    async def _interrupt(self, run: Run, question: Question, taken: set[str]) -> Interrupt:
        """The question for the store. The agent's own id is kept, unless a question of the tenant, or one of `taken`
        asked with it, has it.
        """
        now = self._services.now()
        name = question.question_id
        if (
            not valid_id(name)
            or name in taken
            or await self._services.runs.interrupt(run.tenant, name) is not None
        ):
            name = uuid.uuid4().hex
        detail = {
            "questionId": question.question_id,
            "reason": question.reason,
            "toolCallId": in_thread(run.run_id, question.tool_call_id),
            "metadata": question.metadata,
            "dismissable": question.dismissable,
        }
        return Interrupt(
            interrupt_id=name,
            run_id=run.run_id,
            thread_id=run.thread_id,
            tenant=run.tenant,
            text=question.text,
            schema=msgspec.json.encode(question.schema).decode(),
            created_at=now,
            expires_at=now + self._services.limits.answer_s,
            node=self._services.owner,
            answerable_by=question.answerable_by,
            detail=msgspec.json.encode({name: value for name, value in detail.items() if value}).decode(),
        )

    async def _answered(self, interrupt: Interrupt) -> list[Answer]:
        """Wait for the answers. If they came in time but their run is still queued, wait for that run."""
        assert self._waiting is not None
        wait_s = self._services.limits.answer_s  # of elapsed time, as the store counts it
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    return await asyncio.shield(self._waiting)
            except TimeoutError:
                wait_s = self._services.limits.lease_s
                if await self._still_coming(interrupt):
                    continue
                self._expired = True
                self.on_expired()
                asyncio.get_running_loop().call_later(_CLEAN_UP_S, self.cancel)
                raise TimeoutError(f"No user answered {interrupt.text[:80]!r} in time.") from None

    async def _still_coming(self, interrupt: Interrupt) -> bool:
        runs = self._services.runs
        try:
            kept = await runs.interrupt(interrupt.tenant, interrupt.interrupt_id)
            if kept is None or not kept.resume_run_id:
                return False
            resumed = await runs.get(interrupt.tenant, kept.resume_run_id)
        except DependencyError:  # the state is unknown: asked again after the next lease
            return True
        return resumed is not None and resumed.state in ACTIVE

    # -- the engine's side ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether the agent waits for an answer that may still come."""
        return self._waiting is not None and not self._expired and not self.over

    @property
    def over(self) -> bool:
        """Whether the coroutine has ended."""
        return self.task is not None and self.task.done()

    def bind(self, execution: BoundRun, deadline: float) -> None:
        """From now on the agent's output belongs to `execution`; the first call starts the coroutine."""
        self._execution = execution
        self._run_id = execution.run.run_id
        self._thread_id = execution.run.thread_id
        self._attempt = max(1, execution.run.attempt)
        self._deadline = deadline
        self._span = execution.trace.invoke()
        self._bound.set()
        self._steered_now.set()
        if self.task is None:
            self.task = asyncio.get_running_loop().create_task(
                self._drive(), name=f"{AGENT_TASK}{self.agent.name} {self._run_id}"
            )
            self.task.add_done_callback(retrieve_error)
        self.task.add_done_callback(execution.agent_done)

    def unbind(self) -> None:
        """Let the agent's output go nowhere until the next `bind`. The texts that it has not read stay behind, with the
        run that they were sent to.
        """
        if self._execution is not None and self.task is not None:
            self.task.remove_done_callback(self._execution.agent_done)
        self._execution = None
        self._bound.clear()
        self._unread.clear()

    def answer(self, answers: list[Answer]) -> None:
        """Let `ask` return; call after `bind` and after RUN_STARTED of the new run is durable."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answers)

    def continues(self, given: AgentInput) -> None:
        """Take what the client sent beside its answer; where it sent nothing, only the state is another one."""
        known = self.given
        if given.tools or given.context or given.forwarded:
            known = given
        self.given = msgspec.structs.replace(known, state=given.state)

    def take_report(self) -> Report:
        """What the agent reported since the last call, for the terminal event of the run that it ran in."""
        report, self._report = self._report, Report()
        return report

    @property
    def accepts_steering(self) -> bool:
        """Whether there is room for one more text of a user."""
        return len(self._unread) < STEER_LIMIT

    def steer_with(self, text: SteeredText) -> None:
        """Let the agent take a user's text, which is in the journal."""
        self._unread.append(text)
        self._steered_now.set()

    def cancel(self) -> None:
        """Ask the coroutine to stop, without waiting."""
        if self.task is not None and not self.task.done():
            self.task.cancel()

    async def stop(self, grace_s: float) -> bool:
        """Cancel the coroutine and wait for it; False when it ignored that for `grace_s`."""
        self.cancel()
        if self.task is None or self.task is asyncio.current_task():
            return True
        if not self._left_behind:
            done, _ = await asyncio.wait({self.task}, timeout=grace_s)
            self._left_behind = not done
        return not self._left_behind

    async def _bound_execution(self) -> BoundRun:
        while self._execution is None:
            if self._expired:
                raise AgentFault("agent_event_order", "The approval expired, so no run is open.")
            await self._bound.wait()
        return self._execution

    async def _drive(self) -> None:
        self._span.enter()
        items = self.agent.function(self)
        if not hasattr(items, "__anext__"):
            close: Callable[[], object] = getattr(items, "close", lambda: None)
            close()  # a coroutine that was never awaited
            raise AgentFault(
                "agent_failed", "The agent is not an async generator: declare it `async def` and use `yield`."
            )
        try:
            async for item in items:
                if self._expired:
                    continue  # cleaning up after an approval without an answer: there is no run to publish it in
                execution = self._execution or await self._bound_execution()
                if execution.intake.closed:
                    return
                await execution.intake.take(item)
        finally:
            closing: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
            if closing is not None:
                await closing()


def _check_outcome(outcome: ev.Event) -> None:
    """Refuse questions that no event can hold. Raises AgentFault."""
    try:
        exact = canonical({"type": "RUN_FINISHED", "outcome": outcome})
    except ValueError as fault:
        raise AgentFault(
            "agent_event_invalid", f"ask was called with a question that is not exact JSON: {fault}."
        ) from fault
    if json_depth_exceeds(exact, MAX_EVENT_DEPTH):
        raise AgentFault(
            "agent_event_invalid", f"ask was called with a question that nests too deep: {_TOO_DEEP}."
        )


def answer_of(interrupt: Interrupt) -> Answer:
    """The stored answer to a question, as its agent gets it."""
    detail: dict[str, Any] = msgspec.json.decode(interrupt.detail)
    return Answer(
        question_id=detail.get("questionId", ""),
        status=interrupt.status or "resolved",
        payload=msgspec.json.decode(interrupt.payload or "null"),
    )


def _event(interrupt: Interrupt, question: Question) -> ev.Event:
    """A question in RUN_FINISHED's outcome."""
    return ev.interrupt(
        interrupt.interrupt_id,
        question.text,
        dict(question.schema),
        interrupt.expires_at,
        answerable_by=question.answerable_by,
        reason=question.reason,
        tool_call_id=in_thread(interrupt.run_id, question.tool_call_id),
        metadata=question.metadata,
    )
