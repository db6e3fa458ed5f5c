"""The application core of one node: every object of `app` made once, from ports and plain values.

Not here: settings, technologies and HTTP (wiring), admission by tokens (`app/handshake`, made by wiring around this).
Rules: made inside the running loop; nothing is opened here (the lifecycle opens `components`); each object gets its
dependencies when it is made; handlers are registered together with their callers, and nothing is set afterwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from narthex.app.agui.requests import AguiRequests
from narthex.app.backlog import BacklogLimits
from narthex.app.channel_activity import ChannelActivity
from narthex.app.chat import Chat
from narthex.app.command_meter import CommandMeter
from narthex.app.commands import handlers
from narthex.app.commands.channels import ChannelCommands
from narthex.app.commands.connecting import ConnectCommands, InBandAuthenticator
from narthex.app.commands.rpc import RpcCommand
from narthex.app.commands.server_side import ServerSubscriptions
from narthex.app.commands.subscribing import Subscriptions
from narthex.app.connection import Connection, ConnectionRuntime
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_controls import ConnectionControls
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.connection_record import ConnectionRecorder
from narthex.app.control_log import ControlLog
from narthex.app.controls import ControlDispatcher
from narthex.app.delivery_traces import DeliveryTraces
from narthex.app.engine_meter import measured_broker, measured_store
from narthex.app.exports import ExportSlots
from narthex.app.handshake_trace import HandshakeTracer
from narthex.app.hub import Hub, HubLimits
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.membership_audit import MembershipAudit
from narthex.app.memberships import MembershipService
from narthex.app.notices import Notices
from narthex.app.pacing import Pacing
from narthex.app.presence import LocalPresence
from narthex.app.quotas import Quotas
from narthex.app.registry import ConnectionRegistry
from narthex.app.retention import EVERY_S, Retention
from narthex.app.revocation_enforcer import RevocationEnforcer
from narthex.app.revocations import AFTER_EXP_S, Revocations
from narthex.app.rpc import AguiMethods, BasicMethods, RunMethods, ThreadMethods
from narthex.app.run_followers import RunFollowers
from narthex.app.runs.engine import RunEngine, RunLimits
from narthex.app.runs.queue_watch import QueueWatch
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.app.staleness import StalenessCheck
from narthex.app.starting import RunStarter
from narthex.app.tasks import Tasks
from narthex.app.timers import TimerWheel
from narthex.app.traffic import Traffic
from narthex.app.user_traffic import UserTraffic
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.plans import PLANS, Plan, kept_since, plan_of
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.telemetry import Meter
from narthex.ports.tracing import NO_TRACING, Tracer
from narthex.protocol.session import LIFE_STEP_S, SessionLimits

MAX_COMMANDS: Final = (
    50_000  # under way on one node: at 2 kB a task about 100 MB; more are answered with error 111
)


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Plain values of the core.

    Attributes:
        version: the server's, for the reply to `connect`.
        limits: of docs/design.md#limits.
        plans: by name.
        run_limits: of every run.
        run_agents: whether agents run here; else processes of `narthex worker` run them.
        shared: whether other processes may share broker and store.
        settled_s: users must have been connected here for so long before this node claims runs that others accepted.
        direct_membership: tenants whose users are added to threads without an invitation.
        token_grace_s: how long a connection may outlive its token.
        after_exp_s: how long a token may still count somewhere after its `exp`: leeway and grace.
        max_life_s: of a socket before it is rotated; 0: no end.
        history_purge_every_s: between two rounds of the history limit.
    """

    version: str
    limits: Limits = Limits()
    plans: Mapping[str, Plan] = msgspec.field(default_factory=lambda: PLANS)
    run_limits: RunLimits = RunLimits()
    run_agents: bool = True
    shared: bool = True
    settled_s: float = 60.0
    direct_membership: tuple[str, ...] = ()
    token_grace_s: float = 25.0
    after_exp_s: float = AFTER_EXP_S
    max_life_s: float = 0.0
    history_purge_every_s: float = EVERY_S


