"""Reading WebSocket frames as a client, sans-IO: RFC 6455 section 5, with no extension.

Not here: sockets, encoding (`protocol.framing`). Rules: a fault is a value that describes the bytes, never an
exception, because the doctor examines broken servers; messages are bounded.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.protocol.framing import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024  # more than any answer that the doctor requests


class Frame(NamedTuple):
    """One frame from the server."""

    opcode: int
    final: bool
    payload: bytes


class ClientFrameReader:
    """Bytes in, frames out.

    Attributes:
        fault: why the bytes are no frames; empty while they are. Nothing is read after a fault.
    """

    def __init__(self) -> None:
        self.fault = ""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; returns the frames that are complete now."""
        self._buffer += data
        frames: list[Frame] = []
        while not self.fault and (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        self.fault = _fault_of(first, second)
        size, offset = second & 0x7F, 2
        if size >= 126:
            offset = 4 if size == 126 else 10
            if len(buffer) < offset:
                return None
            size = int.from_bytes(buffer[2:offset], "big")
        if size > MAX_FRAME_BYTES:
            self.fault = self.fault or f"a frame of {size} bytes"
        if self.fault or len(buffer) < offset + size:
            return None
        payload = bytes(buffer[offset : offset + size])
        del buffer[: offset + size]
        return Frame(first & 0x0F, bool(first & 0x80), payload)


def _fault_of(first: int, second: int) -> str:
    opcode = first & 0x0F
    if first & 0x70:
        return "a frame with reserved bits, though no extension was agreed"
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        return f"a frame with the unknown opcode {opcode}"
    if second & 0x80:
        return "a masked frame from the server"
    if opcode >= CLOSE and (not first & 0x80 or (second & 0x7F) > 125):
        return "a control frame that is fragmented or too long"
    return ""
