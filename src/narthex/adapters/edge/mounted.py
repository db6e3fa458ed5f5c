"""WebSockets of the embedding program's own routes: the connection is uvicorn's, behind our reading of the head.

Not here: which paths are theirs (`rules`). Rules: the head's limits, `Host` and the form of the handshake were judged
as for our own; admission was not, because such routes are their program's; the connection stays counted until its end.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.errors import Bug


class MountedWebSocket(WebSocketsSansIOProtocol, Stage):
    """uvicorn's own WebSocket; uvicorn closes it when the process stops, and it waits for no client."""

    def __init__(self, tcp: TcpConnection) -> None:
        context = tcp.edge.http
        if context is None:
            raise Bug("no_http_context", "A connection came before uvicorn's server.")
        super().__init__(context.config, context.server_state, context.app_state, _loop=tcp.edge.loop)
        self.tcp = tcp

    def end(self) -> None:
        """See the class."""


def serve_mounted(tcp: TcpConnection, data: bytes) -> None:
    """Hand a connection whose first head asks for a WebSocket of the program's own to uvicorn, with what was read."""
    tcp.busy()
    connection = MountedWebSocket(tcp)
    connection.connection_made(tcp.transport)
    tcp.become(connection)
    connection.data_received(data)
