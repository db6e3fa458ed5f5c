"""One shell for every server process (gateway, worker, auth service): its port, its start, its drain and its end.

    edge = make_edge(settings, edge_limits(settings, fitted), NoUpgrades(log), HeadRules(…))
    process = ServerProcess(app, edge, lifecycle, listen(host, port), grace_s=settings.drain_grace_s, log=log)
    run(process.serve())

Not here: what a process consists of (its lifecycle's components, its application). Rules: the port is open from the
first moment and the application answers that it is starting; a component whose engine does not answer is tried again,
and each cause is logged once; any other error of a component ends the process and is raised; a signal, or `stop`,
drains within the grace while the port is open; everything opened is closed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute

from narthex._version import __version__
from narthex.adapters.edge.connections import Evicted
from narthex.adapters.edge.edge import Edge, EdgeUpgradeHandler
from narthex.adapters.edge.limits import EdgeLimits, MessageLimits
from narthex.adapters.edge.listeners import inherit, listen, listen_unix, url_of
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import EdgeServer
from narthex.adapters.systemd import SystemdNotifier, activated_descriptor
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.buffers import buffer_readings
from narthex.app.connection_record import ConnectionRecorder
from narthex.app.handshake_record import Record
from narthex.app.health import CRITICAL, Check, CheckFailed, CheckResult, Health
from narthex.app.lifecycle import Component, Lifecycle
from narthex.app.periodic import Periodic
from narthex.app.rates import MAX_KEYS, Rates
from narthex.domain.addresses import TrustedProxies, client_of
from narthex.domain.descriptors import Capacity
from narthex.domain.environment import EnvironmentPolicy
from narthex.domain.limits import Limits
from narthex.domain.refusals import Refusal
from narthex.errors import Damaged, DependencyError
from narthex.ports.edge import Deny, RequestHead
from narthex.settings import Settings
from narthex.web.access import Access
from narthex.web.health import ProbePages
from narthex.web.rates import ADDRESS_SHARE, AddressRates
from narthex.web.request_rules import RequestRules
from narthex.wiring.secret_renewal import secret_renewal

if TYPE_CHECKING:
    from uvicorn._types import ASGIApplication

SCRAPERS: Final = 64  # connections of the metrics port: some Prometheus servers and probes
FLUSH_EVERY_S: Final = 1.0  # 60 gauges and what was counted: 0.1 ms
FIRST_S: Final = 0.25
LAST_S: Final = 1.0
"""Bounds of the wait between two tries, with full jitter below: an engine that comes late is used within a second."""


class ServerProcess:
    """A server process; see the module. Made inside the running loop; serves once.

    Args:
        app: the web application; it gets every request that is no upgrade.
        edge: the process's; see `make_edge`.
        lifecycle: opens and closes everything behind the port.
        listeners: bound, not yet listening; closed at the end.
        grace_s: from the signal to the end of the process.
        log: a structlog logger: gets the cause of each failed start once.
        on_ready: called with the listeners' URLs once the port is open and every component is.
        own_signals: SIGTERM and SIGINT drain; off inside another program's loop, which calls `stop`.
    """

    def __init__(
        self,
        app: Starlette,
        edge: Edge,
        lifecycle: Lifecycle,
        listeners: list[socket.socket],
        *,
        grace_s: float,
        log: Any,
        on_ready: Callable[[list[str]], None] = lambda _urls: None,
        own_signals: bool = True,
    ) -> None:
        self._lifecycle = lifecycle
        self._listeners = listeners
        self._log = log
        self._on_ready = on_ready
        self._notifier = SystemdNotifier.take(os.environ) if own_signals else SystemdNotifier()
        self._urls: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._server = EdgeServer(
            cast("ASGIApplication", app),  # Starlette's own types are wider than uvicorn's
            edge,
            drain=self._drain,
            on_started=self._urls.set_result,
            grace_s=grace_s,
            lifespan="off",
            own_signals=own_signals,
        )

    async def serve(self) -> bool:
        """Serve until a signal or `stop`, drain, close. Returns whether the end was in order.

        Raises:
            ConfigError, Damaged: a component could not be opened, and no later try would succeed.
        """
        async with self._starting():
            await self._server.serve(sockets=self._listeners)
        return not self._server.forced

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve beside the caller; yields the first URL once ready, and drains at the end. Raises as `serve`."""
        async with self._starting() as starting:
            serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=self._listeners))
            try:
                await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
                if starting.done() and _started_well(starting):
                    yield self._urls.result()[0]
            finally:
                self._server.stop()
                await serving

    def stop(self) -> None:
        """Begin to drain, unless a drain has begun."""
        self._server.stop_once()

    @contextlib.asynccontextmanager
    async def _starting(self) -> AsyncIterator[asyncio.Task[None]]:
        """Open the components in the background; close them at the end, and raise why they could not be opened."""
        starting = asyncio.get_running_loop().create_task(self._start(), name="narthex start")
        starting.add_done_callback(lambda task: None if _started_well(task) else self._server.stop())
        beating = asyncio.get_running_loop().create_task(self._beat(), name="narthex watchdog")
        try:
            yield starting
        finally:
            beating.cancel()
            starting.cancel()
            outcome = (await asyncio.gather(starting, return_exceptions=True))[0]
            await self._lifecycle.stop()
        if isinstance(outcome, Exception):
            raise outcome

    async def _start(self) -> None:
        await open_components(self._lifecycle, self._log)
        urls = await self._urls
        if not self._server.stopping:
            self._notifier.ready()
            self._on_ready(urls)

    async def _drain(self) -> None:
        self._notifier.stopping()
        await self._lifecycle.drain()

    async def _beat(self) -> None:
        """Keep systemd's watchdog quiet for as long as the loop runs, from the start to the end of the drain."""
        while self._notifier.watchdog_s:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s / 3)


