"""The entrance: our class in uvicorn's `http` slot, there from accept until the first request head is read.

Then the connection is an upgrade's (`upgrading`, `websocket`), uvicorn's (`http`), or refused (`lingering`).
Rules: what comes is read at the end of its turn of the loop (`turn`); every head has its deadline; every refused
request gets an answer and a FIN; a connection that never sent a byte is closed without one, for it asked for
nothing (browsers open such connections in advance).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from narthex.adapters.edge.answers import refusal_answer
from narthex.adapters.edge.edge import Edge, HttpContext
from narthex.adapters.edge.head import Complete, HeadReader, malformed, request_head
from narthex.adapters.edge.http import AT_LIMIT, serve_http
from narthex.adapters.edge.rules import Mounted, Upgrade, judge
from narthex.adapters.edge.turn import Welcome
from narthex.adapters.edge.upgrading import begin
from narthex.domain.refusals import Refusal

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState


class Entrance(asyncio.Protocol):
    """A connection before its first request is known."""

    __slots__ = ("_at", "_edge", "_peer", "_read", "_reader", "_transport", "_unread", "due")

    _transport: asyncio.Transport

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._reader: HeadReader | None = None
        self._read = b""  # at most `head_bytes`
        self._unread = b""  # what came in this turn of the loop
        self.due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: the handshake's time starts."""
        edge = self._edge
        self._transport = cast("asyncio.Transport", transport)
        self._at = edge.clock()
        peer = transport.get_extra_info("peername")
        # A unix socket has no address: its other end is a proxy on this machine, or a program of ours.
        self._peer = (peer[0], peer[1]) if peer and not isinstance(peer, str | bytes) else ("", 0)
        if not edge.connections.arrive(self._transport, self._peer[0]):
            self._refuse(Refusal(code="overloaded", detail="Too many connections.", retry_after_s=5))
            return
        edge.deadlines.set(self, edge.limits.handshake_s)

    def data_received(self, data: bytes) -> None:
        """Bytes of the head, and whatever comes behind it: read at the end of this turn of the loop."""
        if not self._unread:
            self._edge.turn.add(self)
        self._unread += data
        if len(self._unread) > self._edge.limits.head_bytes:  # no turn brings a head of more: judge it now
            self._still_here()

    def read(self) -> Welcome | None:
        """Read what came in this turn; gives the 101 that follows from it, if one does."""
        data, self._unread = self._unread, b""
        if not data:  # the peer has left, or it was read already
            return None
        limits = self._edge.limits
        reader = self._reader
        if reader is None:
            reader = self._reader = HeadReader(limits.head_bytes, limits.headers)
        outcome = reader.feed(data)
        if outcome is None:
            self._read += data
        elif isinstance(outcome, Refusal):
            self._refuse(outcome)
        else:
            return self._route(outcome, self._read + data if self._read else data)
        return None

    def eof_received(self) -> bool | None:
        """The peer has nothing more to say; an incomplete head gets its answer all the same."""
        if self._unread and not self._still_here():
            return cast("asyncio.Protocol", self._transport.get_protocol()).eof_received()
        if self._reader is None:
            return False
        self._refuse(malformed("The request ended before its head was complete."), eof=True)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer left."""
        del exc
        self._unread = b""
        self._edge.connections.leave(self._transport)
        self._edge.deadlines.clear(self)
        self._drop_reader()

    def expired(self) -> None:
        """No whole head in time."""
        if self._unread and not self._still_here():
            return
        if self._reader is None:
            self._transport.close()
        else:
            self._refuse(Refusal(code="handshake_timeout", detail="The request head did not arrive in time."))

    def end(self) -> None:
        """The process stops."""
        self._transport.abort()

    def evict(self) -> None:
        """See `connections.Waiting`. A request that had begun gets its answer; there is no time to linger."""
        edge, transport = self._edge, self._transport
        edge.deadlines.clear(self)
        self._unread = b""
        if self._reader is not None:
            self._drop_reader()
            refusal = Refusal(code="overloaded", detail="Too many connections.", retry_after_s=5)
            transport.write(refusal_answer(refusal, edge.record(refusal, None), common=edge.common_headers()))
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def _still_here(self) -> bool:
        """Read at once what this turn brought; whether the connection is still this protocol's then."""
        welcome = self.read()
        if welcome is not None:
            welcome.give()
        return self._transport.get_protocol() is self

    def _route(self, complete: Complete, data: bytes) -> Welcome | None:
        edge, transport = self._edge, self._transport
        self._reader = None
        head = request_head(
            complete.fields,
            peer=self._peer,
            secure=edge.secure,
            received_at=self._at,
        )
        judged = judge(complete.fields, head, edge.rules)
        if edge.forwarded is not None and not edge.connections.attribute(transport, edge.forwarded(head)):
            judged = AT_LIMIT
        if isinstance(judged, Upgrade):
            return begin(edge, transport, head, judged, data[complete.size :], self)
        edge.deadlines.clear(self)
        if isinstance(judged, Refusal):
            edge.refuse(transport, judged, head)
        elif isinstance(judged, Mounted):
            from narthex.adapters.edge.mounted import serve_mounted  # most gateways have no such routes

            serve_mounted(edge, transport, data)
        else:
            serve_http(edge, transport, data, self._at)
        return None

    def _refuse(self, refusal: Refusal, *, eof: bool = False) -> None:
        self._edge.deadlines.clear(self)
        self._drop_reader()
        self._edge.refuse(self._transport, refusal, None, eof=eof)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.drop()
            self._reader = None


class Doorkeeper:
    """What uvicorn calls for each connection it accepts, in place of a protocol class."""

    __slots__ = ("_edge",)

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Entrance:
        """A new connection's protocol."""
        if self._edge.http is None:
            self._edge.http = HttpContext(config, server_state, app_state)
        return Entrance(self._edge)
