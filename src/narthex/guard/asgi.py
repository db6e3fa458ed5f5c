"""`narthex.Guard`: admission around the WebSockets of an ASGI application.

    app = narthex.Guard(app, paths=["/ws"])

Not here: the composition (`core`), an admitted socket (`sockets`), HTTP routes (`routes`). Rules: a WebSocket at a path
that is not named is refused; the core belongs to one event loop and is made there; a configuration error ends the
import with exit code 78 after every problem was printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

from narthex.adapters.edge.rules import HeadRules, head_problem
from narthex.adapters.telemetry.logging import get_logger
from narthex.app.connection_context import ConnectionContext
from narthex.app.handshake import NewReceiver
from narthex.app.tasks import end_tasks
from narthex.domain.endpoints import GUARD_PREFIX
from narthex.domain.refusals import Refusal
from narthex.errors import EXIT_CONFIG, ConfigError
from narthex.guard.cleaning import without_claims
from narthex.guard.core import GuardCore, guard_settings
from narthex.guard.in_band import InBand, prove
from narthex.guard.lifespan import Lifespan
from narthex.guard.paths import PathPatterns
from narthex.guard.probe import Probe
from narthex.guard.routes import GuardRoutes
from narthex.guard.scopes import (
    Scope,
    answers_http,
    explained,
    head_of,
    refusal_messages,
    refusing,
)
from narthex.guard.sockets import Application, CountedSocket, GuardedSocket, Receive, Send
from narthex.guard.users import socket_of
from narthex.ports.edge import Accept, Decision, Deny
from narthex.ports.later import settled
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings
from narthex.web.paths import root_path, route_path
from narthex.wiring.server_process import open_components

START_WAIT_S: Final = 2.0
"""A request, or the server's start-up, waits so long for the store; then the answer is `starting`."""

_AT_ONCE: Final = frozenset({"/livez", "/readyz"})

log = get_logger("narthex.guard")


