"""Proof after the upgrade: tokens in `connect` (also in its emulated header) or `refresh`, by the handshake's own
rules.

Not here: the connection's reaction to the outcome (app/commands/connecting). Rules: a token must name the user that
the connection is bound to, else it is a conflict; a connection that has proved itself moves from the unproven to its
user's slots, whose limit holds; a refresh is no new admission.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from narthex.app.connection_context import ConnectionContext
from narthex.app.credentials import WAIT_S, CredentialVerifier
from narthex.app.e2e import Admissions
from narthex.app.handshake_record import DecisionRecorder
from narthex.domain.admission import AdmissionPolicy, Admit, CheckedCredential, HandshakeFacts, admit
from narthex.domain.carriers import CONNECT_HEADER, CONNECT_TOKEN
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.ports.later import Later


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

    def admit(self, context: ConnectionContext, token: str, header: str = "") -> Later[Admit | Refusal]:
        """Check a token, or two.

        Args:
            context: the connection's; its identity and its slot become the token's.
            token: of the command; empty when only the header has one.
            header: the token of the `connect` command's emulated Authorization header, empty when it has none.

        Returns:
            `Admit` with an identity, or a refusal: `token_expired` leaves the connection open for a fresh
            token, `auth_unavailable` for another try; the others end it.
        """
        started_at = self._monotonic()
        traffic = _traffic(context)
        found = [
            (carrier, self._credentials.token(value, traffic))
            for carrier, value in ((CONNECT_TOKEN, token), (CONNECT_HEADER, header))
            if value
        ]
        checked = [
            CheckedCredential(carrier, verdict) for carrier, verdict in found if isinstance(verdict, Verdict)
        ]
        if len(checked) < len(found):
            return self._admit_later(context, found, started_at)
        outcome = self._settle(context, checked, started_at)
        if isinstance(outcome, Refusal):
            return outcome
        identity = _identity(outcome)
        if identity.e2e and not _known(context, identity):
            return self._bind_recorded(context, outcome, identity, checked, started_at)
        return self._shown(context, _bind(context, outcome, identity), checked)

    async def _admit_later(
        self, context: ConnectionContext, found: Sequence[tuple[str, Later[Verdict]]], started_at: float
    ) -> Admit | Refusal:
        try:
            async with asyncio.timeout(self._wait_s):
                verdicts = await asyncio.gather(*[_verdict(verdict) for _, verdict in found])
        except TimeoutError:
            verdicts = [Unavailable("the command's deadline passed") for _ in found]
        checked = [
            CheckedCredential(carrier, verdict) for (carrier, _), verdict in zip(found, verdicts, strict=True)
        ]
        outcome = self._settle(context, checked, started_at)
        if isinstance(outcome, Refusal):
            return outcome
        identity = _identity(outcome)
        if self._credentials.revoked(identity):  # while another one was waited for
            return self._shown(context, Refusal(code="token_revoked"), checked)
        if identity.e2e and not _known(context, identity):
            return await self._bind_recorded(context, outcome, identity, checked, started_at)
        return self._shown(context, _bind(context, outcome, identity), checked)

    def _settle(
        self, context: ConnectionContext, checked: Sequence[CheckedCredential], started_at: float
    ) -> Admit | Refusal:
        facts = HandshakeFacts(in_band=True, bound=context.bound)
        outcome = admit(facts, self._policy, without_stale_header(checked))
        self._decisions.extracted(checked)
        if self._decisions.wants_records:
            self._decisions.recorded(
                outcome,
                tuple(item.carrier for item in checked),
                checked,
                client=context.address,
                trace_id=context.trace_id,
                duration_s=self._monotonic() - started_at,
            )
        return self._shown(context, outcome, checked)

    def _shown(
        self, context: ConnectionContext, outcome: Admit | Refusal, checked: Sequence[CheckedCredential]
    ) -> Admit | Refusal:
        """The outcome; operators see a refusal in their list, as they see one of a handshake."""
        if isinstance(outcome, Refusal):
            self._decisions.refused(
                outcome,
                tuple(item.carrier for item in checked),
                checked,
                client=context.address,
                traffic=_traffic(context),
                trace_id=context.trace_id,
            )
        return outcome

    def refused(self, context: ConnectionContext, refusal: Refusal, carrier: str) -> Refusal:
        """Show operators a refusal of a credential that the command itself gives; returns it."""
        self._decisions.refused(
            refusal,
            (carrier,),
            (),
            client=context.address,
            traffic=_traffic(context),
            trace_id=context.trace_id,
        )
        return refusal

    async def _bind_recorded(
        self,
        context: ConnectionContext,
        outcome: Admit,
        identity: Identity,
        checked: Sequence[CheckedCredential],
        started_at: float,
    ) -> Admit | Refusal:
        refusal = await self._admissions.record(
            identity,
            surface="connect",
            proof=outcome.carriers[0],
            address=context.address,
            trace_id=context.trace_id,
            wait_s=started_at + self._wait_s - self._monotonic(),
        )
        if refusal is None and self._credentials.revoked(identity):
            refusal = Refusal(code="token_revoked")
        return self._shown(context, refusal or _bind(context, outcome, identity), checked)


def _bind(context: ConnectionContext, outcome: Admit, identity: Identity) -> Admit | Refusal:
    full = context.slot.identify(identity)
    if full is not None:
        return full
    context.identity = identity
    context.key_id = outcome.key_id
    return outcome


def _traffic(context: ConnectionContext) -> str:
    return "e2e" if context.bound is not None and context.bound.e2e else "user"


def _identity(outcome: Admit) -> Identity:
    assert outcome.identity is not None  # in-band, nothing is admitted inert
    return outcome.identity


def _known(context: ConnectionContext, identity: Identity) -> bool:
    return context.identity is not None and context.identity.same_user(identity)


def without_stale_header(checked: Sequence[CheckedCredential]) -> Sequence[CheckedCredential]:
    """Without an emulated header whose token has merely expired, if a valid token of the same user came beside it.

    An SDK sends its headers unchanged with the token that it has refreshed.
    """
    if len(checked) != 2:
        return checked
    token, header = checked[0].verdict, checked[1].verdict
    if not isinstance(token, Valid) or not isinstance(header, Rejected) or header.expired is None:
        return checked
    return checked[:1] if header.expired.same_user(token.identity) else checked


async def _verdict(answer: Later[Verdict]) -> Verdict:
    found: Verdict = await answer if isinstance(answer, Awaitable) else answer
    return found
