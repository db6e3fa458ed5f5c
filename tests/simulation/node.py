"""One node: the classes of `narthex.app`, composed as `wiring/parts.py` does it, on simulated ports, loop and clock.

Not here: HTTP, tokens and the handshake's own rules: `admit` stands for them and asks what they ask of the app
(readiness, revocations, seats). Rules: nothing of `narthex.app` is replaced or patched; everything that a node does
runs in a context of its own life, so that `kill` ends it without a good-bye.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from narthex.app.backlog import BacklogLimits
from narthex.app.channel_activity import ChannelActivity
from narthex.app.chat import Chat
from narthex.app.commands import HANDLERS
from narthex.app.connection import Connection
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionLimiter, ConnectionSlot
from narthex.app.control_log import ControlLog
from narthex.app.controls import Controls
from narthex.app.hub import Hub, HubLimits
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.membership_audit import MembershipAudit
from narthex.app.memberships import MembershipService
from narthex.app.notices import Notices
from narthex.app.quotas import Quotas
from narthex.app.revocations import Revocations
from narthex.app.rpc import methods
from narthex.app.runs.engine import RunEngine, RunLimits
from narthex.app.services import ConnectionServices
from narthex.app.staleness import StalenessCheck
from narthex.app.tasks import Tasks
from narthex.app.timers import TimerWheel
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.plans import PLANS, Plan, plan_of
from narthex.domain.refusals import Refusal
from narthex.errors import NarthexError
from narthex.ports.agents import Agent
from narthex.ports.credentials import Revocation
from narthex.protocol.codes import FORCE_RECONNECT, Disconnect
from narthex.protocol.session import LIFE_STEP_S, SessionLimits
from tests.simulation.clock import WallClock
from tests.simulation.log import LOG_TIMEOUT_S, LogEngine, SimBroker
from tests.simulation.loop import NODE, VirtualLoop
from tests.simulation.network import Delays, Link
from tests.simulation.store import STORE_TIMEOUT_S, SimStore, StoreEngine

T = TypeVar("T")
GRACE_S: Final = 8.0  # of a drain: Cloud Run's ten, less what the edge keeps
START_RETRY_S: Final = 1.0
CLOSE_REVOKED_EVERY_S: Final = 0.1
LIMITS: Final = RunLimits(run_deadline_s=40, silence_s=8, answer_s=30, broker_patience_s=15, poll_s=2.0)
"""The real ones, but for what would make a history minutes long."""


class Silent:
    """A `Meter` that counts nothing."""

    def handshake(self, outcome: str, code: str, traffic: str, duration_s: float) -> None: ...
    def credential(self, carrier: str, result: str) -> None: ...
    def e2e_admission(self, result: str) -> None: ...
    def e2e_tests(self, result: str, count: int) -> None: ...
    def connections(self, traffic: str, delta: int) -> None: ...
    def disconnect(self, code: int) -> None: ...
    def breaker(self, dependency: str, traffic: str, state: str) -> None: ...
    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...


class Door:
    """`InBandAuthenticator`: an in-band token is its user's, always good."""

    def admit_in_band(self, context: ConnectionContext, token: str) -> Admit | Refusal:
        """See the port."""
        assert context.identity is not None
        return Admit(identity=context.identity)


