"""Outbound framing: one message, encoded once, framed once per transport kind and shared by all subscribers.

Not here: reading frames (adapters/edge). RFC 6455 section 5.2: a server's frames are not masked, so one
frame's bytes serve every socket; without context takeover the same holds for a compressed one (RFC 7692
section 7.1.1.1).
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Final

MIN_DEFLATE_BYTES: Final = 256  # below this the deflate block costs more than it saves


class Framing(IntEnum):
    """How a socket wants its messages."""

    WEBSOCKET = 0
    WEBSOCKET_DEFLATE = 1
    HTTP_STREAM = 2
    SSE = 3


def websocket_text_frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """One unfragmented, unmasked text frame around `payload`; `compressed` sets RSV1 (RFC 7692)."""
    first = 0xC1 if compressed else 0x81
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def deflate(payload: bytes) -> bytes:
    """Raw deflate without context takeover, the final empty block's four bytes cut (RFC 7692 section 7.2.1)."""
    machine = zlib.compressobj(level=1, wbits=-15)
    return (machine.compress(payload) + machine.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Prepared:
    """One outbound message: its JSON payload and, lazily, its bytes for each framing.

    `payload` holds one or more newline-joined protocol objects.
    """

    __slots__ = ("_deflated", "_sse", "_stream", "_text", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._text: bytes | None = None
        self._deflated: bytes | None = None
        self._stream: bytes | None = None
        self._sse: bytes | None = None

    def framed(self, framing: Framing) -> bytes:
        """The bytes to write for `framing`; computed at most once each."""
        if framing == Framing.WEBSOCKET:
            if self._text is None:
                self._text = websocket_text_frame(self.payload)
            return self._text
        if framing == Framing.WEBSOCKET_DEFLATE:
            if self._deflated is None:
                self._deflated = (
                    websocket_text_frame(deflate(self.payload), compressed=True)
                    if len(self.payload) >= MIN_DEFLATE_BYTES
                    else websocket_text_frame(self.payload)
                )
            return self._deflated
        if framing == Framing.HTTP_STREAM:
            if self._stream is None:
                self._stream = self.payload + b"\n"
            return self._stream
        if self._sse is None:
            self._sse = b"".join(b"data: " + line + b"\n\n" for line in self.payload.split(b"\n"))
        return self._sse
