"""`narthex guard`: a guard as a process in front of a WebSocket server in any language.

    client ──▶ edge: admission ──▶ upstream's handshake with the identity ──▶ relay of frames, untouched

Not here: admission (`core`), relaying (`adapters/edge/upstream`), an admitted socket (`relayed`). Rules: the
upstream is asked only for admitted handshakes; the guard's own routes come before those that pass; without `pass_http`
nothing but admitted WebSockets reaches the upstream.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import run
from narthex.adapters.edge.upstream.dialing import Upstream
from narthex.adapters.edge.upstream.handler import RelayHandler
from narthex.adapters.edge.upstream.passing import HttpPassing, Message, Receive, Send
from narthex.adapters.machine import raise_descriptor_limit
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.signing import KeyRing
from narthex.app.connection_context import ConnectionContext
from narthex.app.handshake import NewReceiver
from narthex.app.health import CheckFailed
from narthex.app.lifecycle import Component
from narthex.domain.descriptors import capacity
from narthex.domain.endpoints import GUARD_PREFIX
from narthex.domain.refusals import Refusal
from narthex.domain.upstreams import UpstreamAddress, parse_upstream
from narthex.errors import Bug, ConfigError
from narthex.guard.cleaning import without_claims
from narthex.guard.core import GuardCore, guard_settings
from narthex.guard.paths import PathPatterns
from narthex.guard.relayed import Assertions, RelayedConnection, handed_on
from narthex.guard.routes import GuardRoutes
from narthex.settings import Settings
from narthex.web import verify
from narthex.web.paths import route_path
from narthex.web.problems import exception_handlers, problem
from narthex.web.request_rules import RequestRules
from narthex.wiring.capacity_log import Evictions, log_capacity
from narthex.wiring.server_process import ServerProcess, edge_limits, make_edge, open_listeners
from narthex.wiring.supervisor import WorkerArguments, WorkerProgram

JWKS_PATH: Final = "/.well-known/jwks.json"
JWKS_MAX_AGE_S: Final = 30  # below the minute for which a new key is published before it signs
DESCRIPTORS_EACH: Final = 2  # the client's socket and the upstream's
DEFAULT_ISSUER: Final = "narthex-guard"
DEFAULT_AUDIENCE: Final = "upstream"

log = get_logger("narthex.guard")


class GuardProcess:
    """One guard process, made inside the running loop; `process` serves it. `settings` come from `guard_settings`.

    Args:
        settings: validated; `upstream` is set.
        on_ready: called with the listeners' URLs.
        reuse_port: share the port with other processes.
        on_drain: called when a command begins the drain.

    Raises:
        ConfigError: there is no upstream, a path is no pattern, or the address cannot be bound.
    """

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[list[str]], None],
        *,
        reuse_port: bool = False,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_drain = on_drain
        self.settings = settings
        self.address, paths = upstream_of(settings)
        descriptors = raise_descriptor_limit()
        fitted = capacity(settings.limits(), descriptors // DESCRIPTORS_EACH)
        log_capacity(fitted, asked=settings.source("max_connections") != "default")
        self.core = core = GuardCore(
            settings,
            # The relay calls less of it than a gateway.
            new_receiver=cast("NewReceiver", self._new_connection),
            paths=paths,
            limits=fitted.limits,
        )
        core.meter.gauge("descriptors", float(descriptors))
        self.ring = KeyRing(
            core.store.credentials,
            "guard",
            issuer=settings.base_url or DEFAULT_ISSUER,
            audience=settings.upstream_name or (self.address.authority if self.address else DEFAULT_AUDIENCE),
            rules=ClaimRules(),
            clock=core.now,
        )
        self._assertions = Assertions(self.ring, core.now)
        relay = None if self.address is None else self._make_relay(self.address)
        edge = make_edge(
            settings,
            edge_limits(settings, fitted),
            relay or core.handshakes,
            HeadRules(allowed_host=settings.hosts.allows, websocket_paths=paths if relay else frozenset()),
            Evictions(core.meter).counted,
        )
        if relay is not None:
            relay.edge = edge
        core.lifecycle.add([Component("assertions", self.ring.start, self.ring.stop)])
        app = Starlette(
            routes=[Mount("/", app=self._make_http(paths))],
            exception_handlers=exception_handlers(core.report_bug),
        )
        self.process = ServerProcess(
            app,
            edge,
            core.lifecycle,
            open_listeners(settings, reuse_port=reuse_port, send_buffer_bytes=edge.limits.send_buffer_bytes),
            grace_s=settings.drain_grace_s,
            log=log,
            on_ready=on_ready,
        )

    def _drain(self) -> None:
        self._on_drain()
        self.process.stop()

    def _make_relay(self, address: UpstreamAddress) -> RelayHandler:
        tls = ssl.create_default_context() if address.secure else None
        return RelayHandler(
            self.core.handshakes,
            Upstream(address.host, address.port, tls),
            partial(handed_on, assertions=self._assertions),
            timeout_s=self.settings.upstream_timeout_s,
            handshake_timeout_s=self.core.limits.handshake_timeout_s,
            result=self._upstream_answered,
        )

    def _new_connection(self, context: ConnectionContext) -> RelayedConnection:
        return RelayedConnection(self.core.lives, context)

    def _upstream_answered(self, result: str, refusal: Refusal | None, trace_id: str) -> None:
        self.core.meter.count("upstream_handshakes", result=result)
        if refusal is not None:
            log.warning(
                "upstream",
                code=refusal.code,
                detail=refusal.detail,
                cause=refusal.log_detail or None,
                trace_id=trace_id,
            )

    # -- HTTP ----------------------------------------------------------------------------------------------

    def _make_http(self, paths: PathPatterns) -> Callable[[Message, Receive, Send], Awaitable[None]]:
        """The guard's own routes, then what passes."""
        core, address = self.core, self.address
        own = GuardRoutes(
            core,
            path=paths.example(),
            prefix=GUARD_PREFIX,
            without=(),
            probe=None,
            more=[
                *verify.routes(core.handshakes, self._assertions.headers),
                Route(JWKS_PATH, self._jwks, methods=["GET"]),
            ],
            checks={"upstream": partial(_check_upstream, address)} if address is not None else None,
            drain=self._drain,
        )
        passing = None if address is None or not self.settings.pass_http else self._passing(address)

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            path = route_path(scope)
            if path in own.paths or path.startswith(f"{verify.PATH}/"):
                await own(scope, receive, send)
            elif passing is not None:
                await passing(scope, receive, send)
            else:
                await problem(Refusal(code="no_route"))(scope, receive, send)

        return answer

    async def _jwks(self, _: Request) -> Response:
        """RFC 7517 section 5: the keys that the assertions verify with."""
        headers = {"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}", "Access-Control-Allow-Origin": "*"}
        return JSONResponse(self.ring.public_keys(), headers=headers)

    def _passing(self, address: UpstreamAddress) -> HttpPassing:
        settings, core = self.settings, self.core
        rules = RequestRules(settings.proxies, settings.origins, settings.public_url)

        def prepare(scope: Message) -> tuple[list[tuple[str, str]], str, str]:
            client = rules.client(Request(cast("dict[str, Any]", scope)))
            headers = without_claims(scope["headers"])
            decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
            return decoded, client.address, client.scheme

        passing = HttpPassing(
            f"{'https' if address.secure else 'http'}://{address.authority}",
            prepare,
            timeout_s=settings.upstream_timeout_s,
            refuse=problem,
        )
        core.lifecycle.add([Component("http", passing.start, passing.stop)])
        return passing


