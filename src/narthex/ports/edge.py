"""What lies between a socket and the app: the edge (adapters/edge, and the HTTP fallbacks in web) drives a
`Receiver`, the app drives a `Socket`.

Rules: every call here happens on the event loop and must not block. A `Receiver` is called in the order
`opened`, any of (`message`, `writable`), `closed` exactly once; nothing after `closed`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

from narthex.domain.refusals import Refusal
from narthex.ports.later import Later
from narthex.protocol.framing import Framing, Prepared

HIGH_MARK_BYTES: Final = 64 * 1024
"""A socket with more than so many bytes that the kernel was not given is not writable …"""

LOW_MARK_BYTES: Final = 16 * 1024
"""… until it has at most so many."""

CLOSE_S: Final = 5.0
"""A client has so long to read why it was closed; then its connection is dropped."""

ABORT: Final = "narthex.abort"
"""ASGI extension of the edge: `{"abort": call}` drops the request's connection at once."""


class RequestHead(msgspec.Struct, kw_only=True):
    """A parsed request head, as it came.

    Attributes:
        method: upper case.
        path: percent-decoded path without the query.
        query: raw query string without `?`.
        headers: lower-case name and value, in order, latin-1 decoded.
        http_version: `1.1` or `1.0`.
        peer: the socket's other end (host, port): the last proxy, if there is one.
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
    """How far what was sent to a client has come, as far as this side can see.

    Attributes:
        left: bytes that the client's side has not taken yet, the kernel's included.
        taken: bytes that it has taken in all; it grows while the client reads.
    """

    left: int
    taken: int


class DirectSender(Protocol):
    """Sends directly to one client, for who writes the same bytes to thousands."""

    def send(self, data: bytes, /) -> int:
        """Give bytes framed for `Framing.WEBSOCKET` to the kernel; returns how many it took.

        Raises OSError while they must not go this way: something is buffered before them, or the socket is
        closing, gone or broken. Then `Socket.send_frames` knows what to do with them. When fewer than all were
        taken, `Socket.send_rest` must follow at once.
        """


class Socket(Protocol):
    """One client's way out. Both WebSocket and the HTTP fallbacks are one.

    Attributes:
        framing: how it wants its messages.
        session: the secret under which a fallback's other half posts commands; empty for a WebSocket.
        direct_sender: the same for the socket's whole life; None when there is none (TLS, deflate, a fallback). It is
            open only while the receiver counts as writable.
    """

    framing: Framing
    session: str
    direct_sender: DirectSender | None

    def send(self, message: Prepared) -> None:
        """Write one prepared message now."""

    def send_frames(self, frames: bytes) -> None:
        """Write bytes already framed for `framing` (several messages joined) in one write."""

    def send_rest(self, rest: bytes) -> None:
        """Take what the direct sender's `send` left over; only directly after it."""

    def buffered(self) -> int:
        """Bytes accepted and not yet given to the kernel."""

    def send_progress(self) -> SendProgress:
        """How far what was sent has come; asked rarely (when a pong is missing)."""

    def close(self, code: int, reason: str) -> None:
        """Send the close frame (or the fallback's disconnect push) and end; `closed` follows."""

    def abort(self) -> None:
        """Drop the connection without a close handshake; `closed` follows."""


class Receiver(Protocol):
    """The app's end of one client. Implemented by `app.connection.Connection` and the conformance echo."""

    def opened(self, socket: Socket) -> None:
        """The way out is ready; the first message may follow at once."""

    def message(self, data: bytes, *, binary: bool) -> None:
        """One whole message, within the limits. Text is given as its UTF-8 bytes, already validated."""

    def writable(self, ready: bool) -> None:
        """The transport's buffer passed its high mark (False) or drained (True)."""

    def closed(self, code: int, reason: str) -> None:
        """The connection is gone; 1006 when it broke without a close frame."""


class Accept(msgspec.Struct, kw_only=True):
    """Upgrade, then hand every message to `receiver`.

    Attributes:
        subprotocol: what to select, None for none.
        headers: more response headers.
        limits: which message limits hold: `app` or `conformance`.
    """

    receiver: Receiver
    subprotocol: str | None = None
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
    """Decides on upgrades. Called once per upgrade request, after the edge's own checks of the head."""

    def decide(self, head: RequestHead) -> Later[Decision]:
        """Admit or refuse. Without an await whenever nothing has to be waited for (the hot path).

        An awaitable is awaited once and cancelled when the peer leaves or the handshake's time is over: it
        must then release what it took. The receiver of an `Accept` is always opened and closed, even when the
        peer has left meanwhile or the 101 cannot be written.
        """

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """The edge refused by itself (`head_too_large`, `handshake_timeout`, `bad_request` …): record and
        count it; returns the trace id for the body.
        """
