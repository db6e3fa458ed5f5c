"""Many cheap raw clients: handshake and frames are written by hand, so that thousands fit beside the server."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import AsyncIterator

from tests.history import Tap


class Client:
    """One raw WebSocket client that keeps the status, the close code and its time.

    Attributes:
        status: of the handshake's answer.
        close_code: of the server's close frame; 0 while open, 1006 when it broke without one.
        closed_at: loop time.
        frames: payloads of text frames, if `keep` is set.
        tap: the recorder of every frame, for the history checker (tests/history).
    """

    def __init__(
        self, host: str, port: int, token: str = "", *, keep: bool = False, path: str = "/ws"
    ) -> None:
        self.host, self.port, self.token, self.path = host, port, token, path
        self.status = 0
        self.body = b""
        self.close_code = 0
        self.closed_at = 0.0
        self.keep = keep
        self.frames: list[bytes] = []
        self.tap: Tap | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> int:
        """Open TCP and send the handshake; return the status."""
        self._reader, self._writer = await self.connected()
        key = base64.b64encode(os.urandom(16)).decode()
        authorization = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        self._writer.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"{authorization}\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        if self.status != 101:
            self.body = await self._reader.read(65_536)
        return self.status

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open the TCP connection."""
        return await asyncio.open_connection(self.host, self.port)

    async def exactly(self, size: int) -> bytes:
        """Read exactly this many bytes of frames."""
        assert self._reader is not None
        return await self._reader.readexactly(size)

    def send(self, text: str) -> None:
        """Send one masked text frame."""
        assert self._writer is not None
        if self.tap is not None:
            self.tap.sent(text)
        payload = text.encode()
        mask = os.urandom(4)
        size = (
            bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        )
        masked = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
        self._writer.write(b"\x81" + size + mask + masked)

    async def frame(self) -> tuple[int, bytes]:
        """Read the next frame: opcode and payload."""
        try:
            opcode, payload = await self._frame()
        except (OSError, EOFError):
            if self.tap is not None:
                self.tap.closed(1006)
            raise
        if self.tap is not None and opcode == 1:
            self.tap.received(payload)
        elif self.tap is not None and opcode == 8:
            self.tap.closed(int.from_bytes(payload[:2], "big"))
        return opcode, payload

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self.exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", await self.exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self.exactly(8))
        return first & 0x0F, await self.exactly(size)

    async def objects(self) -> AsyncIterator[bytes]:
        """Protocol objects in order of arrival; answers pings and ends with the server's close frame (`close_code`)."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                self.close_code = int.from_bytes(payload[:2], "big")
                return
            for raw in payload.split(b"\n"):
                if raw == b"{}":
                    self.send("{}")
                elif raw:
                    yield raw

    async def live(self) -> None:
        """Send the handshake and `connect`."""
        assert await self.open() == 101, self.body
        self.send('{"id":1,"connect":{}}')
        _, payload = await self.frame()
        assert b'"connect"' in payload, payload

    async def listen(self) -> None:
        """Read until the end: answer pings, note the close."""
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == 8:
                    self.close_code = struct.unpack(">H", payload[:2])[0]
                    break
                if payload == b"{}":
                    self.send("{}")
                elif self.keep:
                    self.frames.append(payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close_code = 1006
        self.closed_at = asyncio.get_running_loop().time()
        self.end()

    def end(self) -> None:
        """Drop the connection."""
        if self.tap is not None:
            self.tap.closed(1006)
        if self._writer is not None:
            self._writer.close()


async def gather_in_waves(work: list[asyncio.Future[None]], wave: int = 100) -> None:
    """Await many tasks in waves that the listen backlog can hold."""
    for at in range(0, len(work), wave):
        await asyncio.gather(*work[at : at + wave])
