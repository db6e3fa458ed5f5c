"""The run engine: what chat, RPC, the server API and AG-UI over HTTP call.

Not here: storing and publishing the person's message (app/chat does that before `start`). Rules: every call
names the identity; a run in a thread that is not theirs is as absent as one that does not exist. Disconnect
is not cancel: nothing here knows of connections.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from narthex.app.runs.endings import Cancelled, terminal
from narthex.app.runs.journal import Journal
from narthex.app.runs.lease import Lease
from narthex.app.runs.loops import Loops
from narthex.app.runs.replay import Replay, read_back
from narthex.app.runs.roster import Roster
from narthex.app.runs.services import RunLimits, RunServices, TellMembers, identity_json
from narthex.domain import events as ev
from narthex.domain.answers import answer_fault
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.identity import Identity
from narthex.domain.runs import ACTIVE, RunState, state_after
from narthex.errors import ClientError
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker, Control
from narthex.ports.runs import Interrupt, Run
from narthex.ports.store import Store
from narthex.ports.telemetry import Meter

STEER_BYTES: Final = 8 * 1024
_NEVER: Final = float("inf")


class RunEngine:
    """See the module.

    Args:
        broker: where events go.
        store: runs, threads.
        agents: by name; the first is the default.
        node: this node's id (control messages name it).
        now: wall clock, seconds since the epoch.
        meter: counts.
        tell: `Chat.tell_members`.
        concurrent_runs: how many runs a user of this identity may have at a time (its plan).
        limits: bounds.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        agents: Mapping[str, Agent],
        node: str,
        now: Callable[[], float],
        meter: Meter,
        tell: TellMembers,
        concurrent_runs: Callable[[Identity], int],
        limits: RunLimits | None = None,
    ) -> None:
        # A node may come back under its old id; its runs may not. Hence the random part.
        owner = f"{node}/{uuid.uuid4().hex[:8]}"
        self._services = RunServices(
            broker=broker,
            runs=store.runs,
            threads=store.threads,
            agents=agents,
            node=node,
            owner=owner,
            now=now,
            meter=meter,
            limits=limits or RunLimits(),
            tell=tell,
        )
        self._concurrent_runs = concurrent_runs
        self._roster = Roster(self._services, self._freed)
        self._loops = Loops(self._roster)

    # -- life ----------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Runs that this node owns now."""
        return len(self._roster.leases)

    def running_channels(self) -> set[str]:
        """Channel keys of the threads in which a run of this node is going on."""
        return {
            channel_key(execution.run.tenant, thread_channel(execution.run.thread_id))
            for execution in self._roster.executions.values()
        }

    @property
    def node(self) -> str:
        """This node's id, as control messages name it."""
        return self._services.node

    @property
    def agents(self) -> Mapping[str, Agent]:
        """What can be run here, the default first."""
        return self._services.agents

    async def open(self) -> None:
        """Begin to claim runs. Broker and store must have started."""
        self._loops.start()

    async def drain(self, grace_s: float) -> None:
        """Stop claiming; let runs finish for `grace_s`; hand restartable ones over, end the others, and give
        every lease back so that other nodes need not wait for it.
        """
        self._loops.stop_claiming()
        await self._roster.drain(grace_s)
        await self.close()

    async def close(self) -> None:
        """Stop now. Runs that go on are taken over by whoever is alive. Idempotent."""
        await self._loops.stop()
        await self._roster.close()
        try:
            await self._services.runs.release(self._services.owner, self._services.now())
        finally:
            for agent in self._services.agents.values():
                if agent.close is not None:
                    await agent.close()

    def control(self, message: Control) -> None:
        """A control message of kind `runs_available` or `run`; does not block. The hub passes them on."""
        if message.kind == "runs_available":
            self._loops.wake()
            return
        data = message.data
        if message.kind != "run":
            return
        run_id, by = str(data.get("run_id", "")), str(data.get("by", ""))
        execution = self._roster.executions.get(run_id)
        if execution is not None and data.get("op") == "cancel":
            execution.cancel(by)
        elif execution is not None and data.get("op") == "steer":
            self._roster.tasks.spawn(_steered(execution.steer(str(data.get("text", "")), by)))
        elif data.get("op") == "drop":
            self._roster.tasks.spawn(self._roster.drop_waiting(run_id))

    def _freed(self) -> None:
        self._loops.wake()

    # -- starting ------------------------------------------------------------------------------------------

    async def start(
        self,
        identity: Identity,
        thread_id: str,
        message_id: str,
        text: str,
        client_message_id: str,
        agent: str | None = None,
        *,
        run_id: str | None = None,
    ) -> tuple[Run, bool]:
        """Begin a run, or find the one that the same `client_message_id` began.

        Args:
            identity: a member of the thread (the caller has checked).
            thread_id: where.
            message_id: the stored and published message that it answers.
            text: what was said: `@name` at its beginning chooses the agent unless `agent` does.
            client_message_id: idempotency key, unique per user.
            agent: its name; None for the mentioned one, else the default.
            run_id: to use for a new run; by default a random one.

        Returns:
            The run, and whether it is queued behind another run of the thread or of the user's quota.

        Raises:
            ClientError: `agent_not_found` (404), `queue_full` (429).
        """
        services = self._services
        chosen = self.choose(agent, text)
        run = Run(
            run_id=run_id or uuid.uuid4().hex,
            thread_id=thread_id,
            tenant=identity.tenant,
            user_id=identity.subject,
            agent=chosen.name,
            state=RunState.QUEUED,
            client_message_id=client_message_id,
            message_id=message_id,
            created_at=services.now(),
            concurrent_limit=self._concurrent_runs(identity),
            identity=identity_json(identity),
            traffic=str(identity.identity_class),
            restartable=chosen.restartable,
        )
        kept, fresh = await services.runs.start(run, queue_limit=services.limits.thread_queue)
        if fresh:
            self._loops.wake()
        if kept.state != RunState.QUEUED:
            return kept, False
        waits = await self._waits(kept)
        if not waits and (self._roster.draining or len(self._roster.leases) >= services.limits.max_running):
            await services.broker.control(Control("runs_available", {}))
        return kept, waits

    async def _waits(self, run: Run) -> bool:
        """Whether a queued run is behind another one of its thread, or of its user's quota."""
        runs = self._services.runs
        beside, of_user = await asyncio.gather(
            runs.active_in_thread(run.tenant, run.thread_id), runs.active_count(run.tenant, run.user_id)
        )
        mine = next((other for other in beside if other.run_id == run.run_id), None)
        if mine is None or mine.state != RunState.QUEUED:
            return False  # claimed meanwhile
        return beside[0].run_id != run.run_id or of_user > run.concurrent_limit

    def choose(self, agent: str | None, text: str) -> Agent:
        """The agent that `run.start` names, that the text mentions first, or the default one.

        Raises:
            ClientError: `agent_not_found` (404).
        """
        agents = self._services.agents
        if agent:
            if agent not in agents:
                known = ", ".join(list(agents)[:20])
                raise ClientError(
                    "agent_not_found",
                    f"There is no agent {agent[:60]!r}.",
                    f"Known are: {known}.",
                    number=404,
                )
            return agents[agent]
        for word in text.split():
            if word.startswith("@") and word[1:].rstrip(",.:;!?") in agents:
                return agents[word[1:].rstrip(",.:;!?")]
        return next(iter(agents.values()))

    # -- a run that is there -------------------------------------------------------------------------------

    async def cancel(self, identity: Identity, run_id: str) -> dict[str, Any]:
        """Stop a run; any member of its thread may. Returns `{state}` as it is right after the request was
        noted: `running` means that it is being stopped, and its RUN_FINISHED will say `cancelled`.

        Raises:
            ClientError: `run_not_found` (404).
        """
        before = await self._run_of(identity, run_id)
        services = self._services
        run = await services.runs.request_cancel(identity.tenant, run_id, identity.subject, services.now())
        if run is None:
            raise _run_not_found()
        if run.state == RunState.RUNNING:
            execution = self._roster.executions.get(run_id)
            if execution is not None:
                execution.cancel(identity.subject)
            else:
                await self._to_owner(run.owner, {"op": "cancel", "run_id": run_id, "by": identity.subject})
        elif run.state == RunState.CANCELLED and before.state == RunState.QUEUED:
            await self._close_queued(run, identity.subject)
        return {"run_id": run_id, "state": str(run.state)}

    async def steer(self, identity: Identity, run_id: str, text: str) -> dict[str, Any]:
        """Say something to an agent while it runs. Returns `{state}`.

        Raises:
            ClientError: `run_not_found` (404), `run_queued`, `run_ended` (409), `steer_full` (429),
                `bad_params` (400), `text_too_large` (413).
        """
        if not text.strip():
            raise ClientError("bad_params", "The text is empty.", "Say something.")
        if len(text.encode()) > STEER_BYTES:
            raise ClientError(
                "text_too_large", f"The text has more than {STEER_BYTES} bytes.", "Shorten it.", number=413
            )
        run = await self._run_of(identity, run_id)
        if run.state == RunState.QUEUED:
            raise ClientError("run_queued", "The run has not begun.", "Wait until it runs.", number=409)
        if run.state != RunState.RUNNING:
            raise ClientError(
                "run_ended", f"The run is {run.state}.", "Start a new run with run.start.", number=409
            )
        execution = self._roster.executions.get(run_id)
        if execution is None:
            await self._to_owner(
                run.owner, {"op": "steer", "run_id": run_id, "by": identity.subject, "text": text}
            )
        elif not await execution.steer(text, identity.subject):
            raise ClientError(
                "steer_full", "The agent is not listening.", "Wait for it, or cancel the run.", number=429
            )
        return {"run_id": run_id, "state": str(run.state)}

    async def resume(
        self, identity: Identity, run_id: str, interrupt_id: str, payload: Any
    ) -> dict[str, Any]:
        """Answer an approval. Returns `{run_id}` of the run in which the agent goes on; the same one for every
        further answer, whatever its payload: the first answer counts.

        Raises:
            ClientError: `run_not_found` (404), `interrupt_not_found` (404), `interrupt_expired` (410),
                `payload_invalid` (422).
        """
        services = self._services
        asked = await self._run_of(identity, run_id)
        interrupt = await services.runs.interrupt(identity.tenant, interrupt_id)
        if interrupt is None or interrupt.run_id != run_id:
            raise ClientError(
                "interrupt_not_found", "There is no such question.", "See thread.get: interrupts.", number=404
            )
        if not interrupt.resume_run_id:
            interrupt = await self._answer(identity, asked, interrupt, payload)
        return {"run_id": interrupt.resume_run_id, "answered_by": interrupt.answered_by}

    async def get(self, identity: Identity, run_id: str) -> dict[str, Any]:
        """A run as `run.get` answers it: state, text and count are as durable as they are now.

        Raises:
            ClientError: `run_not_found` (404).
        """
        run = await self._run_of(identity, run_id)
        text, count, digest, state = run.text, run.count, run.digest, str(run.state)
        if run.state == RunState.RUNNING:
            execution = self._roster.executions.get(run_id)
            log = (
                execution.journal.log if execution is not None else (await read_back(self._services, run))[0]
            )
            text, count = log.transcript.text, log.seq
            if log.terminal is not None:  # its end was seen already, and its row is being written
                state, digest = str(state_after(log.terminal)), log.terminal["digest"]
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
            "state": state,
            "text": text,
            "count": count,
            "digest": digest,
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
        run = await self._services.runs.get(identity.tenant, run_id)
        if run is None:
            raise _run_not_found()
        role = await self._services.threads.role(identity.tenant, run.thread_id, identity.subject)
        if role is None:
            raise _run_not_found()
        return run

    async def _answer(self, identity: Identity, asked: Run, interrupt: Interrupt, payload: Any) -> Interrupt:
        schema = msgspec.json.decode(interrupt.schema)
        fault = answer_fault(schema, payload)
        if fault:
            raise ClientError("payload_invalid", fault, "Answer as the question's schema says.", number=422)
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
            owner=interrupt.node,
            lease_until=now + services.limits.lease_s,
        )
        kept = await services.runs.answer_interrupt(
            asked.tenant,
            interrupt.interrupt_id,
            by=identity.subject,
            payload=msgspec.json.encode(payload).decode(),
            resume=resumed,
            now=now,
        )
        if kept is None:
            raise ClientError(
                "interrupt_expired", "The question has expired.", "Ask the agent again.", number=410
            )
        if interrupt.node == services.owner:
            self._loops.wake()
        else:
            await services.broker.control(Control("runs_available", {}, _node(interrupt.node)))
        return kept

    async def _to_owner(self, owner: str, data: dict[str, object]) -> None:
        if owner:
            await self._services.broker.control(Control("run", data, _node(owner)))

    async def _close_queued(self, run: Run, by: str) -> None:
        """A run that was cancelled before it began: its two events, so that every run has its end in the log."""
        if run.parent_run_id:
            await self._roster.drop_waiting(run.parent_run_id)
            await self._services.broker.control(Control("run", {"op": "drop", "run_id": run.parent_run_id}))
        event, _, _ = terminal(Cancelled(by), run.thread_id, run.run_id)
        journal = Journal(self._services, run, Lease(_NEVER), Replay())
        try:
            await journal.put(ev.run_started(run.thread_id, run.run_id, parent_run_id=run.parent_run_id))
            await journal.finish(event)
        finally:
            await journal.close()
        self._loops.wake()

    async def active_runs(self, identity: Identity) -> int:
        """Queued and running runs of a user (`limits`)."""
        return await self._services.runs.active_count(identity.tenant, identity.subject)


async def _steered(steering: Any) -> None:
    await steering


def _node(owner: str) -> str:
    return owner.rpartition("/")[0]


def _run_not_found() -> ClientError:
    return ClientError("run_not_found", "There is no such run for you.", "See thread.get: runs.", number=404)


__all__ = ["ACTIVE", "RunEngine", "RunLimits"]
