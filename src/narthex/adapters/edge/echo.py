"""Echoes messages at `/ws/conformance`: for protocol suites and benchmarks, never in production.

Not here: admission, which is the upgrade handler's, as for `/ws`. Rules: every message is returned as received, text
as text and binary as binary, compressed whenever deflate was agreed (kosoku 0.1 fails on a plain answer there, though
RFC 7692 section 6 permits it); it keeps no state.
"""

from __future__ import annotations

import zlib

from narthex.adapters.edge.websocket import WebSocket
from narthex.ports.edge import Socket
from narthex.protocol.framing import BINARY, RSV1, TEXT, encode_frame


class Echo:
    """Receiver of one connection."""

    __slots__ = ("_socket", "_window")

    def __init__(self) -> None:
        self._socket: Socket | None = None
        self._window = 0

    def opened(self, socket: Socket) -> None:
        """Keep the socket."""
        self._socket = socket
        if isinstance(socket, WebSocket):
            self._window = socket.window

    def message(self, data: bytes, *, binary: bool) -> None:
        """Send it back."""
        socket = self._socket
        if socket is None:
            return
        opcode = BINARY if binary else TEXT
        if self._window:
            opcode |= RSV1
            machine = zlib.compressobj(level=1, wbits=-self._window)
            data = (machine.compress(data) + machine.flush(zlib.Z_SYNC_FLUSH))[:-4]
        socket.send_frames(encode_frame(opcode, data))

    def writable(self, ready: bool) -> None:
        """Nothing to do: the edge stops reading meanwhile (`MessageLimits.hold_when_full`)."""

    def closed(self, code: int, reason: str) -> None:
        """Release the socket."""
        del code, reason
        self._socket = None
