"""Publishing in bursts: frames on one socket, or HTTP requests on as many as are in flight."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from narthex.bench.load.dialects import ServerDialect
from narthex.bench.load.sockets import READ, STALL_S, open_socket
from narthex.bench.load.wire import PONG_FRAME, frames
from narthex.protocol.client import Ping, Reply, decode_messages

_ANSWERED: Final = b"HTTP/1.1 200"


class Publisher:
    """Publishes to one channel of one target.

    Args:
        dialect: the target's.
        channel: may be changed between bursts.
        in_flight: the most publications of a burst.
        over_http: through the server API; None: the usual way of this kind of server.

    Attributes:
        answered: whether the target confirms that a publication is durable; raw servers confirm nothing.
    """

    def __init__(
        self, dialect: ServerDialect, channel: str, in_flight: int, *, over_http: bool | None = None
    ) -> None:
        self._dialect = dialect
        self.channel = channel
        self.answered = not dialect.raw
        self._over_http = dialect.published_over_http if over_http is None else over_http
        self._number = 0
        self._buffer = bytearray()
        target = dialect.target
        count = in_flight if self._over_http else 1
        self._sockets = [self._open(target.host, target.port, i) for i in range(count)]
        self._owed = dict.fromkeys(range(len(self._sockets)), 0)

    def _open(self, host: str, port: int, index: int) -> socket.socket:
        sock = open_socket(host, port, index)
        sock.settimeout(STALL_S)
        if not self._over_http:
            sock.sendall(self._dialect.upgrade("bench-service", role="pub"))
            if b" 101 " not in sock.recv(READ):
                raise ConnectionError("the publisher was refused")
            if self.answered:
                sock.sendall(self._dialect.connect("bench-service"))
                while not self._replies(sock):
                    pass
        return sock

    def _replies(self, sock: socket.socket) -> int:
        """Read once, answer a ping; returns the number of commands that succeeded."""
        data = sock.recv(READ)
        if not data:
            raise ConnectionError("the publisher's connection was closed")
        self._buffer += data
        count = 0
        for payload in frames(self._buffer):
            for message in decode_messages(payload):
                if isinstance(message, Ping):
                    sock.sendall(PONG_FRAME)
                elif isinstance(message, Reply):
                    if message.error is not None:
                        raise ConnectionError(
                            f"the publisher got error {message.error.code} {message.error.message}"
                        )
                    count += 1
        return count

    def burst(self, count: int, size: int) -> None:
        """Send `count` publications at once."""
        dialect = self._dialect
        numbers = range(self._number, self._number + count)
        self._number += count
        data = [dialect.publication(number, size) for number in numbers]
        if not self._over_http:
            self._sockets[0].sendall(b"".join(dialect.publish(self.channel, each) for each in data))
            self._owed[0] += count if self.answered else 0
            return
        for index, each in enumerate(data):
            self._sockets[index].sendall(dialect.post(self.channel, each))
            self._owed[index] += 1

    def settle(self) -> None:
        """Read the answers.

        Raises:
            ConnectionError: an answer was no success.
        """
        for index, owed in self._owed.items():
            sock, got = self._sockets[index], b""
            while owed > 0 and not self._over_http:
                owed -= self._replies(sock)
            while got.count(_ANSWERED) < owed:
                data = sock.recv(READ)
                got += data
                if not data or b'"error":' in got or (b"HTTP/1.1 " in got and _ANSWERED not in got):
                    raise ConnectionError(f"the reply to publish was {got[:300].decode(errors='replace')}")
            self._owed[index] = 0

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.close()
