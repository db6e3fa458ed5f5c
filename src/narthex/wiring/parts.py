"""One gateway's objects, made from settings: the core, admission, and their lifecycle.

Not here: the core (`app/core`), HTTP routes (`web_application`), running it (`gateway`). Rules: made inside the running
loop; nothing is opened here (the lifecycle does that); each object gets its dependencies when it is made.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping

from narthex._version import __version__
from narthex.adapters.edge.echo import Echo
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.certificate_watch import CertificateWatch
from narthex.app.connection_context import ConnectionContext
from narthex.app.core import CoreConfig, NodeCore
from narthex.app.credentials import CredentialVerifier
from narthex.app.drain import DrainCommands
from narthex.app.e2e import Admissions, KeyProofs
from narthex.app.handshake import HandshakeHandler, gateway_routes
from narthex.app.handshake_record import DecisionRecorder
from narthex.app.in_band import InBandAdmission
from narthex.app.lifecycle import Component, LifecycleState
from narthex.app.loop_lag import LoopLag
from narthex.app.loop_watch import LoopWatch
from narthex.domain.admission import AdmissionPolicy
from narthex.domain.limits import Limits
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings
from narthex.wiring.agents import run_limits
from narthex.wiring.fleet import Fleet
from narthex.wiring.gauges import Gauges, attempt_table
from narthex.wiring.server_process import connection_recorder, handshake_writer, metrics_flush
from narthex.wiring.tokens import make_tokens
from narthex.wiring.tracing import handshake_tracer, make_tracer

EDGE_SHARE = 0.22  # of a drain's grace: the edge's own closes, and the exit

log = get_logger("narthex.gateway")


class ConformanceEcho(Echo):
    """The raw echo of `/ws/conformance`, which releases its connection slot when it ends."""

    def __init__(self, context: ConnectionContext) -> None:
        super().__init__()
        self._context = context

    def closed(self, code: int, reason: str) -> None:
        """See `Receiver`."""
        super().closed(code, reason)
        self._context.release()


class Parts:
    """The parts of one gateway; see the module. Attributes are the public objects.

    Args:
        settings: validated.
        broker: the engine's.
        store: likewise.
        agents: by name, the default first.
        verifier: of tokens, instead of the configured issuers.
        limits: reduced to the machine's limits; None: those of the settings.
        on_drain: begins a drain when a command asks for it.
        share_traces: see `wiring.tracing.make_tracer`.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        store: Store,
        agents: Mapping[str, Agent],
        *,
        verifier: TokenVerifier | None = None,
        limits: Limits | None = None,
        on_drain: Callable[[], None] = lambda: None,
        share_traces: bool = True,
    ) -> None:
        self.settings = settings
        self.now = time.time
        self.meter = PrometheusMeter(version=__version__, environment=settings.environment)
        self.meter.gauge("auth_bypass_active", float(settings.policy.auth_bypass_active))
        self.meter.count("bugs", 0, where="gateway")
        self.tracer, traces = make_tracer(settings, self.meter, share=share_traces)
        self.core = NodeCore(
            f"{settings.platform or 'node'}-{uuid.uuid4().hex[:12]}",
            CoreConfig(
                version=f"{__version__} narthex",
                limits=limits or settings.limits(),
                plans=settings.plan_table(),
                run_limits=run_limits(settings),
                run_agents=settings.run_agents,
                shared=settings.broker_url is not None,
                direct_membership=tuple(settings.direct_membership),
                token_grace_s=settings.token_grace_s,
                after_exp_s=settings.jwt_leeway_s + settings.token_grace_s,
                max_life_s=settings.socket_life_s(),
                history_purge_every_s=settings.history_purge_every_s,
            ),
            broker=broker,
            store=store,
            agents=agents,
            meter=self.meter,
            report_bug=self.report_bug,
            tracer=self.tracer,
            clock=self.now,
        )
        self.broker, self.store = self.core.broker, self.core.store
        self.tokens = make_tokens(
            settings, self.store.credentials, self.meter, self.now, self.core.enforcer.withdraw
        )
        self.verifier: TokenVerifier = verifier or self.tokens.verifier
        self.policy = AdmissionPolicy.of(settings.policy, origins=settings.origins, hosts=settings.hosts)
        self.proofs = KeyProofs(
            settings.e2e_keys(), permissions=tuple(settings.e2e_permissions), meter=self.meter, clock=self.now
        )
        self.meter.read_from(attempt_table("wrong_e2e_key_table", self.proofs.wrong_keys))
        self.admissions = Admissions(self.store.records, self.meter, self.now)
        credentials = CredentialVerifier(
            verifier=self.verifier,
            tickets=self.store.credentials,
            proofs=self.proofs,
            revocations=self.core.revocations,
            clock=self.now,
            withdrawn=self.core.enforcer.withdrawn,
        )
        self.fleet = Fleet(
            self.core.node,
            kind="gateway",
            environment=settings.environment,
            meter=self.meter,
            state=self.state,
            broker=self.broker,
            store=store,
            registry=self.core.registry,
            operators=self.core.hub,
            trace_payloads=settings.trace_payloads,
            gauges=self._gauges,
        )
        self.fleet.handle(self.core.controls)
        write = handshake_writer(settings, log)
        decisions = DecisionRecorder(self.policy, self.meter, write, self.fleet.refusals)
        self.in_band = InBandAdmission(
            policy=self.policy, credentials=credentials, admissions=self.admissions, decisions=decisions
        )
        certificates = CertificateWatch({"broker": broker, "store": store}, self.meter)
        lag, watch, retention = LoopLag(self.meter), LoopWatch(self.meter), self.core.retention
        self.lifecycle = self.core.lifecycle(
            [
                *traces,
                *metrics_flush(self.meter),
                Component("loop lag", lag.start, lag.stop),
                Component("loop watch", watch.start, watch.stop),
            ],
            [Component("tokens", self.verifier.start, self._stop_tokens)],
            [
                Component("retention", retention.start, retention.stop),
                Component("certificates", certificates.start, certificates.stop),
                *self.fleet.components(),
            ],
            grace_s=settings.drain_grace_s * (1 - EDGE_SHARE),
            on_state=self._entered,
        )
        handshake_traces = handshake_tracer(self.tracer, settings, self.tokens.breakers.troubled)
        self.handshakes = HandshakeHandler(
            policy=self.policy,
            trusted=settings.proxies,
            credentials=credentials,
            limiter=self.core.limiter,
            admissions=self.admissions,
            decisions=decisions,
            traces=handshake_traces,
            state=self.state,
            route=gateway_routes(
                self.core.connections(self.in_band, handshake_traces, connection_recorder(write)),
                ConformanceEcho if settings.policy.conformance else None,
            ).get,
            report_bug=self.report_bug,
            clock=self.now,
            handshake_timeout_s=self.core.config.limits.handshake_timeout_s,
        )
        self.meter.read_from(Gauges(self.core, self.lifecycle, broker, store).readings)
        self.drains = DrainCommands(self.core.node, self.broker, on_drain)
        self.core.controls.on("drain", self.drains.control)

    def state(self) -> str:
        """The lifecycle's state."""
        return self.lifecycle.state.value

    def _entered(self, state: LifecycleState) -> None:
        log.info("state", state=state.value, node=self.core.node)
        self.fleet.publisher.wake()

    def _gauges(self) -> Mapping[str, float]:
        """Of this node's snapshots."""
        return {
            "users": float(self.core.registry.users()),
        }

    def report_bug(self, fault: BaseException, trace_id: str) -> None:
        """An unexpected exception: counted, logged with its trace id."""
        self.meter.count("bugs", where="gateway")
        log.error("bug", exc_info=fault, trace_id=trace_id)

    async def _stop_tokens(self) -> None:
        await self.verifier.stop()
        await self.tokens.fetcher.stop()
