"""Makes an `Identity` from verified claims: the required claims, their types and their names.

Not here: signatures (`keys.py`). Rules: expiry is checked last, so that `Rejected.expired` means that it is the
*only* fault (docs/design.md#admission); a confined tenant may be claimed only by an issuer that is confined to it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from narthex.domain.admission import E2E_LIFE_S
from narthex.domain.carriers import valid_test_run
from narthex.domain.identity import DEFAULT_TENANT, E2E_TENANT, PROBE_TENANT, Identity, IdentityClass
from narthex.domain.ids import EVERYBODY, ID_RULE, valid_id
from narthex.domain.moments import LATEST_MOMENT_S
from narthex.domain.plans import E2E_PLAN
from narthex.domain.secrets import fingerprint
from narthex.domain.trust import Binding
from narthex.domain.verdict import Rejected

LEEWAY_S: Final = 30.0
MAX_TEXT_LENGTH: Final = 256
MAX_ISSUER_LENGTH: Final = 2_048

_CONFINED: Final = frozenset({E2E_TENANT, PROBE_TENANT})

Claims = dict[str, Any]  # Any: an issuer's own JSON


class ClaimNames(msgspec.Struct, frozen=True, kw_only=True):
    """Where an issuer keeps what; a name, or a dotted path into nested objects (`realm_access.roles`)."""

    tenant: str = "tenant"
    plan: str = "plan"
    permissions: str = "permissions"
    name: str = "name"
    e2e: str = "e2e"
    test_run: str = "test_run"


class ClaimRules(msgspec.Struct, frozen=True, kw_only=True):
    """Requirements on one issuer's claims.

    Attributes:
        issuer: the exact `iss`; empty: not required, not compared.
        audiences: the audience claim must hold one of them; empty: not required, not compared.
        audience_claim: `aud`, or where the issuer puts it otherwise: Cognito's access tokens have `client_id`,
            Keycloak's and Clerk's `azp`.
        leeway_s: for `exp`, `nbf` and `iat`, seconds.
        default_tenant: for tokens with no tenant claim.
        binding: which tenants, permissions and plans this issuer may give.
        default_plan: for tokens with no plan claim, or one that `plans` does not know.
        plans: known plan names; empty: any.
        allow_e2e: whether this issuer may make test identities here (never in production).
        only_e2e: this issuer makes test identities and nothing else (the exchange's keys).
        e2e_permissions: of every test identity, whatever its token claims.
        permission_names: maps an issuer's role names to permissions; roles that are not listed keep their names.
        environment: the claim `env`, where a token has one, must be this; empty: not looked at.
        session_claim: the claim that names a sign-in, whose tokens end as one; empty: none does.
        names: the mapping of claims.
    """

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    audience_claim: str = "aud"
    leeway_s: float = LEEWAY_S
    default_tenant: str = DEFAULT_TENANT
    binding: Binding = Binding()
    default_plan: str = "free"
    plans: frozenset[str] = frozenset()
    allow_e2e: bool = False
    only_e2e: bool = False
    e2e_permissions: tuple[str, ...] = ()
    permission_names: dict[str, str] = {}
    environment: str = ""
    session_claim: str = ""
    names: ClaimNames = ClaimNames()


class _Fault(Exception):
    """Carries a refusal out of a checker; never leaves this module."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def identity_from(claims: Claims, rules: ClaimRules, now: float) -> Identity | Rejected:
    """Check verified claims (RFC 7519 section 4.1).

    Args:
        claims: of a token whose signature verified.
        rules: the issuer's.
        now: seconds since the epoch.

    Returns:
        The identity, or the first fault's code; `token_expired` comes last and carries the identity.
    """
    try:
        _check_issuer(claims, rules)
        _check_audience(claims, rules)
        expires_at = _moment(claims, "exp")
        if expires_at is None:
            raise _Fault("token_invalid", "The claim `exp` is missing.")
        issued_at = _moment(claims, "iat")
        for moment in (_moment(claims, "nbf"), issued_at):
            if moment is not None and moment > now + rules.leeway_s:
                raise _Fault("token_not_yet_valid", "")
        _check_environment(claims, rules)
        identity = _identity(claims, rules, issued_at, expires_at)
        assert identity.expires_at is not None
        expires_at = identity.expires_at  # a test identity's may be earlier than its token's
    except _Fault as fault:
        return Rejected(fault.code, fault.detail)
    if expires_at <= now - rules.leeway_s:
        return Rejected("token_expired", expired=identity)
    return identity


def _check_issuer(claims: Claims, rules: ClaimRules) -> None:
    issuer = claims.get("iss", "")
    if not isinstance(issuer, str):
        raise _Fault("wrong_issuer", "The claim `iss` is not a string.")
    if len(issuer) > MAX_ISSUER_LENGTH or not issuer.isprintable():
        raise _Fault("wrong_issuer", "The claim `iss` is not printable text.")
    if rules.issuer and issuer != rules.issuer:
        raise _Fault("wrong_issuer", "" if issuer else "The claim `iss` is missing.")


def _check_audience(claims: Claims, rules: ClaimRules) -> None:
    name = rules.audience_claim
    if name not in claims and not rules.audiences:
        return
    found = claims.get(name, [])
    if isinstance(found, str) and (not rules.audiences or found in rules.audiences):
        return
    audiences = [found] if isinstance(found, str) else found
    if not isinstance(audiences, list) or not all(isinstance(item, str) for item in audiences):
        raise _Fault("wrong_audience", f"The claim `{name}` is neither a string nor a list of strings.")
    if rules.audiences and not any(item in rules.audiences for item in audiences):
        raise _Fault("wrong_audience", "" if audiences else f"The claim `{name}` is missing.")


def _check_environment(claims: Claims, rules: ClaimRules) -> None:
    """A session of one environment counts in no other, although both may share a data directory and its keys."""
    if rules.environment and claims.get("env", rules.environment) != rules.environment:
        raise _Fault("token_invalid", "The token belongs to a session in another environment.")


def _moment(claims: Claims, name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2) as a float, None when the claim is missing."""
    value = claims.get(name)
    if type(value) is int and 0 <= value <= LATEST_MOMENT_S:  # as nearly every issuer writes it
        return float(value)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Fault("token_invalid", f"The claim `{name}` is no number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Fault("token_invalid", f"The claim `{name}` is no number.")
    if not 0 <= value <= LATEST_MOMENT_S:
        raise _Fault("token_invalid", f"The claim `{name}` is not in seconds since 1970.")
    return float(value)


def _identity(claims: Claims, rules: ClaimRules, issued_at: float | None, expires_at: float) -> Identity:
    names = rules.names
    subject = claims.get("sub")
    if not isinstance(subject, str) or not valid_id(subject):
        raise _Fault("token_invalid", f"The claim `sub` is missing or is not {ID_RULE}.")
    if subject == EVERYBODY:
        # To revoke such a token without a `jti` would revoke every token of the tenant.
        raise _Fault("token_invalid", "The claim `sub` is `*`, which revocations use for all users.")
    e2e = _lookup(claims, names.e2e)
    if e2e is not None and not isinstance(e2e, bool):
        raise _Fault("token_invalid", "The claim for test identities is not a boolean.")
    name = _display_name(_lookup(claims, names.name))
    if e2e:
        return _test_identity(claims, rules, subject, name, issued_at, expires_at)
    if rules.only_e2e:
        raise _Fault("token_invalid", "The keys of the end-to-end exchange sign for test identities only.")
    tenant = _tenant(claims, rules)
    return Identity(
        subject=subject,
        tenant=tenant,
        plan=_plan(claims, rules),
        permissions=_permissions(_lookup(claims, names.permissions), rules, tenant),
        name=name,
        issuer=claims.get("iss", ""),
        token_id=_token_id(claims),
        issued_at=issued_at,
        expires_at=expires_at,
        session=_text(claims, rules.session_claim) if rules.session_claim else "",
    )


def _test_identity(
    claims: Claims, rules: ClaimRules, subject: str, name: str, issued_at: float | None, expires_at: float
) -> Identity:
    """Confine a test identity of any issuer (docs/design.md#test-identities): the server sets tenant, plan,
    permissions and life.
    """
    if not rules.allow_e2e:
        raise _Fault("e2e_not_allowed_here", "")
    if issued_at is None:
        raise _Fault("token_invalid", "A test identity lives 15 minutes from its `iat`, which is missing.")
    test_run = _text(claims, rules.names.test_run) or f"sub-{fingerprint(subject)[:16]}"
    if not valid_test_run(test_run):
        raise _Fault("token_invalid", "The test run is not 1 to 64 letters, digits, `.`, `_`, `~`, `-`.")
    return Identity(
        subject=subject,
        tenant=E2E_TENANT,
        plan=E2E_PLAN,
        permissions=rules.e2e_permissions,
        name=name,
        e2e=True,
        test_run=test_run,
        identity_class=IdentityClass.E2E,
        issuer=claims.get("iss", ""),
        token_id=_token_id(claims),
        issued_at=issued_at,
        expires_at=min(expires_at, issued_at + E2E_LIFE_S),
    )


def _token_id(claims: Claims) -> str:
    """`jti`: one that is no id could never be revoked by it, so it is refused rather than left out."""
    if "jti" not in claims:
        return ""
    token_id = claims["jti"]
    if not isinstance(token_id, str) or not valid_id(token_id):
        raise _Fault("token_invalid", f"The claim `jti` is not {ID_RULE}.")
    return token_id


def _tenant(claims: Claims, rules: ClaimRules) -> str:
    tenant = rules.binding.tenant or _text(claims, rules.names.tenant) or rules.default_tenant
    if tenant in _CONFINED:
        raise _Fault("tenant_mismatch", "That tenant is reserved for test identities and probes.")
    if not valid_id(tenant):
        raise _Fault("token_invalid", f"The tenant claim is not {ID_RULE}.")
    if not rules.binding.may_name(tenant):
        raise _Fault("tenant_mismatch", "The issuer of the token may not speak for that tenant.")
    return tenant


def _plan(claims: Claims, rules: ClaimRules) -> str:
    plan = _text(claims, rules.names.plan)
    if not plan or (rules.plans and plan not in rules.plans) or not rules.binding.may_plan(plan):
        return rules.default_plan
    return plan


def _permissions(value: object, rules: ClaimRules, tenant: str) -> tuple[str, ...]:
    """A list of strings, or one string of words like `scope` (RFC 6749 section 3.3), as far as they count here."""
    if value is None:
        return ()
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _Fault("token_invalid", "The permissions claim is neither text nor a list of strings.")
    named = [str(rules.permission_names.get(item, item)) for item in found]
    claimed = [item for item in dict.fromkeys(named) if item.isprintable() and len(item) <= MAX_TEXT_LENGTH]
    return rules.binding.granted(claimed, tenant)


def _display_name(value: object) -> str:
    """For display only: a value that cannot be shown is left out rather than refused."""
    if not isinstance(value, str):
        return ""
    return "".join(character for character in value[:MAX_TEXT_LENGTH] if character.isprintable())


def _text(claims: Claims, name: str) -> str:
    value = _lookup(claims, name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise _Fault("token_invalid", f"The claim `{name}` is not a short printable string.")
    return value


def _lookup(claims: Claims, name: str) -> object:
    """A claim by its literal name (which may hold dots, as URLs do), else by dotted path; None: absent."""
    if name in claims:
        found: object = claims[name]
        return found
    if "." not in name:
        return None
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
