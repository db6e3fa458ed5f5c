"""From verified claims to an `Identity`: which claims are required, with which types, and what they are called.

Not here: signatures (`keys.py`). Rules: expiry is judged last, so that `Rejected.expired` means that it is the
*only* fault (DESIGN section 3); a confined tenant cannot be claimed by anybody who is not confined to it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from narthex.domain.channels import valid_tenant
from narthex.domain.identity import DEFAULT_TENANT, E2E_TENANT, PROBE_TENANT, Identity, IdentityClass
from narthex.domain.verdict import Rejected

LEEWAY_S: Final = 30.0
MAX_SUBJECT_LENGTH: Final = 255
MAX_TEXT_LENGTH: Final = 256
MAX_PERMISSIONS: Final = 64  # an 8 KB token cannot usefully carry more, and each is compared at each check
LATEST_MOMENT: Final = 253_402_300_799  # the end of the year 9999: beyond it is a mistake of units

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
    """What one issuer's claims must be.

    Attributes:
        issuer: the exact `iss`; empty: not required, not compared.
        audiences: `aud` must hold one of them; empty: not required, not compared.
        leeway_s: for `exp`, `nbf` and `iat`, seconds.
        default_tenant: for tokens with no tenant claim.
        fixed_tenant: everybody of this issuer is in it, whatever the token says; empty: the claim decides.
        default_plan: for tokens with no plan claim, or one that `plans` does not know.
        plans: known plan names; empty: any.
        allow_e2e: whether this issuer may make test identities here (never in production).
        names: the mapping of claims.
    """

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    leeway_s: float = LEEWAY_S
    default_tenant: str = DEFAULT_TENANT
    fixed_tenant: str = ""
    default_plan: str = "free"
    plans: frozenset[str] = frozenset()
    allow_e2e: bool = False
    names: ClaimNames = ClaimNames()


class _Fault(Exception):
    """Carries a refusal out of a checker; never leaves this module."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def identity_from(claims: Claims, rules: ClaimRules, now: float) -> Identity | Rejected:
    """Judge verified claims (RFC 7519 section 4.1).

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
        identity = _identity(claims, rules, issued_at, expires_at)
    except _Fault as fault:
        return Rejected(fault.code, fault.detail)
    if expires_at <= now - rules.leeway_s:
        return Rejected("token_expired", expired=identity)
    return identity


def _check_issuer(claims: Claims, rules: ClaimRules) -> None:
    issuer = claims.get("iss", "")
    if not isinstance(issuer, str):
        raise _Fault("wrong_issuer", "The claim `iss` is no string.")
    if rules.issuer and issuer != rules.issuer:
        raise _Fault("wrong_issuer", "" if issuer else "The claim `iss` is missing.")


def _check_audience(claims: Claims, rules: ClaimRules) -> None:
    if "aud" not in claims and not rules.audiences:
        return
    found = claims.get("aud", [])
    audiences = [found] if isinstance(found, str) else found
    if not isinstance(audiences, list) or not all(isinstance(item, str) for item in audiences):
        raise _Fault("wrong_audience", "The claim `aud` is neither a string nor a list of strings.")
    if rules.audiences and not any(item in rules.audiences for item in audiences):
        raise _Fault("wrong_audience", "" if audiences else "The claim `aud` is missing.")


def _moment(claims: Claims, name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2) as a float, None when the claim is missing."""
    value = claims.get(name)
    if type(value) is int and 0 <= value <= LATEST_MOMENT:  # as nearly every issuer writes it
        return float(value)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Fault("token_invalid", f"The claim `{name}` is no number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise _Fault("token_invalid", f"The claim `{name}` is no number.")
    if not 0 <= value <= LATEST_MOMENT:
        raise _Fault("token_invalid", f"The claim `{name}` is not in seconds since 1970.")
    return float(value)


def _identity(claims: Claims, rules: ClaimRules, issued_at: float | None, expires_at: float) -> Identity:
    names = rules.names
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
        raise _Fault("token_invalid", "The claim `sub` is missing or no string of 1 to 255 characters.")
    if not subject.isprintable():
        raise _Fault("token_invalid", "The claim `sub` holds characters that cannot be printed.")
    e2e = _lookup(claims, names.e2e)
    if e2e is not None and not isinstance(e2e, bool):
        raise _Fault("token_invalid", "The claim for test identities is no boolean.")
    if e2e and not rules.allow_e2e:
        raise _Fault("e2e_not_allowed_here", "")
    plan = _text(claims, names.plan)
    if not plan or (rules.plans and plan not in rules.plans):
        plan = "mid" if e2e else rules.default_plan
    return Identity(
        subject=subject,
        tenant=E2E_TENANT if e2e else _tenant(claims, rules),
        plan=plan,
        permissions=_permissions(_lookup(claims, names.permissions)),
        name=_display_name(_lookup(claims, names.name)),
        e2e=bool(e2e),
        test_run=_text(claims, names.test_run) if e2e else "",
        identity_class=IdentityClass.E2E if e2e else IdentityClass.USER,
        issuer=claims.get("iss", ""),
        token_id=_token_id(claims),
        issued_at=issued_at,
        expires_at=expires_at,
    )


def _token_id(claims: Claims) -> str:
    """`jti`: one that is no text could never be revoked by it, so it is refused rather than left out."""
    if "jti" in claims and claims["jti"] is None:
        raise _Fault("token_invalid", "The claim `jti` is no string.")
    return _text(claims, "jti")


def _tenant(claims: Claims, rules: ClaimRules) -> str:
    tenant = rules.fixed_tenant or _text(claims, rules.names.tenant) or rules.default_tenant
    if tenant in _CONFINED:
        raise _Fault("tenant_mismatch", "That tenant is confined to test identities and probes.")
    if not valid_tenant(tenant):
        raise _Fault(
            "token_invalid", "The tenant claim is no name of 1 to 64 letters, digits, `.`, `_`, `~`, `-`."
        )
    return tenant


def _permissions(value: object) -> tuple[str, ...]:
    """A list of strings, or one string of words like `scope` (RFC 6749 section 3.3)."""
    if value is None:
        return ()
    found = value.split() if isinstance(value, str) else value
    if (
        not isinstance(found, list)
        or len(found) > MAX_PERMISSIONS
        or not all(isinstance(item, str) and item.isprintable() for item in found)
    ):
        raise _Fault(
            "token_invalid", f"The permissions claim is no list of at most {MAX_PERMISSIONS} strings."
        )
    return tuple(found)


def _display_name(value: object) -> str:
    """For display only: what cannot be shown is left out rather than refused."""
    if not isinstance(value, str):
        return ""
    return "".join(character for character in value[:MAX_TEXT_LENGTH] if character.isprintable())


def _text(claims: Claims, name: str) -> str:
    value = _lookup(claims, name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise _Fault("token_invalid", f"The claim `{name}` is no short printable string.")
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
