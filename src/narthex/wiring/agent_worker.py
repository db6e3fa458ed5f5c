"""`narthex worker`: a process that runs agents and serves no clients, apart from the gateways.

    gateways (NARTHEX_RUN_AGENTS=0) ──▶ store: queued runs ──claim──▶ worker ──▶ broker: events ──▶ gateways

Not here: executing runs (`app/runs`), gateways (`gateway`). Rules: it needs engines that processes can share; its
port serves only its health and its metrics; SIGTERM drains it as it does a gateway; its death
costs at most the current attempt of its runs, whose leases run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from narthex._version import __version__
from narthex.adapters.edge.server import listen, run
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import CONTENT_TYPE, PrometheusMeter
from narthex.app.chat import Chat
from narthex.app.control_log import ControlLog
from narthex.app.health import CheckResult, Health, HealthFacts, agents_check, ping_check
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.loop_watch import LoopWatch
from narthex.app.notices import Notices
from narthex.app.registry import ConnectionRegistry
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.app.staleness import StalenessCheck
from narthex.domain.identity import Identity
from narthex.domain.plans import Plan, plan_of
from narthex.domain.refusals import Refusal
from narthex.errors import ConfigError
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker, Control, Member, Position, Publication
from narthex.ports.store import Store
from narthex.settings import Settings
from narthex.web.access import Access
from narthex.web.problems import NO_STORE, problem, trace_id_for
from narthex.wiring.agents import load_agents, run_limits
from narthex.wiring.engines import make_broker, make_store
from narthex.wiring.retries import until_started

RUNS_SHARE: Final = 0.9  # of the drain's grace that the lifecycle gets; half of that is the runs' own

log = get_logger("narthex.worker")


class ControlHandler:
    """`ports.broker.BrokerHandler` of a process without subscribers: it handles control messages only.

    Args:
        engine: takes messages about runs.
        stop: called when this node is to drain.
    """

    def __init__(self, engine: RunEngine, stop: Callable[[], None]) -> None:
        self._engine = engine
        self._stop = stop

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
        else:
            self._engine.control(message)


class AgentWorker:
    """One worker, made inside the running loop. `settings` come from `narthex.settings.load`.

    Args:
        settings: validated.
        agents: by name; None: those of the settings, else the concierge.
        broker: instead of the configured one (tests).
        store: likewise.

    Raises:
        ConfigError: it would share neither runs nor events with a gateway, or an agent does not load.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agents: Mapping[str, Agent] | None = None,
        broker: Broker | None = None,
        store: Store | None = None,
    ) -> None:
        if (broker is None and not settings.broker_url) or (store is None and not settings.store_url):
            raise ConfigError([_UNSHARED])
        self.settings = settings
        self.broker = ControlLog(broker or make_broker(settings))
        self.store = store or make_store(settings)
        self.node = f"worker-{uuid.uuid4().hex[:12]}"
        self.meter = PrometheusMeter(version=__version__, environment=settings.environment)
        self.engine = self._make_engine(
            agents if agents is not None else load_agents(settings, self._facts), settings.plan_table()
        )
        self.stopping = asyncio.Event()
        self.lifecycle = self._make_lifecycle()
        self.health = self._make_health()
        self._access = Access(
            settings.admin_keys(), _refuse_users, _peer, time.time, metrics_tokens=settings.metrics_tokens()
        )
        self.app = Starlette(
            routes=[
                Route("/livez", self._livez, methods=["GET", "HEAD"]),
                Route("/readyz", self._readyz, methods=["GET", "HEAD"]),
                Route("/metrics", self._metrics, methods=["GET", "HEAD"]),
            ]
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
            concurrent_runs=lambda identity: plan(identity).concurrent_runs,
            limits=run_limits(self.settings),
        )

    def _make_lifecycle(self) -> Lifecycle:
        watch = LoopWatch(self.meter)
        handler = ControlHandler(self.engine, self.stopping.set)
        staleness = StalenessCheck(handler, self.broker)
        presence = WorkerPresence(self.broker, self.node, self.engine.agents, self.meter)
        return Lifecycle(
            [
                Component("loop watch", watch.start, watch.stop),
                Component("store", self.store.start, self.store.stop),
                Component("broker", lambda: self.broker.start(handler, self.node), self.broker.stop),
                Component("staleness", staleness.start, staleness.stop),
                Component("runs", self.engine.open, self.engine.close),
                Component("attendance", presence.start, presence.stop),
            ],
            ConnectionRegistry(),
            self.engine.drain,
            lambda: lambda _: False,
            grace_s=self.settings.drain_grace_s * RUNS_SHARE,
            on_state=lambda state: log.info("state", state=state.value, node=self.node),
        )

    def _make_health(self) -> Health:
        policy = self.settings.policy
        return Health(
            {
                "broker": ping_check(self.broker.ping),
                "store": ping_check(self.store.ping),
                "agents": agents_check(self.engine.agents.values()),
            },
            HealthFacts(
                version=__version__, policy=policy, config={}, show_causes=not policy.environment.remote
            ),
            numbers=self.meter.numbers,
            state=lambda: self.lifecycle.state.value,
            fault=lambda: self.lifecycle.fault,
            meter=self.meter,
            on_change=_health_changed,
        )

    # -- life ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open everything, trying again while an engine is down; drain and close at the end."""
        try:
            await self._start()
            yield
            if self.lifecycle.state is LifecycleState.READY:
                await self.lifecycle.drain()
        finally:
            await self.health.stop()
            await self.lifecycle.stop()

    async def _start(self) -> None:
        await until_started(self.lifecycle.start, log, self.stopping)

    # -- the port ------------------------------------------------------------------------------------------

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        missing = [name for name in await self.health.ready() if name != "auth"]
        if missing:
            return JSONResponse({"status": "not ready", "reasons": missing}, 503, {"Retry-After": "2"})
        return JSONResponse({"status": "ready", "runs": self.engine.active})

    async def _metrics(self, request: Request) -> Response:
        refusal = self._access.scraper(request)
        if refusal is not None:
            return problem(refusal, trace_id_for(request))
        return Response(self.meter.render(), media_type=CONTENT_TYPE, headers=NO_STORE)

    async def _facts(self) -> Mapping[str, object]:
        """Health, for the concierge's tool."""
        return await self.health.report()