async def _check_upstream(address: UpstreamAddress) -> str:
    """Connect, and leave: only a handshake with a user's proof would be answered."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as fault:
        raise CheckFailed("the server behind takes no connection") from fault
    writer.transport.abort()
    return "takes connections; a handshake with it is not tried"


def upstream_of(settings: Settings) -> tuple[UpstreamAddress | None, PathPatterns]:
    """The server behind (none with `verify_only`), and its WebSockets' paths. Raises ConfigError with every problem."""
    if settings.verify_only:
        if settings.upstream:
            raise ConfigError(["NARTHEX_VERIFY_ONLY relays nothing, and NARTHEX_UPSTREAM is set. Unset one."])
        return None, PathPatterns(("/ws",))
    problems = []
    address = parse_upstream(settings.upstream)
    if not settings.upstream:
        problems.append(
            "NARTHEX_UPSTREAM is not set. Name the server behind, --upstream ws://127.0.0.1:9000, or only answer "
            "proxies: --verify-only."
        )
    try:
        paths = PathPatterns(settings.upstream_paths)
    except ValueError as fault:
        problems.append(f"NARTHEX_UPSTREAM_PATHS: {fault}")
    if problems:
        raise ConfigError(problems)
    if isinstance(address, str):
        raise Bug("unchecked_upstream", "An upstream that the settings refuse reached the guard.")
    return address, paths


def serve(settings: Settings, on_ready: Callable[[list[str]], None]) -> bool:
    """Serve until SIGTERM or SIGINT; returns whether the end was in order.

    Args:
        settings: from `guard_settings`.
        on_ready: called with the listeners' URLs once the guard admits.

    Raises:
        ConfigError: see `GuardProcess`.
        Damaged: the data in the store cannot be read.
    """

    async def main() -> bool:
        return await GuardProcess(settings, on_ready).process.serve()

    return run(main())


def _load(flags: Mapping[str, Any], config: Path | None) -> Settings:
    return guard_settings(flags, config)


def _make(
    settings: Settings,
    orders: WorkerArguments,  # noqa: ARG001 - it has no engines
    on_ready: Callable[[], None],
    on_drain: Callable[[], None],
) -> ServerProcess:
    return GuardProcess(settings, lambda _urls: on_ready(), reuse_port=True, on_drain=on_drain).process


GUARDS: Final = WorkerProgram(_load, _make, engines=False)
"""What the workers of `narthex guard --workers N` run."""