class Guard:
    """An ASGI 3 application around another one.

    Args:
        app: the application.
        paths: WebSocket paths that are guarded; `{name}` matches one segment, `*` at the end any rest.
        in_band: finds the token in a client's first message; then a connection without a credential is accepted and
            can do nothing but send it. None: nothing is upgraded without a credential.
        subprotocol: accepts such a connection with this subprotocol where the client offered it.
        prefix: of the guard's HTTP routes: `/ws/health`, `/ws/preflight`, `/ws/ticket`, `/ws/config` and others.
        without: paths of the guard's HTTP routes that are left to the application, such as `/metrics`.
        settings: from `narthex.settings.load`, or options by name (as in narthex.toml) that go before the
            environment; None: environment and narthex.toml only.
        public: WebSocket paths that pass to the application unguarded, with all that the client sent.
        probe: uses a connection to the first of `paths` as a client does, for the handshake check of health.
        verifier: verifies tokens instead of the configured issuers.
    """

    def __init__(
        self,
        app: Application,
        paths: Sequence[str] = ("/ws",),
        *,
        settings: Settings | Mapping[str, Any] | None = None,
        public: Sequence[str] = (),
        in_band: InBand | None = None,
        subprotocol: str | None = None,
        prefix: str = GUARD_PREFIX,
        without: Collection[str] = (),
        probe: Probe | None = None,
        verifier: TokenVerifier | None = None,
    ) -> None:
        self.app = app
        try:
            self.settings = guard_settings(settings)
            self._paths = _patterns("paths", paths)
            self._public = _patterns("public", public)
            self._path = _endpoint(paths, prefix, probe)
        except ConfigError as fault:
            _exit(fault)
        self._in_band = in_band
        self._subprotocol = subprotocol
        self._prefix = prefix
        self._without = frozenset(without)
        self._probe = probe
        self._verifier = verifier
        self._rules = HeadRules(allowed_host=self.settings.hosts.allows)
        self._core: GuardCore | None = None
        self._routes: GuardRoutes | None = None
        self._starting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        kind = scope["type"]
        if kind == "websocket":
            # In this frame, and no deeper: each frame of a socket's life is memory that an idle socket holds.
            socket = await self._admitted(scope, receive, send)
            if socket is None:
                return
            try:
                own = await self._begun(socket, scope, receive, send)
                if own is not None:
                    await self.app(own, *socket.calls())
            finally:
                await socket.detach()
        elif kind == "lifespan":
            await Lifespan(self).run(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # -- the core's life -----------------------------------------------------------------------------------

    def _begin(self) -> GuardCore:
        """The core of this event loop, made on first use; it starts in the background."""
        loop = asyncio.get_running_loop()
        if self._core is not None and self._core.lives.loop is loop:
            return self._core
        core = self._core = GuardCore(
            self.settings,
            # The handshake handler hands it back in its decision, and calls nothing of it.
            new_receiver=cast("NewReceiver", self._new_socket),
            paths=self._paths,
            in_band=self._in_band is not None,
            verifier=self._verifier,
        )
        self._routes = GuardRoutes(
            core, path=self._path, prefix=self._prefix, without=self._without, probe=self._probe
        )
        for warning in self.settings.warnings:
            log.warning("configuration", detail=warning)
        self._starting = loop.create_task(open_components(core.lifecycle, log))
        return core

    async def start(self) -> GuardCore:
        """The core of this event loop; it may still be `starting` on return."""
        core = self._begin()
        if core.state() == "starting" and self._starting is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_WAIT_S):
                    await asyncio.shield(self._starting)
        return core

    async def drain(self) -> None:
        """Refuse new handshakes, and close every socket within the grace, paced."""
        if self._core is not None:
            await self._core.lifecycle.drain()

    async def stop(self) -> None:
        """Drain, and close the store. A later request begins anew."""
        core, self._core = self._core, None
        if core is None:
            return
        await end_tasks(self._starting)
        self._starting = None
        await core.lifecycle.drain()
        await core.lifecycle.stop()

    def _new_socket(self, context: ConnectionContext) -> GuardedSocket:
        assert self._core is not None
        kind = GuardedSocket if self._core.lives.records is None else CountedSocket
        return kind(self._core.lives, self._core.tasks.spawn, context)

    async def refresh(self, connection: Any, token: str) -> Refusal | None:
        """A fresh token for an admitted connection, which the application's wire carried.

        Args:
            connection: as for `narthex.identity`.
            token: of the same subject; of several, the one that was given last decides.

        Returns:
            None: the connection has the permissions of the new token and lives as long as it; else why it does not,
            such as `expired` or `token_revoked` where the connection was closed meanwhile.
        """
        socket: GuardedSocket = socket_of(connection)
        core = self._core
        assert core is not None
        refusal = await socket.refresh(core.in_band, token)
        result = "ok" if refusal is None else refusal.code
        core.meter.count("token_refreshes", surface="connection", result=result)
        return refusal

    # -- HTTP ----------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._begin()
        assert self._routes is not None
        path = route_path(scope)
        if path in self._routes.paths:
            if path not in _AT_ONCE:
                await self.start()
            return await self._routes(scope, receive, send)
        headers = scope["headers"]
        kept = without_claims(headers)
        return await self.app(scope if kept is headers else {**scope, "headers": kept}, receive, send)

    # -- WebSockets ----------------------------------------------------------------------------------------

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> GuardedSocket | None:
        """The socket of an admitted handshake; None: it was refused, or has passed unguarded."""
        path = route_path(scope)
        if self._public.patterns and self._public.match(path) and not self._guards(scope, path):
            await self.app(scope, receive, send)
            return None
        core = self._begin()
        if core.state() == "starting":
            core = await self.start()
        if (await receive())["type"] != "websocket.connect":
            return None
        head = head_of(scope)
        head.path = path
        limits = core.limits
        problem = head_problem(head, self._rules, limits.max_head_bytes, limits.max_headers, upgrade=True)
        if problem is not None:
            await _refuse(problem, core.handshakes.refused_early(problem, head), scope, send)
            return None
        decided = core.handshakes.decide(head)
        decision: Decision = decided if isinstance(decided, Accept) else await settled(decided)
        if isinstance(decision, Deny):
            await _refuse(decision.refusal, decision.trace_id, scope, send, explain=decision.explain)
            return None
        return cast("GuardedSocket", decision.receiver)

    def _guards(self, scope: Scope, path: str) -> bool:
        """Whether a path is guarded, by either of its names: an application may route by the one with the root."""
        return self._paths.match(path) or self._paths.match(scope["path"])

    async def _begun(self, socket: GuardedSocket, scope: Scope, receive: Receive, send: Send) -> Scope | None:
        """The application's scope, once the user is known; None: the connection was closed before."""
        socket.attach(scope, receive, send)
        hook = self._in_band
        if hook is not None and socket.context.identity is None:
            core = self._begin()
            offered = scope.get("subprotocols") or ()
            chosen = self._subprotocol if self._subprotocol in offered else socket.context.admit.subprotocol
            await socket.accept(chosen)
            try:
                first = await prove(core, socket, hook)
            except Exception as fault:  # of the application's hook
                core.report_bug(fault, socket.context.trace_id)
                first = Refusal(code="internal")
            if isinstance(first, Refusal):
                socket.life.refuse(first)
                return None
            if first is None:
                return None
            if first:
                socket.put_first(first)
        return socket.application_scope()


async def _refuse(
    refusal: Refusal, trace_id: str, scope: Scope, send: Send, *, explain: bool = False
) -> None:
    """Answer a refused upgrade as well as the server can."""
    if explain:
        await send(explained(scope))
    elif answers_http(scope):
        for message in refusal_messages(refusal, trace_id, root_path(scope)):
            await send(message)
        # uvicorn logs an error for a call that returns before it has noticed the end of its connection.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return
    await send(refusing(refusal))


def _patterns(name: str, patterns: Sequence[str]) -> PathPatterns:
    try:
        return PathPatterns(patterns)
    except ValueError as fault:
        raise ConfigError([f"Guard({name}=…): {fault}"]) from fault


def _endpoint(paths: Sequence[str], prefix: str, probe: Probe | None) -> str:
    """The path that `/ws/config` names and the probe uses. Raises ConfigError: there is none."""
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ConfigError([f"Guard(prefix={prefix!r}): it must begin with `/` and not end with one."])
    plain = [path for path in paths if "{" not in path and "*" not in path]
    if not paths or (probe is not None and not plain):
        raise ConfigError(["Guard(paths=…): name a path; with `probe=`, one without parameters."])
    return (plain or list(paths))[0]


def _exit(fault: ConfigError) -> NoReturn:
    """End the import, as `narthex serve` ends: a server that goes on would serve without a guard."""
    for problem in fault.problems:
        print(f"narthex: {problem}", file=sys.stderr)  # noqa: T201 - logging may not be configured yet
    raise SystemExit(EXIT_CONFIG) from None
