"""`narthex auth serve`: the embedded provider as a service of its own, for several gateways to share.

Gateways point NARTHEX_OIDC_ISSUER at it. Not here: the routes (`web/auth.py`). Rules: it shares the settings and
the admission rules with the gateway; it has no broker, so gateways on the same store learn of revocations by their
poll, and others by introspection or when the token ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from narthex.adapters.edge.server import listen, run
from narthex.adapters.machine import raise_descriptor_limit
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.tokens.router import PROVIDER_ISSUER, TokenRouter
from narthex.adapters.tokens.signing import KeyRing
from narthex.app.expiry import CredentialExpiry
from narthex.app.revocations import Revocations
from narthex.domain.origins import served_to_probes
from narthex.domain.refusals import Refusal
from narthex.errors import DependencyError
from narthex.settings import Settings
from narthex.settings.trust import trust_of
from narthex.web.auth import AuthRoutes
from narthex.web.problems import exception_handlers, problem
from narthex.web.request_rules import RequestRules
from narthex.wiring.engines import make_store
from narthex.wiring.provider import make_provider
from narthex.wiring.retries import started_well, until_started
from narthex.wiring.tokens import provider_rules

log = get_logger("narthex.auth")


class HostCheck:
    """ASGI middleware: refuses foreign host names, so that no foreign name can be same-origin."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = settings.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in ("/livez", "/readyz"):
            request = Request(scope)
            host, peer = request.headers.get("host", ""), request.client.host if request.client else ""
            if not self._hosts.allows(host) and not served_to_probes(host, peer, request.headers.keys()):
                refusal = Refusal(code="bad_request", detail="The Host header names nobody here.")
                await problem(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class StartCheck:
    """ASGI middleware: 503 `starting` (not at `/livez`, `/readyz`) until the store is open, so that clients retry."""

    def __init__(self, app: ASGIApp, ready: Callable[[], bool]) -> None:
        self._app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and not self._ready() and scope["path"] not in ("/livez", "/readyz"):
            await problem(Refusal(code="starting", retry_after_s=1))(scope, receive, send)
            return
        await self._app(scope, receive, send)


class AuthService:
    """The service of one process. Made from settings; `app` is its ASGI application.

    Args:
        settings: validated.
        issuer: the `iss` of its tokens: its public URL.
    """

    def __init__(self, settings: Settings, issuer: str) -> None:
        self._store = make_store(settings)
        credentials = self._store.credentials
        trust = trust_of(settings, remote=settings.policy.environment.remote)
        self._ring = KeyRing(
            credentials,
            "provider",
            issuer=issuer,
            aliases=(PROVIDER_ISSUER,),
            audience=settings.jwt_audience[0] if settings.jwt_audience else "",
            rules=provider_rules(settings, trust.provider),
        )
        self._verifier = TokenRouter([self._ring])
        self._revocations = Revocations(
            credentials,
            None,
            records=self._store.records,
            after_exp_s=settings.jwt_leeway_s + settings.token_grace_s,
        )
        self._expiry = CredentialExpiry(credentials)
        self._provider = make_provider(
            settings,
            credentials=credentials,
            mint=self._ring,
            verifier=self._verifier,
            revocations=self._revocations,
        )
        self.ready = False
        keys = settings.admin_keys()
        site = AuthRoutes(
            provider=self._provider,
            verifier=self._verifier,
            revocations=self._revocations,
            rules=RequestRules(settings.proxies, settings.origins, settings.public_url),
            service_keys=keys,
            open_introspection=not keys and not settings.policy.environment.remote,
        )
        self.app = Starlette(
            routes=[
                *site.routes(),
                Route("/livez", self._livez, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
            ],
            middleware=[Middleware(HostCheck, settings), Middleware(StartCheck, lambda: self.ready)],
            exception_handlers=exception_handlers(_report_bug),
        )

    async def start(self) -> None:
        """Open everything behind the port; `stop` closes it, also after a start that failed.

        Raises:
            ConfigError: the keys do not match, or another process holds the data directory.
            DependencyError: the store does not answer; call again.
        """
        try:
            await self._store.start()
            await self._verifier.start()
            await self._revocations.start()
            await self._provider.start()
            await self._expiry.start()
        except BaseException:
            await self.stop()
            raise
        self.ready = True

    async def stop(self) -> None:
        """Close everything."""
        self.ready = False
        await self._expiry.stop()
        await self._revocations.stop()
        await self._verifier.stop()
        await self._store.stop()

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        """Ready when the store answers and a minted token verifies."""
        if not self.ready:
            return problem(Refusal(code="starting", retry_after_s=1))
        try:
            await self._store.ping()
            status = await self._verifier.check()
        except DependencyError:
            return problem(Refusal(code="auth_unavailable", retry_after_s=1))
        if status.status != "healthy":
            return problem(Refusal(code="auth_unavailable", detail=status.detail, retry_after_s=1))
        return JSONResponse({"status": "ready"})


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the address cannot be bound, or the keys do not match.
        Damaged: the data in the store cannot be read.
    """
    raise_descriptor_limit()
    listeners = listen(settings.host, settings.port)
    host, port = listeners[0].getsockname()[:2]
    issuer = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    service = AuthService(settings, issuer)
    config = uvicorn.Config(
        service.app,
        log_config=None,
        lifespan="off",  # it would log a failed start as a traceback
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16 * 1024,
    )
    log.info("auth service", issuer=issuer, environment=settings.environment)
    run(_serve(service, _AuthServer(config), listeners, lambda: on_ready(issuer)))


class _AuthServer(uvicorn.Server):
    """Ends in order on SIGTERM and SIGINT; uvicorn's own raises the signal again, and the exit code is not 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ask for the end; a second signal ends at once."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _serve(
    service: AuthService,
    server: uvicorn.Server,
    listeners: list[socket.socket],
    on_ready: Callable[[], None],
) -> None:
    """Listen at once, and answer `starting` until the store is open."""

    async def start() -> None:
        await until_started(service.start, log)
        on_ready()

    starting = asyncio.create_task(start(), name="auth start")
    starting.add_done_callback(
        lambda task: None if started_well(task) else server.handle_exit(signal.SIGTERM, None)
    )
    try:
        await server.serve(sockets=listeners)
    finally:
        starting.cancel()
        outcome = (await asyncio.gather(starting, return_exceptions=True))[0]
        await service.stop()
    if isinstance(outcome, Exception):
        raise outcome


def _report_bug(fault: BaseException, trace_id: str) -> None:
    log.error("bug", exc_info=fault, trace_id=trace_id)
