"""Serves a process's state: `/livez`, `/readyz`, `/metrics`; of a gateway `/ws/health`, `/ws/config`, `/ws/beacon`
and `/ws/stats` too.

Not here: the checks (`app/health.py`), counting (`adapters/telemetry`). Rules: 503 means "send no traffic here", which
`curl -f` and load balancers understand; no answer may be cached on the way; `/livez` checks no dependency, because a
process that waits for its database must not be killed for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.health import UNHEALTHY, Health
from narthex.domain import endpoints
from narthex.domain.refusals import Refusal
from narthex.web.access import Access
from narthex.web.problems import problem, trace_id_for
from narthex.web.request_rules import RequestRules

NO_STORE: Final = {"Cache-Control": "no-store"}
PROBE_PATHS: Final = ("/livez", "/readyz", "/metrics")
WIRE: Final = "centrifuge-json-v2"
"""Of the gateway's own WebSocket; a guard's is its application's."""
RETRY_AFTER_S: Final = 2  # results are cached for so long; an earlier request gets the same


class ProbePages:
    """What platforms' probes and scrapers ask of every server process: `/livez`, `/readyz`, `/metrics`.

    Args:
        health: the checks.
        metrics: returns a function that writes the metrics, and their content type, for an `Accept` header.
        access: authorises `/metrics`.
        details: more members of `/readyz` when the process is ready.
    """

    def __init__(
        self,
        health: Health,
        *,
        metrics: Callable[[str], tuple[Callable[[], bytes], str]],
        access: Access,
        details: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._access = access
        self._details = details

    def routes(self) -> list[BaseRoute]:
        """For the Starlette application."""
        pages = zip(PROBE_PATHS, (self.alive, self.ready, self.metrics), strict=True)
        return [Route(path, page, methods=["GET", "HEAD"]) for path, page in pages]

    async def alive(self, request: Request) -> Response:
        """200: the event loop turns."""
        return self._json(request, {"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """200 when the critical checks pass and the process is neither starting nor draining."""
        missing = await self._health.ready()
        if missing:
            body = {"status": "not ready", "reasons": missing}
            return self._json(request, body, 503, {"Retry-After": str(RETRY_AFTER_S)})
        return self._json(request, {"status": "ready", **self._details()})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text, or OpenMetrics text with exemplars where the scraper accepts it."""
        refusal = self._access.scraper(request)
        if refusal is not None:
            return problem(refusal, trace_id_for(request))
        write, content_type = self._metrics(request.headers.get("accept", ""))
        text = await asyncio.to_thread(write)  # 1,800 lines: too long for the loop
        return Response(text, headers=NO_STORE | {"Content-Type": content_type})

    def _json(
        self,
        request: Request,
        body: Mapping[str, object],
        status: int = 200,
        more: Mapping[str, str] | None = None,
    ) -> Response:
        headers = NO_STORE | self._cors(request) | dict(more or {})
        return Response(msgspec.json.encode(body), status, headers, "application/json")

    def _cors(self, request: Request) -> dict[str, str]:
        """No page of another origin may read the answer."""
        del request
        return {}


class HealthPages(ProbePages):
    """A gateway's routes; see the module.

    Args:
        health: the checks.
        config: returns the body of `/ws/config` for a request.
        stats: returns the body of `/ws/stats`.
        metrics: see `ProbePages`.
        access: authorises `/ws/stats` and `/metrics`.
        rules: which origins' pages may read an answer.
        wire: of the WebSocket behind, for `/ws/beacon`.
    """

    def __init__(
        self,
        health: Health,
        *,
        config: Callable[[Request], Mapping[str, object]],
        stats: Callable[[], Awaitable[Mapping[str, object]]],
        metrics: Callable[[str], tuple[Callable[[], bytes], str]],
        access: Access,
        rules: RequestRules,
        wire: str = WIRE,
    ) -> None:
        super().__init__(health, metrics=metrics, access=access)
        self._beacon = {"beacon": "narthex", "wire": wire}
        self._config = config
        self._stats = stats
        self._rules = rules

    def routes(self) -> list[BaseRoute]:
        """For the Starlette application."""
        return [
            *super().routes(),
            Route("/ws/health", self.health, methods=["GET", "HEAD", "OPTIONS"]),
            Route("/ws/config", self.config, methods=["GET", "HEAD", "OPTIONS"]),
            Route("/ws/beacon", self.beacon, methods=["GET", "HEAD", "OPTIONS"]),
            Route("/ws/stats", self.stats, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """200 when healthy or degraded, 503 when unhealthy."""
        if request.method == "OPTIONS":
            return self._options(request)
        report = await self._health.report()
        if report["status"] == UNHEALTHY:
            return self._json(request, report, 503, {"Retry-After": str(RETRY_AFTER_S)})
        return self._json(request, report)

    async def config(self, request: Request) -> Response:
        """The facts that a client needs to connect, with its limits."""
        if request.method == "OPTIONS":
            return self._options(request)
        return self._json(request, self._config(request))

    async def beacon(self, request: Request) -> Response:
        """The same bytes from every instance and version: a client that reads them has reached a narthex."""
        return self._options(request) if request.method == "OPTIONS" else self._json(request, self._beacon)

    async def stats(self, request: Request) -> Response:
        """Statistics, for operators."""
        operator = await self._access.operator(request)
        if isinstance(operator, Refusal):
            return problem(operator, trace_id_for(request))
        return self._json(request, await self._stats())

    def _options(self, request: Request) -> Response:
        methods = "GET, HEAD, OPTIONS"
        headers = {"Allow": methods} | NO_STORE | self._cors(request)
        if "Access-Control-Allow-Origin" in headers:
            headers |= {"Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": "600"}
        return Response(status_code=204, headers=headers)

    def _cors(self, request: Request) -> dict[str, str]:
        """Headers that let pages of allowed origins read the answer, which holds nothing that needs a credential."""
        origin = request.headers.get("origin", "")
        if origin and self._rules.origin_allowed(request, origin):
            return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return {"Vary": "Origin"}


def client_config(
    *,
    environment: str,
    version: str,
    auth_required: bool,
    guests: bool,
    limits: Mapping[str, object],
    plans: Mapping[str, Mapping[str, object]],
    provider: bool,
    oidc_start: str = "",
) -> dict[str, object]:
    """The body of `/ws/config` without the part that depends on the request (`url`)."""
    return {
        "service": "narthex",
        "version": version,
        "environment": environment,
        "protocol": WIRE,
        "paths": {
            "websocket": endpoints.WEBSOCKET,
            "http_stream": endpoints.HTTP_STREAM,
            "sse": endpoints.SSE,
            "emulation": endpoints.EMULATION,
            "preflight": "/ws/preflight",
            "ticket": "/ws/ticket",
            "health": "/ws/health",
        },
        "subprotocols": ["jwt-auth", "narthex.explain", "centrifuge-protobuf"],
        "carriers": ["authorization", "subprotocol", "cookie", "ticket"],
        "pre_connection_auth_required": auth_required,
        "guests": guests,
        "embedded_provider": provider,
        "oidc_start": oidc_start or None,
        "limits": dict(limits),
        "plans": {name: dict(plan) for name, plan in plans.items()},
    }


def with_root(config: Mapping[str, Any], root: str) -> dict[str, object]:
    """A body of `/ws/config` whose paths begin with the path under which the client reached us (`web.paths`)."""
    if not root:
        return dict(config)
    start = config.get("oidc_start")
    paths = {name: root + path for name, path in config["paths"].items()}
    return {**config, "paths": paths, **({"oidc_start": root + start} if start else {})}
