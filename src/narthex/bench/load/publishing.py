"""Publishing in bursts: frames on one socket to `/pub`, or HTTP requests on as many as are in flight."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from narthex.bench.load.dialects import Dialect
from narthex.bench.load.sockets import READ, STALL_S, open_socket

_ANSWERED: Final = b"HTTP/1.1 200"


class Publisher:
    """Publishes to one channel of one target.

    Attributes:
        over_http: whether it goes through a server API, whose cost is then part of what is measured.
    """

    def __init__(self, dialect: Dialect, channel: str, in_flight: int) -> None:
        self._dialect = dialect
        self.channel = channel
        self.over_http = not dialect.raw
        self._number = 0
        target = dialect.target
        self._sockets = [
            self._open(target.host, target.port, i) for i in range(in_flight if self.over_http else 1)
        ]
        self._owed = dict.fromkeys(range(len(self._sockets)), 0)

    def _open(self, host: str, port: int, index: int) -> socket.socket:
        sock = open_socket(host, port, index)
        sock.settimeout(STALL_S)
        if not self.over_http:
            sock.sendall(self._dialect.upgrade("", role="pub"))
            if b" 101 " not in sock.recv(READ)[:16]:
                raise ConnectionError("the publisher was refused")
        return sock

    def burst(self, count: int, size: int) -> None:
        """Send `count` publications at once."""
        messages = []
        for _ in range(count):
            self._number += 1
            data = self._dialect.publication(self._number, size)
            messages.append(self._dialect.publish(self.channel, data))
        if not self.over_http:
            self._sockets[0].sendall(b"".join(messages))
            return
        for index, message in enumerate(messages):
            self._sockets[index].sendall(message)
            self._owed[index] += 1

    def settle(self) -> None:
        """Read the API's answers.

        Raises:
            ConnectionError: one was not 200.
        """
        for index, owed in self._owed.items():
            got = b""
            while owed and got.count(_ANSWERED) < owed:
                data = self._sockets[index].recv(READ)
                got += data
                if not data or (b"HTTP/1.1 " in got and _ANSWERED not in got):
                    raise ConnectionError(f"publish was answered {got[:300].decode(errors='replace')}")
            self._owed[index] = 0

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.close()
