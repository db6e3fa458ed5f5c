"""Handles handshakes: from a request head to a decision, for the upgrade, the fallbacks, preflight and in-band.

Not here: the rules (`domain.admission`), verifying credentials (app/credentials), counting
(app/connection_limits). Rules: a decision comes without an await whenever nothing has to be waited for; one deadline
bounds all waits of a handshake, and running into it means "cannot tell", never "bad"; however a
handshake ends, its slot is released; nothing raises out of `decide` but cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.credentials import WAIT_S, CredentialVerifier, Verdicts, VerificationRequest
from narthex.app.e2e import Admissions
from narthex.app.handshake_record import DecisionRecorder
from narthex.app.handshake_request import HandshakeRequest, read_request
from narthex.app.handshake_trace import HandshakeTracer
from narthex.domain import endpoints
from narthex.domain.addresses import TrustedProxies
from narthex.domain.admission import AdmissionPolicy, Admit, Screened, admit_screened, screen
from narthex.domain.carriers import PROTOBUF as PROTOBUF_SUBPROTOCOL
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, Receiver, RequestHead
from narthex.ports.later import Later, settled
from narthex.ports.tracing import NO_SPAN, Span, within
from narthex.protocol.codec import JSON, PROTOBUF, Codec
from narthex.protocol.protobuf_schema import is_protobuf

COME_BACK_S: Final = 1  # starting and draining: another instance answers at once, this one within seconds

NewReceiver = Callable[[ConnectionContext], Receiver]

_UNAVAILABLE: Final = Refusal(
    code="auth_unavailable", retry_after_s=COME_BACK_S, log_detail="the handshake's deadline passed"
)
_STATES: Final = {
    "starting": Refusal(code="starting", retry_after_s=COME_BACK_S),
    "draining": Refusal(code="draining", retry_after_s=COME_BACK_S),
    "stopped": Refusal(code="draining", retry_after_s=COME_BACK_S),
}
_NO_ROUTE: Final = Refusal(code="no_route")
_WRONG_HOST: Final = Refusal(code="bad_request", detail="The Host header does not name this gateway.")


class Route(NamedTuple):
    """A path that upgrades (or streams): its transport, its receiver, its limits, whether it also speaks protobuf."""

    transport: str
    receiver: NewReceiver
    limits: str = "app"
    protobuf: bool = False
    proven: bool = False  # an inert connection would be of no use there

    @property
    def upgrade(self) -> bool:
        """Whether clients reach it by an upgrade; else by a plain HTTP request."""
        return self.transport in ("websocket", "conformance")


def gateway_routes(new_receiver: NewReceiver, new_echo: NewReceiver | None = None) -> Mapping[str, Route]:
    """The gateway's own routes, by path.

    Args:
        new_receiver: the app's end of an admitted connection; it calls `ConnectionContext.release` when it is closed.
        new_echo: of `/ws/conformance`; None: there is no such path.
    """
    routes = {
        **dict.fromkeys(endpoints.WEBSOCKETS, Route("websocket", new_receiver, protobuf=True)),
        endpoints.HTTP_STREAM: Route("http_stream", new_receiver, protobuf=True),
        endpoints.SSE: Route("sse", new_receiver),
    }
    if new_echo is not None:
        routes[endpoints.CONFORMANCE] = Route("conformance", new_echo, "conformance", proven=True)
    return routes


class PreflightResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict without an upgrade; see `HandshakeHandler.preflight`."""

    outcome: Admit | Refusal
    trace_id: str
    address: str


