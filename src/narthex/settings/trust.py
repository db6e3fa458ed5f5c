"""Derives the identity sources and the claims that each may make from the settings
(docs/design.md#trust-between-issuers).

Not here: the rule itself (`domain/trust.py`). Rules: the embedded provider is a source where people can sign in at it
by e-mail; where it only issues sessions for the configured OpenID issuer, or signs tokens for `narthex token`, it
relies on that issuer or the operator and is no source of its own; its tokens keep that issuer's binding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from narthex.domain.identity import DEFAULT_TENANT, E2E_TENANT, PROBE_TENANT
from narthex.domain.ids import ID_RULE, valid_id
from narthex.domain.trust import ANY, Binding, Source, bindings, trust_problems
from narthex.settings.model import Settings
from narthex.settings.tables import IssuerSettings

PROVIDER_NAME: Final = "the embedded provider"


class Trust(NamedTuple):
    """The claims that each source may make: the issuers in the order of `Settings.all_issuers`, and our own tokens.

    Our own tokens name whom the settings' users, the OpenID issuer's binding or the operator's `narthex token`
    named when they were made, so they are bound to nothing again.
    """

    issuers: tuple[Binding, ...]
    provider: Binding


def trust_of(settings: Settings, *, remote: bool) -> Trust:
    """The bindings of settings that `domain.trust.trust_problems` accepts (or, in development, warns of)."""
    sources = trust_sources(settings, remote=remote)
    found = bindings(list(sources))
    issuers = settings.all_issuers()
    sole = (
        found[0].sole_tenant if found else DEFAULT_TENANT
    )  # with no source, only `narthex token` makes identities
    return Trust(tuple(found[: len(issuers)]), Binding(sole_tenant=sole))


def trust_sources(settings: Settings, *, remote: bool) -> tuple[Source, ...]:
    """Every source of identities, the embedded provider last.

    Args:
        settings: read and checked one by one.
        remote: staging or production, where signing in requires a password.
    """
    issuers = settings.all_issuers()
    flat = len(issuers) > len(settings.issuers)
    found = []
    for index, issuer in enumerate(issuers):
        if flat and index == 0:
            name, remedy = (
                "the issuer of NARTHEX_JWT_* and NARTHEX_OIDC_*",
                "NARTHEX_JWT_TENANT or NARTHEX_JWT_TENANTS",
            )
        else:
            place = f"issuers[{index - flat}]"
            name, remedy = f"the issuer {issuer.name!r} ({place})", f"{place}.tenant or {place}.tenants"
        found.append(_of_issuer(issuer, name, remedy))
    if settings.provider_enabled and (settings.users or not remote):
        tenants = settings.provider_tenants or tuple(
            dict.fromkeys(user.tenant for user in settings.users) or (DEFAULT_TENANT,)
        )
        found.append(Source(name=PROVIDER_NAME, tenants=tuple(tenants), permissions=("*",)))
    return tuple(found)


def _of_issuer(issuer: IssuerSettings, name: str, remedy: str) -> Source:
    return Source(
        name=name,
        tenant=issuer.tenant or "",
        tenants=tuple(issuer.tenants),
        permissions=None if issuer.permissions_allowed is None else tuple(issuer.permissions_allowed),
        plans=None if issuer.plans_allowed is None else tuple(issuer.plans_allowed),
        remedy=remedy,
    )


def binding_problems(settings: Settings) -> Iterator[str]:
    """Problems of a binding in any environment: both forms at once, names that are no tenants, unknown plans."""
    issuers = settings.all_issuers()
    flat = len(issuers) > len(settings.issuers)
    plans = settings.plan_table()
    for index, issuer in enumerate(issuers):
        where = "NARTHEX_JWT_TENANT" if flat and index == 0 else f"issuers[{index - flat}].tenant"
        if issuer.tenant and issuer.tenants:
            yield f"{where} and its list of tenants are both set. Keep the one tenant, or the list."
        for tenant in (*((issuer.tenant,) if issuer.tenant else ()), *issuer.tenants):
            yield from _tenant_problems(where, tenant)
        if (issuer.tenant or "").endswith(ANY):
            yield (
                f"{where} is {issuer.tenant!r}: all its users would be in one tenant with that name. List a pattern "
                "in tenants, or name the tenant."
            )
        for plan in issuer.plans_allowed or ():
            if plan not in plans:
                yield f"{where}: plans_allowed has {plan!r}, which is not a plan. Name one of {', '.join(plans)}."
    for tenant in settings.provider_tenants:
        yield from _tenant_problems("NARTHEX_PROVIDER_TENANTS", tenant)
    named = settings.provider_tenants
    for user in settings.users:
        if user.plan not in plans:
            yield f"users: {user.email} has plan {user.plan!r}, which is not a plan. Name one of {', '.join(plans)}."
        if not valid_id(user.tenant) or user.tenant in (E2E_TENANT, PROBE_TENANT):
            yield f"users: {user.email} cannot be in tenant {user.tenant!r}. Choose another; it is {ID_RULE}."
        elif named and not Binding(tenants=tuple(named)).may_name(user.tenant):
            yield (
                f"users: {user.email} is in tenant {user.tenant!r}, which NARTHEX_PROVIDER_TENANTS does not list. "
                "Add it there, or move the user."
            )


def _tenant_problems(where: str, tenant: str) -> Iterator[str]:
    name = tenant.removesuffix("*")
    if tenant in (E2E_TENANT, PROBE_TENANT):
        yield f"{where} names {tenant!r}, which is reserved for test identities and probes. Choose another."
    elif name and not valid_id(name):
        yield f"{where} names {tenant[:100]!r}, which is no tenant: {ID_RULE}. Correct it."


def ambiguities(settings: Settings, *, remote: bool) -> list[str]:
    """Tenants that several sources may name: problems in staging and production, warnings elsewhere."""
    return list(trust_problems(trust_sources(settings, remote=remote)))
