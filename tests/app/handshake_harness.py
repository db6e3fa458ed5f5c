"""A handshake handler on the real store, revocations, slots and key ring; only the issuer of tokens is a table."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from narthex.adapters.stores.sqlite import SqliteStore
from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.router import E2E_ISSUER, TokenRouter
from narthex.adapters.tokens.signing import KeyRing
from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.credentials import CredentialVerifier
from narthex.app.e2e import Admissions, KeyProofs
from narthex.app.exchange import CiOidc, TokenExchange
from narthex.app.fleet.refusals import RecentRefusals
from narthex.app.handshake import HandshakeHandler, gateway_routes
from narthex.app.handshake_record import DecisionRecorder
from narthex.app.in_band import InBandAdmission
from narthex.app.revocations import Revocations
from narthex.domain.addresses import TrustedProxies
from narthex.domain.admission import AdmissionPolicy
from narthex.domain.environment import EnvironmentPolicy, decide
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.origins import HostPolicy, OriginPolicy, parse_allowed_origins
from narthex.domain.plans import PLANS
from narthex.domain.verdict import Rejected, Valid, Verdict
from narthex.ports.edge import Accept, Decision, Deny, RequestHead, Socket
from narthex.ports.telemetry import Source
from narthex.ports.tokens import VerifierStatus
from narthex.web.tickets import issue_ticket

KEY = "e2e-simulation-key-0123456789abcdef"
PAGE = "https://app.example.com"
NOW = 1_000_000.0

ANN = Identity(subject="ann", plan="free", issuer="issuer", expires_at=NOW + 3600)
BOB = Identity(subject="bob", plan="free", issuer="issuer", expires_at=NOW + 3600)


class Clock:
    """A clock that the test moves, both since the epoch and monotonic."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class TableVerifier:
    """A `TokenVerifier` with a table of verdicts; other tokens are `token_invalid`.

    Attributes:
        verdicts: token → verdict.
        hung: tokens that need a fetch which lasts until `arrived` is set.
        traffic: of every call.
    """

    def __init__(self, ring: TokenRouter) -> None:
        self.verdicts: dict[str, Verdict] = {
            "ann": Valid(ANN, "k1", "ES256"),
            "bob": Valid(BOB, "k1", "ES256"),
        }
        self.hung: set[str] = set()
        self.arrived = asyncio.Event()
        self.traffic: list[str] = []
        self.fault: Exception | None = None
        self._ring = ring

    def verify(self, token: str, *, now: float, traffic: str) -> Verdict | Awaitable[Verdict]:
        """See the port."""
        self.traffic.append(traffic)
        if self.fault is not None:
            raise self.fault
        if token.count(".") == 2:
            return self._ring.verify(token, now=now, traffic=traffic)
        verdict = self.verdicts.get(token, Rejected("token_invalid", log_detail="not in the table"))
        return self._later(verdict) if token in self.hung else verdict

    async def _later(self, verdict: Verdict) -> Verdict:
        await self.arrived.wait()
        return verdict

    async def check(self) -> VerifierStatus:
        """See the port."""
        return VerifierStatus(status="healthy", detail="a table")

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Tally:
    """A `Meter` that keeps its counts, by name and labels."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, ...]] = Counter()
        self.live: Counter[str] = Counter()

    def handshake(self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = "") -> None:
        """See the port."""
        assert duration_s >= 0
        self.counted["handshake", outcome, code, traffic] += 1

    def credential(self, carrier: str, result: str) -> None:
        """See the port."""
        self.counted["credential", carrier, result] += 1

    def e2e_admission(self, result: str) -> None:
        """See the port."""
        self.counted["e2e", result] += 1

    def connections(self, traffic: str, delta: int) -> None:
        """See the port."""
        self.live[traffic] += delta

    def e2e_tests(self, result: str, count: int) -> None: ...
    def disconnect(self, code: int) -> None: ...
    def breaker(self, dependency: str, traffic: str, state: str) -> None: ...
    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        return lambda value: self.observe(name, value)

    def read_from(self, source: Source) -> None: ...


class RecordingHandler:
    """A `Receiver` that keeps only its context."""

    def __init__(self, context: ConnectionContext) -> None:
        self.context = context

    def opened(self, socket: Socket) -> None: ...
    def message(self, data: bytes, *, binary: bool) -> None: ...
    def writable(self, ready: bool) -> None: ...
    def closed(self, code: int, reason: str) -> None:
        """As the real connection does."""
        self.context.release()


class HandshakeHarness:
    """The objects that a test of the handshake handler needs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.meter = Tally()
        self.records: list[Mapping[str, object]] = []
        self.refusals = RecentRefusals("node")
        self.bugs: list[tuple[BaseException, str]] = []
        self.state = "ready"
        self.receiver_fault: Exception | None = None

    handshakes: HandshakeHandler
    in_band: InBandAdmission
    exchange: TokenExchange
    limiter: ConnectionLimiter
    store: SqliteStore
    verifier: TableVerifier
    revocations: Revocations

    def ear(self, context: ConnectionContext) -> RecordingHandler:
        """The app's end of a connection."""
        if self.receiver_fault is not None:
            raise self.receiver_fault
        return RecordingHandler(context)

    async def decide(self, head: RequestHead) -> Decision:
        """The decision, awaited if necessary."""
        decision = self.handshakes.decide(head)
        return await decision if isinstance(decision, Awaitable) else decision

    async def seed(self, head: RequestHead) -> ConnectionContext:
        """The context of an admitted connection."""
        decision = await self.decide(head)
        assert isinstance(decision, Accept), decision
        assert isinstance(decision.receiver, RecordingHandler)
        return decision.receiver.context

    async def refused(self, head: RequestHead) -> str:
        """The code of a refusal."""
        decision = await self.decide(head)
        assert isinstance(decision, Deny), decision
        return decision.refusal.code

    async def ticket(self, identity: Identity) -> str:
        """A fresh ticket."""
        return await issue_ticket(self.store.credentials, identity, self.clock())