async def open_components(lifecycle: Lifecycle, log: Any) -> None:
    """Open the components, those that are not open yet again and again while an engine does not answer.

    Raises:
        Damaged, ConfigError: no later try would succeed.
    """
    delay_s, logged = FIRST_S, ""
    while True:
        try:
            return await lifecycle.start()
        except Damaged:
            raise
        except DependencyError as fault:
            if fault.message != logged:
                log.warning("start", code=fault.code, detail=fault.message, remedy=fault.remedy)
                logged = fault.message
        await asyncio.sleep(delay_s * random.random())  # noqa: S311 - jitter guards nothing
        delay_s = min(delay_s * 2, LAST_S)


def _started_well(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is None


def open_listeners(
    settings: Settings, *, reuse_port: bool = False, send_buffer_bytes: int = 0
) -> list[socket.socket]:
    """The sockets that the settings ask for, bound: `fd`, else `uds`, else that of a socket unit, else host and port.
    Raises ConfigError.
    """
    descriptor = settings.fd
    if descriptor is None and settings.uds is None:
        descriptor = activated_descriptor(os.environ)
    if descriptor is not None:
        local = not settings.policy.environment.remote and not settings.allow_remote_development
        return inherit(descriptor, loopback_only=local, send_buffer_bytes=send_buffer_bytes)
    if settings.uds is not None:
        return listen_unix(settings.uds, send_buffer_bytes=send_buffer_bytes)
    return listen(settings.host, settings.port, reuse_port=reuse_port, send_buffer_bytes=send_buffer_bytes)


class NoUpgrades:
    """`ports.edge.UpgradeHandler` of a process without WebSockets. `log` gets the edge's refusals, at debug."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def decide(self, head: RequestHead) -> Deny:
        """See the port."""
        refusal = Refusal(code="no_route", detail="No WebSocket is at this path.")
        return Deny(refusal=refusal, trace_id=self.refused_early(refusal, head))

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:  # noqa: ARG002
        """See the port."""
        trace_id = secrets.token_hex(16)
        self._log.debug("refused", code=refusal.code, detail=refusal.detail, trace_id=trace_id)
        return trace_id


def make_edge(
    settings: Settings,
    limits: EdgeLimits,
    handler: EdgeUpgradeHandler,
    rules: HeadRules,
    evicted: Evicted = lambda _reason, _key, _count: None,
) -> Edge:
    """The edge of a process; only the proxies that the settings trust may name a client's address."""
    return Edge(
        handler,
        rules=rules,
        limits=limits,
        proxied=settings.proxies.proxied,
        forwarded=None if settings.proxies.none else partial(_forwarded, settings.proxies),
        evicted=evicted,
        root_path=settings.root_path,
    )


def _forwarded(trusted: TrustedProxies, head: RequestHead) -> str:
    """The client's address of a request that came through a trusted proxy."""
    forwarded_for = head.all("x-forwarded-for")
    return client_of(head.peer[0], head.secure, forwarded_for, (), trusted).address


def edge_limits(settings: Settings, fitted: Capacity) -> EdgeLimits:
    """The edge's bounds as the settings and the machine have them."""
    limits = fitted.limits
    return EdgeLimits(
        handshake_s=limits.handshake_timeout_s,
        head_bytes=limits.max_head_bytes,
        headers=limits.max_headers,
        keep_alive_s=limits.keep_alive_s,
        connections=fitted.tcp,
        connections_per_address=fitted.tcp_per_address,
        app=MessageLimits(
            message_bytes=limits.max_message_bytes,
            fragments=limits.max_fragments,
            inflated_ratio=limits.max_inflation_ratio,
            inflated_bytes=limits.max_inflated_bytes,
            control_per_s=int(limits.control_frames_per_s),
            deflate=settings.deflate,
        ),
    )


def make_health(
    settings: Settings,
    checks: dict[str, Check],
    lifecycle: Lifecycle,
    meter: PrometheusMeter,
    log: Any,
    *,
    config: dict[str, object] | None = None,
    critical: Sequence[str] = (),
    policy: EnvironmentPolicy | None = None,
) -> Health:
    """Health of a process, also on the metrics port where the settings name one.

    Args:
        settings: validated.
        checks: by name.
        lifecycle: of the process: gives the state, and ends the checks.
        meter: of the process.
        log: a structlog logger: gets each change of a check's status.
        config: of the process, see `Health`.
        critical: names of checks whose failure is `unhealthy`, besides `app.health.CRITICAL`.
        policy: the environment's row as it holds here; None: that of the settings.
    """

    def changed(name: str, result: CheckResult, cause: BaseException | None) -> None:
        level = log.info if result.status == "healthy" else log.warning
        # The sentence of a failed check is its detail; where it came from shows nothing more.
        shown = cause.__cause__ if isinstance(cause, CheckFailed) else cause
        level("health", check=name, status=result.status, detail=result.detail, exc_info=shown)

    health = Health(
        checks,
        version=__version__,
        policy=policy or settings.policy,
        config=config or {},
        show_causes=not settings.policy.environment.remote,
        critical=CRITICAL.union(critical),
        numbers=meter.numbers,
        fault=lambda: lifecycle.fault,
        state=lambda: lifecycle.state.value,
        meter=meter,
        on_change=changed,
    )
    lifecycle.add([Component("health", health.start, health.stop)])
    lifecycle.add(metrics_port(settings, health, meter, log), first=True)
    lifecycle.add(secret_renewal(settings, log))
    return health


def probe_pages(
    settings: Settings,
    health: Health,
    meter: PrometheusMeter,
    details: Callable[[], Mapping[str, object]] = dict,
) -> ProbePages:
    """`/livez`, `/readyz` and `/metrics` of a process without users of its own; `details`: see `ProbePages`."""
    rules = RequestRules(settings.proxies, settings.origins, settings.public_url)
    access = Access(
        settings.admin_keys(),
        _refuse_users,
        rules.address,
        time.time,
        metrics_tokens=settings.metrics_tokens(),
        trusted_scraper=trusted_scraper(settings, rules),
        origin=rules.origin_refusal,
    )
    return ProbePages(health, metrics=meter.scraped, access=access, details=details)


def address_rates(
    limits: Limits, rules: RequestRules, meter: PrometheusMeter, foreign: Sequence[BaseRoute] = ()
) -> Middleware:
    """The limit of HTTP requests of one address, in front of every route; `foreign`: see `AddressRates`."""
    rates = Rates(limits.http_requests_per_s * ADDRESS_SHARE, limits.http_requests_burst * ADDRESS_SHARE)
    meter.read_from(partial(buffer_readings, [("http_address_rate_table", rates.__len__, MAX_KEYS)]))
    return Middleware(
        AddressRates,
        rates=rates,
        rules=rules,
        foreign=foreign,
        refused=partial(meter.count, "http_rate_limited", by="address"),
    )


def user_rates(limits: Limits, meter: PrometheusMeter) -> Rates:
    """The limit of HTTP requests of one user."""
    rates = Rates(limits.http_requests_per_s, limits.http_requests_burst)
    meter.read_from(partial(buffer_readings, [("http_user_rate_table", rates.__len__, MAX_KEYS)]))
    return rates


def handshake_writer(settings: Settings, log: Any) -> Record | None:
    """The writer of handshake records: at info with the access log, else at debug; None where none are written."""
    if not settings.access_log and settings.log_level != "debug":
        return None
    level = log.info if settings.access_log else log.debug

    def write(record: Mapping[str, object]) -> None:
        members: dict[str, Any] = dict(record)
        level(members.pop("event"), **members)

    return write


def connection_recorder(write: Record | None) -> ConnectionRecorder | None:
    """Records ends with the writer of handshakes."""
    return None if write is None else ConnectionRecorder(write)


def trusted_scraper(settings: Settings, rules: RequestRules) -> Callable[[Request], bool]:
    """Whether a request needs no token for `/metrics`: `trusted_scrapers`, and this machine while no token is set."""
    return partial(rules.scraper, networks=settings.scrapers, loopback=not settings.metrics_tokens())


def metrics_flush(meter: PrometheusMeter) -> list[Component]:
    """With several processes on one port, writes what this one counted once a second, so that any answers for all."""
    if not meter.shared:
        return []

    async def settle() -> None:
        meter.settle()

    async def stop() -> None:
        await every_second.stop()
        meter.settle()

    every_second = Periodic(settle, every_s=FLUSH_EVERY_S)
    return [Component("metrics", every_second.start, stop)]


def metrics_port(settings: Settings, health: Health, meter: PrometheusMeter, log: Any) -> list[Component]:
    """`/metrics`, `/livez` and `/readyz` on a port of their own, open from the start to the end of the process; none
    where the settings name no such port.
    """
    if settings.metrics_port is None:
        return []
    port = settings.metrics_port
    access = Access((), _refuse_users, lambda _: "", time.time, trusted_scraper=lambda _: True)
    pages = ProbePages(health, metrics=meter.scraped, access=access)
    serving: list[tuple[EdgeServer, asyncio.Task[None]]] = []

    async def open_port() -> None:
        edge = make_edge(
            settings,
            EdgeLimits(connections=SCRAPERS, connections_per_address=SCRAPERS),
            NoUpgrades(log),
            HeadRules(allowed_host=lambda _: True, websocket_paths=frozenset()),
        )
        app = cast("ASGIApplication", Starlette(routes=pages.routes()))
        server = EdgeServer(app, edge, grace_s=1.0, lifespan="off", own_signals=False)
        listeners = listen(settings.host, port, reuse_port=meter.shared)  # with --workers any of them answers
        serving.append((server, asyncio.create_task(server.serve(sockets=listeners), name="metrics port")))
        log.info("metrics port", urls=[url_of(*listener.getsockname()[:2]) for listener in listeners])

    async def close_port() -> None:
        while serving:
            server, task = serving.pop()
            server.stop_once()
            await task

    return [Component("metrics port", open_port, close_port)]


async def _refuse_users(_: Request) -> Refusal:
    return Refusal(code="auth_required")
