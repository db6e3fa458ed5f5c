"""Processes a loop iteration's new requests in batches: reads, checks and decides all heads, writes all 101s, then
starts all sockets.

The kernel's send path, its receive path and the interpreter evict one another from the CPU caches, and a write to a
sleeping reader pays for waking it. In batches the caches are warm, and the first write has woken the reader on the same
machine (a proxy): with many clients a handshake takes a third less time. Not here: the steps themselves (`head_stage`,
`upgrades`). Rules: a request waits at most for the end of the iteration and for the `AT_ONCE` of its batch; a failing
one does not affect the others; a receiver gets its socket after its 101 was written.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

AT_ONCE: Final = 16  # so that the first 101 of many waits for 15 decisions, 2 ms, and not for all

_log: Final = logging.getLogger("narthex.edge")


class StartableSocket(Protocol):
    """The part of `websocket.WebSocket` that this module uses."""

    def start(self, early: bytes) -> None:
        """Take over the transport."""

    def abandon(self) -> None:
        """The peer has left."""


class PendingUpgrade:
    """An admitted client whose 101 is to be written.

    Args:
        socket: not started yet.
        transport: its connection.
        answer: the 101.
        early: the bytes that the client sent behind its request head.
    """

    __slots__ = ("_answer", "_early", "_socket", "_transport")

    def __init__(
        self, socket: StartableSocket, transport: asyncio.Transport, answer: bytes, early: bytes
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._answer = answer
        self._early = early

    def write(self) -> bool:
        """Write the 101; False: it cannot be written, and the receiver was closed."""
        try:
            self._transport.write(self._answer)
        except Exception:
            _log.exception("a 101 could not be written")
            self._transport.abort()  # no deadline is left that would end the connection
            self._socket.abandon()
            return False
        return True

    def start(self) -> None:
        """Pass the connection to the socket; call it after `write`."""
        try:
            self._socket.start(self._early)
        except Exception:
            _log.exception("a socket could not be started")
            self._transport.abort()

    def complete(self) -> None:
        """Write and start at once, outside a batch."""
        if self.write():
            self.start()


class ReadyConnection(Protocol):
    """The part of `head_stage.RequestHeadStage` that this module uses."""

    def read(self) -> PendingUpgrade | None:
        """Read this iteration's bytes; returns the resulting 101, if there is one."""

    def end(self) -> None:
        """Release the connection."""


class UpgradeBatch:
    """The connections with unread bytes, in one event loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[ReadyConnection] = []

    def add(self, connection: ReadyConnection) -> None:
        """Read `connection` at the end of this iteration."""
        if not self._waiting:
            self._loop.call_soon(self._end)
        self._waiting.append(connection)

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        for at in range(0, len(waiting), AT_ONCE):
            pending_upgrades = [
                found for connection in waiting[at : at + AT_ONCE] if (found := _read(connection)) is not None
            ]
            for pending in [pending for pending in pending_upgrades if pending.write()]:
                pending.start()


def _read(connection: ReadyConnection) -> PendingUpgrade | None:
    try:
        return connection.read()
    except Exception:
        _log.exception("a request could not be decided")
        connection.end()
        return None
