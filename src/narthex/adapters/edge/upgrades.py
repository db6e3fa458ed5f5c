"""Completes a checked upgrade: gets the upgrade handler's decision, then writes the 101 or a refusal.

Not here: the check of the head (`rules`), the decision (app). Rules: a decision without an await costs no task, and its
101 is written with the others of this loop iteration (`upgrade_batch`); while a decision waits, early bytes are kept
within `early_bytes` (then reading pauses), a peer that leaves cancels it, and the handshake's deadline ends it; a
receiver from the upgrade handler is always opened and closed, even when its peer has left meanwhile, because the
upgrade handler has counted it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from narthex.adapters.edge.deflate import Agreement, negotiate
from narthex.adapters.edge.edge import log
from narthex.adapters.edge.frames import FrameReader
from narthex.adapters.edge.responses import switching_protocols
from narthex.adapters.edge.rules import Upgrade
from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.adapters.edge.upgrade_batch import PendingUpgrade
from narthex.adapters.edge.upstream.relay import Join, PassedRefusal, Relay, Relayed
from narthex.adapters.edge.websocket import NULL_RECEIVER, WebSocket
from narthex.domain.refusals import Refusal
from narthex.errors import Bug
from narthex.ports.edge import Accept, Decision, Deny, RequestHead

if TYPE_CHECKING:
    from narthex.adapters.edge.edge import Edge

EXPLAIN: Final = "narthex.explain"


def begin(tcp: TcpConnection, head: RequestHead, upgrade: Upgrade, early: bytes) -> PendingUpgrade | None:
    """Get the upgrade handler's decision and carry it out.

    Args:
        tcp: the connection; from here on it no longer belongs to the calling stage.
        head: the request.
        upgrade: the requested upgrade.
        early: the bytes that the client sent behind the head.

    Returns:
        A 101 that the caller must write and start in this loop iteration; None: the caller has nothing to do.
    """
    edge = tcp.edge
    tcp.busy()
    try:
        decision = edge.upgrade_handler.decide(head)
    except Exception:
        log.exception("the upgrade handler failed")
        decision = _bug(edge, head)
    if isinstance(decision, Decision | Relayed):
        return conclude(tcp, head, upgrade, decision, early)
    PendingDecision(tcp, head, upgrade, early).wait(decision)
    return None


def conclude(
    tcp: TcpConnection,
    head: RequestHead,
    upgrade: Upgrade,
    decision: Decision | Relayed,
    early: bytes,
    *,
    eof: bool = False,
) -> PendingUpgrade | None:
    """Write a refusal, or return the 101 to write, which starts the next stage."""
    try:
        if isinstance(decision, Accept):
            return _accept(tcp, upgrade, decision, early)
        if isinstance(decision, Join):
            return _join(tcp, upgrade, decision, early)
        if isinstance(decision, PassedRefusal):
            tcp.transport.write(decision.answer)
            tcp.linger(eof=eof)
            return None
        if decision.explain and not eof:
            _explain(tcp, upgrade, decision)
        else:
            tcp.answer(decision.refusal, decision.trace_id, head, extra=decision.headers, eof=eof)
    except Bug:  # raised before anything was written
        log.exception("a decision could not be answered")
        refused = _bug(tcp.edge, head)
        tcp.answer(refused.refusal, refused.trace_id, head, eof=eof)
    return None


def _accept(tcp: TcpConnection, upgrade: Upgrade, decision: Accept, early: bytes) -> PendingUpgrade:
    limits = tcp.edge.limits.messages(decision.limits)
    agreement: Agreement | None = None
    if limits.deflate and upgrade.extensions:
        agreement = negotiate(upgrade.extensions)
    socket = WebSocket(
        tcp,
        decision.receiver,
        limits,
        FrameReader(limits, deflate=agreement is not None),
        agreement.window if agreement is not None else 0,
        protobuf=decision.protobuf,
    )
    if decision.subprotocol is not None and decision.subprotocol not in upgrade.protocols:
        socket.abandon()
        raise Bug("bad_subprotocol", "The upgrade handler selected a subprotocol that was not offered.")
    try:
        answer = switching_protocols(
            upgrade.key,
            subprotocol=decision.subprotocol,
            extension=agreement.response if agreement is not None else "",
            extra=decision.headers,
        )
    except Bug:
        socket.abandon()
        raise
    return PendingUpgrade(socket, tcp.transport, answer, early)


def _join(tcp: TcpConnection, upgrade: Upgrade, decision: Join, early: bytes) -> PendingUpgrade:
    relay = Relay(tcp, decision.upstream, decision.receiver)
    try:
        answer = switching_protocols(
            upgrade.key,
            subprotocol=decision.subprotocol,
            extension=decision.extensions,
            extra=decision.headers,
        )
    except Bug:
        relay.abandon()
        raise
    return PendingUpgrade(relay, tcp.transport, answer, early)


def _explain(tcp: TcpConnection, upgrade: Upgrade, decision: Deny) -> None:
    """Upgrade and refuse in the close frame, because browsers hide a refused handshake (docs/design.md#admission).

    The selected subprotocol is `narthex.explain`, so that a client that offered `jwt-auth` as well can tell the refusal
    from an admission before the close frame comes.
    """
    chosen = EXPLAIN if EXPLAIN in upgrade.protocols else None
    tcp.transport.write(
        switching_protocols(upgrade.key, subprotocol=chosen, extension="", extra=decision.headers)
    )
    limits = tcp.edge.limits.app
    socket = WebSocket(tcp, NULL_RECEIVER, limits, FrameReader(limits))
    socket.start(b"")
    socket.close(*decision.refusal.close())
    tcp.idle()


def _bug(edge: Edge, head: RequestHead) -> Deny:
    refusal = Refusal(code="internal")
    return Deny(refusal=refusal, trace_id=edge.record(refusal, head))


class PendingDecision(Stage):
    """A connection whose upgrade waits for the upgrade handler."""

    __slots__ = ("_cancelled", "_early", "_eof", "_head", "_started", "_task", "_upgrade")

    def __init__(self, tcp: TcpConnection, head: RequestHead, upgrade: Upgrade, early: bytes) -> None:
        self.tcp = tcp
        self._head = head
        self._upgrade = upgrade
        self._early = bytearray(early)
        self._eof = False
        self._cancelled = False
        self._started = False
        self._task: asyncio.Task[None] | None = None

    def wait(self, decision: Awaitable[Decision | Relayed]) -> None:
        """Take over the connection, with the handshake's deadline."""
        tcp = self.tcp
        tcp.become(self, keep_deadline=True)
        if not tcp.due:
            tcp.expire_in(tcp.edge.limits.handshake_s)
        self._task = tcp.edge.loop.create_task(self._decide(decision), name="narthex-decision")

    async def _decide(self, decision: Awaitable[Decision | Relayed]) -> None:
        tcp = self.tcp
        self._started = True
        if self._cancelled and self._task is not None:
            self._task.cancel()  # takes effect at the decision's first wait, where it releases what it holds
        try:
            outcome = await decision
        except Exception:
            log.exception("the upgrade handler failed")
            outcome = _bug(tcp.edge, self._head)
        if self._cancelled:
            if isinstance(outcome, Accept):
                self._abandon(outcome)
            elif isinstance(outcome, Join):
                Relay(tcp, outcome.upstream, outcome.receiver).abandon()
            return
        tcp.transport.resume_reading()
        pending = conclude(tcp, self._head, self._upgrade, outcome, bytes(self._early), eof=self._eof)
        if pending is not None:
            pending.complete()
            if self._eof and isinstance(tcp.stage, WebSocket | Relay):
                tcp.stage.eof_received()

    def _abandon(self, outcome: Accept) -> None:
        limits = self.tcp.edge.limits.messages(outcome.limits)
        WebSocket(self.tcp, outcome.receiver, limits, FrameReader(limits)).abandon()

    def data_received(self, data: bytes) -> None:
        """Keep bytes that a client sends before the decision, within the bound."""
        self._early += data
        if len(self._early) > self.tcp.edge.limits.early_bytes:
            self.tcp.transport.pause_reading()

    def eof_received(self) -> bool:
        """The peer sends no more bytes but can still read its answer: keep the transport."""
        self._eof = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer left: cancel the decision."""
        del exc
        self._cancel()

    def expired(self) -> None:
        """The handshake's time is over, and the client is not the cause."""
        self._cancel()
        slow = Refusal(code="overloaded", detail="The decision took too long.", retry_after_s=1)
        self.tcp.refuse(slow, self._head, eof=self._eof)

    def end(self) -> None:
        """The process stops."""
        self._cancel()
        super().end()

    def _cancel(self) -> None:
        """Cancel the decision at its first wait or later: one that never ran could not release its slot."""
        self._cancelled = True
        if self._started and self._task is not None:
            self._task.cancel()
