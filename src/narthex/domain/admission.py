"""Decides on admission: one pure function for the upgrade, preflight, the in-band `connect`, the fallbacks, the doctor.

Not here: verifying tokens (the verdict is an argument), connection limits (app/connection_limits), how a refusal is
rendered. Rules: a client is admitted only with proof or, where guests are allowed, as a guest; an inert connection has
no identity; test identities are confined here once more, whatever their issuer said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from narthex.domain.carriers import (
    AUTHORIZATION,
    CONNECT_HEADER,
    CONNECT_TOKEN,
    COOKIE,
    E2E_KEY,
    HANDSHAKE_CARRIERS,
    IN_BAND_CARRIERS,
    SUBPROTOCOL,
    TICKET,
    ParsedCarriers,
)
from narthex.domain.environment import Environment, EnvironmentPolicy
from narthex.domain.identity import E2E_TENANT, Identity, IdentityClass
from narthex.domain.origins import HostPolicy, OriginPolicy, origin_fault
from narthex.domain.plans import E2E_PLAN, GUEST_PLAN
from narthex.domain.refusals import TABLE, Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict

E2E_LIFE_S: Final = 900  # a test identity lives 15 min (docs/design.md#test-identities)
UNPROVEN: Final = "unproven"
EXPIRED: Final = "expired"
NARTHEX_ISSUER: Final = "narthex"  # of guests' and key proofs' identities, which no token vouches for

_UNCONDITIONAL: Final = (AUTHORIZATION, SUBPROTOCOL, TICKET)  # one of these alone needs no `Origin`
_LABELS: Final = {
    AUTHORIZATION: "the Authorization header",
    SUBPROTOCOL: "the subprotocol",
    TICKET: "the ticket",
    COOKIE: "the cookie",
    E2E_KEY: "X-E2E-Bypass-Key",
    CONNECT_TOKEN: "the command's token",
    CONNECT_HEADER: "the command's Authorization header",
}


class AdmissionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The admission policy of this process, narrowed from `EnvironmentPolicy` and settings.

    Attributes:
        environment: for the handshake record, and production's own rules.
        pre_connection_auth_required: a request without a credential is refused and never upgraded inert.
        auth_bypass_active: test identities are admitted by proof.
        guests: a connection without a credential from an allowed `Origin` is a guest.
        is_testing: for the handshake record.
        is_e2e_testing: for the handshake record.
    """

    environment: Environment
    pre_connection_auth_required: bool
    auth_bypass_active: bool
    guests: bool
    is_testing: bool
    is_e2e_testing: bool
    origins: OriginPolicy = OriginPolicy()
    hosts: HostPolicy = HostPolicy()

    @classmethod
    def of(
        cls, environment: EnvironmentPolicy, *, origins: OriginPolicy, hosts: HostPolicy
    ) -> AdmissionPolicy:
        """The policy of one row of the table."""
        return cls(
            environment=environment.environment,
            pre_connection_auth_required=environment.pre_connection_auth_required,
            auth_bypass_active=environment.auth_bypass_active,
            guests=environment.guests and not environment.environment.remote,
            is_testing=environment.is_testing,
            is_e2e_testing=environment.e2e.enabled,
            origins=origins,
            hosts=hosts,
        )


class HandshakeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about one attempt, besides the verdicts on its credentials.

    Attributes:
        carriers: the credentials in the request; empty for in-band.
        origin: the origin that the request claims (`origins.claimed_origin`), None when it names no page.
        host: the `Host` header.
        scheme: `https` or `http`, as the client sees it.
        in_band: the credential stands in `connect` or `refresh` of a connection that was let in before.
        bound: the user that the connection belongs to already; only in-band.
        sees_refusal: a refusal of an expired credential reaches the client with its reason (it offered
            `narthex.explain`, or asks preflight); otherwise it is upgraded inert, so that SDKs refresh.
        fresh_id: 16 or more random hex digits, for a guest's subject.
    """

    carriers: ParsedCarriers = ParsedCarriers()
    origin: str | None = None
    host: str = ""
    scheme: str = "http"
    in_band: bool = False
    bound: Identity | None = None
    sees_refusal: bool = False
    fresh_id: str = ""


class CheckedCredential(NamedTuple):
    """A carrier and the verdict on its credential."""

    carrier: str
    verdict: Verdict


class Admit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An admitted attempt. It refers to nothing that could refer back to it, so the cycle collector need not track it.

    Attributes:
        identity: the user; None while inert.
        inert: `unproven` (no credential yet; may send `connect.token`), `expired` (each `connect`
            without a fresh token gets error 109), or empty.
        bound: the user that every further token must name; None while a token of any user is accepted.
        subprotocol: to select, None for none.
        explain: the client offered `narthex.explain`.
        carriers: names of the carriers that held a credential.
        key_id: of the token that counted.
        algorithm: of the token that counted.
    """

    identity: Identity | None
    inert: str = ""
    bound: Identity | None = None
    subprotocol: str | None = None
    explain: bool = False
    carriers: tuple[str, ...] = ()
    key_id: str = ""
    algorithm: str = ""


