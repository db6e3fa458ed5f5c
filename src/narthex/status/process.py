"""`narthex status serve`: the status page as a process of its own, which stays up while every gateway is down.

    gateways, probers ──samples──▶ POST /api/v1/status/samples ──▶ status.db ──▶ /status, webhooks

Not here: the page (`service`, `routes`). Rules: it uses neither broker nor store, and verifies no users' tokens:
operators bring the admin key, gateways and probers NARTHEX_STATUS_TOKEN.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from narthex._version import __version__
from narthex.adapters.edge.listeners import url_of_listener
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import run
from narthex.adapters.machine import raise_descriptor_limit
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.lifecycle import Component, Lifecycle
from narthex.domain.descriptors import capacity
from narthex.domain.refusals import Refusal
from narthex.settings import Settings
from narthex.status.embedded import make_routes, make_service
from narthex.status.page import SERVED
from narthex.web import problem_pages
from narthex.web.access import Access
from narthex.web.paths import root_path
from narthex.web.problems import exception_handlers
from narthex.web.request_rules import RequestRules
from narthex.wiring.capacity_log import Evictions
from narthex.wiring.server_process import (
    NoUpgrades,
    ServerProcess,
    edge_limits,
    make_edge,
    make_health,
    open_listeners,
    probe_pages,
)

log = get_logger("narthex.status")


async def _no_users(_: Request) -> Refusal:
    return Refusal(code="auth_required", detail="This service takes NARTHEX_ADMIN_KEY as a Bearer token.")


async def _to_page(request: Request) -> Response:
    return RedirectResponse(root_path(request.scope) + SERVED.page, status_code=307)


def make_process(
    settings: Settings, listeners: list[socket.socket], on_ready: Callable[[str], None]
) -> ServerProcess:
    """The process, made inside the running loop.

    Args:
        settings: validated.
        listeners: bound, not yet listening.
        on_ready: called with the page's URL once it answers.
    """
    fitted = capacity(settings.limits(), raise_descriptor_limit())
    meter = PrometheusMeter(version=__version__, environment=settings.environment)
    rules = RequestRules(settings.proxies, settings.origins, settings.public_url)
    access = Access(settings.admin_keys(), _no_users, rules.address, time.time, origin=rules.origin_refusal)
    service = make_service(settings, log)
    lifecycle = Lifecycle(
        [Component("status", service.start, service.stop)],
        grace_s=settings.drain_grace_s,
        on_state=lambda state: log.info("state", state=state.value),
    )

    async def readable() -> str:
        await service.document()
        return ""

    health = make_health(settings, {"status": readable}, lifecycle, meter, log, critical=("status",))

    def report_bug(fault: BaseException, trace_id: str) -> None:
        meter.count("bugs", where="status")
        log.error("bug", exc_info=fault, trace_id=trace_id)

    app = Starlette(
        routes=[
            Route("/", _to_page, methods=["GET", "HEAD"]),
            *make_routes(settings, service, access, rules).routes(),
            *probe_pages(settings, health, meter).routes(),
            *problem_pages.routes(),
        ],
        exception_handlers=exception_handlers(report_bug),
    )
    url = settings.base_url or url_of_listener(listeners[0])
    return ServerProcess(
        app,
        make_edge(
            settings,
            edge_limits(settings, fitted),
            NoUpgrades(log),
            HeadRules(allowed_host=settings.hosts.allows, websocket_paths=frozenset()),
            Evictions(meter).counted,
        ),
        lifecycle,
        listeners,
        grace_s=settings.drain_grace_s,
        log=log,
        on_ready=lambda _urls: on_ready(url + SERVED.page),
    )


def serve(settings: Settings, on_ready: Callable[[str], None]) -> bool:
    """Serve until SIGTERM or SIGINT; returns whether the end was in order.

    Args:
        settings: validated.
        on_ready: called with the page's URL once it answers.

    Raises:
        ConfigError: the address cannot be bound.
    """
    listeners = open_listeners(settings)

    async def main() -> bool:
        return await make_process(settings, listeners, on_ready).serve()

    return run(main())
