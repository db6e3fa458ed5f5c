"""An upstream of plain sockets, of which a test chooses every byte."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from tests.adapters.edge.harness import ACCEPT, TIME_UNIT_S, Peer

SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
).encode()


def reset(peer: Peer) -> None:
    """Close with RST, as a killed process does that had unread bytes."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.socket.close()


class Accepted(Peer):
    """One connection that a guard opened. `seen`: the head of its handshake, once it is answered."""

    seen = b""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(TIME_UNIT_S)
        self._read = b""

    def request(self) -> bytes:
        """The head of the handshake."""
        return self.until(b"\r\n\r\n")


class RawUpstream:
    """A listening socket."""

    def __init__(self, *, receive_buffer: int = 0) -> None:
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._listener.settimeout(TIME_UNIT_S)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def accept(self) -> Accepted:
        """The next connection."""
        return Accepted(self._listener.accept()[0])

    def joined(self, behind: bytes = b"") -> Accepted:
        """The next connection, after its handshake, with bytes behind the 101."""
        accepted = self.accept()
        accepted.seen = accepted.request()
        accepted.send(SWITCHING + behind)
        return accepted
