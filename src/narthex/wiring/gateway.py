"""A gateway as one object: made from settings, served until a signal, or inside another program's loop.

Not here: its parts (`parts`, `web_application`), its life (`server_process`), several processes (`supervisor`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.rules import ANY_HOST_PATHS, HeadRules
from narthex.adapters.edge.self_probe import SelfAddress
from narthex.adapters.edge.server import run
from narthex.adapters.machine import descriptor_limit, raise_descriptor_limit, share_one_heap
from narthex.adapters.telemetry.logging import (
    configure_logging,
    get_logger,
    is_unconfigured,
    mask_records,
)
from narthex.domain import endpoints
from narthex.domain.descriptors import capacity
from narthex.errors import ConfigError, DependencyError
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings
from narthex.wiring.agents import load_agents
from narthex.wiring.announcement import announce
from narthex.wiring.capacity_log import Evictions, log_capacity
from narthex.wiring.engines import make_broker, make_store
from narthex.wiring.mounted_lifespans import with_lifespans
from narthex.wiring.parts import Parts
from narthex.wiring.server_process import ServerProcess, edge_limits, make_edge, open_listeners
from narthex.wiring.web_application import WebApplication

log = get_logger("narthex.gateway")


class GatewayServer:
    """A gateway; see the module. `settings` come from `narthex.settings.load`.

    Args:
        settings: validated.
        agents: by name, the first is the default; None: those of the settings, else the concierge.
        routes: your own Starlette routes or mounts, on the same port; they come before narthex's.
        verifier: your own `ports.tokens.TokenVerifier` instead of the configured issuers.
        broker: your own engine instead of the configured one (tests, benchmarks).
        store: likewise.
        on_drain: called when a command asks for a drain, before it begins.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        agents: Mapping[str, Agent] | None = None,
        routes: Sequence[BaseRoute] = (),
        verifier: TokenVerifier | None = None,
        broker: Broker | None = None,
        store: Store | None = None,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self._agents = agents
        self._routes = tuple(routes)
        self._verifier = verifier
        self._broker = broker
        self._store = store
        self._on_drain = on_drain
        self._process: ServerProcess | None = None
        mask_records(settings.secret_values())
        self.parts: Parts | None = None
        self.site: WebApplication | None = None
        self.edge: Edge | None = None

    def run(self, on_ready: Callable[[list[str], Parts], None] | None = None) -> bool:
        """Serve on a loop of its own until SIGTERM or SIGINT. See `serve`.

        Logs as the settings say, unless the program has configured logging of its own; prints the gateway's URL,
        unless `on_ready` is given.
        """
        settings = self.settings
        if is_unconfigured():
            configure_logging(
                log_format=settings.log_format, level=settings.log_level, secrets=settings.secret_values()
            )
        for warning in settings.warnings if on_ready is None else ():
            log.warning("configuration", detail=warning)
        try:
            return run(self.serve(on_ready=on_ready or partial(announce, settings)))
        except (ConfigError, DependencyError) as fault:
            # Frames inside narthex are of no use to the author of the embedding program; the error's message is.
            raise fault.with_traceback(None) from None

    async def serve(
        self,
        *,
        sockets: list[socket.socket] | None = None,
        reuse_port: bool = False,
        on_ready: Callable[[list[str], Parts], None] | None = None,
    ) -> bool:
        """Serve until a signal, drain, stop.

        Args:
            sockets: bound listeners instead of the settings' host and port.
            reuse_port: share the port with other processes.
            on_ready: called with the URLs once the port is open and everything behind it answers.

        Returns:
            Whether the gateway ended in order.

        Raises:
            ConfigError: the address cannot be bound, or an engine refuses its configuration.
        """
        self._process = self._compose(sockets, reuse_port=reuse_port, on_ready=on_ready)
        return await self._process.serve()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve inside another program's loop (tests, embedding); yields the base URL once ready.

        Raises:
            DependencyError, ConfigError: it could not start.
        """
        self._process = self._compose(own_signals=False)
        async with self._process.running() as url:
            yield url

    def _compose(
        self,
        sockets: list[socket.socket] | None = None,
        *,
        own_signals: bool = True,
        reuse_port: bool = False,
        on_ready: Callable[[list[str], Parts], None] | None = None,
    ) -> ServerProcess:
        """Make everything of the gateway; nothing is opened yet but the port."""
        settings = self.settings
        agents = self._agents
        if own_signals:
            share_one_heap()
        fitted = capacity(settings.limits(), raise_descriptor_limit() if own_signals else descriptor_limit())
        log_capacity(fitted, asked=settings.source("max_connections") != "default")
        parts = self.parts = Parts(
            settings,
            self._broker or make_broker(settings),
            self._store or make_store(settings),
            agents if agents is not None else load_agents(settings, self.facts),
            verifier=self._verifier,
            limits=fitted.limits,
            on_drain=self._drain,
            share_traces=own_signals,
        )
        parts.meter.gauge("descriptors", float(fitted.descriptors))
        edge = self.edge = make_edge(
            settings,
            edge_limits(settings, fitted),
            parts.handshakes,
            _rules(settings, self._routes),
            Evictions(parts.meter).counted,
        )
        listeners = sockets or open_listeners(
            settings, reuse_port=reuse_port, send_buffer_bytes=edge.limits.send_buffer_bytes
        )
        routes, applications = with_lifespans(self._routes)
        site = self.site = WebApplication(parts, _loopback_of(listeners[0]), edge.connections.__len__, routes)
        parts.lifecycle.add(site.components())
        parts.lifecycle.add([*applications, *site.status_components()], first=True)
        return ServerProcess(
            site.app,
            edge,
            parts.lifecycle,
            listeners,
            grace_s=settings.drain_grace_s,
            log=log,
            on_ready=(lambda _urls: None) if on_ready is None else lambda urls: on_ready(urls, parts),
            own_signals=own_signals,
        )

    def stop(self) -> None:
        """Begin to drain, unless a drain has begun."""
        if self._process is not None:
            self._process.stop()

    def _drain(self) -> None:
        self._on_drain()
        self.stop()

    async def facts(self) -> Mapping[str, object]:
        """Health, for the concierge's tool."""
        assert self.site is not None
        return await self.site.health.report()


def _rules(settings: Settings, routes: Sequence[BaseRoute] = ()) -> HeadRules:
    echo = [endpoints.CONFORMANCE] if settings.policy.conformance else []
    # A scraper on Kubernetes asks a pod by its address; the token is what protects the numbers then.
    metrics = ["/metrics"] if settings.metrics_tokens() else []
    return HeadRules(
        allowed_host=settings.hosts.allows,
        any_host_paths=ANY_HOST_PATHS.union(metrics),
        websocket_paths=frozenset([*endpoints.WEBSOCKETS, *echo]),
        mounted=(lambda path: takes_websocket(routes, path)) if routes else None,
    )


def takes_websocket(routes: Sequence[BaseRoute], path: str) -> bool:
    """Whether one of the embedding program's routes or mounts takes a WebSocket at `path`."""
    scope: Scope = {"type": "websocket", "path": path, "root_path": "", "headers": [], "query_string": b""}
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def _loopback_of(listener: socket.socket) -> SelfAddress:
    """The gateway's own address for itself: the bound one, or loopback when it is bound to all."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return Path(os.fsdecode(name))
    host, port = name[:2]
    return ("127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host, port)  # noqa: S104 - compared
