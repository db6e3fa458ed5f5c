"""Serves WebSockets of the embedding program's own routes: uvicorn gets the connection after the edge read its head.

Not here: the paths of these routes (`rules`). Rules: the edge checks the head's limits, `Host` and the form of the
handshake as for its own paths; admission is up to the embedding program; the connection counts until its end.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.errors import Bug


class MountedWebSocket(WebSocketsSansIOProtocol, Stage):
    """uvicorn's own WebSocket; uvicorn closes it when the process stops, and it never counts as waiting."""

    def __init__(self, tcp: TcpConnection) -> None:
        context = tcp.edge.http
        if context is None:
            raise Bug("no_http_context", "A connection came before uvicorn's server.")
        super().__init__(context.config, context.server_state, context.app_state, _loop=tcp.edge.loop)
        self.tcp = tcp

    def end(self) -> None:
        """See the class."""


def serve_mounted(tcp: TcpConnection, data: bytes) -> None:
    """Pass a connection whose first head requests a mounted WebSocket to uvicorn, with the bytes read so far."""
    tcp.busy()
    connection = MountedWebSocket(tcp)
    connection.connection_made(tcp.transport)
    connection.client = tcp.peer  # uvicorn finds none on a Unix socket
    tcp.become(connection)
    connection.data_received(data)
