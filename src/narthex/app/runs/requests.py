"""Operations on an existing run: cancel, steer, resume, get.

Not here: starting one (engine). Rules: every request names the identity; to a user who is no member of its thread a
run looks as if it did not exist; a request for a run of another node goes there by control message, and state that must
not get lost is stored before.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any, Final

import msgspec
import structlog

from narthex.app.runs.closing import close_cancelled
from narthex.app.runs.journal import BrokerGone
from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.loops import RunLoops
from narthex.app.runs.run_log_cache import RunLogCache
from narthex.app.runs.run_log_state import RunLogState
from narthex.app.runs.run_trace import encoded_trace
from narthex.app.runs.services import RunServices, node_of
from narthex.app.runs.steering import steering
from narthex.app.runs.unread import queue_unread
from narthex.domain.agent_input import AgentInput
from narthex.domain.answer_permission import answerer_words, may_answer
from narthex.domain.answer_schema import answer_fault
from narthex.domain.digest import canonical
from narthex.domain.identity import Identity
from narthex.domain.json_depth import json_depth_exceeds
from narthex.domain.runs import RunState, run_not_found, state_after
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Control
from narthex.ports.runs import Interrupt, Run
from narthex.ports.tracing import current_span
from narthex.protocol.commands import MAX_JSON_DEPTH

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

STEER_BYTES: Final = 8 * 1024
PAYLOAD_BYTES: Final = 32 * 1024  # as a message's text: it comes back inside an event
CLOSE_S: Final = (
    2.0  # for the end of a run that is cancelled in the queue; an engine that is well takes milliseconds
)
CLOSE_STEP_S: Final = 0.02


class RunRequests:
    """The operations; see the module. The engine makes one object."""

    def __init__(self, services: RunServices, local_runs: LocalRuns, loops: RunLoops) -> None:
        self._services = services
        self._local_runs = local_runs
        self._loops = loops
        self._log_cache = RunLogCache(services)

    async def cancel(self, identity: Identity, run_id: str) -> dict[str, Any]:
        """Stop a run; any member of its thread may. Returns `{state}` as it is right after the request was
        noted: `running` means that it is being stopped, and its RUN_FINISHED will have the outcome `cancelled`.

        Raises:
            ClientError: `run_not_found` (404).
        """
        await self._run_of(identity, run_id)
        services = self._services
        run = await services.runs.request_cancel(identity.tenant, run_id, identity.subject, services.now())
        if run is None:
            raise run_not_found()
        state = str(run.state)
        if run.state == RunState.RUNNING:
            execution = self._local_runs.executions.get(run_id)
            if execution is not None:
                execution.cancel(identity.subject)
                seen = execution.journal.log.terminal
                state = state if seen is None else str(state_after(seen))  # its row is being written
            else:
                # The store has the request, and the owner looks there: a broker that is away delays the end only.
                with contextlib.suppress(DependencyError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._to_owner(
                            run.owner, {"op": "cancel", "run_id": run_id, "by": identity.subject}
                        )
        elif run.unclosed:
            with contextlib.suppress(DependencyError):  # a loop does it later
                await self._closed(run)
        return {"run_id": run_id, "state": state}

    async def cancel_thread(self, identity: Identity, thread_id: str, *, but: str = "") -> None:
        """Cancel every queued and running run of a thread of the user except the run `but`, and the answers to the
        messages that wait for a running agent, which has not taken them (`busy: steer`).
        """
        active = await self._services.runs.active_in_thread(identity.tenant, thread_id)
        await self._cancel_all(identity, [run for run in active if run.run_id != but])

    async def cancel_before(self, identity: Identity, thread_id: str, run_id: str) -> None:
        """As `cancel_thread`, but only what a queued run waits for: the runs before it, and the one that is running. So
        of two runs that do this at the same moment on two nodes, one is left: a run that runs cancels nothing, and of
        two queued ones the later one is not claimed first.
        """
        active = await self._services.runs.active_in_thread(identity.tenant, thread_id)
        place = next((at for at, run in enumerate(active) if run.run_id == run_id), None)
        if place is None or active[place].state != RunState.QUEUED:
            return
        running = [run for run in active[place:] if run.state == RunState.RUNNING]
        await self._cancel_all(identity, active[:place] + running)

    async def _cancel_all(self, identity: Identity, active: list[Run]) -> None:
        for run in reversed(active):
            if run.state == RunState.RUNNING:
                # The run must stop also where its log cannot be read.
                with contextlib.suppress(DependencyError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._cancel_unread(identity, run)
            await self.cancel(identity, run.run_id)

    async def running(self, identity: Identity, thread_id: str) -> Run | None:
        """The run of the thread that is under way, or None."""
        active = await self._services.runs.active_in_thread(identity.tenant, thread_id)
        return next((run for run in active if run.state == RunState.RUNNING), None)

    async def steer(self, identity: Identity, run_id: str, text: str) -> dict[str, Any]:
        """Send a text to an agent while it runs. Returns `{state}`.

        Raises:
            ClientError: `run_not_found` (404), `run_queued`, `run_ended` (409), `steer_full` (429),
                `bad_params` (400), `text_too_large` (413).
        """
        if not text.strip():
            raise ClientError("bad_params", "The text is empty.", "Send a text that is not empty.")
        if len(text.encode()) > STEER_BYTES:
            raise ClientError(
                "text_too_large", f"The text has more than {STEER_BYTES} bytes.", "Shorten it.", number=413
            )
        run = await self._run_of(identity, run_id)
        if run.state == RunState.QUEUED:
            raise ClientError("run_queued", "The run has not begun.", "Wait until it runs.", number=409)
        if run.state != RunState.RUNNING:
            raise _run_ended(run.state)
        execution = self._local_runs.executions.get(run_id)
        if execution is None:
            await self._to_owner(run.owner, steering(identity, run_id, text))
        elif not await execution.steer(text, identity):
            if execution.ending:  # its end may be visible already, while its row is being written
                raise _run_ended("ending")
            raise ClientError(
                "steer_full", "The agent cannot be steered now.", "Try again, or cancel the run.", number=429
            )
        return {"run_id": run_id, "state": str(run.state)}

    async def resume(
        self,
        identity: Identity,
        run_id: str,
        interrupt_id: str,
        payload: Any,
        *,
        dismissed: bool = False,
        given: AgentInput | None = None,
    ) -> dict[str, Any]:
        """Answer an approval. Returns `{run_id}` of the run in which the agent continues; the same one for every
        further answer, whatever its payload: the first answer counts. That run begins when all questions of the run
        are answered; `open_questions` is the number of the others.

        Args:
            identity: a member of the thread.
            run_id: the run that asked.
            interrupt_id: its question.
            payload: the answer.
            dismissed: no user will answer (AG-UI's status `cancelled`): the new run ends cancelled at once, and
                the agent with it, unless the agent takes that for an answer.
            given: what the client sends beside the answer.

        Raises:
            ClientError: `run_not_found` (404), `interrupt_not_found` (404), `answer_not_allowed` (403),
                `interrupt_expired` (410), `payload_too_large` (413), `payload_invalid` (422).
        """
        services = self._services
        asked, role = await self._run_and_role(identity, run_id)
        interrupt = await services.runs.interrupt(identity.tenant, interrupt_id)
        if interrupt is None or interrupt.run_id != run_id:
            raise ClientError(
                "interrupt_not_found",
                "No such question exists.",
                "thread.get lists the open ones.",
                number=404,
            )
        if not may_answer(
            interrupt.answerable_by, asker=asked.user_id == identity.subject, role=role, may=identity.may
        ):
            raise ClientError(
                "answer_not_allowed",
                f"Only {answerer_words(interrupt.answerable_by)} may answer this question.",
                "Wait for one of them to answer.",
                number=403,
            )
        if not interrupt.resume_run_id:
            interrupt = await self._answer(
                identity, asked, interrupt, payload, dismissed=dismissed, given=given or AgentInput()
            )
        beside = await services.runs.interrupts_of(asked.tenant, asked.thread_id, [run_id])
        return {
            "run_id": interrupt.resume_run_id,
            "answered_by": interrupt.answered_by,
            "open_questions": sum(not one.resume_run_id for one in beside),
        }

    async def get(self, identity: Identity, run_id: str) -> dict[str, Any]:
        """A run in the form of `run.get`: its durable state. An ended run is shown with the whole of its end, and its
        terminal event is in the log then.

        Raises:
            ClientError: `run_not_found` (404).
            DependencyError: the log cannot be read, or not take the end of a run that was cancelled in the queue.
        """
        run = await self._run_of(identity, run_id)
        if run.unclosed:
            run = await self._closed(run)
        elif run.state == RunState.RUNNING:  # its end was seen already where its row is being written
            run = (await self._log_of(run)).applied_to(run)
        position = 0
        if run.state == RunState.QUEUED:
            position = await self._services.runs.queue_position(run.tenant, run_id)
        return {
            "run_id": run.run_id,
            "thread_id": run.thread_id,
            "parent_run_id": run.parent_run_id,
            "message_id": run.message_id,
            "agent": run.agent,
            "user_id": run.user_id,
            "state": str(run.state),
            "text": run.text,
            "count": run.count,
            "digest": run.digest,
            "usage": msgspec.json.decode(run.usage),
            "result": msgspec.json.decode(run.result),
            "error": run.error,
            "attempt": run.attempt,
            "queue_position": position,
            "cancel_requested_by": run.cancel_requested_by,
            "created_at": run.created_at,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
        }

    # -- inside --------------------------------------------------------------------------------------------

    async def _run_of(self, identity: Identity, run_id: str) -> Run:
        return (await self._run_and_role(identity, run_id))[0]

    async def _run_and_role(self, identity: Identity, run_id: str) -> tuple[Run, str]:
        """A run, and the user's role in its thread. Raises ClientError `run_not_found`."""
        run = await self._services.runs.get(identity.tenant, run_id)
        if run is None:
            raise run_not_found()
        role = await self._services.threads.role(identity.tenant, run.thread_id, identity.subject)
        if role is None:
            raise run_not_found()
        return run, role

    async def _cancel_unread(self, identity: Identity, run: Run) -> None:
        execution = self._local_runs.executions.get(run.run_id)
        senders = execution.steered_by if execution is not None else {}
        for answering in await queue_unread(self._services, run, await self._log_of(run), senders):
            await self.cancel(identity, answering.run_id)

    async def _log_of(self, run: Run) -> RunLogState:
        """The run's durable state: this node's own, or read back from the log."""
        execution = self._local_runs.executions.get(run.run_id)
        if execution is not None:
            return execution.journal.log
        return await self._log_cache.of(run)

    async def _answer(
        self,
        identity: Identity,
        asked: Run,
        interrupt: Interrupt,
        payload: Any,
        *,
        dismissed: bool,
        given: AgentInput,
    ) -> Interrupt:
        encoded = _encoded(payload)
        schema = msgspec.json.decode(interrupt.schema)
        fault = answer_fault(schema, payload)
        if fault and not dismissed:
            raise ClientError("payload_invalid", fault, "Follow the question's schema.", number=422)
        services = self._services
        now = services.now()
        resumed = Run(
            run_id=uuid.uuid4().hex,
            thread_id=asked.thread_id,
            tenant=asked.tenant,
            user_id=asked.user_id,
            agent=asked.agent,
            state=RunState.QUEUED,
            client_message_id=f"resume:{interrupt.interrupt_id}",
            message_id=asked.message_id,
            created_at=now,
            parent_run_id=asked.run_id,
            concurrent_limit=asked.concurrent_limit,
            identity=asked.identity,
            traffic=asked.traffic,
            restartable=asked.restartable,
            start_epoch=asked.start_epoch,
            start_offset=asked.start_offset,  # events after the question come after its run
            owner=interrupt.node,
            lease_until=now + services.limits.lease_s,
            cancel_requested_by=identity.subject if dismissed and not is_dismissable(interrupt) else "",
            trace=encoded_trace(current_span()) or asked.trace,
            client_run_id=given.run_id,
        )
        kept = await services.runs.answer_interrupt(
            asked.tenant,
            interrupt.interrupt_id,
            by=identity.subject,
            payload=encoded.decode(),
            resume=resumed,
            status="cancelled" if dismissed else "resolved",
            run_input=given.encoded(),
        )
        if kept is None:
            raise ClientError(
                "interrupt_expired", "The question has expired.", "Start a new run.", number=410
            )
        if interrupt.node == services.owner:
            self._loops.wake()
        else:
            await services.broker.control(Control("runs_available", {}, node_of(interrupt.node)))
        return kept

    async def _to_owner(self, owner: str, data: dict[str, object]) -> None:
        if owner:
            await self._services.broker.control(Control("run", data, node_of(owner)))

    async def _closed(self, run: Run) -> Run:
        """A run that was cancelled in the queue with its end, which is in the log now; a loop repeats what fails here.

        Raises:
            ClientError: `run_not_found` (404): it was deleted meanwhile.
            DependencyError: the broker or the store did not take the end in time.
        """
        kept: Run | None = run
        try:
            async with asyncio.timeout(CLOSE_S):
                while kept is not None and kept.unclosed:
                    await close_cancelled(self._services, self._local_runs.drop_waiting, kept)
                    kept = await self._services.runs.get(run.tenant, run.run_id)
                    if kept is not None and kept.unclosed:  # another node is doing it at this moment
                        await asyncio.sleep(CLOSE_STEP_S)
        except (TimeoutError, BrokerGone, DependencyError) as fault:
            log.warning("run_not_closed", run_id=run.run_id, reason=str(fault) or type(fault).__name__)
            raise DependencyError(
                "broker", "The log did not take the run's end yet.", "Try again."
            ) from fault
        finally:
            self._loops.wake()
        if kept is None:
            raise run_not_found()
        return kept


def is_dismissable(interrupt: Interrupt) -> bool:
    """Whether the agent takes a dismissal for an answer."""
    return bool(msgspec.json.decode(interrupt.detail, type=dict[str, Any]).get("dismissable"))


def _encoded(payload: Any) -> bytes:
    """An answer in the form for the store and for an event to all members: it must fit one, and have a normal form.

    Raises:
        ClientError: `payload_too_large` (413), `payload_invalid` (422).
    """
    encoded = msgspec.json.encode(payload)
    if len(encoded) > PAYLOAD_BYTES:
        raise ClientError(
            "payload_too_large",
            f"The payload is over {PAYLOAD_BYTES // 1024} KB.",
            "Send less.",
            number=413,
        )
    try:
        canonical({"payload": payload})
        fault = (
            f"It nests deeper than {MAX_JSON_DEPTH}." if json_depth_exceeds(encoded, MAX_JSON_DEPTH) else ""
        )
    except ValueError as error:
        fault = f"The payload cannot be represented exactly in JSON: {error}."
    if fault:
        raise ClientError("payload_invalid", fault, "Follow the question's schema.", number=422)
    return encoded


def _run_ended(state: str) -> ClientError:
    return ClientError("run_ended", f"The run is {state}.", "Start a new run with run.start.", number=409)
