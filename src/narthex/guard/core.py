"""Makes the admission of one guard from settings: the gateway's own handshake pipeline, without hub, broker and runs.

Not here: how a request reaches it and how a socket is served (`asgi`, and the proxy), HTTP routes (`routes`). Rules:
made inside the running loop; nothing is opened here (the lifecycle does that); without in-band proof nothing is
upgraded without a credential, in any environment.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from narthex._version import __version__
from narthex.adapters.telemetry.logging import get_logger, mask_records
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.buffers import buffer_readings
from narthex.app.certificate_watch import CertificateWatch
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.credentials import CredentialVerifier
from narthex.app.e2e import Admissions, KeyProofs
from narthex.app.expiry import CredentialExpiry
from narthex.app.handshake import HandshakeHandler, NewReceiver, Route
from narthex.app.handshake_record import DecisionRecorder
from narthex.app.in_band import InBandAdmission
from narthex.app.lifecycle import Component, Lifecycle
from narthex.app.loop_lag import LoopLag
from narthex.app.revocation_enforcer import RevocationEnforcer
from narthex.app.revocations import Revocations
from narthex.app.tasks import Tasks
from narthex.domain.admission import AdmissionPolicy
from narthex.domain.environment import EnvironmentPolicy
from narthex.domain.limits import Limits
from narthex.errors import DependencyError
from narthex.extras import require
from narthex.guard.life import SocketLives
from narthex.guard.paths import PathPatterns
from narthex.ports.store import Store
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings, load
from narthex.settings.requirements import Part, requirements
from narthex.wiring.engines import make_shared_store
from narthex.wiring.gauges import attempt_table, connection_buffers
from narthex.wiring.server_process import connection_recorder, handshake_writer, metrics_flush
from narthex.wiring.tokens import make_tokens
from narthex.wiring.tracing import handshake_tracer, make_tracer

REVOCATIONS_EVERY_S: Final = (
    0.5  # guards share no broker: with the enforcer's 0.1 s a revocation holds within 1 s
)
_PARTS: Final[frozenset[Part]] = frozenset({"store", "traces"})
MAX_TASKS: Final = 100_000  # closes under way: at most one a socket

log = get_logger("narthex.guard")


def guard_settings(settings: Settings | Mapping[str, Any] | None, config: Path | None = None) -> Settings:
    """The settings of a guard: as for `narthex serve`, except that a guard has no broker.

    Args:
        settings: from `narthex.settings.load`, or options by name that go before the environment; None: the
            environment and narthex.toml only.
        config: file instead of ./narthex.toml.

    Raises:
        ConfigError: with every problem.
    """
    if not isinstance(settings, Settings):
        flags = dict(settings or {})
        settings = load(flags, os.environ, config, parts=_PARTS)
        if settings.all_issuers() and settings.source("embedded_provider") == "default":
            # A guard has no sign-in of its own: with an issuer, the embedded provider would be a source without use.
            settings = load(flags | {"embedded_provider": "off"}, os.environ, config, parts=_PARTS)
    require(*requirements(settings, _PARTS))
    mask_records(settings.secret_values())
    return settings


class GuardCore:
    """See the module. Attributes are the public objects.

    Args:
        settings: from `guard_settings`.
        new_receiver: makes the guard's end of an admitted socket. It calls `lives.begin` at once.
        paths: paths of WebSockets that are admitted; others are refused `no_route`.
        in_band: whether a client may prove itself by its first message.
        verifier: of tokens, instead of the configured issuers.
        store: instead of the configured one.
        limits: reduced to the machine's limits; None: those of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        new_receiver: NewReceiver,
        paths: PathPatterns,
        in_band: bool = False,
        verifier: TokenVerifier | None = None,
        store: Store | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.settings = settings
        self.node = f"{settings.platform or 'guard'}-{uuid.uuid4().hex[:12]}"
        self.now = time.time
        self.limits = limits or settings.limits()
        self.plans = settings.plan_table()
        self.store = store or make_shared_store(settings)
        self.environment_policy = _confined(settings.policy, in_band=in_band)
        self.policy = AdmissionPolicy.of(
            self.environment_policy, origins=settings.origins, hosts=settings.hosts
        )
        self.meter = PrometheusMeter(version=__version__, environment=settings.environment)
        self.meter.gauge("auth_bypass_active", float(self.policy.auth_bypass_active))
        self.meter.count("bugs", 0, where="guard")
        self.tasks = Tasks("guard", MAX_TASKS, lambda fault: self.report_bug(fault, ""))
        write = handshake_writer(settings, log)
        self.lives = SocketLives(
            meter=self.meter,
            records=connection_recorder(write),
            report=lambda fault: self.report_bug(fault, ""),
            grace_s=settings.token_grace_s,
            max_life_s=settings.socket_life_s(),
            clock=self.now,
        )
        self.limiter = ConnectionLimiter(self.limits, self.plans, self.meter)
        self.meter.read_from(partial(buffer_readings, connection_buffers(self.limiter, self.limits)))
        self.revocations = Revocations(
            self.store.credentials,
            None,
            records=self.store.records,
            clock=self.now,
            after_exp_s=settings.jwt_leeway_s + settings.token_grace_s,
            on_error=_revocations_unread,
            poll_every_s=REVOCATIONS_EVERY_S,
        )
        self.enforcer = RevocationEnforcer(self.lives.registry, self.revocations, self.lives.loop)
        self.tokens = make_tokens(
            settings, self.store.credentials, self.meter, self.now, self.enforcer.withdraw
        )
        self.verifier: TokenVerifier = verifier or self.tokens.verifier
        self.proofs = KeyProofs(
            settings.e2e_keys(), permissions=tuple(settings.e2e_permissions), meter=self.meter, clock=self.now
        )
        self.meter.read_from(attempt_table("wrong_e2e_key_table", self.proofs.wrong_keys))
        self.admissions = Admissions(self.store.records, self.meter, self.now)
        self.credentials = CredentialVerifier(
            verifier=self.verifier,
            tickets=self.store.credentials,
            proofs=self.proofs,
            revocations=self.revocations,
            clock=self.now,
            withdrawn=self.enforcer.withdrawn,
        )
        decisions = DecisionRecorder(self.policy, self.meter, write)
        self.in_band = InBandAdmission(
            policy=self.policy,
            credentials=self.credentials,
            admissions=self.admissions,
            decisions=decisions,
        )
        self.tracer, self._traces = make_tracer(settings, self.meter, share=False)
        route = Route("websocket", new_receiver)
        self.handshakes = HandshakeHandler(
            policy=self.policy,
            trusted=settings.proxies,
            credentials=self.credentials,
            limiter=self.limiter,
            admissions=self.admissions,
            decisions=decisions,
            traces=handshake_tracer(self.tracer, settings, self.tokens.breakers.troubled),
            state=self.state,
            route=lambda path: route if paths.match(path) else None,
            inert=in_band,
            report_bug=self.report_bug,
            clock=self.now,
            handshake_timeout_s=self.limits.handshake_timeout_s,
        )
        self.lifecycle = self._make_lifecycle()

    def state(self) -> str:
        """The lifecycle's state."""
        return self.lifecycle.state._value_  # `value` costs a call of Python's

    def report_bug(self, fault: BaseException, trace_id: str) -> None:
        """An unexpected exception: counted, logged with its trace id."""
        self.meter.count("bugs", where="guard")
        log.error("bug", exc_info=fault, trace_id=trace_id)

    def _make_lifecycle(self) -> Lifecycle:
        lag, certificates = LoopLag(self.meter), CertificateWatch({"store": self.store}, self.meter)
        expiry = CredentialExpiry(self.store.credentials, clock=self.now)
        return Lifecycle(
            [
                *self._traces,
                *metrics_flush(self.meter),
                Component("loop lag", lag.start, lag.stop),
                Component("store", self.store.start, self.store.stop),
                Component("tokens", self.verifier.start, self._stop_tokens),
                Component("revocations", self.revocations.start, self.revocations.stop),
                Component("expiry", expiry.start, expiry.stop),
                Component("certificates", certificates.start, certificates.stop),
                Component("sockets", close=self._stop_sockets),
            ],
            self.lives.registry,
            grace_s=self.settings.drain_grace_s,
            on_state=lambda state: log.info("state", state=state.value, node=self.node),
        )

    async def _stop_tokens(self) -> None:
        await self.verifier.stop()
        await self.tokens.fetcher.stop()

    async def _stop_sockets(self) -> None:
        self.enforcer.stop()
        self.lives.stop()
        await self.tasks.stop()


def _confined(policy: EnvironmentPolicy, *, in_band: bool) -> EnvironmentPolicy:
    """The environment's row; without in-band proof a connection needs a credential before the upgrade everywhere."""
    if in_band:
        return policy
    return msgspec.structs.replace(policy, pre_connection_auth_required=True, guests=False)


def _revocations_unread(fault: DependencyError) -> None:
    log.warning("revocations cannot be read", code=fault.code, detail=fault.message, remedy=fault.remedy)
