"""The run engine, for chat, RPC, the server API and AG-UI over HTTP.

Here: opening and closing it, and starting a run. Not here: operations on an existing run (`requests`), storing and
publishing the user's message (app/chat does that before `start`). Disconnect is not cancel: the engine does not
know connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from narthex.app.delivery_traces import DeliveryTraces
from narthex.app.runs.execution import Execution
from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.loops import RunLoops
from narthex.app.runs.queue_notices import notify_queue
from narthex.app.runs.requests import RunRequests
from narthex.app.runs.run_trace import encoded_trace
from narthex.app.runs.services import NotifyMembers, RunLimits, RunServices, Say, identity_json, identity_of
from narthex.app.runs.steering import MessageSteering
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.domain.agent_input import AgentInput
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.identity import Identity
from narthex.domain.mentions import mentioned
from narthex.domain.runs import RunState, queue_full, thread_busy
from narthex.errors import ClientError, DependencyError, NarthexError
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker, Control, Position
from narthex.ports.runs import Run
from narthex.ports.store import Store
from narthex.ports.telemetry import Meter
from narthex.ports.tracing import NO_TRACING, Tracer, current_span

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

LAST_CLAIM_S: Final = 1.0  # of a claim under way at the end of a drain
AGENT_CLOSE_S: Final = 3.0  # of one agent; the process of the local model takes at most 2 s


class RunEngine:
    """The run engine of one node; see the module.

    Args:
        broker: takes the events.
        store: runs, threads.
        agents: by name; the first is the default.
        node: this node's id (control messages name it).
        now: wall clock, seconds since the epoch.
        meter: counts.
        notify_members: `Chat.notify_members`.
        say: `Chat.say`.
        concurrent_runs: how many active runs a user of this identity may have (its plan).
        limits: bounds.
        tracer: makes spans of runs.
        deliveries: follows recorded runs to this node's subscribers; None: this node has none.
        claims: whether agents run here; False leaves every run to other nodes (`narthex worker`).
        serves_users: whether users are connected here. A node without them reserves the runs that it accepts for
            itself, and leaves those of other nodes to nodes that have some.
        presence: announces what this node does; None: nothing does.

    Attributes:
        requests: operations on an existing run: cancel, steer, resume, get.
        steering: gives messages to agents at work.
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
        notify_members: NotifyMembers,
        say: Say,
        concurrent_runs: Callable[[Identity], int],
        limits: RunLimits | None = None,
        tracer: Tracer = NO_TRACING,
        deliveries: DeliveryTraces | None = None,
        claims: bool = True,
        serves_users: Callable[[], bool] = lambda: True,
        presence: WorkerPresence | None = None,
    ) -> None:
        # A node may come back under its old id; its runs must not. Hence the random part.
        owner = f"{node}/{uuid.uuid4().hex[:8]}"
        services = self._services = RunServices(
            broker=broker,
            runs=store.runs,
            threads=store.threads,
            agents=agents,
            node=node,
            owner=owner,
            now=now,
            meter=meter,
            limits=limits or RunLimits(),
            notify_members=notify_members,
            say=say,
            concurrent_runs=concurrent_runs,
            tracer=tracer,
            deliveries=deliveries,
            claims=claims,
            serves_users=serves_users,
            presence=presence,
        )
        self._claims = claims
        self._opened = False
        self._local_runs = LocalRuns(services, self._freed)
        self._loops = RunLoops(self._local_runs)
        self.requests = RunRequests(services, self._local_runs, self._loops)
        self.steering = MessageSteering(services, self._local_runs)

    # -- life ----------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Runs that this node owns now."""
        return len(self._local_runs.leases)

    @property
    def waiting(self) -> int:
        """Agents on this node that wait for a user's answer."""
        return len(self._local_runs.waiting)

    def missing_agents(self) -> list[str]:
        """Agents whose runs wait, and that no node had at this node's last look."""
        return self._services.coverage.missing

    def running_channels(self) -> set[str]:
        """Channel keys of the threads with an active run of this node."""
        return {
            channel_key(execution.run.tenant, thread_channel(execution.run.thread_id))
            for execution in self._local_runs.executions.values()
        }

    @property
    def node(self) -> str:
        """This node's id, as control messages name it."""
        return self._services.node

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents that can be asked for, the default first."""
        return self._services.agents

    @property
    def limits(self) -> RunLimits:
        """The bounds of every run."""
        return self._services.limits

    async def open(self) -> None:
        """Begin to claim runs, if agents run here. Broker and store must have started."""
        self._opened = True
        if self._claims:
            self._loops.start()

    async def drain(self, grace_s: float) -> None:
        """Claim no run for a new agent; let runs finish for `grace_s`; hand restartable ones over, end the others, and
        release every lease so that other nodes need not wait for it.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_s
        await self._loops.drain(grace_s)
        await self._local_runs.drain(max(0.0, ends_at - loop.time()))
        await self._loops.settle(LAST_CLAIM_S)
        await self.close()

    async def close(self) -> None:
        """Stop now. Other nodes take over active runs. Idempotent."""
        await self._loops.stop()
        asked = self._local_runs.asked
        await self._local_runs.close()
        try:
            if self._opened:  # else there is nothing to release, and maybe no table either
                await self._services.runs.release(self._services.owner, asked)
        finally:
            for agent in self._services.agents.values():
                await _closed(agent)

    def control(self, message: Control) -> None:
        """A control message of kind `runs_available` or `run`; does not block. The hub passes them on."""
        data = message.data
        if message.kind == "runs_available":
            if data.get("look"):
                self._loops.changed()
            self._loops.wake()
            return
        if message.kind != "run":
            return
        run_id, by = str(data.get("run_id", "")), str(data.get("by", ""))
        execution = self._local_runs.executions.get(run_id)
        if execution is not None and data.get("op") == "cancel":
            execution.cancel(by)
        elif execution is not None and data.get("op") == "steer":
            self._local_runs.run_beside(_steered(execution, data))
        elif data.get("op") == "drop":
            self._local_runs.run_beside(self._local_runs.drop_waiting(run_id))

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
        after: Position | None = None,
        given: AgentInput | None = None,
        queue: bool = True,
    ) -> tuple[Run, bool]:
        """Begin a run, or find the one that the same `client_message_id` began.

        Args:
            identity: a member of the thread (the caller has checked).
            thread_id: the thread.
            message_id: the stored and published message that it answers.
            text: the message: its first `@name` of an agent selects that agent unless `agent` does.
            client_message_id: idempotency key, unique per user.
            agent: its name; None for the mentioned one, else the default.
            run_id: to use for a new run; by default a random one.
            after: a position in the thread's channel that the run's events will come after; None: any.
            given: what the client sent beside the message.
            queue: whether it may wait behind another run of the thread.

        Returns:
            The run, and whether it is queued behind another run of the thread or of the user's quota.

        Raises:
            ClientError: `agent_not_found` (404), `queue_full` (429), `thread_busy` (409) without `queue`,
                `input_too_large` (413).
        """
        services = self._services
        given = given or AgentInput()
        chosen = self.choose(agent, text)
        reserved = self._has_room() and not services.serves_users()
        self._local_runs.reserving |= reserved
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
            concurrent_limit=services.concurrent_runs(identity),
            identity=identity_json(identity),
            traffic=str(identity.identity_class),
            restartable=chosen.restartable,
            start_offset=after.offset if after is not None else 0,
            start_epoch=after.epoch if after is not None else "",
            trace=encoded_trace(current_span()),
            client_run_id=given.run_id,
            owner=services.owner if reserved else "",
            lease_until=services.now() + services.limits.lease_s if reserved else 0.0,
        )
        try:
            kept, fresh = await services.runs.start(
                run, queue_limit=services.limits.thread_queue if queue else 0, run_input=given.encoded()
            )
        except ClientError as fault:
            raise (fault if queue or fault.code != "queue_full" else thread_busy()) from fault
        if fresh:
            if services.deliveries is not None:
                services.deliveries.started(kept, current_span())
            self._loops.wake()
        if reserved and self._local_runs.draining:  # since the moment at which reservations were lifted
            with contextlib.suppress(DependencyError):
                await self._loops.unreserve()
        if kept.state != RunState.QUEUED:
            return kept, False
        waits = await self._waits(kept)
        if not waits and not self._has_room():
            try:
                await services.broker.control(Control("runs_available", {}))
            except NarthexError:  # the run is stored, and claiming nodes look every `poll_s`
                services.meter.count("run_loop_failures", loop="announce")
        elif waits and fresh:
            self._local_runs.run_beside(notify_queue(services, kept.tenant, kept.thread_id))
        return kept, waits

    def _has_room(self) -> bool:
        """Whether this node itself may claim what it has just stored."""
        limits = self._services.limits
        return (
            self._claims
            and not self._local_runs.draining
            and len(self._local_runs.leases) < limits.max_running
        )

    async def require_room(
        self, identity: Identity, thread_id: str, *, queue: bool = True, run_id: str = ""
    ) -> None:
        """Check whether one more run may wait in the thread, before a message is sent in it. `run_id`: the run, which
        may be there already: the same request came twice.

        Raises:
            ClientError: `queue_full` (429), `thread_busy` (409) without `queue`.
        """
        limit = self._services.limits.thread_queue
        active = await self._services.runs.active_in_thread(identity.tenant, thread_id)
        if any(run.run_id == run_id for run in active):
            return
        if active and not queue:
            raise thread_busy()
        if active and sum(run.state == RunState.QUEUED for run in active) >= limit:
            raise queue_full(limit)

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
        """The agent that `run.start` names, else the first one that the text mentions, else the default one.

        Raises:
            ClientError: `agent_not_found` (404).
        """
        agents = self._services.agents
        if agent:
            if agent not in agents:
                raise self.no_agent(agent)
            return agents[agent]
        name = mentioned(text, agents)
        return next(iter(agents.values())) if name is None else agents[name]

    def no_agent(self, name: str) -> ClientError:
        """The error for a name without an agent."""
        known = ", ".join(f"@{agent}" for agent in list(self._services.agents)[:20])
        return ClientError(
            "agent_not_found",
            f"There is no agent {name[:60]!r}.",
            f"Available agents: {known}. Without a name the first one is used.",
            number=404,
        )


async def _steered(execution: Execution, data: Mapping[str, object]) -> None:
    """Steer for a control message from another node, which reads the log for the result, or not at all."""
    run, by = execution.run, str(data.get("by", ""))
    if "identity" in data:
        sender = msgspec.json.decode(str(data["identity"]), type=Identity)
    else:  # of an earlier version
        sender = identity_of(run) if by == run.user_id else Identity(subject=by, tenant=run.tenant)
    with contextlib.suppress(DependencyError):
        await execution.steer(str(data.get("text", "")), sender, str(data.get("message_id", "")))


async def _closed(agent: Agent) -> None:
    """Close an agent; after any fault the other agents are closed too."""
    if agent.close is None:
        return
    try:
        async with asyncio.timeout(AGENT_CLOSE_S):
            await agent.close()
    except Exception:
        log.exception("agent_not_closed", agent=agent.name)


__all__ = ["RunEngine", "RunLimits"]