class Parts:
    """One life of a node, composed. Attributes as in `wiring.parts.Parts`."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        broker: SimBroker,
        store: SimStore,
        agents: Sequence[Agent],
        now: Callable[[], float],
        report_bug: Callable[[BaseException], None],
        spread: random.Random,
    ) -> None:
        self.node = name
        self.now = now
        self.store = store
        self.sim_broker = broker
        self.broker = ControlLog(broker)
        self.meter = Silent()
        self._loop = loop
        self._report_bug = report_bug
        self.revocations = Revocations(store.credentials, self.broker, clock=now)
        self.tasks = Tasks("commands", 5_000, report_bug)
        self.timers = TimerWheel(loop, report_bug)
        self.limiter = ConnectionLimiter(Limits(), PLANS, self.meter)
        self.notices = Notices(self.broker)
        self.chat = Chat(store, self.broker, self.notices, self.plan, now)
        self.memberships = MembershipService(
            store, self.broker, self.notices, self.chat, self.plan, now, direct=("default",)
        )
        self.engine = RunEngine(
            broker=self.broker,
            store=store,
            agents={agent.name: agent for agent in agents},
            node=name,
            now=now,
            meter=self.meter,
            notify_members=self.chat.notify_members,
            concurrent_runs=lambda identity: self.plan(identity).concurrent_runs,
            limits=LIMITS,
        )
        self._closing_revoked: Any = None
        self._make_connections(spread)
        self.lifecycle = self._make_lifecycle()

    def _make_connections(self, spread: random.Random) -> None:
        controls = self.controls = Controls(self._connections_of, lambda _kind: None)
        self.hub = Hub(
            self.broker,
            self.tasks,
            self._loop,
            HubLimits(),
            controls,
            lambda _count: None,
            self._report_bug,
            self._loop.time,
        )
        services = self.services = ConnectionServices[Connection](
            node=self.node,
            version="simulated",
            broker=self.broker,
            hub=self.hub,
            in_band=Door(),
            meter=self.meter,
            timers=self.timers,
            tasks=self.tasks,
            session_limits=SessionLimits(ping_every_s=8.0, pong_within_s=5.0),
            backlog_limits=BacklogLimits(64 * 1024, 6.0),
            now=self.now,
            report_bug=lambda fault, _trace: self._report_bug(fault),
            spread=spread,
        )
        self._activity = ChannelActivity(LIFE_STEP_S)
        services.follows_run = self._follows_run
        services.removals = lambda: controls.removals
        services.chat = self.chat
        services.memberships = self.memberships
        services.engine = self.engine
        services.handlers = HANDLERS
        services.methods = methods()
        services.quotas = Quotas(
            self.plan, self.store.runs, self.store.memberships, self.limiter.of_user, self.now
        )
        controls.bind(self.hub)
        membership_audit = self.membership_audit = MembershipAudit(self.hub, self.tasks, self.store.threads)

        def missed() -> None:
            controls.missed()
            membership_audit.schedule()

        def control_lost() -> None:
            missed()
            for connection in services.registry:
                connection.close(FORCE_RECONNECT)

        self.hub.on_resync = missed
        controls.on_late_removal = membership_audit.schedule
        self.broker.on_lost(control_lost)
        self.staleness = StalenessCheck(self.hub, self.broker, lambda _channels: missed())
        services.fresh = self.staleness.fresh
        controls.on("run", self.engine.control)
        controls.on("runs_available", self.engine.control)
        controls.on("revoke", self.revocations.control)
        self.revocations.listen(self._revoked)

    def _make_lifecycle(self) -> Lifecycle:
        async def nothing() -> None:
            return None

        async def stop_connections() -> None:
            if self._closing_revoked is not None:
                self._closing_revoked.cancel()
            self.timers.stop()
            self.hub.stop()
            await self.tasks.stop()

        components = [
            Component("store", self.store.start, self.store.stop),
            Component("broker", lambda: self.broker.start(self.hub, self.node), self.broker.stop),
            Component("revocations", self.revocations.start, self.revocations.stop),
            Component("staleness", self.staleness.start, self.staleness.stop),
            Component("rights", self.membership_audit.start, self.membership_audit.stop),
            Component("connections", nothing, stop_connections),
            Component("runs", self.engine.open, self.engine.close),
        ]
        return Lifecycle(
            components,
            self.services.registry,
            self.engine.drain,
            self._busy,
            grace_s=GRACE_S,
            on_state=lambda _state: None,
        )

    def plan(self, identity: Identity) -> Plan:
        """The plan whose limits hold."""
        return plan_of(identity, PLANS)

    def _connections_of(self, user: str) -> list[Connection]:
        return self.services.registry.of_user(user)

    def _follows_run(self, connection: Connection) -> bool:
        now = self.timers.now()
        channels = [one.channel for one in connection.subscriptions.values() if not one.server_side]
        moving = [self._activity.may_be_active(channel.key, channel.last, now) for channel in channels]
        return any(moving) or self._busy()(connection)

    def _busy(self) -> Callable[[Connection], bool]:
        running = self.engine.running_channels()
        return lambda connection: any(
            item.channel.key in running for item in connection.subscriptions.values()
        )

    def _revoked(self, _: Sequence[Revocation]) -> None:
        if self._closing_revoked is None:
            self._closing_revoked = self._loop.call_later(CLOSE_REVOKED_EVERY_S, self._close_revoked)

    def _close_revoked(self) -> None:
        self._closing_revoked = None
        for connection in self.services.registry:
            identity = connection.identity or connection.context.identity
            if identity is not None and self.revocations.covers(identity):
                connection.close(Disconnect(3500, "token_revoked: sign in again"))


class Node:
    """A node through its lives: started, killed, drained, paused, started again.

    Attributes:
        name: its id, the same in every life.
        parts: of the present life; None while it is down.
    """

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        log: LogEngine,
        database: StoreEngine,
        agents: Sequence[Agent],
        clock: WallClock,
        delays: Delays,
        noise: random.Random,
        report_bug: Callable[[str, BaseException], None],
    ) -> None:
        self.name = name
        self.clock = clock
        self.parts: Parts | None = None
        self.life = ""
        self._lives = 0
        self._loop = loop
        self._log = log
        self._database = database
        self._agents = agents
        self._delays = delays
        self._noise = noise
        self._report_bug = report_bug
        self.log_link = Link(loop, delays, "broker", LOG_TIMEOUT_S)
        self.store_link = Link(loop, delays, "store", STORE_TIMEOUT_S)
        self.paused = False
        self.deaf = False
        self.repeats = 0.0

    @property
    def ready(self) -> bool:
        """Whether a load balancer would send anybody here."""
        return self.parts is not None and self.parts.lifecycle.state is LifecycleState.READY

    def start(self) -> None:
        """Begin a new life; it tries until its engines are there."""
        if self.parts is not None:
            return
        self._lives += 1
        self.life = f"{self.name}/{self._lives}"
        self.within(self._start)

    def _start(self) -> None:
        broker = SimBroker(self._loop, self._log, self.log_link, self._delays, self._noise)
        broker.deaf, broker.repeats = self.deaf, self.repeats
        store = SimStore(self._database, self.store_link)
        self.parts = Parts(
            self.name,
            self._loop,
            broker,
            store,
            self._agents,
            self.clock.now,
            lambda fault: self._report_bug(self.name, fault),
            self._noise,
        )
        self._loop.create_task(self._open(self.parts))

    async def _open(self, parts: Parts) -> None:
        while True:
            try:
                await parts.lifecycle.start()
            except NarthexError:
                await asyncio.sleep(START_RETRY_S)
            else:
                return

    def kill(self) -> None:
        """`kill -9`."""
        if self.parts is None:
            return
        self._loop.kill(self.life)
        self._log.detach(self.name, self.parts.sim_broker)
        self.parts = None
        self.paused = False

    def drain(self) -> None:
        """SIGTERM; `kill` follows when it is done, or by the plan."""
        parts = self.parts
        if parts is None or parts.lifecycle.state is not LifecycleState.READY:
            return

        async def down() -> None:
            await parts.lifecycle.drain()
            with contextlib.suppress(ExceptionGroup):  # an engine that is away while it stops
                await parts.lifecycle.stop()
            if self.parts is parts:
                self.kill()

        self.within(lambda: self._loop.create_task(down()))

    def pause(self) -> None:
        """SIGSTOP."""
        if self.parts is not None and not self.paused:
            self.paused = True
            self._loop.pause(self.life)

    def resume(self) -> None:
        """SIGCONT."""
        if self.paused:
            self.paused = False
            self._loop.resume(self.life)

    def silence(self, deaf: bool) -> None:
        """Lose every live message from the log engine, without a sign, or no more."""
        self.deaf = deaf
        if self.parts is not None:
            self.parts.sim_broker.deaf = deaf

    def repeat(self, share: float) -> None:
        """Deliver that share of live publications twice."""
        self.repeats = share
        if self.parts is not None:
            self.parts.sim_broker.repeats = share

    def within(self, call: Callable[[], object]) -> None:
        """Call something as this node, at once."""
        context = contextvars.copy_context()
        context.run(NODE.set, self.life)
        context.run(call)

    def ask(self, work: Callable[[Parts], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Do something in this node's own tasks, as a request of the server API does; never done if it dies."""
        outcome: asyncio.Future[T] = self._loop.create_future()
        parts = self.parts
        assert parts is not None

        async def run() -> None:
            try:
                value = await work(parts)
            except Exception as fault:  # the caller's to judge
                if not outcome.done():
                    outcome.set_exception(fault)
            else:
                if not outcome.done():
                    outcome.set_result(value)

        self.within(lambda: self._loop.create_task(run()))
        return outcome

    def admit(self, identity: Identity) -> Connection | None:
        """What the handshake decides: None is a refusal that lets an SDK come back, `PermissionError` a final one."""
        parts = self.parts
        if parts is None or parts.lifecycle.state is not LifecycleState.READY:
            return None
        if parts.revocations.covers(identity):
            raise PermissionError
        slot = parts.limiter.acquire("192.0.2.1", identity)
        if not isinstance(slot, ConnectionSlot):
            return None
        context = ConnectionContext(Admit(identity=identity), slot, trace_id="0" * 32, address="192.0.2.1")
        return Connection(parts.services, context)
