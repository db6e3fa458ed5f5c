"""The last seconds of a connection that has had its answer: FIN sent, waiting for the peer to read and close.

Closing at once would make the kernel answer late bytes with RST, and an RST can destroy the answer before the
peer's program reads it (RFC 9112 section 9.6). Rules: bounded by `linger_s` and `linger_bytes`; what the peer
still sends is thrown away; past the bytes reading stops, so that a flood costs its sender and not us.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from narthex.adapters.edge.connections import Connections
from narthex.adapters.edge.deadlines import Deadlines
from narthex.adapters.edge.limits import EdgeLimits


class Shared(Protocol):
    """What of `edge.Edge` matters here: bounds, deadlines, the table of open connections."""

    connections: Connections
    deadlines: Deadlines
    limits: EdgeLimits


class Lingering(asyncio.Protocol):
    """A connection after its last word."""

    __slots__ = ("_edge", "_left", "_transport", "due")

    def __init__(self, edge: Shared, transport: asyncio.Transport) -> None:
        self._edge = edge
        self._transport = transport
        self._left = edge.limits.linger_bytes
        self.due = 0

    def data_received(self, data: bytes) -> None:
        """Throw away, within the bound."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The peer is done too: asyncio closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        del exc
        self._edge.deadlines.clear(self)
        self._edge.connections.leave(self._transport)

    def expired(self) -> None:
        """The peer had its time."""
        self._transport.abort()

    def end(self) -> None:
        """The process stops."""
        self._transport.abort()

    def evict(self) -> None:
        """See `connections.Waiting`."""
        self._edge.deadlines.clear(self)
        self._transport.abort()


def linger(edge: Shared, transport: asyncio.Transport, *, eof: bool = False) -> None:
    """Send FIN after what is written, wait for the peer's, and give up after `linger_s`.

    The calling protocol has left `Edge.deadlines`, and is told nothing more: the count of open connections
    goes down when the transport is lost, which is this module's from here on.

    Args:
        edge: shared state.
        transport: the connection; its last bytes are written.
        eof: whether the peer has already sent its FIN.
    """
    last = Lingering(edge, transport)
    transport.set_protocol(last)
    if transport.is_closing():
        return
    edge.connections.idle(transport)
    edge.deadlines.set(last, edge.limits.linger_s)
    if eof or not transport.can_write_eof():  # TLS has no half-close
        transport.close()
        return
    transport.resume_reading()
    transport.write_eof()
