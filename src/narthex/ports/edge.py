"""The interface between the edge and the app: the edge (adapters/edge, and the HTTP fallbacks in web) drives a
`Receiver`, the app drives a `Socket`.

Rules: every call here happens on the event loop and must not block. The edge calls a `Receiver` in the order `opened`,
any of (`message`, `writable`), `closed` exactly once; it makes no call after `closed`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

from narthex.domain.refusals import Refusal
from narthex.ports.later import Later
from narthex.protocol.framing import Framing, Prepared

HIGH_MARK_BYTES: Final = 64 * 1024
"""A socket with more bytes than this that the kernel has not taken is not writable …"""

LOW_MARK_BYTES: Final = 16 * 1024
"""… until it has at most this many."""

CLOSE_S: Final = 5.0
"""Time that a client has to read the close reason; then the edge drops its connection."""

ABORT: Final = "narthex.abort"
"""ASGI extension of the edge: `{"abort": call}` drops the request's connection at once."""


class RequestHead(msgspec.Struct, kw_only=True):
    """A parsed request head, as received.

    Attributes:
        method: upper case.
        path: percent-decoded path without the query.
        query: raw query string without `?`.
        headers: lower-case name and value, in order, latin-1 decoded.
        http_version: `1.1` or `1.0`.
        peer: the socket's peer (host, port): the last proxy, if there is one.
        secure: whether the socket itself is TLS.
        received_at: loop time when the connection was accepted or the request's first byte came.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    http_version: str = "1.1"
    peer: tuple[str, int] = ("", 0)
    secure: bool = False
    received_at: float = 0.0

    def get(self, name: str) -> str | None:
        """First value of a header by lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def all(self, name: str) -> list[str]:
        """All values of a header by lower-case name, in order."""
        return [value for key, value in self.headers if key == name]


class SendProgress(NamedTuple):
    """Progress of the data sent to a client, as far as this side can see.

    Attributes:
        left: bytes that the client's side has not taken yet, including those in our kernel.
        taken: bytes that it has taken in all; the number grows while the client reads.
        received: bytes of the TCP connection that came from it; 0: unknown.
        sent: bytes of the TCP connection that went to it, each once; 0: unknown.
    """

    left: int
    taken: int
    received: int = 0
    sent: int = 0


class DirectSender(Protocol):
    """Sends directly to one client, for code that writes the same bytes to thousands."""

    def send(self, data: bytes, /) -> int:
        """Give bytes framed for the socket's `framing` to the kernel; returns the number of bytes that it took.

        Raises OSError while direct sending is not allowed: earlier bytes are still buffered, or the socket is
        closing, gone or broken. Then call `Socket.send_frames` with the bytes. When the kernel took fewer than all,
        call `Socket.send_rest` at once.
        """


class Socket(Protocol):
    """Sends to one client, by WebSocket or an HTTP fallback.

    Attributes:
        framing: the form of its messages.
        session: the secret under which a fallback's client posts commands; empty for a WebSocket.
        direct_sender: the same for the socket's whole life; None when there is none (TLS, deflate, a fallback). It may
            be used only while the receiver counts as writable.
    """

    framing: Framing
    session: str
    direct_sender: DirectSender | None

    def send(self, message: Prepared) -> None:
        """Write one prepared message now."""

    def send_frames(self, frames: bytes) -> None:
        """Write bytes already framed for `framing` (several messages joined) in one write."""

    def send_rest(self, rest: bytes) -> None:
        """Send the bytes that the direct sender's `send` left over; only directly after it."""

    def buffered(self) -> int:
        """Bytes accepted and not yet given to the kernel."""

    def send_progress(self) -> SendProgress:
        """The progress of the sent data; called rarely (when a pong is missing)."""

    def close(self, code: int, reason: str) -> None:
        """Send the close frame (or the fallback's disconnect push) and end; `closed` follows."""

    def abort(self) -> None:
        """Drop the connection without a close handshake; `closed` follows."""


class Receiver(Protocol):
    """The app's side of one client. Implemented by `app.connection.Connection` and the conformance echo."""

    def opened(self, socket: Socket) -> None:
        """The socket is ready; the first message may follow at once."""

    def message(self, data: bytes, *, binary: bool) -> None:
        """Handle one whole message, within the limits. Text comes as its UTF-8 bytes, already validated."""

    def writable(self, ready: bool) -> None:
        """The transport's buffer passed its high mark (False) or drained (True)."""

    def closed(self, code: int, reason: str) -> None:
        """The connection is gone; 1006 when it broke without a close frame.

        `reason` is the text with which this side closed it, and empty where the peer did: a peer's text could claim to
        be one of this side's.
        """


class Accept(msgspec.Struct, kw_only=True):
    """Upgrade, then pass every message to `receiver`.

    Attributes:
        subprotocol: the subprotocol to select, None for none.
        protobuf: the client takes protobuf: its messages are binary ones.
        headers: more response headers.
        limits: the message limits that hold: `app` or `conformance`.
    """

    receiver: Receiver
    subprotocol: str | None = None
    protobuf: bool = False
    headers: list[tuple[str, str]] = []
    limits: str = "app"


class Deny(msgspec.Struct, kw_only=True):
    """Answer instead of upgrading, or with `explain` upgrade (selecting it) and close with the reason."""

    refusal: Refusal
    trace_id: str
    explain: bool = False
    headers: list[tuple[str, str]] = []


Decision = Accept | Deny


class UpgradeHandler(Protocol):
    """Decides on upgrades. The edge calls it once per upgrade request, after its own checks of the head."""

    def decide(self, head: RequestHead) -> Later[Decision]:
        """Admit or refuse. Returns without an await when it need not wait for I/O (the hot path).

        The edge awaits an awaitable once. When the peer leaves or the handshake's time is over, the edge cancels it,
        at its first wait or later: it must then release its resources, those that this call took among them. The
        edge always opens and closes the receiver of an `Accept`, even when the peer has left meanwhile or the 101
        cannot be written.
        """

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """Record and count a refusal by the edge itself (`head_too_large`, `handshake_timeout`, `bad_request` …);
        returns the trace id for the body.
        """
