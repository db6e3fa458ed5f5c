"""Relays one WebSocket: every byte of the client to the upstream and back, as it is, in the chunks that it comes in.

The guard itself sends only to end the connection: a close frame to both sides, each between two frames of its
direction and never inside one. Not here: the two handshakes (`upgrades`, `dialing`), the reason of an end (the receiver
decides it). Rules: a side that does not read stops the reading from the other side, so that at most the transport's
high mark and one read wait in each direction; no task, no timer handle and no buffer while idle; `closed` is called
exactly once; a frame of the upstream that can no longer be completed ends the connection without a close frame, because
any byte would be taken for a part of it.

    OPEN ── close() ──▶ CLOSING ── both close frames answered, EOF, or close_s ──▶ GONE
      └──── EOF of either side, abort() ─────────────────────────────────────────▶ GONE
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from narthex.adapters.edge.direct_sender import SocketSender
from narthex.adapters.edge.edge import log
from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.adapters.edge.tcp_info import send_progress
from narthex.adapters.edge.upstream.boundaries import FrameBoundaries
from narthex.domain.refusals import Refusal
from narthex.ports.edge import SendProgress
from narthex.protocol.framing import ABNORMAL, NO_STATUS, encode_close

if TYPE_CHECKING:
    from narthex.adapters.edge.edge import Edge

_OPEN: Final = 0
_CLOSING: Final = 1
_GONE: Final = 2

_DOWN: Final = 1
_UP: Final = 2


class RelayedSocket(Protocol):
    """The side of a relay that its receiver holds."""

    def close(self, code: int, reason: str) -> None:
        """Send the close frame to both sides and end; `closed` follows. Does nothing once the relay is ending."""

    def abort(self) -> None:
        """Drop both connections; `closed` follows."""

    def progress(self) -> SendProgress:
        """What the client's connection has carried; see `ports.edge.Socket`."""


class RelayReceiver(Protocol):
    """Follows the life of one relayed connection."""

    def opened(self, socket: RelayedSocket) -> None:
        """The client has its 101."""

    def closed(self, code: int, reason: str) -> None:
        """The connection has ended: the code of `close`, 1005 after a close frame that passed by, else 1006."""


class NullSender:
    """The direct sender of a connection that has none (TLS): it takes no byte."""

    def send(self, data: bytes) -> int:
        """See the class."""
        del data
        return 0

    def disable(self) -> None:
        """See `SocketSender`."""


NULL_SENDER: Final = NullSender()


def direct_sender(transport: asyncio.Transport, *, secure: bool) -> SocketSender | NullSender:
    """The way past the transport into the kernel, for bytes that come while the transport holds none."""
    raw = None if secure else transport.get_extra_info("socket")
    descriptor = -1 if raw is None else raw.fileno()
    return SocketSender(descriptor) if descriptor >= 0 else NULL_SENDER


class UpstreamSide(asyncio.Protocol):
    """The connection to the upstream, from its 101 on.

    Args:
        edge: for its timers.
        transport: the connection; its reading is paused.
        rest: bytes that the upstream sent behind its 101.
        secure: whether it is TLS.

    Attributes:
        due: see `app.timers.Sleeper`.
    """

    __slots__ = ("due", "edge", "relay", "rest", "secure", "transport")

    def __init__(self, edge: Edge, transport: asyncio.Transport, rest: bytes, *, secure: bool) -> None:
        self.edge = edge
        self.transport = transport
        self.rest = rest
        self.secure = secure
        self.relay: Relay | None = None
        self.due = 0

    def data_received(self, data: bytes) -> None:
        """Bytes for the client; without a relay they are discarded."""
        if self.relay is not None:
            self.relay.from_upstream(data)

    def eof_received(self) -> bool:
        """The upstream's FIN; the transport then closes itself."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke, or was closed."""
        del exc
        self.edge.timers.cancel(self)
        self._ended()

    def pause_writing(self) -> None:
        """The upstream does not take the client's bytes: stop reading them."""
        if self.relay is not None:
            _pause(self.relay.tcp.transport)

    def resume_writing(self) -> None:
        """The upstream has taken most of them."""
        if self.relay is not None:
            _resume(self.relay.tcp.transport)

    def finish(self, within_s: float) -> None:
        """Send FIN behind the written bytes, discard further ones, and give the upstream so long to close.

        An immediate close could become an RST, which can destroy a close frame before the upstream's program reads it.
        """
        self.relay = None
        transport = self.transport
        if transport.is_closing():
            return
        timers = self.edge.timers
        timers.schedule(self, timers.now() + within_s)
        if transport.can_write_eof():
            _resume(transport)
            transport.write_eof()
        else:
            transport.close()

    def wake(self, now: float) -> None:
        """See `app.timers.Sleeper`: the upstream's time is over."""
        del now
        self.transport.abort()

    def _ended(self) -> None:
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.upstream_ended()


