"""The front door: from a request head to a decision, for the upgrade, the fallbacks, preflight and in-band.

Not here: the rules (`domain.admission`), what a credential is worth (app/credentials), counting (app/seats).
Rules: a decision comes without an await whenever nothing has to be waited for; one deadline bounds everything
a handshake waits for, and running into it means "cannot tell", never "bad"; whatever ends a handshake, its
seat is released; nothing raises out of `decide` but cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import msgspec

from narthex.app.arrivals import Arrival, arrive
from narthex.app.credentials import CredentialJudge, Request, Verdicts
from narthex.app.e2e import Admissions
from narthex.app.handshake_record import Decisions, Record
from narthex.app.in_band import InBand
from narthex.app.seats import Seats
from narthex.app.seed import Seed
from narthex.domain import endpoints
from narthex.domain.addresses import TrustedProxies
from narthex.domain.admission import AdmissionPolicy, Admit, Screened, preliminary, weigh
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, Receiver, RequestHead
from narthex.ports.telemetry import Meter

WAIT_S: Final = 1.8  # for keys and store together: a client hears 503 within 2 s, long before 408 at 10 s
COME_BACK_S: Final = 1  # starting and draining: another instance answers at once, this one within seconds

NewReceiver = Callable[[Seed], Receiver]

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
    """A path that upgrades (or streams): its transport, who receives, which limits hold."""

    transport: str
    receiver: NewReceiver
    limits: str = "app"
    proven: bool = False  # an inert connection would be of no use there

    @property
    def upgrade(self) -> bool:
        """Whether it is reached by an upgrade; else by a plain HTTP request."""
        return self.transport in ("websocket", "conformance")


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict without an upgrade."""

    outcome: Admit | Refusal
    trace_id: str
    address: str


