"""WebSocket frames as a client sees them, sans-IO: RFC 6455 section 5, with no extension.

Not here: sockets. Rules: a fault is a value that says what came, never an exception, because a broken server is
what the doctor is for; messages are bounded.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
MAX_FRAME_BYTES: Final = 4 * 1024 * 1024  # more than any answer that the doctor asks for


class Frame(NamedTuple):
    """One frame from the server."""

    opcode: int
    final: bool
    payload: bytes


def encode(opcode: int, payload: bytes = b"") -> bytes:
    """A masked, final frame."""
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        head = bytes([0x80 | opcode, 0x80 | length])
    elif length < 65536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + length.to_bytes(8, "big")
    masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return head + mask + masked


def encode_close(code: int = 1000) -> bytes:
    """A close frame."""
    return encode(CLOSE, code.to_bytes(2, "big"))


def close_of(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload; 1005 when it has none."""
    if len(payload) < 2:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


class FrameReader:
    """Bytes in, frames out.

    Attributes:
        fault: what made the bytes no frames; empty while they are. Nothing is read after a fault.
    """

    def __init__(self) -> None:
        self.fault = ""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes, give the frames that are whole now."""
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
    if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
        return f"a frame with the unknown opcode {opcode}"
    if second & 0x80:
        return "a masked frame from the server"
    if opcode >= CLOSE and (not first & 0x80 or (second & 0x7F) > 125):
        return "a control frame that is fragmented or too long"
    return ""
