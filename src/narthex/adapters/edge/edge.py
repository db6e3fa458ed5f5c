"""What all connections of a process share: the Gate, the rules, the limits, the clock, the count.

Not here: any protocol. Rules: an `Edge` belongs to one event loop, from `start` on; a refusal leaves through
`refuse`, so that each is answered, counted and lingered for in one way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from narthex.adapters.edge.answers import header_lines, refusal_answer
from narthex.adapters.edge.connections import Connections, Evicted
from narthex.adapters.edge.deadlines import Deadlines, Expiring
from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.lingering import linger
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.turn import Turn
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Gate, RequestHead

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

log: Final = logging.getLogger("narthex.edge")

_NO_TRACE: Final = "none"


class HttpContext(NamedTuple):
    """What uvicorn gives each of its protocols."""

    config: Config
    server_state: ServerState
    app_state: dict[str, Any]


class Edge:
    """One process's edge.

    Args:
        gate: decides on upgrades.
        rules: what this gateway answers to.
        limits: its bounds.
        proxied: see `Connections`.
        forwarded: see the attribute.
        evicted: see `Connections`; also told of `unread`, an answer that its client does not take.

    Attributes:
        sockets: live WebSockets.
        connections: TCP connections, whatever they are doing.
        forwarded: the client's address of a request, where trusted proxies tell it; None: none is trusted.
        secure: whether the listener itself speaks TLS.
    """

    __slots__ = (
        "_common",
        "_common_of",
        "clock",
        "connections",
        "deadlines",
        "evicted",
        "forwarded",
        "gate",
        "http",
        "limits",
        "loop",
        "rules",
        "secure",
        "sockets",
        "turn",
    )

    deadlines: Deadlines
    turn: Turn
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        gate: Gate,
        *,
        rules: HeadRules,
        limits: EdgeLimits | None = None,
        proxied: Callable[[str], bool] = lambda _peer: False,
        forwarded: Callable[[RequestHead], str] | None = None,
        evicted: Evicted = lambda _reason, _key, _count: None,
    ) -> None:
        self.gate = gate
        self.rules = rules
        self.limits = limits or EdgeLimits()
        self.sockets: set[Expiring] = set()
        self.forwarded = forwarded
        self.evicted = evicted
        self.connections = Connections(
            self.limits.connections,
            self.limits.connections_per_address,
            proxied=proxied,
            evicted=evicted,
        )
        self.secure = False
        self.http: HttpContext | None = None  # uvicorn tells with the first connection
        self._common = b""
        self._common_of: list[tuple[bytes, bytes]] | None = None

    @property
    def open(self) -> int:
        """TCP connections now."""
        return len(self.connections)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to `loop`; call before the first connection."""
        self.loop = loop
        self.clock = loop.time
        self.deadlines = Deadlines(loop)
        self.turn = Turn(loop)

    def common_headers(self) -> bytes:
        """`Date`, as uvicorn refreshes it once a second, rendered once."""
        current = self.http.server_state.default_headers if self.http is not None else []
        if current is not self._common_of:
            self._common = header_lines([(name.decode(), value.decode()) for name, value in current])
            self._common_of = current
        return self._common

    def refuse(
        self, transport: asyncio.Transport, refusal: Refusal, head: RequestHead | None, *, eof: bool = False
    ) -> None:
        """Answer a request that the edge refuses by itself, send FIN, and linger.

        The caller's protocol has cleared its deadline and gets no more calls.

        Args:
            transport: the connection.
            refusal: why.
            head: the request, as far as it could be read.
            eof: whether the peer has already sent its FIN.
        """
        self.answer(transport, refusal, self.record(refusal, head), head, eof=eof)

    def answer(
        self,
        transport: asyncio.Transport,
        refusal: Refusal,
        trace_id: str,
        head: RequestHead | None,
        *,
        extra: list[tuple[str, str]] | None = None,
        eof: bool = False,
    ) -> None:
        """Write a refusal that has been recorded, send FIN, and linger."""
        is_head = head is not None and head.method == "HEAD"
        transport.write(
            refusal_answer(refusal, trace_id, extra=extra, common=self.common_headers(), head=is_head)
        )
        linger(self, transport, eof=eof)

    def record(self, refusal: Refusal, head: RequestHead | None) -> str:
        """Have the Gate count and log a refusal of the edge's own; returns the trace id. Never raises."""
        try:
            return self.gate.refused_early(refusal, head)
        except Exception:
            log.exception("recording a refusal failed")
            return _NO_TRACE