class NodeCore:
    """See the module. Attributes are the public objects.

    Args:
        node: this node's id.
        config: plain values.
        broker: the engine's.
        store: likewise.
        agents: by name, the default first.
        meter: counts.
        report_bug: takes an unexpected exception and its trace id.
        tracer: makes spans of runs.
        clock: seconds since the epoch.
        monotonic: seconds, also within a turn of the loop.
        spread: randomness of a simulation, which must repeat itself.
    """

    def __init__(
        self,
        node: str,
        config: CoreConfig,
        *,
        broker: Broker,
        store: Store,
        agents: Mapping[str, Agent],
        meter: Meter,
        report_bug: Callable[[BaseException, str], None],
        tracer: Tracer = NO_TRACING,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        spread: random.Random | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        limits = config.limits

        def report(fault: BaseException) -> None:
            report_bug(fault, "")

        def kept() -> dict[str, float]:
            return kept_since(config.plans, clock())

        self.node = node
        self.config = config
        self.broker = broker = ControlLog(measured_broker(broker, meter))
        self.store = store = measured_store(store, meter)
        self.meter = meter
        self.clock = clock
        self.report_bug = report_bug
        self.tasks = Tasks("commands", MAX_COMMANDS, report)
        self.timers = TimerWheel(loop, report)
        self.traffic = Traffic(meter, self.timers.now)

        # Threads, messages, runs.
        self.limiter = ConnectionLimiter(limits, config.plans, meter)
        self.quotas = Quotas(self.plan, store.runs, store.memberships, self.limiter.of_user, clock, kept)
        notices = Notices(broker)
        self.chat = Chat(store, broker, notices, self.plan, clock, kept=kept)
        self.memberships = MembershipService(
            store, broker, notices, self.chat, self.plan, clock, direct=config.direct_membership, kept=kept
        )
        self.exports = ExportSlots(self.plan)
        self.registry = ConnectionRegistry[Connection]()
        user_traffic = UserTraffic(self.registry.has_users, loop.time, config.settled_s)
        deliveries = DeliveryTraces() if tracer.enabled else None
        self.worker_presence = WorkerPresence(broker, node, agents, meter, runs=config.run_agents)
        self.engine = RunEngine(
            broker=broker,
            store=store,
            agents=agents,
            node=node,
            now=clock,
            meter=meter,
            notify_members=self.chat.notify_members,
            say=self.chat.say,
            concurrent_runs=lambda identity: self.plan(identity).concurrent_runs,
            limits=config.run_limits,
            tracer=tracer,
            deliveries=deliveries,
            claims=config.run_agents,
            serves_users=lambda: not config.shared or user_traffic.serves_users(),
            presence=self.worker_presence,
        )
        self.starter = RunStarter(self.chat, self.engine, self.quotas)
        self.agui = AguiRequests(self.chat, self.engine, self.starter, store, broker)
        self.queue_watch = QueueWatch(store.runs, meter, clock)
        self.retention = Retention(
            store.threads, broker, config.plans, meter, clock=clock, every_s=config.history_purge_every_s
        )

        # Components that end live connections.
        self.revocations = Revocations(
            store.credentials, broker, records=store.records, clock=clock, after_exp_s=config.after_exp_s
        )
        self.enforcer = RevocationEnforcer(self.registry, self.revocations, loop)
        self.followers = RunFollowers(
            self.engine.running_channels, ChannelActivity(LIFE_STEP_S), self.timers.now
        )

        # Fan-out and subscriptions.
        self.controls = ControlDispatcher(meter)
        self.hub = Hub(
            broker,
            self.tasks,
            loop,
            HubLimits(),
            self.controls,
            self.controls.missed,
            partial(meter.count, "events_lost"),
            report,
            monotonic,
            traffic=self.traffic,
            watchers={} if deliveries is None else deliveries.watchers,
        )
        self.staleness = StalenessCheck(self.hub, broker, self.controls.behind)
        self.presence = LocalPresence(broker, self.tasks, meter)
        self.subscriptions = Subscriptions(
            hub=self.hub,
            broker=broker,
            chat=self.chat,
            presence=self.presence,
            meter=meter,
            fresh=self.staleness.fresh,
        )
        self.server_side = ServerSubscriptions(self.subscriptions, self.chat, self.presence)
        self.membership_audit = MembershipAudit(self.hub, self.subscriptions, self.tasks, store.threads)
        self.controls.on_missed(self.subscriptions.doubt)
        self.controls.on_missed(self.membership_audit.schedule)
        self.controls.on("run", self.engine.control)
        self.controls.on("runs_available", self.engine.control)
        self.controls.on("revoke", self.revocations.control)
        broker.on_lost(
            ConnectionControls(
                self.controls,
                self.registry,
                self.hub,
                self.subscriptions,
                self.server_side,
                self.membership_audit,
                self.tasks,
                meter,
            ).lost
        )

        # Shared by every connection, except for admission (`connections`).
        self.session_limits = SessionLimits(
            ping_every_s=limits.ping_interval_s,
            pong_within_s=limits.pong_timeout_s,
            silence_s=limits.inband_timeout_s,
            expiry_grace_s=config.token_grace_s,
            commands_per_s=limits.commands_per_s,
            command_burst=limits.commands_burst,
            json_depth=limits.max_json_depth,
        )
        self._pacing = Pacing(limits.ping_interval_s, config.max_life_s, spread)

    def plan(self, identity: Identity) -> Plan:
        """The plan whose limits hold for an identity."""
        return plan_of(identity, self.config.plans)

    def connections(
        self,
        in_band: InBandAuthenticator,
        traces: HandshakeTracer | None = None,
        records: ConnectionRecorder | None = None,
    ) -> Callable[[ConnectionContext], Connection]:
        """Returns the factory of connections for admitted handshakes.

        Args:
            in_band: admits by a token after the upgrade.
            traces: continues the traces that clients name then.
            records: records ends.
        """
        connecting = ConnectCommands(
            in_band=in_band,
            subscriptions=self.subscriptions,
            server_side=self.server_side,
            presence=self.presence,
            registry=self.registry,
            session_limits=self.session_limits,
            meter=self.meter,
            node=self.node,
            version=self.config.version,
            clock=self.clock,
            now=self.timers.now,
        )
        methods = {
            **BasicMethods(self.node, self.clock, self.quotas, self.engine.agents).methods(),
            **ThreadMethods(self.chat, self.memberships).methods(),
            **RunMethods(self.starter, self.engine.requests, self.quotas, traces).methods(),
            **AguiMethods(self.agui, self.engine).methods(),
        }
        rpc = RpcCommand(methods)
        runtime = ConnectionRuntime(
            handlers=handlers(connecting, self.subscriptions, ChannelCommands(self.broker, self.meter), rpc),
            timers=self.timers,
            tasks=self.tasks,
            hub=self.hub,
            presence=self.presence,
            registry=self.registry,
            meter=self.meter,
            traffic=self.traffic,
            commands=CommandMeter(self.meter, methods),
            session_limits=self.session_limits,
            backlog_limits=BacklogLimits(self.config.limits.max_pending_bytes, self.config.limits.max_lag_s),
            pacing=self._pacing,
            follows_run=self.followers.follows,
            report_bug=self.report_bug,
            traces=traces,
            records=records,
        )
        return partial(Connection, runtime)

    def lifecycle(
        self,
        before: list[Component],
        keys: list[Component],
        after: list[Component],
        *,
        grace_s: float,
        on_state: Callable[[LifecycleState], None],
    ) -> Lifecycle:
        """Start and drain of this core and of the components around it.

        Args:
            before: opened first.
            keys: opened after the engines and before anything of the core that needs credentials.
            after: opened last.
            grace_s: of a drain.
            on_state: takes every change.
        """
        components = [
            *before,
            Component("store", self.store.start, self.store.stop),
            Component("broker", partial(self.broker.start, self.hub, self.node), self.broker.stop),
            *keys,
            Component("revocations", self.revocations.start, self.revocations.stop),
            Component("staleness", self.staleness.start, self.staleness.stop),
            Component("rights", self.membership_audit.start, self.membership_audit.stop),
            Component("connections", close=self._stop_connections),
            Component("runs", self.engine.open, self.engine.close),
            Component("attendance", self.worker_presence.start, self.worker_presence.stop),
            Component("queue watch", self.queue_watch.start, self.queue_watch.stop),
            *after,
        ]
        return Lifecycle(
            components,
            self.registry,
            self.engine.drain,
            self.followers.of_this_node,
            grace_s=grace_s,
            on_state=on_state,
        )

    async def _stop_connections(self) -> None:
        self.enforcer.stop()
        self.timers.stop()
        self.hub.stop()
        await self.tasks.stop()
