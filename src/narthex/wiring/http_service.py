"""The shell of a service that serves HTTP and no WebSockets: sign-in, and the status page.

Not here: a service's own routes and components. Rules: every service has `/livez`, `/readyz`, `/metrics`, the pages of
problems, and the gateway's limit of requests from one address; an exception that no route handles is a bug, counted and
logged with its trace id.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.machine import raise_descriptor_limit
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.health import Health
from narthex.app.lifecycle import Lifecycle
from narthex.domain.descriptors import capacity
from narthex.settings import Settings
from narthex.web import problem_pages
from narthex.web.problems import exception_handlers
from narthex.web.request_rules import RequestRules
from narthex.wiring.capacity_log import Evictions
from narthex.wiring.server_process import (
    NoUpgrades,
    ServerProcess,
    address_rates,
    edge_limits,
    make_edge,
    probe_pages,
)


def make_http_service(
    settings: Settings,
    listeners: list[socket.socket],
    routes: Sequence[BaseRoute],
    lifecycle: Lifecycle,
    health: Health,
    meter: PrometheusMeter,
    log: Any,
    *,
    rules: RequestRules,
    name: str,
    on_ready: Callable[[], None],
    middleware: Sequence[Middleware] = (),
) -> ServerProcess:
    """The process, made inside the running loop.

    Args:
        settings: validated.
        listeners: bound, not yet listening.
        routes: the service's own.
        lifecycle: opens and closes everything behind the port.
        health: see `make_health`.
        meter: of the process.
        log: a structlog logger.
        rules: whose requests these are.
        name: of the service, where its bugs are counted.
        on_ready: called once the service answers.
        middleware: around all routes.
    """
    meter.count("bugs", 0, where=name)

    def report_bug(fault: BaseException, trace_id: str) -> None:
        meter.count("bugs", where=name)
        log.error("bug", exc_info=fault, trace_id=trace_id)

    app = Starlette(
        routes=[*routes, *probe_pages(settings, health, meter).routes(), *problem_pages.routes()],
        middleware=[address_rates(settings.limits(), rules, meter), *middleware],
        exception_handlers=exception_handlers(report_bug, rules.cors),
    )
    fitted = capacity(settings.limits(), raise_descriptor_limit())
    edge = make_edge(
        settings,
        edge_limits(settings, fitted),
        NoUpgrades(log),
        HeadRules(allowed_host=settings.hosts.allows, websocket_paths=frozenset()),
        Evictions(meter).counted,
    )
    return ServerProcess(
        app,
        edge,
        lifecycle,
        listeners,
        grace_s=settings.drain_grace_s,
        log=log,
        on_ready=lambda _urls: on_ready(),
    )