def head(
    token: str | None = None,
    *more: tuple[str, str],
    path: str = "/ws",
    query: str = "",
    host: str = "localhost:8000",
    peer: str = "127.0.0.1",
) -> RequestHead:
    """A request head with `Authorization: Bearer <token>` and more headers."""
    headers = [("host", host), *more]
    if token is not None:
        headers.append(("authorization", f"Bearer {token}"))
    return RequestHead(method="GET", path=path, query=query, headers=headers, peer=(peer, 5555))


@asynccontextmanager
async def open_entrance(
    directory: Path,
    environment: str = "staging",
    *,
    keys: tuple[str, ...] = (KEY,),
    guests: bool = False,
    limits: Limits | None = None,
    trusted: TrustedProxies | None = None,
    conformance: bool = False,
    wait_s: float = 0.2,
    recording: bool = True,
    ci_subject: str = "",
) -> AsyncIterator[HandshakeHarness]:
    """A handshake handler of one environment; everything that it started is stopped."""
    found = HandshakeHarness()
    row = decide({"ENVIRONMENT": environment}, keys=keys, allow_anonymous=guests)
    assert isinstance(row, EnvironmentPolicy), row
    origins = parse_allowed_origins([PAGE])
    assert isinstance(origins, OriginPolicy)
    found.store = SqliteStore(directory / "store.db")
    await found.store.start()
    ring = KeyRing(
        found.store.credentials,
        "e2e",
        issuer=E2E_ISSUER,
        rules=ClaimRules(allow_e2e=True),
        clock=found.clock,
    )
    await ring.start()
    try:
        found.verifier = TableVerifier(TokenRouter([ring]))
        found.revocations = Revocations(found.store.credentials, None, clock=found.clock)
        found.limiter = ConnectionLimiter(limits or Limits(), PLANS, found.meter)
        admissions = Admissions(found.store.records, found.meter, found.clock)
        proofs = KeyProofs(
            keys, permissions=("chat",), meter=found.meter, clock=found.clock, monotonic=found.clock
        )
        found.exchange = TokenExchange(
            environment=row.environment,
            proofs=proofs,
            mint=ring,
            admissions=admissions,
            ci=CiOidc(found.verifier, ci_subject) if ci_subject else None,
            meter=found.meter,
            clock=found.clock,
        )
        policy = AdmissionPolicy.of(row, origins=origins, hosts=HostPolicy())
        credentials = CredentialVerifier(
            verifier=found.verifier,
            tickets=found.store.credentials,
            proofs=proofs,
            revocations=found.revocations,
            clock=found.clock,
        )
        write = found.records.append if recording else None
        decisions = DecisionRecorder(policy, found.meter, write, found.refusals)
        found.in_band = InBandAdmission(
            policy=policy,
            credentials=credentials,
            admissions=admissions,
            decisions=decisions,
            monotonic=found.clock,
            wait_s=wait_s,
        )
        found.handshakes = HandshakeHandler(
            policy=policy,
            trusted=trusted or TrustedProxies(),
            credentials=credentials,
            limiter=found.limiter,
            admissions=admissions,
            decisions=decisions,
            state=lambda: found.state,
            route=gateway_routes(found.ear, found.ear if conformance else None).get,
            report_bug=lambda fault, trace_id: found.bugs.append((fault, trace_id)),
            clock=found.clock,
            monotonic=found.clock,
            wait_s=wait_s,
            handshake_timeout_s=10.0,
        )
        yield found
    finally:
        await ring.stop()
        await found.store.stop()
