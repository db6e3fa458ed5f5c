"""Holds one TCP connection from accept to close: its transport, its entry in the count, its one deadline, its stage.

The event loop knows only the `TcpConnection`, which passes every call on to the stage that the connection is in:

    RequestHeadStage ──▶ PendingDecision ──▶ WebSocket ──▶ Lingering
       ├────────────────────┴────────────────────────────▲  (refused)
       ├──▶ HttpConnection ──▶ PendingDecision, WebSocket, Lingering
       └──▶ MountedWebSocket

Not here: the handling of bytes, by stages. Rules: a stage ends by `become`, which also ends its deadline; a connection
leaves the count once, when its transport is lost or it is evicted; a lost one refers to no stage any more (the stage
refers to it, and such a ring is freed only by a full collection).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from narthex.adapters.edge.responses import Headers, refusal_response
from narthex.domain.refusals import Refusal
from narthex.ports.edge import RequestHead

if TYPE_CHECKING:
    from narthex.adapters.edge.edge import Edge


class Stage(asyncio.Protocol):
    """The current stage of a connection: asyncio's protocol methods, and three of the edge's own.

    Attributes:
        tcp: the connection.
    """

    __slots__ = ("tcp",)

    tcp: TcpConnection

    def expired(self) -> None:
        """The deadline passed; it has been cleared."""

    def end(self) -> None:
        """The process stops: release the connection now."""
        self.tcp.transport.abort()

    def evict(self) -> None:
        """Close at once, because another client needs the slot (`connections`)."""
        self.end()


_NO_STAGE: Final = Stage()


class TcpConnection(asyncio.Protocol):
    """See the module.

    Args:
        edge: shared state.

    Attributes:
        address: under which it is counted (`connections`); None before it is and after it has left.
        due: see `app.timers.Sleeper`.
        transport: of the connection.
        peer: the peer's address and port.
        accepted_at: loop time.
        stage: gets the event loop's calls.
    """

    __slots__ = ("accepted_at", "address", "due", "edge", "peer", "stage", "transport")

    transport: asyncio.Transport
    peer: tuple[str, int]
    accepted_at: float

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.address: str | None = None
        self.due = 0
        self.stage: Stage = _NO_STAGE

    # For the stages.

    def become(self, stage: Stage, *, keep_deadline: bool = False) -> None:
        """Pass all calls to `stage` from now on."""
        self.stage = stage
        if not keep_deadline:
            self.edge.timers.cancel(self)

    def expire_in(self, seconds: float) -> None:
        """Call the stage's `expired` after `seconds`, unless the deadline is set again or cleared."""
        timers = self.edge.timers
        timers.schedule(self, timers.now() + seconds)

    def clear_deadline(self) -> None:
        """Remove the stage's deadline."""
        self.edge.timers.cancel(self)

    def busy(self) -> None:
        """The next step is the server's; idempotent."""
        self.edge.connections.busy(self)

    def idle(self) -> None:
        """The next step is the client's; idempotent."""
        self.edge.connections.idle(self)

    def attribute(self, head: RequestHead | None) -> bool:
        """Count the connection for the client that a trusted proxy's request names; None: it is between two requests.

        Returns:
            False: that client's address is at its limit. Refuse the request.
        """
        forwarded = self.edge.forwarded
        if forwarded is None:
            return True
        return self.edge.connections.reassign(self, None if head is None else forwarded(head))

    def refuse(self, refusal: Refusal, head: RequestHead | None, *, eof: bool = False) -> None:
        """Record and answer a request that the edge refuses by itself, send FIN, and linger.

        Args:
            refusal: the reason.
            head: the request, as far as it could be read.
            eof: whether the peer has already sent its FIN.
        """
        self.answer(refusal, self.edge.record(refusal, head), head, eof=eof)

    def answer(
        self,
        refusal: Refusal,
        trace_id: str,
        head: RequestHead | None,
        *,
        extra: Headers | None = None,
        eof: bool = False,
    ) -> None:
        """Write a refusal that has been recorded, send FIN, and linger."""
        is_head = head is not None and head.method == "HEAD"
        edge = self.edge
        common = edge.common_headers()
        self.transport.write(
            refusal_response(refusal, trace_id, root=edge.root_path, extra=extra, common=common, head=is_head)
        )
        self.linger(eof=eof)

    def linger(self, *, eof: bool = False) -> None:
        """Send FIN after the written bytes, wait for the peer's FIN, and give up after `linger_s`.

        Args:
            eof: whether the peer has already sent its FIN.
        """
        transport = self.transport
        self.become(Lingering(self))
        if transport.is_closing():
            return
        self.idle()
        self.expire_in(self.edge.limits.linger_s)
        if eof or not transport.can_write_eof():  # TLS has no half-close
            transport.close()
            return
        transport.resume_reading()
        transport.write_eof()

    # For the event loop, the timers and the table of connections.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is accepted: start the handshake's deadline."""
        edge = self.edge
        self.transport = cast("asyncio.Transport", transport)
        self.accepted_at = edge.clock()
        peer = transport.get_extra_info("peername")
        # A Unix socket's peer has no address, and is on this machine, as loopback's is.
        self.peer = (peer[0], peer[1]) if peer and not isinstance(peer, str | bytes) else ("127.0.0.1", 0)
        if edge.connections.add(self, self.peer[0]):
            self.expire_in(edge.limits.handshake_s)
        else:
            self.refuse(TOO_MANY, None)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the stage."""
        self.stage.data_received(data)

    def eof_received(self) -> bool | None:
        """The peer's FIN."""
        return self.stage.eof_received()

    def pause_writing(self) -> None:
        """The write buffer passed its high mark."""
        self.stage.pause_writing()

    def resume_writing(self) -> None:
        """The write buffer drained."""
        self.stage.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke, or was closed."""
        self.edge.connections.remove(self)
        stage = self.stage
        self.become(_NO_STAGE)
        stage.connection_lost(exc)

    def wake(self, now: float) -> None:
        """See `app.timers.Sleeper`: the deadline passed."""
        del now
        self.stage.expired()

    def evict(self) -> None:
        """See `connections.Counted`."""
        self.clear_deadline()
        self.stage.evict()


class Lingering(Stage):
    """The last seconds of a connection that has had its answer: FIN sent, waiting for the peer to read and close.

    An immediate close would make the kernel answer late bytes with RST, and an RST can destroy the answer before the
    peer's program reads it (RFC 9112 section 9.6). Bounded by `linger_s` and `linger_bytes`: late bytes are discarded;
    beyond the bound reading stops, so that a flood costs its sender and not us.
    """

    __slots__ = ("_left",)

    def __init__(self, tcp: TcpConnection) -> None:
        self.tcp = tcp
        self._left = tcp.edge.limits.linger_bytes

    def data_received(self, data: bytes) -> None:
        """Discard bytes, within the bound."""
        self._left -= len(data)
        if self._left < 0:
            self.tcp.transport.pause_reading()

    def expired(self) -> None:
        """The peer's time is over."""
        self.tcp.transport.abort()


TOO_MANY: Final = Refusal(code="overloaded", detail="Too many connections.", retry_after_s=5)