class Screened(msgspec.Struct, frozen=True, gc=False):
    """An attempt that `screen` has let pass, under the policy that it was checked by. Nothing else makes one."""

    facts: HandshakeFacts
    policy: AdmissionPolicy


def screen(facts: HandshakeFacts, policy: AdmissionPolicy) -> Screened | Refusal:
    """Decide as far as no credential is looked at, so that none is verified or used up for nothing.

    Returns:
        What `admit_screened` needs once the credentials are verified, or the refusal that is due already.
    """
    parsed = facts.carriers
    if parsed.fault is not None:
        return msgspec.structs.replace(parsed.fault, carriers_checked=HANDSHAKE_CARRIERS)
    screened = Screened(facts, policy)
    if facts.in_band:
        return screened
    credentials = parsed.credentials
    cookie = len(credentials) == 1 and credentials[0].carrier == COOKIE
    if facts.origin is not None or cookie:
        fault = origin_fault(
            policy.origins, facts.origin, host=facts.host, scheme=facts.scheme, cookie=cookie
        )
        if fault:
            return _refuse(facts, "origin_not_allowed", fault)
    if not credentials or (len(credentials) == 1 and credentials[0].carrier in _UNCONDITIONAL):
        return screened
    carriers = {credential.carrier for credential in credentials}
    if E2E_KEY in carriers:
        if len(carriers) > 1:
            return _refuse(facts, "credential_conflict", "X-E2E-Bypass-Key came with another credential.")
        if not policy.auth_bypass_active:
            return _refuse(
                facts,
                "e2e_not_allowed_here",
                "X-E2E-Bypass-Key is not accepted here; `e2e_testing` of /ws/health gives the reason.",
            )
    return screened


def admit(
    facts: HandshakeFacts, policy: AdmissionPolicy, verdicts: Sequence[CheckedCredential]
) -> Admit | Refusal:
    """Decide.

    Args:
        facts: the attempt.
        policy: the policy of this process.
        verdicts: of every credential in the request, in order; empty without a credential.

    Returns:
        `Admit`, or a `Refusal` whose `carriers_checked` names the carriers that were checked.
    """
    screened = screen(facts, policy)
    return screened if isinstance(screened, Refusal) else admit_screened(screened, verdicts)


def admit_screened(screened: Screened, verdicts: Sequence[CheckedCredential]) -> Admit | Refusal:
    """The second step of `admit`, when every credential of the attempt has its verdict."""
    facts, policy = screened.facts, screened.policy
    if not verdicts:
        return _nothing_brought(facts, policy)
    found = verdicts[0]
    if len(verdicts) > 1:
        chosen = _first(facts, policy, verdicts)
        if not isinstance(chosen, CheckedCredential):
            return chosen
        found = chosen
    if not isinstance(found.verdict, Valid):
        return _not_valid(facts, policy, found)
    confined = _confined(found.verdict.identity, found.carrier, facts, policy)
    if isinstance(confined, Refusal):
        return confined
    if facts.bound is not None and not facts.bound.same_user(confined):
        return _conflict(facts, "The token names another subject than the connection's.")
    return Admit(
        identity=confined,
        bound=confined,
        subprotocol=facts.carriers.subprotocol,
        explain=facts.carriers.explain,
        carriers=_names(verdicts),
        key_id=found.verdict.key_id,
        algorithm=found.verdict.algorithm,
    )


def _first(
    facts: HandshakeFacts, policy: AdmissionPolicy, verdicts: Sequence[CheckedCredential]
) -> CheckedCredential | Admit | Refusal:
    """The one of several verdicts that counts, when all that count are valid and name one user."""
    # The cookie is ambient: browsers add it by themselves. A stale one beside a credential that was sent on
    # purpose is not looked at; a valid one must name the same subject.
    counted = [checked for checked in verdicts if checked.carrier != COOKIE] or list(verdicts)
    for checked in counted:
        if not isinstance(checked.verdict, Valid):
            return _not_valid(facts, policy, checked)
    found = counted[0]
    assert isinstance(found.verdict, Valid)
    identity = found.verdict.identity
    for checked in verdicts:
        if isinstance(checked.verdict, Valid) and not checked.verdict.identity.same_user(identity):
            return _conflict(facts, f"{_label(checked)} names another subject than {_LABELS[found.carrier]}.")
    return found


def key_proof_identity(*, test_run: str, fresh_id: str, permissions: tuple[str, ...], now: float) -> Identity:
    """The identity of a client that proved the end-to-end key at the handshake (docs/design.md#test-identities).

    Args:
        test_run: `X-E2E-Test-Run`; the same one finds its threads again. Empty: `fresh_id`.
        fresh_id: random hex digits.
        permissions: the server's list.
        now: seconds since the epoch.
    """
    run = test_run or fresh_id
    return Identity(
        subject=f"e2e:{run}",
        tenant=E2E_TENANT,
        plan=E2E_PLAN,
        permissions=permissions,
        name=f"test {run}",
        e2e=True,
        test_run=run,
        identity_class=IdentityClass.E2E,
        issuer=NARTHEX_ISSUER,
        issued_at=now,
        expires_at=now + E2E_LIFE_S,
    )