class Join(NamedTuple):
    """A decision beside `ports.edge.Decision`: upgrade, and join the client with this upstream.

    Attributes:
        receiver: follows the connection's life.
        upstream: has answered 101.
        subprotocol: to select, None for none.
        extensions: the upstream's choice, as it is.
        headers: more response headers.
    """

    receiver: RelayReceiver
    upstream: UpstreamSide
    subprotocol: str | None
    extensions: str
    headers: list[tuple[str, str]]


class PassedRefusal(NamedTuple):
    """A decision beside `ports.edge.Decision`: the upstream's own refusal, a whole HTTP answer."""

    answer: bytes


Relayed = Join | PassedRefusal


class Relay(Stage):
    """One client's connection after its 101, joined with one to the upstream.

    Args:
        tcp: the client's connection.
        upstream: after its 101.
        receiver: follows its life.
    """

    __slots__ = (
        "_client",
        "_code",
        "_down",
        "_passing",
        "_reason",
        "_receiver",
        "_state",
        "_to_client",
        "_to_upstream",
        "_up",
        "_upstream",
        "_upstream_transport",
    )

    def __init__(self, tcp: TcpConnection, upstream: UpstreamSide, receiver: RelayReceiver) -> None:
        self.tcp = tcp
        self._client = tcp.transport
        self._upstream = upstream
        self._upstream_transport = upstream.transport
        self._receiver: RelayReceiver | None = receiver
        self._state = _OPEN
        self._down = FrameBoundaries()  # of the upstream's frames
        self._up = FrameBoundaries()  # of the client's
        self._to_client: SocketSender | NullSender = NULL_SENDER
        self._to_upstream: SocketSender | NullSender = NULL_SENDER
        self._passing = 0  # frames under way when `close` was called, whose ends it waits for
        self._code = ABNORMAL
        self._reason = ""

    # The 101 (`upgrade_batch.StartableSocket`).

    def start(self, early: bytes) -> None:
        """Join the two sides; the client's 101 is written."""
        upstream = self._upstream
        self._to_client = direct_sender(self._client, secure=self.tcp.edge.secure)
        self._to_upstream = direct_sender(upstream.transport, secure=upstream.secure)
        upstream.relay = self
        self.tcp.become(self)
        self._client.set_protocol(self)  # the loop's calls come here at once, until `_leave`
        receiver = self._receiver
        assert receiver is not None
        try:
            receiver.opened(self)
        except Exception:
            log.exception("a receiver failed")
            self.abort()
            return
        rest, upstream.rest = upstream.rest, b""
        if rest and self._state != _GONE:
            self.from_upstream(rest)
        if early and self._state != _GONE:
            self.data_received(early)
        if upstream.transport.is_closing():  # its end came before the relay was there
            self.upstream_ended()
        else:
            _resume(upstream.transport)

    def abandon(self) -> None:
        """The client left before its 101 could be written."""
        self._state = _GONE
        self._upstream.transport.abort()
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        try:
            receiver.opened(self)
            receiver.closed(ABNORMAL, "")
        except Exception:
            log.exception("a receiver failed on a connection that was already gone")

    # The receiver's side (`RelayedSocket`).

    def close(self, code: int, reason: str) -> None:
        """See `RelayedSocket`. A close frame that has passed already is the last one of its direction."""
        if self._state != _OPEN:
            return
        self._state = _CLOSING
        self._code, self._reason = code, reason
        self.tcp.expire_in(self.tcp.edge.limits.close_s)
        if self._down.between:
            self._close_client()
        else:
            self._passing |= _DOWN
        if self._up.between:
            self._close_upstream()
        else:
            self._passing |= _UP

    def abort(self) -> None:
        """See `RelayedSocket`."""
        if self._state != _GONE:
            self._leave()
            self._upstream.transport.abort()
            self._client.abort()

    def progress(self) -> SendProgress:
        """See `RelayedSocket`."""
        raw = self._client.get_extra_info("socket")
        descriptor = raw.fileno() if raw is not None else -1
        return send_progress(descriptor, self._client.get_write_buffer_size())

    # The client's side.

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: pass them on."""
        if self._state != _OPEN:
            self._client_while_closing(data)
            return
        self._up.advance(data)
        _pass_on(data, self._to_upstream, self._upstream_transport)

    def eof_received(self) -> bool:
        """The client's FIN: a half-closed WebSocket can no longer close properly."""
        if self._state != _GONE:
            self._leave()
            self._upstream.finish(self.tcp.edge.limits.close_s)
            self.tcp.linger(eof=True)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client's connection broke."""
        if self._state != _GONE:
            self._leave()
            self._upstream.finish(self.tcp.edge.limits.close_s)
            self.tcp.connection_lost(exc)  # it did not get the loop's call

    def pause_writing(self) -> None:
        """The client does not take the upstream's bytes: stop reading them."""
        _pause(self._upstream_transport)

    def resume_writing(self) -> None:
        """The client has taken most of them."""
        _resume(self._upstream_transport)

    def expired(self) -> None:
        """A side did not end its frame, or did not answer the close frame, in time."""
        if self._passing & _DOWN:  # no close frame could be sent, and none can be now
            self.abort()
        else:
            self._finish()

    def end(self) -> None:
        """See `Stage`."""
        self.abort()

    # The upstream's side.

    def from_upstream(self, data: bytes) -> None:
        """Bytes of the upstream: pass them on."""
        if self._state != _OPEN:
            self._upstream_while_closing(data)
            return
        self._down.advance(data)
        _pass_on(data, self._to_client, self._client)

    def upstream_ended(self) -> None:
        """The upstream closed its connection, or is gone."""
        if self._state == _GONE:
            return
        if self._state == _OPEN and not self._down.closed and self._down.between:
            gone = Refusal(code="upstream_gone")
            self._code, self._reason = gone.close()
            self._client.write(encode_close(self._code, self._reason))
        self._finish()

    # The end.

    def _client_while_closing(self, data: bytes) -> None:
        """The rest of the client's frame passes; then the only thing to wait for is its close frame."""
        if self._passing & _UP:
            taken = self._up.cut(data)
            self._upstream_transport.write(data[:taken])
            if not self._up.between:
                return
            self._passing ^= _UP
            self._close_upstream()
            data = data[taken:]
        self._up.advance(data)
        if self._up.closed and not self._passing & _DOWN:
            self._finish()

    def _upstream_while_closing(self, data: bytes) -> None:
        """The rest of the upstream's frame passes; what follows is dropped."""
        if self._passing & _DOWN:
            self._client.write(data[: self._down.cut(data)])
            if self._down.between:
                self._passing ^= _DOWN
                self._close_client()

    def _close_client(self) -> None:
        if not self._down.closed:
            self._client.write(encode_close(self._code, self._reason))

    def _close_upstream(self) -> None:
        if not self._up.closed:
            self._upstream_transport.write(encode_close(self._code, self._reason, secrets.token_bytes(4)))

    def _finish(self) -> None:
        """End both sides behind the bytes that are written."""
        limits = self.tcp.edge.limits
        self._leave()
        self._upstream.finish(limits.close_s)
        slow = self._client.get_write_buffer_size() > 0
        self.tcp.linger()
        if slow:  # it still reads what the upstream sent before its end
            self.tcp.expire_in(limits.write_s)

    def _leave(self) -> None:
        """Enter the state GONE, as the only method that does."""
        if self._state == _OPEN and self._code == ABNORMAL and self._down.closed:
            self._code = NO_STATUS
        self._state = _GONE
        self._client.set_protocol(self.tcp)
        self._to_client.disable()
        self._to_upstream.disable()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            try:
                receiver.closed(self._code, self._reason)
            except Exception:
                log.exception("a receiver failed while it was closed")


def _pass_on(data: bytes, sender: SocketSender | NullSender, transport: asyncio.Transport) -> None:
    """Send bytes past the transport while it holds none, and the rest through it."""
    if not transport.get_write_buffer_size():
        try:
            sent = sender.send(data)
        except OSError:  # full, or broken: the transport finds out
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def _pause(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.pause_reading()


def _resume(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()
