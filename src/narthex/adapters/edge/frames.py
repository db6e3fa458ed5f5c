"""Reads WebSocket frames: bytes in, whole messages and control frames out (RFC 6455 section 5, RFC 7692).

narthex has its own complete reader, because this is the hot path of both memory and time: 0.15 kB and about 0.5 µs per
small frame, where the websockets package's sans-IO protocol takes 1.4 kB and 3 µs
(docs/decisions/0001-own-edge-on-uvicorn.md). That package still unmasks (C), and the tests compare this reader with it
on arbitrary bytes. Rules: no I/O, no clock, no logging; no allocation per empty fragment; bounds are checked on a
frame's header, before its payload arrives; one `feed` returns at most `EVENTS_A_READ` events.
"""

from __future__ import annotations

import codecs
import zlib
from typing import Final, NamedTuple

from websockets.frames import EXTERNAL_CLOSE_CODES
from websockets.speedups import apply_mask

from narthex.adapters.edge.deflate import TooLarge, inflate
from narthex.adapters.edge.limits import MessageLimits
from narthex.protocol.framing import BINARY, CLOSE, CONTINUATION, PONG, TEXT

PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

EVENTS_A_READ: Final = 512  # 256 KiB of empty messages are 43,000; a slice blocks the loop for about 1 ms

Event = tuple[int, bytes]
"""Opcode (`TEXT`, `BINARY`, `CLOSE`, `PING` or `PONG`) and its whole payload; text is valid UTF-8."""


class Violation(NamedTuple):
    """A violation that fails the connection: a close code and its reason."""

    code: int
    reason: str


class _Fail(Exception):
    """Leaves the parser; becomes `FrameReader.failure`."""

    def __init__(self, code: int, reason: str) -> None:
        self.violation = Violation(code, reason)