class FrontDoor:
    """Implements `ports.edge.Gate`, and `app.services.InBandDoor`.

    Args:
        policy: what holds here.
        trusted: proxies whose forwarding headers count.
        judge: what credentials are worth.
        seats: the counts.
        admissions: records admissions of test identities.
        meter: told of every decision.
        state: `starting`, `ready`, `draining` or `stopped`.
        new_receiver: the app's end of an admitted connection; it calls `Seed.release` when it is closed.
        new_echo: of `/ws/conformance`; None: there is no such path.
        record: writes handshake records; None when debug is off, so that none is built.
        report_bug: told of what should not happen, with the trace id.
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
        judge: CredentialJudge,
        seats: Seats,
        admissions: Admissions,
        meter: Meter,
        state: Callable[[], str],
        new_receiver: NewReceiver,
        new_echo: NewReceiver | None = None,
        record: Record | None = None,
        report_bug: Callable[[BaseException, str], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
        handshake_timeout_s: float = 10.0,
    ) -> None:
        self.policy = policy
        self.trusted = trusted
        self._judge = judge
        self._seats = seats
        self._admissions = admissions
        self._state = state
        self._report_bug = report_bug
        self._clock = clock
        self._monotonic = monotonic
        self._wait_s = wait_s
        self._handshake_timeout_s = handshake_timeout_s
        self._decisions = Decisions(policy, meter, record)
        self._in_band = InBand(
            policy=policy,
            judge=judge,
            admissions=admissions,
            decisions=self._decisions,
            monotonic=monotonic,
            wait_s=wait_s,
        )
        socket = Route("websocket", new_receiver)
        self._routes = {
            **dict.fromkeys(endpoints.WEBSOCKETS, socket),
            endpoints.HTTP_STREAM: Route("http_stream", new_receiver),
            endpoints.SSE: Route("sse", new_receiver),
        }
        if new_echo is not None:
            self._routes[endpoints.CONFORMANCE] = Route("conformance", new_echo, "conformance", proven=True)

    # -- Gate ----------------------------------------------------------------------------------------------

    def decide(self, head: RequestHead) -> Decision | Awaitable[Decision]:
        """See `Gate`."""
        route = self._routes.get(head.path)
        arrival = self._arrive(head, upgrade=route is None or route.upgrade)
        try:
            if route is None:
                return self._deny(arrival, _NO_ROUTE)
            screened = self._screen(arrival, consume=True)
            if isinstance(screened, Refusal):
                return self._deny(arrival, screened)
            found = self._verdicts(arrival, consume=True)
            if isinstance(found, tuple):
                return self._settle(arrival, route, screened, found)
            if isinstance(found, Refusal):
                return self._deny(arrival, found)
        except Exception as fault:  # the edge must answer, whatever is broken here
            return self._bug(arrival, fault)
        return self._decide_later(arrival, route, screened, found)

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """See `Gate`."""
        if head is None:
            head = RequestHead(method="", path="", query="", headers=[])
        return self._deny(self._arrive(head), refusal).trace_id

    # -- asking --------------------------------------------------------------------------------------------

    async def preflight(self, head: RequestHead) -> Preflight:
        """What the upgrade would be answered, for a client that hears reasons. Takes no seat and no ticket."""
        asked = await self.identify(head)
        if isinstance(asked.outcome, Refusal):
            return asked
        full = self._seats.would_refuse(asked.address, asked.outcome.identity)
        return asked if full is None else msgspec.structs.replace(asked, outcome=full)

    async def identify(self, head: RequestHead) -> Preflight:
        """Who asks, by the upgrade's own rules (`POST /ws/ticket` and others). Uses up nothing."""
        arrival = self._arrive(head, asks=True, upgrade=False)
        verdicts: Verdicts = ()
        screened = self._screen(arrival, consume=False)
        outcome: Admit | Refusal
        if isinstance(screened, Refusal):
            outcome = screened
        else:
            found = self._verdicts(arrival, consume=False)
            if isinstance(found, Awaitable):
                found = await self._in_time(arrival, found)
            if isinstance(found, Refusal):
                outcome = found
            else:
                verdicts, outcome = found, weigh(screened, found)
        self._tell(outcome, arrival, verdicts, count=False)
        return Preflight(outcome=outcome, trace_id=arrival.trace_id, address=arrival.client.address)

    def admit_in_band(self, seed: Seed, token: str) -> Admit | Refusal | Awaitable[Admit | Refusal]:
        """Judge a token of `connect` or `refresh`; see `app.in_band.InBand.admit`."""
        return self._in_band.admit(seed, token)

    # -- the steps of a handshake --------------------------------------------------------------------------

    def _arrive(self, head: RequestHead, *, asks: bool = False, upgrade: bool = True) -> Arrival:
        return arrive(
            head,
            self.trusted,
            now=self._monotonic(),
            wait_s=self._wait_s,
            handshake_timeout_s=self._handshake_timeout_s,
            asks=asks,
            upgrade=upgrade,
            tests=self.policy.auth_bypass_active,
        )

    def _screen(self, arrival: Arrival, *, consume: bool) -> Screened | Refusal:
        """Refuse what can be refused before a credential is looked at."""
        state = self._state()
        if state != "ready":
            return _STATES[state]
        if not self.policy.hosts.allows(arrival.facts.host) and not arrival.local:
            return _WRONG_HOST
        screened = preliminary(arrival.facts, self.policy)
        if consume and not isinstance(screened, Refusal):
            return self._seats.door_full(arrival.client.address) or screened
        return screened

    def _verdicts(self, arrival: Arrival, *, consume: bool) -> Verdicts | Refusal | Awaitable[Verdicts]:
        """Verify every credential of the request."""
        presented = arrival.presented
        if not presented.credentials:
            return ()
        return self._judge.judge(
            Request(
                presented.credentials,
                presented.test_run,
                arrival.fresh_id,
                arrival.client.address,
                arrival.traffic,
                consume,
            )
        )

    async def _in_time(self, arrival: Arrival, pending: Awaitable[Verdicts]) -> Verdicts | Refusal:
        try:
            async with asyncio.timeout(arrival.deadline - self._monotonic()):
                return await pending
        except TimeoutError:
            return _UNAVAILABLE

    async def _decide_later(
        self, arrival: Arrival, route: Route, screened: Screened, pending: Awaitable[Verdicts]
    ) -> Decision:
        try:
            found = await self._in_time(arrival, pending)
            if isinstance(found, Refusal):
                return self._deny(arrival, found)
            if (state := self._state()) != "ready":  # drain began meanwhile
                return self._deny(arrival, _STATES[state], found)
            decision = self._settle(arrival, route, screened, found)
        except Exception as fault:  # as in `decide`
            return self._bug(arrival, fault)
        return await decision if isinstance(decision, Awaitable) else decision

    def _settle(
        self, arrival: Arrival, route: Route, screened: Screened, verdicts: Verdicts
    ) -> Decision | Awaitable[Decision]:
        """Decide, and give an admitted connection its seat."""
        self._decisions.extracted(verdicts)
        outcome = weigh(screened, verdicts)
        if isinstance(outcome, Refusal):
            return self._deny(arrival, outcome, verdicts)
        if route.proven and outcome.identity is None:
            return self._deny(arrival, Refusal(code="auth_required"), verdicts)
        seat = self._seats.take(arrival.client.address, outcome.identity)
        if isinstance(seat, Refusal):
            return self._deny(arrival, seat, verdicts)
        seed = Seed(
            outcome,
            seat,
            trace_id=arrival.trace_id,
            address=arrival.client.address,
            scheme=arrival.client.scheme,
            origin=arrival.facts.origin,
            transport=route.transport,
            started_at=self._clock(),
        )
        if outcome.identity is not None and outcome.identity.e2e:
            return self._accept_recorded(arrival, route, seed, verdicts)
        return self._accept(arrival, route, seed, verdicts)

    async def _accept_recorded(
        self, arrival: Arrival, route: Route, seed: Seed, verdicts: Verdicts
    ) -> Decision:
        assert seed.identity is not None
        try:
            refusal = await self._admissions.record(
                seed.identity,
                surface="handshake",
                proof=seed.admit.carriers[0],
                address=seed.address,
                trace_id=seed.trace_id,
                wait_s=arrival.deadline - self._monotonic(),
            )
            if refusal is None and self._judge.revoked(seed.identity):
                refusal = Refusal(code="token_revoked")
            if refusal is None:
                return self._accept(arrival, route, seed, verdicts)
        except Exception as fault:  # as in `decide`
            seed.release()
            return self._bug(arrival, fault)
        except BaseException:
            seed.release()
            raise
        seed.release()
        return self._deny(arrival, refusal, verdicts)

    def _accept(self, arrival: Arrival, route: Route, seed: Seed, verdicts: Verdicts) -> Accept:
        try:
            receiver = route.receiver(seed)
        except BaseException:
            seed.release()
            raise
        self._tell(seed.admit, arrival, verdicts, count=True)
        return Accept(receiver=receiver, subprotocol=seed.admit.subprotocol, limits=route.limits)

    def _deny(self, arrival: Arrival, refusal: Refusal, verdicts: Verdicts = ()) -> Deny:
        self._tell(refusal, arrival, verdicts, count=True)
        return Deny(refusal=refusal, trace_id=arrival.trace_id, explain=arrival.presented.explain)

    def _bug(self, arrival: Arrival, fault: Exception) -> Deny:
        self._report_bug(fault, arrival.trace_id)
        return self._deny(arrival, Refusal(code="internal"))

    def _tell(self, result: Admit | Refusal, arrival: Arrival, verdicts: Verdicts, *, count: bool) -> None:
        duration_s = max(0.0, self._monotonic() - arrival.started_at)
        if count:
            self._decisions.counted(result, arrival.traffic, duration_s)
        if self._decisions.wants_records:
            self._decisions.recorded(
                result,
                tuple(credential.carrier for credential in arrival.presented.credentials),
                verdicts,
                client=arrival.client.address,
                trace_id=arrival.trace_id,
                duration_s=duration_s,
            )
