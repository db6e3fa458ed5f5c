"""A WebSocket that stays open, on raw streams: for the conversation with a narthex and for holding.

Not here: what is said on it. Rules: WebSocket pings are answered at once; every wait is bounded; how it ended is a
value.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import deque
from typing import Final, Literal

from narthex.doctor import heads
from narthex.doctor.dialing import RawConnection, elapsed_ms, open_connection
from narthex.doctor.exchanging import Line
from narthex.doctor.frames import MAX_FRAME_BYTES, ClientFrameReader, Frame
from narthex.doctor.observations import Attempt, Close
from narthex.protocol.framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    decode_close,
    encode_close,
    encode_frame,
)

MAX_QUEUED: Final = 1000  # messages that nobody asked for yet; more than a doctor's own thread can cause
Ended = Literal["", "close", "eof", "reset", "fault"]


class UpgradeFailed(Exception):
    """The socket did not open; the message says with what, in a few words."""


class LiveSocket:
    """An open WebSocket.

    Attributes:
        ended: how it ended; empty while it is open.
        close: the server's close frame.
    """

    def __init__(self, link: RawConnection, rest: bytes) -> None:
        self.ended: Ended = ""
        self.close: Close | None = None
        self.opened = time.perf_counter()
        self.heard = self.opened
        self._link = link
        self._reader = ClientFrameReader()
        self._partial = bytearray()
        self._messages: deque[str] = deque(maxlen=MAX_QUEUED)
        self._take(self._reader.feed(rest))

    def send(self, text: bytes) -> None:
        """Send a text message."""
        self._write(TEXT, text)

    def ping(self) -> None:
        """Send a WebSocket ping."""
        self._write(PING, b"narthex")

    async def receive(self, wait_s: float) -> str | None:
        """The next message; None after `wait_s` or when the socket ended (`ended` says which)."""
        try:
            async with asyncio.timeout(wait_s):
                while not self._messages and not self.ended:
                    await self._read()
        except TimeoutError:
            return None
        return self._messages.popleft() if self._messages else None

    def abort(self) -> None:
        """Drop it, as a network that goes away does."""
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
        self._take(self._reader.feed(data))
        if self._reader.fault:
            self.ended = "fault"

    def _take(self, found: list[Frame]) -> None:
        for frame in found:
            if frame.opcode == PING:
                self._write(PONG, frame.payload)
            elif frame.opcode == CLOSE:
                code, reason = decode_close(frame.payload)
                self.close = Close(code=code, reason=reason, after_ms=elapsed_ms(self.opened))
                self.ended = "close"
            elif frame.opcode in (CONTINUATION, TEXT, BINARY):
                self._partial += frame.payload
                if len(self._partial) > MAX_FRAME_BYTES:
                    self._partial.clear()
                    self.ended = "fault"
                elif frame.final:
                    self._messages.append(self._partial.decode("utf-8", "replace"))
                    self._partial.clear()


async def open_socket(line: Line, address: str, attempt: Attempt) -> LiveSocket:
    """Upgrade and keep the socket.

    Raises:
        Refused: it did not open.
    """
    try:
        link = await open_connection(line.target, address, line.timeout_s, line.ca_file)
    except OSError as error:
        raise UpgradeFailed("no connection") from error
    key = base64.b64encode(os.urandom(16)).decode()
    link.writer.write(line.request(attempt, key))
    try:
        async with asyncio.timeout(line.timeout_s):
            raw = await link.reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        link.abort()
        raise UpgradeFailed("no answer to the handshake") from error
    head = heads.parse_head(raw[:-4])
    if head is None or head.status != 101:
        link.abort()
        raise UpgradeFailed(f"HTTP {head.status}" if head else "no HTTP answer")
    return LiveSocket(link, b"")
