"""Encoding frames: one WebSocket frame, and one message framed once per transport kind for all its subscribers.

Not here: reading frames. The edge reads a client's (`adapters/edge/frames`), the doctor and the load generator read a
server's. RFC 6455 section 5.2: a server's frames are not masked, so one frame's bytes serve every socket; without
context takeover the same holds for a compressed one (RFC 7692 section 7.1.1.1).
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from enum import IntEnum
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
RSV1: Final = 0x40
"""Added to an opcode, the mark of a compressed message (RFC 7692 section 6)."""

NO_STATUS: Final = 1005
ABNORMAL: Final = 1006

NO_MASK: Final = bytes(4)
"""A masking key that changes nothing, for a load generator. It is legal, but RFC 6455 section 5.3 wants an
unpredictable one, which protects proxies from text of a page's script."""

MIN_DEFLATE_BYTES: Final = 256  # below this the deflate block costs more than it saves


class Framing(IntEnum):
    """The framing of a socket's messages; those of a client that takes protobuf are the last three."""

    WEBSOCKET = 0
    WEBSOCKET_DEFLATE = 1
    HTTP_STREAM = 2
    SSE = 3
    PROTOBUF_WEBSOCKET = 4
    PROTOBUF_WEBSOCKET_DEFLATE = 5
    PROTOBUF_HTTP_STREAM = 6


DIRECT_FRAMINGS: Final = (Framing.WEBSOCKET, Framing.PROTOBUF_WEBSOCKET)
"""Those whose sockets may have a direct sender."""


def accept_key(key: bytes) -> bytes:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    return b64encode(
        hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    )


def encode_frame(opcode: int, payload: bytes, key: bytes | None = None) -> bytes:
    """One unfragmented frame.

    Args:
        opcode: one of the six above; a text or binary frame may have `RSV1` added.
        payload: at most 125 bytes in a control frame.
        key: four bytes for a client, whose frames must be masked (RFC 6455 section 5.3); None for a server.
    """
    first, size = 0x80 | opcode, len(payload)
    mask = 0 if key is None else 0x80
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65_536:
        head = bytes((first, mask | 126, size >> 8, size & 0xFF))
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    if key is None:
        return head + payload
    return head + key + (payload if key == NO_MASK else _masked(payload, key))


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


def encode_close(code: int, reason: str = "", key: bytes | None = None) -> bytes:
    """A close frame; codes that must not be on the wire (1005, 1006) become an empty one, a long reason is cut."""
    if code in (NO_STATUS, ABNORMAL):
        return encode_frame(CLOSE, b"", key)
    raw = reason.encode()[:123].decode(errors="ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + raw, key)


def decode_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload; 1005 where it has no code (RFC 6455 section 7.1.5)."""
    if len(payload) < 2:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


def deflate(payload: bytes) -> bytes:
    """Raw deflate without context takeover, the final empty block's four bytes cut (RFC 7692 section 7.2.1)."""
    machine = zlib.compressobj(level=1, wbits=-15)
    return (machine.compress(payload) + machine.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Prepared:
    """One outbound message: its payload and, lazily, its bytes for each framing.

    `payload` holds one or more protocol objects in the client's format: newline-joined JSON, or protobuf.
    """

    __slots__ = ("_others", "_text", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._text: bytes | None = None
        self._others: dict[Framing, bytes] | None = None

    def framed(self, framing: Framing) -> bytes:
        """The bytes to write for `framing`; computed at most once each."""
        if framing == Framing.WEBSOCKET:
            if self._text is None:
                self._text = encode_frame(TEXT, self.payload)
            return self._text
        if self._others is None:
            self._others = {}
        found = self._others.get(framing)
        if found is None:
            found = self._others[framing] = _framed(self.payload, framing)
        return found


def _framed(payload: bytes, framing: Framing) -> bytes:
    if framing == Framing.PROTOBUF_WEBSOCKET:
        return encode_frame(BINARY, payload)
    if framing in (Framing.WEBSOCKET_DEFLATE, Framing.PROTOBUF_WEBSOCKET_DEFLATE):
        opcode = TEXT if framing == Framing.WEBSOCKET_DEFLATE else BINARY
        if len(payload) < MIN_DEFLATE_BYTES:
            return encode_frame(opcode, payload)
        return encode_frame(opcode | RSV1, deflate(payload))
    if framing == Framing.HTTP_STREAM:
        return payload + b"\n"
    if framing == Framing.PROTOBUF_HTTP_STREAM:
        return payload
    return b"".join(b"data: " + line + b"\n\n" for line in payload.split(b"\n"))
