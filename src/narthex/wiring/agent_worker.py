"""`narthex worker`: a process that runs agents and serves no clients, apart from the gateways.

    gateways (NARTHEX_RUN_AGENTS=0) ──▶ store: queued runs ──claim──▶ worker ──▶ broker: events ──▶ gateways

Not here: executing runs (`app/runs`), gateways (`gateway`). Rules: it needs engines that processes can share; its
port serves only its health and its metrics; SIGTERM drains it as it does a gateway; its death
costs at most the current attempt of its runs, whose leases run out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from starlette.applications import Starlette

from narthex._version import __version__
from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import run
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.certificate_watch import CertificateWatch
from narthex.app.chat import Chat
from narthex.app.control_log import ControlLog
from narthex.app.engine_meter import measured_broker, measured_store
from narthex.app.health import agents_check, ping_check
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.loop_lag import LoopLag
from narthex.app.loop_watch import LoopWatch
from narthex.app.notices import Notices
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.app.staleness import StalenessCheck
from narthex.domain.identity import Identity
from narthex.domain.plans import Plan, plan_of
from narthex.errors import ConfigError
from narthex.ports.agents import Agent
from narthex.ports.broker import Control, Member, Position, Publication
from narthex.settings import Settings
from narthex.wiring.agents import load_agents, run_limits
from narthex.wiring.engines import make_broker, make_store
from narthex.wiring.fleet import FLEET_KINDS, Fleet
from narthex.wiring.gauges import WorkerGauges
from narthex.wiring.server_process import (
    NoUpgrades,
    ServerProcess,
    make_edge,
    make_health,
    open_listeners,
    probe_pages,
)
from narthex.wiring.tracing import make_tracer

CONNECTIONS: Final = 100  # probes and scrapers are the port's only clients
RUNS_SHARE: Final = 0.9  # of the drain's grace that the lifecycle gets; half of that is the runs' own

log = get_logger("narthex.worker")


class ControlHandler:
    """`ports.broker.BrokerHandler` of a process without subscribers: it handles control messages only.

    Args:
        engine: takes messages about runs.
        stop: called when this node is to drain.
        fleet: takes messages about the fleet.
    """

    def __init__(
        self,
        engine: RunEngine,
        stop: Callable[[], None],
        fleet: Callable[[Control], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._stop = stop
        self._fleet = fleet

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """Not subscribed to anything."""

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        """Not subscribed to anything."""

    def resync(self, channels: list[str] | None) -> None:
        """Nothing was missed: the worker finds runs in the store."""

    def positions(self) -> Mapping[str, Position]:
        """Of `app.staleness.Followed`: the control log is followed for it."""
        return {}

    def behind(self, known: Mapping[str, Position], ends: Mapping[str, Position]) -> list[str]:  # noqa: ARG002
        """Of `app.staleness.Followed`."""
        return []

    def control(self, message: Control) -> None:
        """See the port."""
        if message.kind == "drain":
            self._stop()
        elif message.kind in FLEET_KINDS:
            self._fleet(message)
        else:
            self._engine.control(message)


class AgentWorker:
    """One worker, made inside the running loop; `process` serves it. `settings` come from `narthex.settings.load`.

    Args:
        settings: validated.
        on_ready: called with the URL of the worker's port once it claims runs.

    Raises:
        ConfigError: it would share neither runs nor events with a gateway, an agent does not load, or the address
            cannot be bound.
    """

    def __init__(self, settings: Settings, on_ready: Callable[[str], None]) -> None:
        if not settings.broker_url or not settings.store_url:
            raise ConfigError([_UNSHARED])
        self.settings = settings
        self.node = f"worker-{uuid.uuid4().hex[:12]}"
        self.meter = PrometheusMeter(version=__version__, environment=settings.environment)
        broker, store = make_broker(settings), make_store(settings)
        self.broker = ControlLog(measured_broker(broker, self.meter))
        self.store = measured_store(store, self.meter)
        self._certificates = CertificateWatch({"broker": broker, "store": store}, self.meter)
        self.tracer, self._traces = make_tracer(settings, self.meter)
        agents = load_agents(settings, self._facts)
        self.presence = WorkerPresence(self.broker, self.node, agents, self.meter)
        self.engine = self._make_engine(agents, settings.plan_table())
        self.fleet = Fleet(
            self.node,
            kind="worker",
            environment=settings.environment,
            meter=self.meter,
            state=lambda: lifecycle.state.value,
            broker=self.broker,
            store=self.store,
        )
        lifecycle = self._make_lifecycle()
        gauges = WorkerGauges(
            self.engine, run_limits(settings), self.broker, lambda: lifecycle.state, broker, store
        )
        self.meter.read_from(gauges.readings)
        checks = {
            "broker": ping_check(self.broker.ping),
            "store": ping_check(self.store.ping),
            "agents": agents_check(self.engine.agents.values(), self.engine.missing_agents),
        }
        self.health = make_health(settings, checks, lifecycle, self.meter, log)
        pages = probe_pages(settings, self.health, self.meter, lambda: {"runs": self.engine.active})
        self.process = ServerProcess(
            Starlette(routes=pages.routes()),
            make_edge(
                settings,
                EdgeLimits(connections=CONNECTIONS, connections_per_address=CONNECTIONS),
                NoUpgrades(log),
                HeadRules(allowed_host=lambda _: True, websocket_paths=frozenset()),
            ),
            lifecycle,
            open_listeners(settings),
            grace_s=settings.drain_grace_s,
            log=log,
            on_ready=lambda urls: on_ready(urls[0]),
        )

    def _make_engine(self, agents: Mapping[str, Agent], plans: Mapping[str, Plan]) -> RunEngine:
        def plan(identity: Identity) -> Plan:
            return plan_of(identity, plans)

        chat = Chat(self.store, self.broker, Notices(self.broker), plan, time.time)
        return RunEngine(
            broker=self.broker,
            store=self.store,
            agents=agents,
            node=self.node,
            now=time.time,
            meter=self.meter,
            notify_members=chat.notify_members,
            say=chat.say,
            concurrent_runs=lambda identity: plan(identity).concurrent_runs,
            limits=run_limits(self.settings),
            tracer=self.tracer,
            presence=self.presence,
        )

    def _make_lifecycle(self) -> Lifecycle:
        lag, watch = LoopLag(self.meter), LoopWatch(self.meter)
        handler = ControlHandler(self.engine, self._drain, self.fleet.control)
        staleness = StalenessCheck(handler, self.broker)
        return Lifecycle(
            [
                *self._traces,
                Component("loop lag", lag.start, lag.stop),
                Component("loop watch", watch.start, watch.stop),
                Component("store", self.store.start, self.store.stop),
                Component("broker", lambda: self.broker.start(handler, self.node), self.broker.stop),
                Component("staleness", staleness.start, staleness.stop),
                Component("runs", self.engine.open, self.engine.close),
                Component("attendance", self.presence.start, self.presence.stop),
                Component("certificates", self._certificates.start, self._certificates.stop),
                *self.fleet.components(),
            ],
            drain_runs=self.engine.drain,
            grace_s=self.settings.drain_grace_s * RUNS_SHARE,
            on_state=self._entered,
        )

    def _entered(self, state: LifecycleState) -> None:
        log.info("state", state=state.value, node=self.node)
        self.fleet.publisher.wake()

    def _drain(self) -> None:
        self.process.stop()

    async def _facts(self) -> Mapping[str, object]:
        """Health, for the concierge's tool."""
        return await self.health.report()


_UNSHARED: Final = (
    "A worker shares broker and store with the gateways, and SQLite in a data directory belongs to one process. Set "
    "NARTHEX_BROKER_URL (nats:// or redis://) and NARTHEX_STORE_URL (postgresql://), "
    "the same as the gateways'."
)


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Run agents until SIGTERM or SIGINT.

    Args:
        settings: validated.
        on_ready: called with the URL of the worker's port once it claims runs.

    Raises:
        ConfigError: see `AgentWorker`; the address cannot be bound.
    """

    async def serve() -> None:
        await AgentWorker(settings, on_ready).process.serve()

    run(serve())