class HandshakeHandler:
    """Implements `ports.edge.UpgradeHandler`.

    Args:
        policy: the admission policy.
        trusted: proxies whose forwarding headers count.
        credentials: verifies credentials.
        limiter: the counts.
        admissions: records admissions of test identities.
        decisions: records every decision.
        traces: makes a span of every decision; None: tracing is off.
        state: `starting`, `ready`, `draining` or `stopped`.
        route: the route at a path, None where there is none.
        inert: whether a client whose token has merely expired is upgraded inert, so that it can send a fresh one;
            else it is refused.
        report_bug: takes an unexpected exception, with the trace id.
        clock: seconds since the epoch.
        monotonic: the loop's clock, seconds.
        wait_s: see `WAIT_S`.
        handshake_timeout_s: from accept to the 101.
    """

    def __init__(
        self,
        *,
        policy: AdmissionPolicy,
        trusted: TrustedProxies,
        credentials: CredentialVerifier,
        limiter: ConnectionLimiter,
        admissions: Admissions,
        decisions: DecisionRecorder,
        traces: HandshakeTracer | None = None,
        state: Callable[[], str],
        route: Callable[[str], Route | None],
        inert: bool = True,
        report_bug: Callable[[BaseException, str], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
        handshake_timeout_s: float,
    ) -> None:
        self.policy = policy
        self.trusted = trusted
        self._credentials = credentials
        self._limiter = limiter
        self._admissions = admissions
        self._state = state
        self._report_bug = report_bug
        self._clock = clock
        self._monotonic = monotonic
        self._wait_s = wait_s
        self._handshake_timeout_s = handshake_timeout_s
        self._decisions = decisions
        self._traces = traces
        self._route = route
        self._inert = inert

    # -- UpgradeHandler ------------------------------------------------------------------------------------

    def decide(self, head: RequestHead) -> Later[Decision]:
        """See `UpgradeHandler`."""
        route = self._route(head.path)
        request = self._read_request(
            head, sees_refusal=not self._inert, upgrade=route is None or route.upgrade
        )
        try:
            if route is None:
                return self._deny(request, _NO_ROUTE)
            screened = self._screen(request, consume=True)
            if isinstance(screened, Refusal):
                return self._deny(request, screened)
            found = self._verdicts(request, consume=True)
            if isinstance(found, tuple):
                return self._settle(request, route, screened, found)
            if isinstance(found, Refusal):
                return self._deny(request, found)
        except Exception as fault:  # the edge must answer, whatever is broken here
            return self._bug(request, fault)
        return self._decide_later(request, route, screened, found)

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """See `UpgradeHandler`."""
        if head is None:
            head = RequestHead(method="", path="", query="", headers=[])
        return self._deny(self._read_request(head), refusal).trace_id

    # -- asking --------------------------------------------------------------------------------------------

    async def preflight(self, head: RequestHead) -> PreflightResult:
        """The answer that the upgrade would get, for a client that sees refusals. Takes no slot and no ticket."""
        asked = await self.identify(head)
        if isinstance(asked.outcome, Refusal):
            return asked
        full = self._limiter.would_refuse(asked.address, asked.outcome.identity)
        return asked if full is None else msgspec.structs.replace(asked, outcome=full)

    async def identify(self, head: RequestHead) -> PreflightResult:
        """The requesting user, by the upgrade's own rules (`POST /ws/ticket` and others). Uses up nothing."""
        request = self._read_request(head, sees_refusal=True, upgrade=False)
        outcome, verdicts = await self._decision(request, consume=False)
        self._record(outcome, request, verdicts, count=False)
        return PreflightResult(outcome=outcome, trace_id=request.trace_id, address=request.client.address)

    async def verify(self, head: RequestHead) -> PreflightResult:
        """The decision on a handshake that another server will complete. Uses up a ticket, takes no slot.

        It counts as a handshake; a connection without proof is refused, because nothing could ask for it later.
        """
        request = self._read_request(head, sees_refusal=True)
        outcome, verdicts = await self._decision(request, consume=True)
        if not isinstance(outcome, Refusal):
            outcome = await self._proven(request, outcome) or outcome
        self._record(outcome, request, verdicts, count=True)
        return PreflightResult(outcome=outcome, trace_id=request.trace_id, address=request.client.address)

    async def _proven(self, request: HandshakeRequest, admit: Admit) -> Refusal | None:
        """Record the admission of a test identity; the refusal that is due without proof, or without the record."""
        if admit.identity is None:
            return Refusal(code="auth_required")
        if not admit.identity.e2e:
            return None
        return await self._admissions.record(
            admit.identity,
            surface="verify",
            proof=admit.carriers[0],
            address=request.client.address,
            trace_id=request.trace_id,
            wait_s=request.deadline - self._monotonic(),
        )

    async def _decision(
        self, request: HandshakeRequest, *, consume: bool
    ) -> tuple[Admit | Refusal, Verdicts]:
        screened = self._screen(request, consume=False)
        if isinstance(screened, Refusal):
            return screened, ()
        found = self._verdicts(request, consume=consume)
        if isinstance(found, Awaitable):
            found = await self._in_time(request, found)
        return (found, ()) if isinstance(found, Refusal) else (admit_screened(screened, found), found)

    # -- the steps of a handshake --------------------------------------------------------------------------

    def _read_request(
        self, head: RequestHead, *, sees_refusal: bool = False, upgrade: bool = True
    ) -> HandshakeRequest:
        return read_request(
            head,
            self.trusted,
            now=self._monotonic(),
            wait_s=self._wait_s,
            handshake_timeout_s=self._handshake_timeout_s,
            sees_refusal=sees_refusal,
            upgrade=upgrade,
            tests=self.policy.auth_bypass_active,
        )

    def _screen(self, request: HandshakeRequest, *, consume: bool) -> Screened | Refusal:
        """The refusal that is due before any credential is looked at, or the request as screened."""
        state = self._state()
        if state != "ready":
            return _STATES[state]
        if not self.policy.hosts.allows(request.facts.host) and not request.local:
            return _WRONG_HOST
        screened = screen(request.facts, self.policy)
        if consume and not isinstance(screened, Refusal):
            return self._limiter.capacity_refusal(request.client.address) or screened
        return screened

    def _verdicts(
        self, request: HandshakeRequest, *, consume: bool
    ) -> Verdicts | Refusal | Awaitable[Verdicts]:
        """Verify every credential of the request."""
        carriers = request.carriers
        if not carriers.credentials:
            return ()
        return self._credentials.verify(
            VerificationRequest(
                carriers.credentials,
                carriers.test_run,
                request.fresh_id,
                request.client.address,
                request.traffic,
                consume,
            )
        )

    async def _in_time(self, request: HandshakeRequest, pending: Awaitable[Verdicts]) -> Verdicts | Refusal:
        try:
            async with asyncio.timeout(request.deadline - self._monotonic()):
                return await pending
        except TimeoutError:
            return _UNAVAILABLE

    async def _decide_later(
        self, request: HandshakeRequest, route: Route, screened: Screened, pending: Awaitable[Verdicts]
    ) -> Decision:
        try:
            found = await self._in_time(request, pending)
            if isinstance(found, Refusal):
                return self._deny(request, found)
            if (state := self._state()) != "ready":  # drain began meanwhile
                return self._deny(request, _STATES[state], found)
            decision: Decision = await settled(self._settle(request, route, screened, found))
        except Exception as fault:  # as in `decide`
            return self._bug(request, fault)
        return decision

    def _settle(
        self, request: HandshakeRequest, route: Route, screened: Screened, verdicts: Verdicts
    ) -> Later[Decision]:
        """Decide, and give an admitted connection its slot."""
        self._decisions.extracted(verdicts)
        outcome = admit_screened(screened, verdicts)
        if isinstance(outcome, Refusal):
            return self._deny(request, outcome, verdicts)
        if route.proven and outcome.identity is None:
            return self._deny(request, Refusal(code="auth_required"), verdicts)
        slot = self._limiter.acquire(request.client.address, outcome.identity)
        if isinstance(slot, Refusal):
            return self._deny(request, slot, verdicts)
        context = ConnectionContext(
            outcome,
            slot,
            codec=_codec(request, route),
            trace_id=request.trace_id,
            address=request.client.address,
            scheme=request.client.scheme,
            transport=route.transport,
            started_at=self._clock(),
        )
        if outcome.identity is not None and outcome.identity.e2e:
            return self._accept_recorded(request, route, context, verdicts)
        return self._accept(request, route, context, verdicts)

    async def _accept_recorded(
        self, request: HandshakeRequest, route: Route, context: ConnectionContext, verdicts: Verdicts
    ) -> Decision:
        assert context.identity is not None
        try:
            refusal = await self._admissions.record(
                context.identity,
                surface="handshake",
                proof=context.admit.carriers[0],
                address=context.address,
                trace_id=context.trace_id,
                wait_s=request.deadline - self._monotonic(),
            )
            if refusal is None and self._credentials.revoked(context.identity):
                refusal = Refusal(code="token_revoked")
            if refusal is None:
                return self._accept(request, route, context, verdicts)
        except Exception as fault:  # as in `decide`
            context.release()
            return self._bug(request, fault)
        except BaseException:
            context.release()
            raise
        context.release()
        return self._deny(request, refusal, verdicts)

    def _accept(
        self, request: HandshakeRequest, route: Route, context: ConnectionContext, verdicts: Verdicts
    ) -> Accept:
        try:
            receiver = route.receiver(context)
        except BaseException:
            context.release()
            raise
        context.span = self._record(context.admit, request, verdicts, count=True)
        if context.codec is PROTOBUF:
            return Accept(
                receiver=receiver, subprotocol=PROTOBUF_SUBPROTOCOL, protobuf=True, limits=route.limits
            )
        return Accept(receiver=receiver, subprotocol=context.admit.subprotocol, limits=route.limits)

    def _deny(self, request: HandshakeRequest, refusal: Refusal, verdicts: Verdicts = ()) -> Deny:
        self._record(refusal, request, verdicts, count=True)
        return Deny(refusal=refusal, trace_id=request.trace_id, explain=request.carriers.explain)

    def _bug(self, request: HandshakeRequest, fault: Exception) -> Deny:
        self._report_bug(fault, request.trace_id)
        return self._deny(request, Refusal(code="internal"))

    def _record(
        self, result: Admit | Refusal, request: HandshakeRequest, verdicts: Verdicts, *, count: bool
    ) -> Span:
        duration_s = max(0.0, self._monotonic() - request.started_at)
        if count:
            self._decisions.counted(result, request.traffic, duration_s, request.trace_id)
            if isinstance(result, Refusal):
                self._decisions.refused(
                    result,
                    tuple(credential.carrier for credential in request.carriers.credentials),
                    verdicts,
                    client=request.client.address,
                    traffic=request.traffic,
                    trace_id=request.trace_id,
                )
        span = NO_SPAN
        if self._traces is not None:
            span = self._traces.decided(
                result,
                request,
                verdicts,
                is_route=self._route,
                duration_s=duration_s,
            )
        if self._decisions.wants_records:
            with within(span):
                self._decisions.recorded(
                    result,
                    tuple(credential.carrier for credential in request.carriers.credentials),
                    verdicts,
                    client=request.client.address,
                    trace_id=request.trace_id,
                    duration_s=duration_s,
                )
        return span


def _codec(request: HandshakeRequest, route: Route) -> Codec:
    """The client's format: by its subprotocol, or by the type of a stream's body."""
    wanted = request.carriers.protobuf if route.upgrade else is_protobuf(request.head.get("content-type"))
    return PROTOBUF if wanted and route.protobuf else JSON
