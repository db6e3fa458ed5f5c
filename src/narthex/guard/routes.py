"""The guard's own HTTP routes beside the application's: health, preflight, tickets, revocation, metrics and more.

Not here: the handlers (`web`), which are the gateway's own. Rules: a path belongs to the guard or to the application,
by its exact name; `Host` is checked as the gateway's edge does; nothing else of the application's HTTP is looked at.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from narthex._version import __version__
from narthex.adapters.edge.rules import HeadRules, head_problem
from narthex.adapters.telemetry.logging import get_logger
from narthex.app.drain import COMMAND_AFTER_S
from narthex.app.health import Check, auth_check, ping_check
from narthex.domain.endpoints import GUARD_PREFIX
from narthex.domain.refusals import PROBLEM_TYPE_BASE, Refusal
from narthex.domain.verdict import Rejected, Unavailable, Verdict
from narthex.errors import ClientError
from narthex.guard.core import GuardCore
from narthex.guard.probe import HandshakeCheck, Probe
from narthex.ports.later import settled
from narthex.status.embedded import reporting
from narthex.web import e2e, pages, preflight, problem_pages, tickets
from narthex.web.access import Access
from narthex.web.api.operations import RevokeAndDrain
from narthex.web.cookies import SESSION, drop_cookie, only_cookie
from narthex.web.fields import bearer
from narthex.web.health import HealthPages, with_root
from narthex.web.paths import root_path
from narthex.web.problems import NO_STORE, exception_handlers, problem
from narthex.web.request_rules import RequestAuthenticator, head_of
from narthex.wiring.gauges import attempt_table
from narthex.wiring.server_process import address_rates, make_health, trusted_scraper, user_rates
from narthex.wiring.tokens import make_exchange

LOGOUT: Final = "/auth/logout"
LIMITS_COUNT: Final = "per process"  # whatever store the processes share: it holds revocations and tickets
ENFORCED: Final = (
    "handshake_timeout_s",
    "max_head_bytes",
    "max_headers",
    "max_connections_per_address",
    "max_connections_unauthenticated",
    "max_connections",
    "inband_timeout_s",
)
"""The limits that a guard enforces; those of messages are the application's and its server's."""

log = get_logger("narthex.health")


class GuardRoutes:
    """The routes over one core.

    Args:
        core: the guard's.
        path: of the guarded WebSocket that `config` names and the probe uses.
        prefix: of the routes that are `/ws/…` at the gateway.
        without: paths of the guard's that are left to the application.
        probe: of the application's endpoint.
        more: routes beside these, below the same rules.
        checks: of health beside these, each of which is critical.
        drain: begins the end of the process; None: sockets are drained, and the server ends it.
    """

    def __init__(
        self,
        core: GuardCore,
        *,
        path: str,
        prefix: str,
        without: Collection[str],
        probe: Probe | None,
        more: Sequence[Route] = (),
        checks: Mapping[str, Check] | None = None,
        drain: Callable[[], None] | None = None,
    ) -> None:
        self._begin_drain = drain or (lambda: core.tasks.spawn(core.lifecycle.drain()))
        self._core = core
        self._path = path
        self._prefix = prefix
        settings, limits = core.settings, core.limits
        self._http = RequestAuthenticator(
            core.handshakes,
            settings.public_url,
            rates=user_rates(limits, core.meter),
            limited=lambda: core.meter.count("http_rate_limited", by="user"),
        )
        self._rules = HeadRules(allowed_host=settings.hosts.allows)
        self._check = HandshakeCheck(core, path, probe)
        self._health = make_health(
            settings,
            {
                "handshake": self._check,
                "auth": auth_check(core.verifier),
                "store": ping_check(core.store.ping),
                **(checks or {}),
            },
            core.lifecycle,
            core.meter,
            log,
            config={
                **self._limits(),
                "max_connections_per_user": self._per_user(),
                "endpoint_checked": probe is not None,
                "limits_count": LIMITS_COUNT,
            },
            policy=core.environment_policy,
            critical=tuple(checks or ()),
        )
        lifecycle = core.lifecycle
        node = f"guard-{secrets.token_hex(6)}"
        lifecycle.add(
            reporting(settings, self._health, lambda: lifecycle.fault, core.meter, node, log), first=True
        )
        access = Access(
            settings.admin_keys(),
            self._http.authenticate,
            self._http.address,
            core.now,
            metrics_tokens=settings.metrics_tokens(),
            trusted_scraper=trusted_scraper(settings, self._http),
            origin=self._http.origin_refusal,
        )
        core.meter.read_from(attempt_table("wrong_admin_key_table", access.wrong_keys))
        health_pages = HealthPages(
            self._health,
            config=self._config,
            stats=self._stats,
            metrics=core.meter.scraped,
            access=access,
            rules=self._http,
            wire="application",
        )
        exchange = make_exchange(settings, core.tokens, core.proofs, core.admissions, core.meter, core.now)
        made = [
            *health_pages.routes(),
            *pages.helper_routes(),
            *preflight.routes(core.handshakes, self._http),
            *tickets.routes(self._http, core.store.credentials, clock=core.now),
            *e2e.routes(exchange, self._http),
            *RevokeAndDrain(access, core.revocations, self._drain, core.store.records).routes(),
            Route(LOGOUT, self._logout, methods=["POST", "OPTIONS"]),
            *more,
            *problem_pages.routes(),
        ]
        routes = [moved for route in made if not _left((moved := _moved(route, prefix)).path, without)]
        self.paths = frozenset(route.path for route in routes)
        self._app = Starlette(
            routes=routes,
            exception_handlers=exception_handlers(core.report_bug, self._http.cors),
            middleware=[
                address_rates(limits, self._http, core.meter),
            ],
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request to one of `paths`."""
        request = Request(scope)
        refused = head_problem(
            head_of(request), self._rules, self._core.limits.max_head_bytes, self._core.limits.max_headers
        )
        if refused is not None:
            return await problem(refused)(scope, receive, send)
        server = scope.get("server")
        if server and server[1]:
            self._check.address, self._check.secure = (server[0], int(server[1])), scope["scheme"] == "https"
        return await self._app(scope, receive, send)

    # -- bodies --------------------------------------------------------------------------------------------

    def _limits(self) -> dict[str, object]:
        return {name: getattr(self._core.limits, name) for name in ENFORCED}

    def _per_user(self) -> object:
        return self._core.limits.max_connections_per_user or {
            name: plan.connections for name, plan in self._core.plans.items()
        }

    def _config(self, request: Request) -> Mapping[str, object]:
        """The facts that a client needs to connect."""
        facts = self._http.facts(request)
        policy = self._core.policy
        config = {
            "service": "narthex-guard",
            "version": __version__,
            "environment": self._core.settings.environment,
            "url": facts.base_url.replace("http", "ws", 1) + self._path,
            "protocol": "application",
            "paths": {
                "websocket": self._path,
                **{name: f"{self._prefix}/{name}" for name in ("preflight", "ticket", "health")},
            },
            "subprotocols": ["jwt-auth", "narthex.explain"],
            "carriers": ["authorization", "subprotocol", "cookie", "ticket"],
            "pre_connection_auth_required": policy.pre_connection_auth_required,
            "guests": policy.guests,
            "limits": {**self._limits(), "max_connections_per_user": self._per_user()},
            "limits_count": LIMITS_COUNT,
        }
        return with_root(config, root_path(request.scope))

    async def _stats(self) -> Mapping[str, object]:
        core = self._core
        return {
            "node": core.node,
            "state": core.state(),
            "connections": core.limiter.total,
            "unproven": core.limiter.unproven,
            "users": core.lives.registry.users(),
            "durability": {"store": core.store.durability},
            **core.meter.numbers(),
        }

    # -- operations ----------------------------------------------------------------------------------------

    async def _drain(self, node: str) -> None:
        """Drain this process. The server ends it; further processes are drained one by one, by signal."""
        if node not in ("", self._core.node):
            raise ClientError("unknown_node", "A guard drains only itself.", "Leave `node` out.", number=422)
        asyncio.get_running_loop().call_later(COMMAND_AFTER_S, self._begin_drain)

    async def _logout(self, request: Request) -> Response:
        """Revoke the token of the request, or its whole sign-in, and drop the session's cookie; 204 in any case."""
        if request.method == "OPTIONS":
            return self._http.cors_preflight(request, ("POST", "OPTIONS"))
        cors = self._http.cors(request)
        secure = self._http.facts(request).secure
        sent = bearer(request)
        cookie = only_cookie(request, SESSION, secure=secure)
        refused = self._http.origin_refusal(request, cookie=not sent and bool(cookie))
        if refused is None and isinstance(cookie, Refusal) and not sent:
            refused = cookie
        if refused is not None:
            return problem(refused, headers=cors)
        token = sent or (cookie if isinstance(cookie, str) else "")
        if token:
            core = self._core
            verdict: Verdict = await settled(core.verifier.verify(token, now=core.now(), traffic="user"))
            if isinstance(verdict, Unavailable):
                return problem(verdict.refusal(), headers=cors)
            # An expired token still names the sign-in that its holder wants to end.
            identity = verdict.expired if isinstance(verdict, Rejected) else verdict.identity
            if identity is not None:
                await core.revocations.revoke_token(identity, reason="logout")
        response = Response(status_code=204, headers={**NO_STORE, **cors})
        drop_cookie(response, SESSION, secure=secure, root=root_path(request.scope))
        return response


def _moved(route: Any, prefix: str) -> Route:
    """The route below the guard's prefix."""
    assert isinstance(route, Route)
    if not route.path.startswith(f"{GUARD_PREFIX}/"):
        return route
    return Route(prefix + route.path.removeprefix(GUARD_PREFIX), route.endpoint, methods=route.methods)


def _left(path: str, without: Collection[str]) -> bool:
    """Whether the route is the application's; `/problems` stands for the page of every code."""
    return path in without or (problem_pages.INDEX in without and path.startswith(PROBLEM_TYPE_BASE))
