"""WebSockets of the embedding program's own routes: the connection is uvicorn's, behind our reading of the head.

Not here: which paths are theirs (`rules`). Rules: the head's limits, `Host` and the form of the handshake were judged
as for our own; admission was not, because such routes are their program's; the connection stays counted until its end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from narthex.errors import Bug

if TYPE_CHECKING:
    from narthex.adapters.edge.edge import Edge


class MountedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket, which leaves our count of connections when it ends."""

    def __init__(self, edge: Edge) -> None:
        context = edge.http
        if context is None:
            raise Bug("no_http_context", "A connection came before uvicorn's server.")
        super().__init__(context.config, context.server_state, context.app_state, _loop=edge.loop)
        self._edge = edge

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever brought it."""
        self._edge.connections.leave(self.transport)
        super().connection_lost(exc)

    def evict(self) -> None:
        """See `connections.Waiting`: never asked for, because an open socket does not wait for its client."""
        self.transport.abort()


def serve_mounted(edge: Edge, transport: asyncio.Transport, data: bytes) -> None:
    """Hand a connection whose first head asks for a WebSocket of the program's own to uvicorn, with what was read."""
    edge.connections.busy(transport)
    connection = MountedWebSocket(edge)
    connection.connection_made(transport)
    transport.set_protocol(connection)
    connection.data_received(data)
