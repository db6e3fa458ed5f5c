"""The app of one node, composed: every object made once, bound to the others, with plain values from settings.

Not here: HTTP routes (`web_application`), running it (`gateway`). Rules: made inside the running loop; nothing is
opened here (the lifecycle opens components); what a component needs it gets as an argument.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from narthex._version import __version__
from narthex.adapters.edge.echo import Echo
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.backlog import BacklogLimits
from narthex.app.channel_activity import ChannelActivity
from narthex.app.chat import Chat
from narthex.app.commands import HANDLERS
from narthex.app.connection import Connection
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.control_log import ControlLog
from narthex.app.controls import Controls
from narthex.app.credentials import CredentialVerifier
from narthex.app.e2e import Admissions, KeyProofs
from narthex.app.exports import ExportSlots
from narthex.app.handshake import HandshakeHandler
from narthex.app.hub import Hub, HubLimits
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.loop_lag import LoopLag
from narthex.app.loop_watch import LoopWatch
from narthex.app.membership_audit import MembershipAudit
from narthex.app.memberships import MembershipService
from narthex.app.notices import Notices
from narthex.app.quotas import Quotas
from narthex.app.retention import PurgeResult, Retention
from narthex.app.revocations import Revocations
from narthex.app.rpc import methods
from narthex.app.runs.engine import RunEngine
from narthex.app.services import ConnectionServices
from narthex.app.staleness import StalenessCheck
from narthex.app.tasks import Tasks
from narthex.app.timers import TimerWheel
from narthex.domain.admission import AdmissionPolicy
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.plans import Plan, kept_since, plan_of
from narthex.errors import NarthexError
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker, Control
from narthex.ports.credentials import Revocation
from narthex.ports.edge import Receiver
from narthex.ports.store import Store
from narthex.ports.tokens import TokenVerifier
from narthex.protocol.codes import FORCE_RECONNECT, REVOKED
from narthex.protocol.session import LIFE_STEP_S, SessionLimits
from narthex.settings import Settings
from narthex.wiring.agents import run_limits
from narthex.wiring.tokens import Tokens, make_tokens

MAX_COMMANDS = 50_000  # commands under way on one node: at 2 kB a task about 100 MB, then 111 is answered
DRAIN_AFTER_S = 0.1  # the answer to whoever asked leaves first
CLOSE_REVOKED_EVERY_S = (
    0.1  # looking at 20,000 sockets takes 10 ms: however many sign out at once, a tenth of the loop
)

log = get_logger("narthex.gateway")


class ConformanceEcho(Echo):
    """The raw echo of `/ws/conformance`, which releases its slot when it is gone."""

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__()
        self._context = context

    def closed(self, code: int, reason: str) -> None:
        """See `Receiver`."""
        super().closed(code, reason)
        self._context.release()


class Parts:
    """See the module. Attributes are the components' public objects."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        store: Store,
        agents: Mapping[str, Agent],
        *,
        verifier: TokenVerifier | None = None,
        debug: bool = False,
        limits: Limits | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.broker = ControlLog(broker)
        self.store = store
        self.node = f"{settings.platform or 'node'}-{uuid.uuid4().hex[:12]}"
        self.now = time.time
        self.limits = limits or settings.limits()
        self.tcp_connections: Callable[[], int] = lambda: 0  # the gateway sets it
        self.plans: Mapping[str, Plan] = settings.plan_table()
        self.meter = PrometheusMeter(version=__version__, environment=settings.environment)
        self.meter.gauge("auth_bypass_active", float(settings.policy.auth_bypass_active))
        self.tokens: Tokens = make_tokens(settings, store.credentials, self.meter, self.now)
        self.verifier: TokenVerifier = verifier or self.tokens.verifier
        self.revocations = Revocations(
            store.credentials,
            self.broker,
            records=store.records,
            clock=self.now,
            after_exp_s=settings.jwt_leeway_s + settings.token_grace_s,
        )
        self.tasks = Tasks("commands", MAX_COMMANDS, lambda fault: self.report_bug(fault, ""))
        self._closing_revoked: asyncio.TimerHandle | None = None
        self.timers = TimerWheel(loop, lambda fault: self.report_bug(fault, ""))
        self._make_door(debug=debug)
        self._make_chat(agents)
        self._make_connections(loop)
        self.lifecycle = self._make_lifecycle()
        self.stop_server: Callable[[], None] = lambda: None  # the gateway sets it once there is a server
        # one of several workers reports the command to its parent
        self.on_drain_command: Callable[[], None] = lambda: None

    # -- making --------------------------------------------------------------------------------------------

    def _make_door(self, *, debug: bool) -> None:
        settings = self.settings
        self.proofs = KeyProofs(
            settings.e2e_keys(), permissions=tuple(settings.e2e_permissions), meter=self.meter, clock=self.now
        )
        self._withdrawn: set[str] = set()  # names of our own keys that ended: a few a year
        self.credentials = CredentialVerifier(
            verifier=self.verifier,
            tickets=self.store.credentials,
            proofs=self.proofs,
            revocations=self.revocations,
            clock=self.now,
            withdrawn=self._withdrawn,
        )
        self.limiter = ConnectionLimiter(self.limits, self.plans, self.meter)
        self.admissions = Admissions(self.store.records, self.meter, self.now)
        self.policy = AdmissionPolicy.of(settings.policy, origins=settings.origins, hosts=settings.hosts)
        self.handshakes = HandshakeHandler(
            policy=self.policy,
            trusted=settings.proxies,
            credentials=self.credentials,
            limiter=self.limiter,
            admissions=self.admissions,
            meter=self.meter,
            state=self.state,
            new_receiver=self._connection,
            new_echo=ConformanceEcho if settings.policy.conformance else None,
            record=_debug_record if debug else None,
            report_bug=self.report_bug,
            clock=self.now,
            handshake_timeout_s=self.limits.handshake_timeout_s,
        )

    def _make_chat(self, agents: Mapping[str, Agent]) -> None:
        self.notices = Notices(self.broker)
        self.chat = Chat(
            self.store,
            self.broker,
            self.notices,
            self.plan,
            self.now,
            kept=lambda: kept_since(self.plans, self.now()),
        )
        self.exports = ExportSlots(self.plan)
        self.memberships = MembershipService(
            self.store,
            self.broker,
            self.notices,
            self.chat,
            self.plan,
            self.now,
            direct=self.settings.direct_membership,
            kept=lambda: kept_since(self.plans, self.now()),
        )
        self.retention = Retention(
            self.store.threads,
            self.broker,
            self.plans,
            self.meter,
            on_round=_history_purged,
            on_fault=_history_kept,
            clock=self.now,
            every_s=self.settings.history_purge_every_s,
        )
        self.engine = RunEngine(
            broker=self.broker,
            store=self.store,
            agents=agents,
            node=self.node,
            now=self.now,
            meter=self.meter,
            notify_members=self.chat.notify_members,
            concurrent_runs=lambda identity: self.plan(identity).concurrent_runs,
            limits=run_limits(self.settings),
            claims=self.settings.run_agents,
        )

    def _make_connections(self, loop: asyncio.AbstractEventLoop) -> None:
        limits = self.limits
        controls = Controls(
            self._connections_of,
            lambda _kind: self.meter.count("messages_ignored", reason="control"),
        )
        self.controls = controls
        self.hub = Hub(
            self.broker,
            self.tasks,
            loop,
            HubLimits(),
            controls,
            lambda count: self.meter.count("events_lost", count),
            lambda fault: self.report_bug(fault, ""),
        )
        self.services = ConnectionServices[Connection](
            node=self.node,
            version=f"{__version__} narthex",
            broker=self.broker,
            hub=self.hub,
            in_band=self.handshakes,
            meter=self.meter,
            timers=self.timers,
            tasks=self.tasks,
            session_limits=SessionLimits(
                ping_every_s=limits.ping_interval_s,
                pong_within_s=limits.pong_timeout_s,
                silence_s=limits.inband_timeout_s,
                expiry_grace_s=self.settings.token_grace_s,
                commands_per_s=limits.commands_per_s,
                command_burst=limits.commands_burst,
                json_depth=limits.max_json_depth,
            ),
            backlog_limits=BacklogLimits(limits.max_pending_bytes, limits.max_lag_s),
            now=self.now,
            report_bug=self.report_bug,
            max_life_s=self.settings.socket_life_s(),
        )
        self._activity = ChannelActivity(LIFE_STEP_S)
        self.services.follows_run = self._follows_run
        self.services.removals = lambda: controls.removals
        self.services.chat = self.chat
        self.services.memberships = self.memberships
        self.services.engine = self.engine
        self.services.handlers = HANDLERS
        self.services.methods = methods()
        self.services.quotas = Quotas(
            self.plan, self.store.runs, self.store.memberships, self.limiter.of_user, self.now
        )
        controls.bind(self.hub)
        membership_audit = self.membership_audit = MembershipAudit(self.hub, self.tasks, self.store.threads)

        def missed() -> None:
            controls.missed()
            membership_audit.schedule()

        def behind(channels: int) -> None:
            self.meter.count("channels_behind", channels)
            missed()

        def control_lost() -> None:
            """Nobody knows who was to be disconnected: everybody comes back and is judged again."""
            missed()
            for connection in self.services.registry:
                connection.close(FORCE_RECONNECT)

        self.hub.on_resync = missed
        controls.on_late_removal = membership_audit.schedule
        self.broker.on_lost(control_lost)
        self.staleness = StalenessCheck(self.hub, self.broker, behind)
        self.services.fresh = self.staleness.fresh
        controls.on("run", self.engine.control)
        controls.on("runs_available", self.engine.control)
        controls.on("drain", lambda _: self._drain_on_command())
        controls.on("revoke", self.revocations.control)
        self.revocations.listen(self._revoked)
        for ring in (self.tokens.provider_keys, self.tokens.e2e_keys):
            if ring is not None:
                ring.on_withdrawn = self._close_signed_by

    def _make_lifecycle(self) -> Lifecycle:
        async def nothing() -> None:
            return None

        async def stop_connections() -> None:
            if self._closing_revoked is not None:
                self._closing_revoked.cancel()
            self.timers.stop()
            self.hub.stop()
            await self.tasks.stop()

        async def stop_tokens() -> None:
            await self.verifier.stop()
            await self.tokens.fetcher.stop()

        lag, watch = LoopLag(self.meter), LoopWatch(self.meter)
        components = [
            Component("loop lag", lag.start, lag.stop),
            Component("loop watch", watch.start, watch.stop),
            Component("store", self.store.start, self.store.stop),
            Component("broker", lambda: self.broker.start(self.hub, self.node), self.broker.stop),
            Component("tokens", self.verifier.start, stop_tokens),
            Component("revocations", self.revocations.start, self.revocations.stop),
            Component("staleness", self.staleness.start, self.staleness.stop),
            Component("rights", self.membership_audit.start, self.membership_audit.stop),
            Component("connections", nothing, stop_connections),
            Component("runs", self.engine.open, self.engine.close),
            Component("retention", self.retention.start, self.retention.stop),
        ]
        return Lifecycle(
            components,
            self.services.registry,
            self.engine.drain,
            self._busy,
            grace_s=self.settings.drain_grace_s * 0.78,  # the edge keeps 0.2 for its own closes and the exit
            on_state=lambda state: log.info("state", state=state.value, node=self.node),
        )

    # -- what components ask back -------------------------------------------------------------------------------

    def state(self) -> str:
        """The lifecycle's state; `starting` until there is one."""
        lifecycle: Lifecycle | None = getattr(self, "lifecycle", None)
        return lifecycle.state.value if lifecycle is not None else LifecycleState.STARTING.value

    async def drain_node(self, node: str) -> None:
        """Drain this node (empty), another by its id, or all (`*`), as SIGTERM does."""
        if node in ("", self.node):
            asyncio.get_running_loop().call_later(DRAIN_AFTER_S, self._drain_on_command)
        else:
            await self.broker.control(Control("drain", {}, "" if node == "*" else node))

    def _drain_on_command(self) -> None:
        self.on_drain_command()
        self.stop_server()

    def plan(self, identity: Identity) -> Plan:
        """The plan whose limits hold for somebody."""
        return plan_of(identity, self.plans)

    def report_bug(self, fault: BaseException, trace_id: str) -> None:
        """An unexpected exception: counted, logged with its trace id."""
        self.meter.count("bugs", where="gateway")
        log.error("bug", exc_info=fault, trace_id=trace_id)

    def _connection(self, context: ConnectionContext) -> Receiver:
        return Connection(self.services, context)

    def _connections_of(self, user: str) -> list[Connection]:
        return self.services.registry.of_user(user)

    def _follows_run(self, connection: Connection) -> bool:
        """A run that goes on here, or maybe elsewhere: one of its threads moves."""
        now = self.timers.now()
        channels = [one.channel for one in connection.subscriptions.values() if not one.server_side]
        moving = [self._activity.may_be_active(channel.key, channel.last, now) for channel in channels]
        return any(moving) or self._busy()(connection)

    def _busy(self) -> Callable[[Connection], bool]:
        running = self.engine.running_channels()  # once for everybody who is asked about
        return lambda connection: any(
            item.channel.key in running for item in connection.subscriptions.values()
        )

    def _revoked(self, _: Sequence[Revocation]) -> None:
        if self._closing_revoked is None:
            loop = asyncio.get_running_loop()
            self._closing_revoked = loop.call_later(CLOSE_REVOKED_EVERY_S, self._close_revoked)

    def _close_signed_by(self, keys: frozenset[str]) -> None:
        """A key was withdrawn (it leaked): whom it admitted comes back and is judged again, or stays away."""
        self._withdrawn |= keys
        for connection in self.services.registry:
            if connection.context.key_id in keys:
                connection.close(FORCE_RECONNECT)

    def _close_revoked(self) -> None:
        """Close what is covered now: every live socket is asked, because a jti names no user."""
        self._closing_revoked = None
        disconnect = REVOKED
        for connection in self.services.registry:
            # The seed's: whoever was admitted and has not said `connect` yet must not do so with a revoked token.
            identity = connection.identity or connection.context.identity
            if identity is not None and self.revocations.covers(identity):
                connection.close(disconnect)


def _debug_record(record: Mapping[str, object]) -> None:
    members: dict[str, Any] = dict(record)
    log.debug(members.pop("event"), **members)


def _history_purged(done: PurgeResult) -> None:
    log.info("history purged", **msgspec.to_builtins(done))


def _history_kept(fault: BaseException) -> None:
    """What is past its limit stays for now; reads go on leaving it out."""
    if isinstance(fault, NarthexError):
        log.warning("history not purged", code=fault.code, detail=fault.message, remedy=fault.remedy)
    else:
        log.error("bug", where="retention", exc_info=fault)
