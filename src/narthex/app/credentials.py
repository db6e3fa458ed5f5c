"""Turns a request's credentials into verdicts: tokens to the verifier, tickets to the store, keys to the proofs.

Not here: parsing (`domain.carriers`), deciding (`domain.admission`). Rules: verdicts come without waiting
whenever nothing has to be waited for; a ticket is used up last, and only when everything beside it is valid; a
revoked identity is rejected, whichever carrier it used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final, Protocol

import msgspec

from narthex.app.e2e import KeyProofs
from narthex.domain.admission import CheckedCredential
from narthex.domain.carriers import COOKIE, E2E_KEY, TICKET, Credential
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.secrets import fingerprint
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import DependencyError
from narthex.ports.credentials import Credentials
from narthex.ports.later import Later
from narthex.ports.tokens import TokenVerifier

LEEWAY_S: Final = 30.0  # as for tokens: a ticket lives no longer than the credential that bought it


class RevocationCheck(Protocol):
    """The part of `app.revocations.Revocations` that admission needs."""

    def covers(self, identity: Identity) -> bool:
        """Whether the identity's credential has been revoked. No I/O."""


class VerificationRequest(msgspec.Struct, frozen=True):
    """A request for verdicts.

    Attributes:
        credentials: in order.
        test_run: of the key proof's identity; empty: `fresh_id`.
        fresh_id: random hex digits.
        address: the client's.
        traffic: `user` or `e2e`.
        consume: tickets are used up; preflight only looks.
    """

    credentials: tuple[Credential, ...]
    test_run: str
    fresh_id: str
    address: str
    traffic: str
    consume: bool


Verdicts = tuple[CheckedCredential, ...]

WAIT_S: Final = 1.8  # for keys and store together: a client gets its 503 within 2 s, long before 408 at 10 s
_NO_TOKENS: Final = (E2E_KEY, TICKET)


class _TicketRecord(msgspec.Struct, frozen=True):
    """A ticket's content beside its identity: the key of the token that bought it."""

    key_id: str = ""


class CredentialVerifier:
    """Verifies credentials with the component that each kind needs.

    Args:
        verifier: of tokens.
        tickets: of the store.
        proofs: of end-to-end keys.
        revocations: asked after every verdict.
        clock: seconds since the epoch.
        withdrawn: names of withdrawn keys of ours; a ticket that such a key's token bought is rejected.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        tickets: Credentials,
        proofs: KeyProofs,
        revocations: RevocationCheck,
        clock: Callable[[], float],
        withdrawn: Container[str] = (),
    ) -> None:
        self._verifier = verifier
        self._withdrawn = withdrawn
        self._tickets = tickets
        self._proofs = proofs
        self._revocations = revocations
        self._clock = clock

    def token(self, token: str, traffic: str) -> Later[Verdict]:
        """A token's verdict, revocations included."""
        verdict = self._verifier.verify(token, now=self._clock(), traffic=traffic)
        if isinstance(verdict, Verdict):
            return self._unless_revoked(verdict)
        return self._checked(verdict)

    def verify(self, request: VerificationRequest) -> Verdicts | Refusal | Awaitable[Verdicts]:
        """The verdicts of all credentials in their order, or a refusal of the key proof."""
        if len(request.credentials) == 1:
            carrier, value = request.credentials[0].carrier, request.credentials[0].value
            if carrier not in _NO_TOKENS:  # the usual case: one token
                verdict = self._verifier.verify(value, now=self._clock(), traffic=request.traffic)
                if isinstance(verdict, Verdict):
                    return (CheckedCredential(carrier, self._unless_revoked(verdict)),)
                return self._await_all(((carrier, verdict),), "", consume=request.consume)
        answers: list[tuple[str, Later[Verdict]]] = []
        ticket = ""
        waits = False
        for credential in request.credentials:
            carrier = credential.carrier
            if carrier == E2E_KEY:  # it stands alone: `admission.screen` refuses it beside others
                proof = self._proofs.prove(
                    credential.value,
                    test_run=request.test_run,
                    fresh_id=request.fresh_id,
                    address=request.address,
                )
                if isinstance(proof, Refusal):
                    return proof
                answers.append((carrier, proof))
            elif carrier == TICKET:
                waits, ticket = True, credential.value
            else:
                verdict = self._verifier.verify(credential.value, now=self._clock(), traffic=request.traffic)
                waits = waits or not isinstance(verdict, Verdict)
                answers.append((carrier, verdict))
        if waits:
            return self._await_all(answers, ticket, consume=request.consume)
        return tuple(
            CheckedCredential(carrier, self._unless_revoked(verdict))
            for carrier, verdict in answers
            if isinstance(verdict, Verdict)
        )

    async def _await_all(
        self, answers: Sequence[tuple[str, Later[Verdict]]], ticket: str, *, consume: bool
    ) -> Verdicts:
        """Fetches at once; then the ticket, which stays usable when something beside it is refused."""
        waiting = [verdict for _, verdict in answers if not isinstance(verdict, Verdict)]
        found = iter(await asyncio.gather(*waiting))
        checked = [
            CheckedCredential(
                carrier, self._unless_revoked(verdict if isinstance(verdict, Verdict) else next(found))
            )
            for carrier, verdict in answers
        ]
        if ticket and all(isinstance(item.verdict, Valid) for item in checked if item.carrier != COOKIE):
            checked.append(CheckedCredential(TICKET, await self._ticket(ticket, consume=consume)))
        return tuple(checked)

    async def _ticket(self, ticket: str, *, consume: bool) -> Verdict:
        now = self._clock()
        ask = self._tickets.take_ticket if consume else self._tickets.peek_ticket
        try:
            kept = await ask(fingerprint(ticket), now)
        except DependencyError as fault:
            return Unavailable(fault.code, max(1, int(fault.retry_after_s)))
        if kept is None:
            return Rejected("ticket_invalid")
        try:
            identity = msgspec.json.decode(kept, type=Identity)
            key_id = msgspec.json.decode(kept, type=_TicketRecord).key_id
        except msgspec.DecodeError as fault:
            return Rejected("ticket_invalid", log_detail=f"the stored identity cannot be decoded: {fault}")
        if key_id in self._withdrawn:
            return Rejected(
                "ticket_invalid", key_id=key_id, log_detail="the key that it was obtained with was withdrawn"
            )
        if identity.expires_at is not None and identity.expires_at <= now - LEEWAY_S:
            return self._unless_revoked(Rejected("token_expired", expired=identity))
        return self._unless_revoked(Valid(identity, key_id))

    def revoked(self, identity: Identity) -> bool:
        """Whether the identity was revoked meanwhile: ask again after a wait between verdict and admission."""
        return self._revocations.covers(identity)

    async def _checked(self, verdict: Awaitable[Verdict]) -> Verdict:
        return self._unless_revoked(await verdict)

    def _unless_revoked(self, verdict: Verdict) -> Verdict:
        if isinstance(verdict, Valid):
            identity: Identity | None = verdict.identity
        else:
            identity = verdict.expired if isinstance(verdict, Rejected) else None
        if identity is None or not self._revocations.covers(identity):
            return verdict
        assert not isinstance(verdict, Unavailable)
        return Rejected("token_revoked", key_id=verdict.key_id, algorithm=verdict.algorithm, revoked=identity)
