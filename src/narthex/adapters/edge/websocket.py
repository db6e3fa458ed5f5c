"""Serves one open WebSocket: passes the frame reader's events to the app's `Receiver`, and the app's bytes out.

Not here: reading frames (`frames`), the handshake (`upgrades`). Rules: `closed` is called exactly once, and no call
follows it; no task, no timer handle, no buffer while idle; every failure closes with a code for its reason, then sends
FIN, then lingers (`tcp.Lingering`), so that the peer can read the code. Writes go by the direct sender straight to the
kernel, and only the rest that the kernel does not take goes by the transport: the direct sender is open only while the
state is OPEN and the transport holds no byte, so that no bytes overtake others or follow a close frame. While it is
open this is the connection's stage, and both event loops close a descriptor only after `connection_lost`, so that the
descriptor is never another connection's.

    OPEN ── close() ──▶ CLOSING ── the peer's close, EOF, or close_s ──▶ GONE
      └──── the peer's close, a violation, EOF, abort() ───────────────▶ GONE
"""

from __future__ import annotations

from typing import Final

from narthex.adapters.edge.deflate import FULL_WINDOW
from narthex.adapters.edge.direct_sender import SocketSender
from narthex.adapters.edge.edge import log
from narthex.adapters.edge.frames import Event, FrameReader
from narthex.adapters.edge.limits import KIB, MessageLimits
from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.adapters.edge.tcp_info import send_progress
from narthex.domain.refusals import TABLE, close_reason
from narthex.ports.edge import DirectSender as Way
from narthex.ports.edge import Receiver, SendProgress, Socket
from narthex.protocol.framing import (
    ABNORMAL,
    CLOSE,
    DIRECT_FRAMINGS,
    PING,
    PONG,
    Framing,
    Prepared,
    decode_close,
    encode_close,
    encode_frame,
)

_OPEN: Final = 0
_CLOSING: Final = 1
_GONE: Final = 2

_FRAMINGS: Final = (
    (Framing.WEBSOCKET, Framing.WEBSOCKET_DEFLATE),
    (Framing.PROTOBUF_WEBSOCKET, Framing.PROTOBUF_WEBSOCKET_DEFLATE),
)
_LOOP_MARKS: Final = (64 * KIB, 16 * KIB)  # the defaults of asyncio and uvloop


class NullReceiver:
    """The receiver of a connection that has none: it was upgraded only to explain a refusal, or it has ended.

    An ended socket must not refer to its receiver: the receiver refers to the socket, and only a full collection frees
    such a cycle. Under churn thousands of dead connections waited for one, and the heap grew with them.
    """

    def opened(self, socket: Socket) -> None:
        """See `Receiver`."""

    def message(self, data: bytes, *, binary: bool) -> None:
        """See `Receiver`."""

    def writable(self, ready: bool) -> None:
        """See `Receiver`."""

    def closed(self, code: int, reason: str) -> None:
        """See `Receiver`."""


NULL_RECEIVER: Final = NullReceiver()


