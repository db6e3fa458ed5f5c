"""Decides on upgrades of a guard: admission first, then the upstream's own handshake.

Not here: admission (`app.handshake`), connecting (`dialing`), what follows (`relay`). Rules: the upstream sees no
handshake that admission refused, and no credential of one that it admitted; an admitted connection whose upstream does
not answer 101 gives its place in the counts back at once; the upstream's own refusal passes as it is, or as a close
frame to a client that asked for explanations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, cast

from narthex.adapters.edge.upstream.dialing import Upstream, UpstreamFault
from narthex.adapters.edge.upstream.heads import (
    HandedOn,
    HeadAnswer,
    fault_of,
    refusal_answer,
    upgrade_request,
)
from narthex.adapters.edge.upstream.relay import Join, PassedRefusal, Relayed, RelayReceiver, UpstreamSide
from narthex.app.connection_context import ConnectionContext
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, RequestHead, UpgradeHandler
from narthex.ports.later import Later
from narthex.protocol.framing import ABNORMAL

if TYPE_CHECKING:
    from narthex.adapters.edge.edge import Edge

MARGIN_S: Final = 0.5  # before the edge's own deadline, which cannot name the upstream


class AdmittedConnection(RelayReceiver, Protocol):
    """The receiver that admission gives an accepted handshake, and its context."""

    context: ConnectionContext


class RelayHandler:
    """See the module. Implements `ports.edge.UpgradeHandler`, with the decisions of `relay` beside.

    Args:
        admission: decides first; the receivers of its `Accept`s are `AdmittedConnection`s.
        upstream: the server behind.
        hand_on: returns the parts of an admitted request that the upstream may see.
        timeout_s: from the connection attempt to the upstream's whole answer.
        handshake_timeout_s: from accept to the client's 101.
        result: called with the outcome of each handshake with the upstream: `joined`, `denied` or a refusal's code,
            and the refusal.
    """

    def __init__(
        self,
        admission: UpgradeHandler,
        upstream: Upstream,
        hand_on: Callable[[RequestHead, ConnectionContext], HandedOn],
        *,
        timeout_s: float,
        handshake_timeout_s: float,
        result: Callable[[str, Refusal | None, str], None],
    ) -> None:
        self._admission = admission
        self._upstream = upstream
        self._hand_on = hand_on
        self._timeout_s = timeout_s
        self._handshake_timeout_s = handshake_timeout_s
        self._result = result
        self.edge: Edge | None = None

    def decide(self, head: RequestHead) -> Later[Decision | Relayed]:
        """See `UpgradeHandler`."""
        decision = self._admission.decide(head)
        if isinstance(decision, Deny):
            return decision
        if isinstance(decision, Accept):
            return self._open(head, cast("AdmittedConnection", decision.receiver))
        return self._decide_later(head, decision)

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """See `UpgradeHandler`."""
        return self._admission.refused_early(refusal, head)

    async def _decide_later(self, head: RequestHead, pending: Awaitable[Decision]) -> Decision | Relayed:
        decision = await pending
        if isinstance(decision, Deny):
            return decision
        return await self._open(head, cast("AdmittedConnection", decision.receiver))

    async def _open(self, head: RequestHead, receiver: AdmittedConnection) -> Decision | Relayed:
        try:
            decision = await self._handshake(head, receiver)
        except BaseException:
            receiver.closed(ABNORMAL, "")
            raise
        if not isinstance(decision, Join):
            receiver.closed(ABNORMAL, "")
        return decision

    async def _handshake(self, head: RequestHead, receiver: AdmittedConnection) -> Decision | Relayed:
        edge, context = self.edge, receiver.context
        assert edge is not None
        handed = self._hand_on(head, context)
        left_s = head.received_at + self._handshake_timeout_s - MARGIN_S - edge.clock()
        try:
            answer, transport = await self._upstream.handshake(
                upgrade_request(head, handed), within_s=max(0.0, min(self._timeout_s, left_s))
            )
            if transport is None:
                return self._refused(answer, context)
            upstream = UpstreamSide(edge, transport, answer.rest, secure=self._upstream.tls is not None)
            transport.set_protocol(upstream)
            if fault := fault_of(answer, head, handed.protocols):
                transport.abort()
                raise UpstreamFault("upstream_invalid", fault)
        except UpstreamFault as fault:
            self._result(fault.refusal.code, fault.refusal, context.trace_id)
            return Deny(refusal=fault.refusal, trace_id=context.trace_id, explain=context.admit.explain)
        self._result("joined", None, context.trace_id)
        return Join(
            receiver,
            upstream,
            answer.get("sec-websocket-protocol") or context.admit.subprotocol,
            answer.get("sec-websocket-extensions"),
            answer.passed_headers(),
        )

    def _refused(self, answer: HeadAnswer, context: ConnectionContext) -> Decision | Relayed:
        """Pass the upstream's own refusal."""
        final = 400 <= answer.status < 500 and answer.status not in (408, 429)
        refusal = Refusal(
            code="upstream_denied" if final else "upstream_failed", detail=f"It answered {answer.status}."
        )
        self._result("denied", refusal, context.trace_id)
        if context.admit.explain:
            return Deny(refusal=refusal, trace_id=context.trace_id, explain=True)
        assert self.edge is not None
        return PassedRefusal(
            refusal_answer(answer, _phrase(answer.status), common=self.edge.common_headers())
        )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
