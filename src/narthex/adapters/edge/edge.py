"""Holds the state that all connections of a process share: upgrade handler, rules, limits, clock, count.

Not here: any protocol. Rules: an `Edge` belongs to one event loop, from `start` on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from narthex.adapters.edge.connections import Connections, Evicted
from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.responses import header_lines
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.upgrade_batch import UpgradeBatch
from narthex.app.timers import TimerWheel
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Decision, RequestHead
from narthex.ports.later import Later

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from narthex.adapters.edge.tcp import TcpConnection
    from narthex.adapters.edge.upstream.relay import Relayed

log: Final = logging.getLogger("narthex.edge")

_NO_TRACE: Final = "none"


class EdgeUpgradeHandler(Protocol):
    """`ports.edge.UpgradeHandler`, or a guard's, which also joins clients with an upstream."""

    def decide(self, head: RequestHead) -> Later[Decision | Relayed]:
        """See `UpgradeHandler`."""

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """See `UpgradeHandler`."""


class HttpContext(NamedTuple):
    """The objects that uvicorn gives each of its protocols."""

    config: Config
    server_state: ServerState
    app_state: dict[str, Any]


class Edge:
    """One process's edge.

    Args:
        upgrade_handler: decides on upgrades.
        rules: the hosts and paths that this gateway answers.
        limits: its bounds.
        proxied: see `Connections`.
        forwarded: see the attribute.
        evicted: see `Connections`; also called with `unread` for an answer that its client does not take.
        root_path: the path under which clients reach this process behind a proxy that removes it.

    Attributes:
        connections: TCP connections in every stage.
        forwarded: returns a request's client address from trusted proxies' headers; None: no proxy is trusted.
        secure: whether the listener itself speaks TLS.
    """

    __slots__ = (
        *("_common", "_common_of", "clock", "connections", "evicted", "forwarded", "http"),
        *("limits", "loop", "root_path", "rules", "secure", "timers", "upgrade_handler", "upgrades"),
    )

    timers: TimerWheel
    upgrades: UpgradeBatch
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        upgrade_handler: EdgeUpgradeHandler,
        *,
        rules: HeadRules,
        limits: EdgeLimits | None = None,
        proxied: Callable[[str], bool] = lambda _peer: False,
        forwarded: Callable[[RequestHead], str] | None = None,
        evicted: Evicted = lambda _reason, _key, _count: None,
        root_path: str = "",
    ) -> None:
        self.root_path = root_path
        self.upgrade_handler = upgrade_handler
        self.rules = rules
        self.limits = limits or EdgeLimits()
        self.forwarded = forwarded
        self.evicted = evicted
        self.connections: Connections[TcpConnection] = Connections(
            self.limits.connections,
            self.limits.connections_per_address,
            proxied=proxied,
            evicted=evicted,
        )
        self.secure = False
        self.http: HttpContext | None = None  # set from uvicorn's values at the first connection
        self._common = b""
        self._common_of: list[tuple[bytes, bytes]] | None = None

    @property
    def open(self) -> int:
        """The number of TCP connections now."""
        return len(self.connections)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bind the edge to `loop`; call before the first connection."""
        self.loop = loop
        self.clock = loop.time
        self.timers = TimerWheel(loop, _log_failed)
        self.upgrades = UpgradeBatch(loop)

    def common_headers(self) -> bytes:
        """`Date`, as uvicorn refreshes it once a second, rendered once."""
        current = self.http.server_state.default_headers if self.http is not None else []
        if current is not self._common_of:
            self._common = header_lines([(name.decode(), value.decode()) for name, value in current])
            self._common_of = current
        return self._common

    def record(self, refusal: Refusal, head: RequestHead | None) -> str:
        """Pass a refusal of the edge to the upgrade handler to count and log; returns the trace id. Never raises."""
        try:
            return self.upgrade_handler.refused_early(refusal, head)
        except Exception:
            log.exception("recording a refusal failed")
            return _NO_TRACE


def _log_failed(fault: Exception) -> None:
    log.error("a deadline's handler failed", exc_info=fault)