class FrameReader:
    """One client's stream of frames.

    Args:
        limits: bounds of this connection.
        deflate: whether permessage-deflate was agreed, so that RSV1 may be set.

    Attributes:
        failure: set when the stream broke a rule; feed no more.
        more: whether bytes are left because `EVENTS_A_READ` was reached; then call `feed(b"")` later.
    """

    __slots__ = (
        *("_buffer", "_compressed", "_count", "_decoder", "_deflate", "_limits", "_need"),
        *("_opcode", "_parts", "failure", "more"),
    )

    def __init__(self, limits: MessageLimits, *, deflate: bool = False) -> None:
        self._limits = limits
        self._deflate = deflate
        self._buffer: bytearray | None = None  # an incomplete frame; None while idle
        self._need = 0  # the length of `_buffer` from which parsing makes sense
        self._opcode = 0  # of the fragmented message being read; 0 when there is none
        self._compressed = False
        self._count = 0
        self._parts: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self.failure: Violation | None = None
        self.more = False

    def feed(self, data: bytes) -> list[Event]:
        """Take the bytes of one read; return the complete events, in order.

        After a `CLOSE` event, and once `failure` is set, the rest is dropped.
        """
        # One whole unfragmented short text frame, the usual read, needs no buffer and no bounds.
        if self._buffer is None and not self._opcode and len(data) > 6:
            second = data[1]
            if data[0] == 0x81 and second < 0xFE and len(data) == second - 0x80 + 6:  # masked, by its length
                payload = apply_mask(data[6:], data[2:6])
                if payload.isascii():
                    return [(TEXT, payload)]
        return self._read(data)

    def _read(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        source: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return events
            source = self._buffer
        at = 0
        try:
            at = self._frames(source, events)
        except _Fail as failed:
            self.failure = failed.violation
            self._buffer = self._parts = self._decoder = None
            self.more = False
            return events
        if at >= len(source):
            self._buffer = None
        elif self._buffer is None:
            self._buffer = bytearray(data[at:])
        elif at:
            del self._buffer[:at]
        return events

    def _frames(self, source: bytes | bytearray, events: list[Event]) -> int:
        """Parse whole frames into `events`; returns the position of the first incomplete one."""
        at, size = 0, len(source)
        self.more = False
        while size - at >= 2:
            if len(events) >= EVENTS_A_READ:
                self.more = True
                self._need = 2
                return at
            first, second = source[at], source[at + 1]
            opcode = first & 0x0F
            self._check(first, second, opcode)
            length = second & 0x7F
            body = at + 6
            if length > 125:
                wide = 2 if length == 126 else 8
                body += wide
                if size < body - 4:
                    self._need = body - 4 - at
                    return at
                length = _long(source, at + 2, wide)
            if opcode < 8:
                self._bound(opcode, length)
            end = body + length
            if size < end:
                self._need = end - at
                return at
            payload = apply_mask(source[body:end], source[body - 4 : body]) if length else b""
            at = end
            if opcode < 8:
                self._data(opcode, bool(first & 0x80), bool(first & 0x40), payload, events)
            else:
                if opcode == CLOSE:
                    _check_close(payload)
                    events.append((CLOSE, payload))
                    return size
                events.append((opcode, payload))
        self._need = 2
        return at

    def _check(self, first: int, second: int, opcode: int) -> None:
        """Check a frame's first two bytes."""
        if not second & 0x80:
            raise _Fail(PROTOCOL_ERROR, "a client's frames must be masked")
        if first & 0x30 or (first & 0x40 and (not self._deflate or opcode not in (TEXT, BINARY))):
            raise _Fail(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= 8:
            if opcode > PONG:
                raise _Fail(PROTOCOL_ERROR, "unknown opcode")
            if not first & 0x80 or second & 0x7F > 125:
                raise _Fail(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        elif opcode > BINARY:
            raise _Fail(PROTOCOL_ERROR, "unknown opcode")
        elif (opcode == CONTINUATION) == (self._opcode == 0):
            raise _Fail(PROTOCOL_ERROR, "a continuation is expected" if opcode else "nothing to continue")

    def _bound(self, opcode: int, length: int) -> None:
        """Check the message's size and fragments with this frame, before its payload arrives."""
        limits = self._limits
        read = len(self._parts) if opcode == CONTINUATION and self._parts is not None else 0
        if read + length > limits.message_bytes:
            raise _Fail(TOO_BIG, f"a message may have {limits.message_bytes} bytes")
        if opcode == CONTINUATION and self._count >= limits.fragments:
            raise _Fail(TOO_BIG, f"a message may have {limits.fragments} fragments")

    def _data(self, opcode: int, final: bool, compressed: bool, payload: bytes, events: list[Event]) -> None:
        if opcode != CONTINUATION:
            if final:
                events.append((opcode, self._whole(opcode, compressed, payload)))
                return
            self._opcode, self._compressed, self._count = opcode, compressed, 0
            self._parts = bytearray()
            if opcode == TEXT and not compressed:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        parts = self._parts
        if parts is None:
            raise _Fail(PROTOCOL_ERROR, "nothing to continue")
        self._count += 1
        parts += payload
        if self._decoder is not None and (payload or final):
            try:  # fail as soon as the text is invalid, not when it is complete
                self._decoder.decode(payload, final)
            except UnicodeDecodeError:
                raise _Fail(INVALID_DATA, "the text is not UTF-8") from None
        if final:
            whole = bytes(parts)
            if self._compressed:
                whole = self._whole(self._opcode, True, whole)
            events.append((self._opcode, whole))
            self._opcode, self._parts, self._decoder = 0, None, None

    def _whole(self, opcode: int, compressed: bool, payload: bytes) -> bytes:
        """Inflate and validate a whole message."""
        if compressed:
            limit = self._limits.inflated(len(payload))
            try:
                payload = inflate(payload, limit)
            except TooLarge:
                raise _Fail(TOO_BIG, f"the message inflates past {limit} bytes") from None
            except zlib.error:
                raise _Fail(PROTOCOL_ERROR, "the message is not deflate") from None
        if opcode == TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise _Fail(INVALID_DATA, "the text is not UTF-8") from None
        return payload


def _long(source: bytes | bytearray, at: int, wide: int) -> int:
    length = int.from_bytes(source[at : at + wide], "big")
    if length <= (125 if wide == 2 else 0xFFFF) or length >> 63:
        raise _Fail(PROTOCOL_ERROR, "a frame's length is not in its shortest form")
    return length


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    if len(payload) == 1:
        raise _Fail(PROTOCOL_ERROR, "a close frame's payload is cut short")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise _Fail(INVALID_DATA, "a close reason is not UTF-8") from None
    code = int.from_bytes(payload[:2], "big")
    if not 3000 <= code < 5000 and code not in EXTERNAL_CLOSE_CODES:
        raise _Fail(PROTOCOL_ERROR, "a close code that must not be sent")