_UNSHARED: Final = (
    "A worker runs what gateways accept, so it needs engines that it shares with them: SQLite in a data directory "
    "is one process's own. Set NARTHEX_BROKER_URL (nats:// or redis://) and NARTHEX_STORE_URL (postgresql://), "
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
    run(_serve(settings, on_ready))


async def _serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    worker = AgentWorker(settings)
    listeners = listen(settings.host, settings.port)
    server = _ProbeServer(_config(worker.app))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stopping.set)
    serving = loop.create_task(server.serve(sockets=listeners), name="worker port")
    try:
        async with worker.running():
            if not worker.stopping.is_set():
                on_ready(_url(listeners[0]))
            await worker.stopping.wait()
    finally:
        server.should_exit = True
        await serving


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=16 * 1024,
        limit_concurrency=100,  # probes and scrapers are its only clients
    )


class _ProbeServer(uvicorn.Server):
    """Leaves the signals to the worker, which drains first and answers probes meanwhile."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _refuse_users(_: Request) -> Identity | Refusal:
    """A worker's port has no users."""
    return Refusal(code="auth_required")


def _peer(request: Request) -> str:
    """The peer's address: no proxy in front of a worker's port is trusted."""
    return request.client.host if request.client else ""


def _health_changed(name: str, result: CheckResult, cause: BaseException | None) -> None:
    level = log.info if result.status == "healthy" else log.warning
    level("health", check=name, status=result.status, detail=result.detail, exc_info=cause)
