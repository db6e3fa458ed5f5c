"""Proof after the upgrade: a token in `connect` or `refresh`, checked by the handshake's own rules.

Not here: the connection's reaction to the outcome (app/commands/connecting). Rules: a token must name the user that
the connection is bound to, else it is a conflict; a connection that has proved itself moves from the unproven to its
user's slots, whose limit holds; a refresh is no new admission.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from narthex.app.connection_context import ConnectionContext
from narthex.app.credentials import WAIT_S, CredentialVerifier
from narthex.app.e2e import Admissions
from narthex.app.handshake_record import DecisionRecorder, outcome_of, result_of
from narthex.domain.admission import AdmissionPolicy, Admit, CheckedCredential, HandshakeFacts, admit
from narthex.domain.carriers import CONNECT_TOKEN
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Unavailable, Verdict
from narthex.ports.later import Later
from narthex.ports.tracing import current_span


class InBandAdmission:
    """See the module.

    Args:
        policy: the admission policy.
        credentials: verifies tokens.
        admissions: records admissions of test identities.
        decisions: records every outcome.
        monotonic: seconds.
        wait_s: the longest wait of one command.
    """

    def __init__(
        self,
        *,
        policy: AdmissionPolicy,
        credentials: CredentialVerifier,
        admissions: Admissions,
        decisions: DecisionRecorder,
        monotonic: Callable[[], float] = time.monotonic,
        wait_s: float = WAIT_S,
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        self._admissions = admissions
        self._decisions = decisions
        self._monotonic = monotonic
        self._wait_s = wait_s

    def admit(self, context: ConnectionContext, token: str) -> Later[Admit | Refusal]:
        """Check a token.

        Args:
            context: the connection's; its identity and its slot become the token's.
            token: not empty.

        Returns:
            `Admit` with an identity, or a refusal: `token_expired` leaves the connection open for a fresh
            token, `auth_unavailable` for another try; the others end it.
        """
        started_at = self._monotonic()
        bound = context.bound
        verdict = self._credentials.token(token, "e2e" if bound is not None and bound.e2e else "user")
        if not isinstance(verdict, Verdict):
            return self._admit_later(context, verdict, started_at)
        outcome = self._settle(context, verdict, started_at)
        if isinstance(outcome, Refusal):
            return outcome
        identity = _identity(outcome)
        if identity.e2e and not _known(context, identity):
            return self._bind_recorded(context, outcome, identity, started_at)
        return _bind(context, outcome, identity)

    async def _admit_later(
        self, context: ConnectionContext, pending: Awaitable[Verdict], started_at: float
    ) -> Admit | Refusal:
        try:
            async with asyncio.timeout(self._wait_s):
                verdict = await pending
        except TimeoutError:
            verdict = Unavailable("the command's deadline passed")
        outcome = self._settle(context, verdict, started_at)
        if isinstance(outcome, Refusal):
            return outcome
        identity = _identity(outcome)
        if identity.e2e and not _known(context, identity):
            return await self._bind_recorded(context, outcome, identity, started_at)
        return _bind(context, outcome, identity)

    def _settle(self, context: ConnectionContext, verdict: Verdict, started_at: float) -> Admit | Refusal:
        checked = (CheckedCredential(CONNECT_TOKEN, verdict),)
        outcome = admit(HandshakeFacts(in_band=True, bound=context.bound), self._policy, checked)
        self._decisions.extracted(checked)
        if isinstance(outcome, Refusal):
            self._decisions.refused(
                outcome,
                (CONNECT_TOKEN,),
                client=context.address,
                traffic=context.slot.traffic,
                trace_id=context.trace_id,
            )
        span = current_span()
        if span.recording:
            span.set(
                {
                    "narthex.connect.code": outcome_of(outcome)[1],
                    "narthex.connect.verdict": result_of(verdict),
                }
            )
        if self._decisions.wants_records:
            self._decisions.recorded(
                outcome,
                (CONNECT_TOKEN,),
                checked,
                client=context.address,
                trace_id=context.trace_id,
                duration_s=self._monotonic() - started_at,
            )
        return outcome

    async def _bind_recorded(
        self, context: ConnectionContext, outcome: Admit, identity: Identity, started_at: float
    ) -> Admit | Refusal:
        refusal = await self._admissions.record(
            identity,
            surface="connect",
            proof=CONNECT_TOKEN,
            address=context.address,
            trace_id=context.trace_id,
            wait_s=started_at + self._wait_s - self._monotonic(),
        )
        if refusal is None and self._credentials.revoked(identity):
            refusal = Refusal(code="token_revoked")
        return refusal or _bind(context, outcome, identity)


def _bind(context: ConnectionContext, outcome: Admit, identity: Identity) -> Admit | Refusal:
    full = context.slot.identify(identity)
    if full is not None:
        return full
    context.identity = identity
    context.key_id = outcome.key_id
    return outcome


def _identity(outcome: Admit) -> Identity:
    assert outcome.identity is not None  # in-band, nothing is admitted inert
    return outcome.identity


def _known(context: ConnectionContext, identity: Identity) -> bool:
    return context.identity is not None and context.identity.same_user(identity)
