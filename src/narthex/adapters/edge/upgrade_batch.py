"""What one loop iteration brought to the head stage, done in stages: all heads are read, judged and decided, then
all 101s are written, then all sockets start.

The kernel's sending path, its receiving path and the interpreter throw one another out of the caches, and a write
that finds its reader asleep pays for waking it. In a row each is warm, and the first write has woken the reader on
the same machine (a proxy): a crowd's handshake takes a third less. Not here: what each stage does (`protocol`,
`upgrades`). Rules: nobody waits longer than for the end of the iteration and for the `AT_ONCE` it is done with; one
that fails costs the others nothing; a receiver hears of its socket after its 101 was written.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

AT_ONCE: Final = 16  # so that the first 101 of a great crowd waits for 15 decisions, 2 ms, and not for all

_log: Final = logging.getLogger("narthex.edge")


class StartableSocket(Protocol):
    """What of `websocket.WebSocket` matters here."""

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
        early: what the client sent behind its request head.
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
        """Write the 101; False: it cannot be written, and the receiver has been told so."""
        try:
            self._transport.write(self._answer)
        except Exception:
            _log.exception("a 101 could not be written")
            self._transport.abort()  # no deadline is left that would end it
            self._socket.abandon()
            return False
        return True

    def start(self) -> None:
        """Hand the connection over to the socket; after `write`."""
        try:
            self._socket.start(self._early)
        except Exception:
            _log.exception("a socket could not be started")
            self._transport.abort()

    def complete(self) -> None:
        """Both at once, for one that comes by itself."""
        if self.write():
            self.start()


class ReadyConnection(Protocol):
    """What of `head_stage.RequestHeadStage` matters here."""

    def read(self) -> PendingUpgrade | None:
        """Read what came in this iteration; gives the 101 that follows from it."""

    def end(self) -> None:
        """Let go of the connection."""


class UpgradeBatch:
    """Those that have something to read, in one event loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[ReadyConnection] = []

    def add(self, connection: ReadyConnection) -> None:
        """Have `connection` read at the end of this iteration."""
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
        _log.exception("a request could not be judged")
        connection.end()
        return None