def _nothing_brought(facts: HandshakeFacts, policy: AdmissionPolicy) -> Admit | Refusal:
    parsed = facts.carriers
    if facts.in_band or policy.pre_connection_auth_required:
        return _refuse(facts, "auth_required", parsed.hint)
    guest: Identity | None = None
    if policy.guests and facts.origin is not None:  # `screen` has checked that it is an allowed one
        guest = Identity(
            subject=f"guest:{facts.fresh_id}",
            plan=GUEST_PLAN,
            name="guest",
            identity_class=IdentityClass.GUEST,
            issuer=NARTHEX_ISSUER,
        )
    return Admit(
        identity=guest,
        inert="" if guest else UNPROVEN,
        subprotocol=parsed.subprotocol,
        explain=parsed.explain,
    )


def _not_valid(facts: HandshakeFacts, policy: AdmissionPolicy, checked: CheckedCredential) -> Admit | Refusal:
    verdict = checked.verdict
    if isinstance(verdict, Unavailable):
        return Refusal(
            code="auth_unavailable",
            carriers_checked=_checked(facts),
            retry_after_s=max(1, verdict.retry_after_s),
            log_detail=verdict.cause,
        )
    assert isinstance(verdict, Rejected)
    if verdict.expired is not None:
        return _expired(facts, policy, checked, verdict)
    return _rejected(facts, checked, verdict)


def _rejected(facts: HandshakeFacts, checked: CheckedCredential, verdict: Rejected) -> Refusal:
    said = verdict.detail or TABLE[verdict.code].title + "."
    return Refusal(
        code=verdict.code,
        detail=f"{said} It came in {_LABELS[checked.carrier]}.",
        carriers_checked=_checked(facts),
        log_detail=verdict.log_detail,
    )


def _expired(
    facts: HandshakeFacts, policy: AdmissionPolicy, checked: CheckedCredential, verdict: Rejected
) -> Admit | Refusal:
    """An expired token that is otherwise valid: the client is upgraded inert where it could not read the reason."""
    assert verdict.expired is not None
    confined = _confined(verdict.expired, checked.carrier, facts, policy)
    if isinstance(confined, Refusal):
        return confined
    if facts.bound is not None and not facts.bound.same_user(confined):
        return _conflict(facts, "The token names another subject than the connection's.")
    if facts.in_band or facts.sees_refusal:
        return _rejected(facts, checked, verdict)
    return Admit(
        identity=None,
        inert=EXPIRED,
        bound=confined,
        subprotocol=facts.carriers.subprotocol,
        explain=facts.carriers.explain,
        carriers=(checked.carrier,),
        key_id=verdict.key_id,
        algorithm=verdict.algorithm,
    )


def _confined(
    identity: Identity, carrier: str, facts: HandshakeFacts, policy: AdmissionPolicy
) -> Identity | Refusal:
    """Keep test identities and probes in their tenants, and refuse them where they are not allowed."""
    if identity.identity_class is IdentityClass.PROBE and carrier != TICKET:
        return _refuse(facts, "permission_denied", "Probes must authenticate with a ticket of the store.")
    marked = identity.e2e or identity.identity_class is IdentityClass.E2E
    if not marked:
        if identity.tenant == E2E_TENANT:
            return _refuse(facts, "tenant_mismatch", "Only test identities may use their tenant.")
        return identity
    if policy.environment is Environment.PRODUCTION or not policy.auth_bypass_active:
        return _refuse(
            facts,
            "e2e_not_allowed_here",
            "Test identities are not admitted here; `e2e_testing` of /ws/health gives the reason.",
        )
    if identity.tenant != E2E_TENANT:
        return _refuse(facts, "tenant_mismatch", "A test identity is confined to the tenant e2e.")
    if identity.e2e and identity.identity_class is IdentityClass.E2E and identity.plan == E2E_PLAN:
        return identity
    return msgspec.structs.replace(identity, e2e=True, identity_class=IdentityClass.E2E, plan=E2E_PLAN)


def _checked(facts: HandshakeFacts) -> tuple[str, ...]:
    return IN_BAND_CARRIERS if facts.in_band else HANDSHAKE_CARRIERS


def _refuse(facts: HandshakeFacts, code: str, detail: str) -> Refusal:
    return Refusal(code=code, detail=detail, carriers_checked=_checked(facts))


def _conflict(facts: HandshakeFacts, detail: str) -> Refusal:
    return _refuse(facts, "credential_conflict", detail)


def _label(checked: CheckedCredential) -> str:
    label = _LABELS[checked.carrier]
    return label[0].upper() + label[1:]


def _names(verdicts: Sequence[CheckedCredential]) -> tuple[str, ...]:
    return tuple([checked.carrier for checked in verdicts])
