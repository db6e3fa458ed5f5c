"""An open WebSocket on raw streams: for a look after the upgrade, for the conversation with a narthex, for holding.

Not here: opening it (`exchanging`), the messages on it. Rules: WebSocket pings are answered at once; every wait is
bounded; how the socket ended is a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from narthex.doctor.dialing import RawConnection, elapsed_ms
from narthex.doctor.frames import MAX_FRAME_BYTES, ClientFrameReader
from narthex.doctor.observations import Close
from narthex.protocol.framing import CLOSE, PING, PONG, TEXT, decode_close, encode_close, encode_frame

MAX_QUEUED: Final = 1000  # unread messages; more than a doctor's own thread can cause
Ended = Literal["", "close", "eof", "reset", "fault"]


class LiveSocket:
    """An open WebSocket.

    Attributes:
        ended: how it ended; empty while it is open.
        close: the server's close frame.
        pong_ms: from the opening to the first pong; None before.
    """

    def __init__(self, link: RawConnection, rest: bytes) -> None:
        self.ended: Ended = ""
        self.close: Close | None = None
        self.pong_ms: float | None = None
        self.opened = time.perf_counter()
        self.heard = self.opened
        self._link = link
        self._reader = ClientFrameReader()
        self._partial = bytearray()
        self._messages: deque[str] = deque(maxlen=MAX_QUEUED)
        self._feed(rest)

    @property
    def fault(self) -> str:
        """Why the server's bytes are no frames; empty while they are."""
        return self._reader.fault

    def send(self, text: bytes) -> None:
        """Send a text message."""
        self._write(TEXT, text)

    def ping(self) -> None:
        """Send a WebSocket ping."""
        self._write(PING, b"narthex")

    async def receive(self, wait_s: float) -> str | None:
        """The next message; None after `wait_s` or when the socket ended (`ended` says which)."""
        await self.until(lambda: bool(self._messages), wait_s)
        return self._messages.popleft() if self._messages else None

    async def until(self, seen: Callable[[], bool], wait_s: float) -> None:
        """Read until the received bytes make `seen` true, the socket ends, or `wait_s` have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self.ended and not seen():
                    await self._read()

    def abort(self) -> None:
        """Drop the socket, as a failing network does."""
        self._link.abort()

    async def leave(self) -> None:
        """Close with 1000, and wait briefly for the echo."""
        if not self.ended:
            self._link.writer.write(encode_close(1000, key=os.urandom(4)))
            await self.receive(0.3)
        self._link.abort()

    def _write(self, opcode: int, payload: bytes) -> None:
        self._link.writer.write(encode_frame(opcode, payload, os.urandom(4)))

    async def _read(self) -> None:
        try:
            data = await self._link.reader.read(64 * 1024)
        except TimeoutError:
            raise
        except OSError:
            self.ended = "reset"
            return
        if not data:
            self.ended = self.ended or "eof"
            return
        self.heard = time.perf_counter()
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if frame.opcode == PING:
                self._write(PONG, frame.payload)
            elif frame.opcode == PONG:
                self.pong_ms = self.pong_ms or elapsed_ms(self.opened)
            elif frame.opcode == CLOSE:
                code, reason = decode_close(frame.payload)
                self.close = Close(code=code, reason=reason, after_ms=elapsed_ms(self.opened))
                self.ended = "close"
            else:  # the reader gives no other than data frames
                self._partial += frame.payload
                if len(self._partial) > MAX_FRAME_BYTES:
                    self._partial.clear()
                    self.ended = "fault"
                elif frame.final:
                    self._messages.append(self._partial.decode("utf-8", "replace"))
                    self._partial.clear()
        if self._reader.fault:
            self.ended = self.ended or "fault"
