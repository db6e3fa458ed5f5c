"""`narthex status serve`: the status page as a process of its own, which stays up while every gateway is down.

    gateways, probers ──samples──▶ POST /api/v1/status/samples ──▶ status.db ──▶ /status, webhooks

Not here: the page (`service`, `routes`). Rules: it uses neither broker nor store: operators bring the admin key or a
token of a configured issuer, whose revocations it does not know; gateways and probers bring NARTHEX_STATUS_TOKEN. An
issuer that is away takes nothing from the page.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from narthex._version import __version__
from narthex.adapters.edge.listeners import url_of_listener
from narthex.adapters.edge.server import run
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.lifecycle import Component, Lifecycle
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Valid, Verdict
from narthex.ports.later import settled
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings
from narthex.status.embedded import make_routes, make_service
from narthex.status.page import SERVED
from narthex.web.access import Access
from narthex.web.fields import bearer
from narthex.web.paths import root_path
from narthex.web.request_rules import RequestRules
from narthex.wiring.gauges import attempt_table
from narthex.wiring.http_service import make_http_service
from narthex.wiring.server_process import ServerProcess, make_health, open_listeners
from narthex.wiring.tokens import make_issuers

log = get_logger("narthex.status")


class TokenUsers:
    """Fits `web.access.Authenticate`: the user of a Bearer token of a configured issuer.

    Args:
        verifier: of these issuers.
        now: seconds since the epoch.
    """

    def __init__(self, verifier: TokenVerifier, now: Callable[[], float] = time.time) -> None:
        self._verifier = verifier
        self._now = now

    async def __call__(self, request: Request) -> Identity | Refusal:
        """The user, or the reason why there is none."""
        token = bearer(request)
        if not token:
            detail = (
                "This service takes NARTHEX_ADMIN_KEY, or a token of a configured issuer, as a Bearer token."
            )
            return Refusal(code="auth_required", detail=detail, carriers_checked=("authorization",))
        verdict: Verdict = await settled(self._verifier.verify(token, now=self._now(), traffic="user"))
        return verdict.identity if isinstance(verdict, Valid) else verdict.refusal(("authorization",))


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
    meter = PrometheusMeter(version=__version__, environment=settings.environment)
    rules = RequestRules(settings.proxies, settings.origins, settings.public_url)
    verifier, fetcher = make_issuers(settings, meter)
    users = TokenUsers(verifier)
    access = Access(settings.admin_keys(), users, rules.address, time.time, origin=rules.origin_refusal)
    meter.read_from(attempt_table("wrong_admin_key_table", access.wrong_keys))
    service = make_service(settings, log)
    lifecycle = Lifecycle(
        [
            Component("status", service.start, service.stop),
            Component("fetcher", close=fetcher.stop),
            Component("tokens", verifier.start, verifier.stop),
        ],
        grace_s=settings.drain_grace_s,
        on_state=lambda state: log.info("state", state=state.value),
    )

    async def readable() -> str:
        await service.document()
        return ""

    health = make_health(settings, {"status": readable}, lifecycle, meter, log, critical=("status",))

    url = settings.base_url or url_of_listener(listeners[0])
    routes = [
        Route("/", _to_page, methods=["GET", "HEAD"]),
        *make_routes(settings, service, access, rules).routes(),
    ]
    return make_http_service(
        settings,
        listeners,
        routes,
        lifecycle,
        health,
        meter,
        log,
        rules=rules,
        name="status",
        on_ready=lambda: on_ready(url + SERVED.page),
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