class WebSocket(Stage):
    """One client after the 101, and the `Socket` that the app holds.

    Args:
        tcp: the connection.
        receiver: the app's side.
        limits: bounds of this connection.
        reader: reads its frames.
        window: bits of the agreed deflate window for outgoing messages; 0 when deflate was not agreed.
        protobuf: its messages are binary.
    """

    session: str = ""  # only the HTTP fallbacks have one
    __slots__ = (
        *("_code", "_controls", "_descriptor", "_direct", "_full", "_limits", "_reader", "_reason"),
        *("_receiver", "_second", "_sender", "_state", "_transport", "direct_sender", "framing"),
        "window",
    )

    def __init__(
        self,
        tcp: TcpConnection,
        receiver: Receiver,
        limits: MessageLimits,
        reader: FrameReader,
        window: int = 0,
        *,
        protobuf: bool = False,
    ) -> None:
        self.window = window
        self.framing = _FRAMINGS[protobuf][window == FULL_WINDOW]
        self.tcp = tcp
        self._transport = tcp.transport
        self._receiver = receiver
        self._limits = limits
        self._reader = reader
        self._state = _OPEN
        self.direct_sender: Way | None = None
        # None with TLS: then every write goes by the transport
        self._sender: SocketSender | None = None
        self._descriptor = -1
        self._direct = False  # the direct sender is open
        self._full = False  # between `pause_writing` and `resume_writing`
        self._second = 0  # of loop time, in which `_controls` control frames came
        self._controls = 0
        self._code = ABNORMAL
        self._reason = ""

    # The app's side (`narthex.ports.edge.Socket`).

    def send(self, message: Prepared) -> None:
        """Write one prepared message now; does nothing once the socket is closing."""
        self.send_frames(message.framed(self.framing))

    def send_frames(self, frames: bytes) -> None:
        """Write frames already made for `framing` now; does nothing once the socket is closing."""
        if self._state != _OPEN:
            return
        sender = self._sender
        if sender is not None and (self._direct or self._enable_sender(sender)):
            try:
                sent = sender.send(frames)
            except OSError:  # the kernel's buffer is full, or the socket is broken: the transport finds out
                sent = 0
            if sent == len(frames):
                return
            frames = frames[sent:]
        self._write(frames)

    def send_rest(self, rest: bytes) -> None:
        """See `Socket`."""
        if self._state == _OPEN:
            self._write(rest)

    def buffered(self) -> int:
        """Bytes not yet given to the kernel."""
        return self._transport.get_write_buffer_size()

    def send_progress(self) -> SendProgress:
        """See `Socket`: the bytes in the transport and the kernel, and those that TCP has acknowledged."""
        raw = self._transport.get_extra_info("socket")
        buffered = self._transport.get_write_buffer_size()
        return send_progress(raw.fileno() if raw is not None else -1, buffered)

    def close(self, code: int, reason: str) -> None:
        """Send the close frame; `closed` follows with the peer's, or after `close_s`."""
        if self._state != _OPEN:
            return
        self._state = _CLOSING
        self._code, self._reason = code, reason
        self._write(encode_close(code, reason))
        self.tcp.expire_in(self.tcp.edge.limits.close_s)

    def abort(self) -> None:
        """Drop the connection; `closed` follows with 1006, or with the code of an earlier `close`."""
        if self._state != _GONE:
            self._disable_sender()
            self._state = _CLOSING
            self._transport.abort()

    # The transport's side.

    def start(self, early: bytes) -> None:
        """Take over the connection after its 101: open the receiver, then read the bytes behind the head."""
        limits = self.tcp.edge.limits
        if (limits.write_high_bytes, limits.write_low_bytes) != _LOOP_MARKS:
            high, low = limits.write_high_bytes, limits.write_low_bytes
            self._transport.set_write_buffer_limits(high=high, low=low)
        self.tcp.become(self)
        self._open_sender()
        try:
            self._receiver.opened(self)
        except Exception:
            self._bug()
            return
        if early and self._state != _GONE:
            self.data_received(early)

    def abandon(self) -> None:
        """The peer left before the 101 could be written: open and close for the receiver only."""
        self._state = _GONE
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        try:
            receiver.opened(self)
            receiver.closed(ABNORMAL, "")
        except Exception:
            log.exception("a receiver failed on a connection that was already gone")

    def data_received(self, data: bytes) -> None:
        """Bytes of frames."""
        reader = self._reader
        self._deliver(reader.feed(data))
        if self._state == _GONE:
            return
        if reader.failure is not None:
            self._fail(*reader.failure)
        elif reader.more:
            self._transport.pause_reading()
            self.tcp.edge.loop.call_soon(self._go_on)

    def eof_received(self) -> None:
        """Handle FIN without a close frame: a half-closed WebSocket can no longer close properly."""
        if self._state == _GONE:
            return
        self._leave(self._code, self._reason)
        self.tcp.linger(eof=True)

    def pause_writing(self) -> None:
        """The write buffer passed its high mark."""
        self._full = True
        if self._limits.hold_when_full:
            self._transport.pause_reading()
        self._tell_writable(False)

    def resume_writing(self) -> None:
        """The write buffer drained."""
        self._full = False
        if self._limits.hold_when_full and not self._reader.more:
            self._transport.resume_reading()
        self._tell_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke, or was aborted."""
        del exc
        self._leave(self._code, self._reason)

    def expired(self) -> None:
        """The peer did not answer our close frame in time."""
        self._leave(self._code, self._reason)
        self.tcp.linger()

    def end(self) -> None:
        """See `Stage`."""
        self.abort()

    def _deliver(self, events: list[Event]) -> None:
        for opcode, payload in events:
            if opcode < CLOSE:
                if self._state == _OPEN:
                    try:
                        self._receiver.message(payload, binary=opcode == 2)
                    except Exception:
                        self._bug()
            elif opcode == CLOSE:
                self._peer_closes(payload)
            else:
                self._control(opcode, payload)
            if self._state == _GONE:
                return

    def _go_on(self) -> None:
        """Process the rest of a read that held more than a slice."""
        if self._state == _GONE:
            return
        self.data_received(b"")
        if self._state != _GONE and not self._reader.more and not self._held():
            self._transport.resume_reading()

    def _held(self) -> bool:
        limits = self.tcp.edge.limits
        return self._limits.hold_when_full and self.buffered() > limits.write_low_bytes

    def _control(self, opcode: int, payload: bytes) -> None:
        rate = self._limits.control_per_s
        if rate:
            second = int(self.tcp.edge.clock())
            if second != self._second:
                self._second, self._controls = second, 0
            self._controls += 1
            if self._controls > rate:
                code = TABLE["rate_limited"].close or ABNORMAL
                self._fail(code, close_reason("rate_limited", f"more than {rate} control frames a second"))
                return
        if opcode == PING:
            self.send_frames(encode_frame(PONG, payload))

    def _peer_closes(self, payload: bytes) -> None:
        code, _ = decode_close(payload)
        if self._state == _OPEN:  # section 5.5.1: echo the status code
            self._write(encode_close(code, ""))
            self._code = code
        self._leave(self._code, self._reason)
        self.tcp.linger()

    def _fail(self, code: int, reason: str) -> None:
        if self._state == _OPEN:
            self._write(encode_close(code, reason))
            self._code, self._reason = code, reason
        self._leave(self._code, self._reason)
        self.tcp.linger()

    def _bug(self) -> None:
        """Handle the receiver's exception: the only handler for exceptions of messages."""
        log.exception("a receiver failed")
        if self._state != _GONE:
            self._fail(TABLE["internal"].close or ABNORMAL, close_reason("internal", TABLE["internal"].title))

    def _tell_writable(self, ready: bool) -> None:
        if self._state == _OPEN:
            try:
                self._receiver.writable(ready)
            except Exception:
                self._bug()

    def _write(self, data: bytes) -> None:
        """Write by the transport, as the only method that does; disables the direct sender until it is empty again."""
        self._disable_sender()
        self._transport.write(data)

    def _open_sender(self) -> None:
        raw = None if self.tcp.edge.secure else self._transport.get_extra_info("socket")
        if raw is None or (descriptor := raw.fileno()) < 0:
            return
        self._descriptor = descriptor
        sender = self._sender = SocketSender(descriptor)
        self._direct = not self._transport.get_write_buffer_size()
        if not self._direct:  # the transport still holds the 101
            sender.disable()
        if self.framing in DIRECT_FRAMINGS:
            self.direct_sender = sender

    def _disable_sender(self) -> None:
        if self._direct:
            self._direct = False
            if self._sender is not None:
                self._sender.disable()

    def _enable_sender(self, sender: SocketSender) -> bool:
        """Open the direct sender, if no earlier bytes wait and the receiver counts as writable."""
        if self._full or self._transport.get_write_buffer_size():
            return False
        sender.enable(self._descriptor)
        self._direct = True
        return True

    def _leave(self, code: int, reason: str) -> None:
        """Enter the state GONE, as the only method that does."""
        if self._state == _GONE:
            return
        self._disable_sender()
        self._state = _GONE
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        try:
            receiver.closed(code, reason)
        except Exception:
            log.exception("a receiver failed while it was closed")
