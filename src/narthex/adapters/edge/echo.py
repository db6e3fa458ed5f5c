"""The raw echo behind `/ws/conformance`: for protocol suites and benchmarks, never in production.

Rules: every message goes back as it came, text as text and binary as binary; it keeps nothing. Admission is
the Gate's, as for `/ws`.
"""

from __future__ import annotations

from narthex.adapters.edge.frames import BINARY, TEXT, frame
from narthex.ports.edge import Socket
from narthex.protocol.framing import MIN_DEFLATE_BYTES, Framing, deflate

_COMPRESSED = 0x40  # RSV1 in a frame's first byte (RFC 7692 section 6)


class Echo:
    """Receiver of one connection."""

    __slots__ = ("_socket",)

    def __init__(self) -> None:
        self._socket: Socket | None = None

    def opened(self, socket: Socket) -> None:
        """Keep the way out."""
        self._socket = socket

    def message(self, data: bytes, *, binary: bool) -> None:
        """Send it back."""
        socket = self._socket
        if socket is None:
            return
        opcode = BINARY if binary else TEXT
        if socket.framing == Framing.WEBSOCKET_DEFLATE and len(data) >= MIN_DEFLATE_BYTES:
            data = deflate(data)
            opcode |= _COMPRESSED
        socket.send_frames(frame(opcode, data))

    def writable(self, ready: bool) -> None:
        """The edge stops reading meanwhile (`MessageLimits.hold_when_full`): nothing to do."""

    def closed(self, code: int, reason: str) -> None:
        """Let go."""
        del code, reason
        self._socket = None
