"""Decides which identity source may name which tenant, and which permissions it may grant.

A source is an issuer or the embedded provider: each can say "this is user X of tenant Y". Not here: how a token is
verified (`adapters/tokens`), which settings describe a source (`settings/trust.py`). Rules
(docs/design.md#trust-between-issuers): with one source, every claim of it counts; with several, each is bound to its
tenants, because a user is (tenant, subject) and a source that may name another's tenant may be any user of it. The
end-to-end exchange is bound to the tenant `e2e` in any case and is no source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from narthex.domain.identity import ADMIN, OPERATOR

MAX_PERMISSIONS: Final = (
    64  # of one identity: each is compared at each check, and travels in tickets and records
)
ANY: Final = "*"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source of identities as settings describe it.

    Attributes:
        name: as an operator finds it in the settings.
        tenant: all users of this source are in it; it is reserved: no other source may name it.
        tenants: which tenants its tokens may name; `*` at the end of an entry matches the rest.
        permissions: which permissions it may give; None: not stated; `*`: any.
        plans: which plans it may give; None: any.
        remedy: which setting binds it, for messages.
    """

    name: str
    tenant: str = ""
    tenants: tuple[str, ...] = ()
    permissions: tuple[str, ...] | None = None
    plans: tuple[str, ...] | None = None
    remedy: str = ""

    @property
    def bound(self) -> bool:
        """Whether the settings name the tenants of this source."""
        return bool(self.tenant or self.tenants)

    @property
    def claims(self) -> tuple[str, ...]:
        """The tenants that it may name, as patterns."""
        return (self.tenant,) if self.tenant else self.tenants


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that one source may make; the default is a single source, all of whose claims count.

    Attributes:
        tenant: all users of this source are in it; empty: the token's claim decides.
        tenants: patterns of tenants that the claim may name; empty: any.
        reserved: tenants that belong to other sources.
        permissions: those that count; None: all but `withheld`.
        withheld: permissions that count only where `permissions` names them.
        plans: those that count; None: all.
        sole_tenant: the only tenant there is: its `admin` is the process's operator too; empty: there are several.
    """

    tenant: str = ""
    tenants: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()
    permissions: frozenset[str] | None = None
    withheld: frozenset[str] = frozenset()
    plans: frozenset[str] | None = None
    sole_tenant: str = ""

    def may_name(self, tenant: str) -> bool:
        """Whether this source may name `tenant`."""
        if tenant in self.reserved:
            return False
        return not self.tenants or any(_matches(pattern, tenant) for pattern in self.tenants)

    def granted(self, claimed: Sequence[str], tenant: str) -> tuple[str, ...]:
        """The permissions that count, at most `MAX_PERMISSIONS`, of those that a token claims, in its order.

        Tokens of large organisations carry hundreds of roles. Those that mean something here come first, so that
        none of them is cut off; the rest is dropped and not refused.
        """
        allowed = self.permissions
        if allowed is not None and ANY not in allowed:
            counted = [name for name in claimed if name in allowed]
        else:
            counted = [name for name in claimed if name not in self.withheld or allowed is not None]
        if self.sole_tenant and tenant == self.sole_tenant and ADMIN in counted and OPERATOR not in counted:
            counted.append(OPERATOR)
        if len(counted) > MAX_PERMISSIONS:
            counted = sorted(counted, key=lambda name: name not in (ADMIN, OPERATOR))[:MAX_PERMISSIONS]
        return tuple(counted)

    def may_plan(self, plan: str) -> bool:
        """Whether this source may put people on `plan`."""
        return self.plans is None or plan in self.plans


def bindings(sources: Sequence[Source]) -> list[Binding]:
    """The claims that each source may make, in order. Call `trust_problems` first."""
    several = len(sources) > 1
    sole = _sole_tenant(sources)
    found = []
    for source in sources:
        others = [other for other in sources if other is not source]
        shared = any(
            _overlap(mine, theirs) for mine in source.claims for other in others for theirs in other.claims
        )
        withheld: set[str] = set()
        if several and source.bound:
            withheld = {OPERATOR, ADMIN} if shared else {OPERATOR}
        found.append(
            Binding(
                tenant=source.tenant,
                tenants=source.tenants,
                reserved=frozenset(other.tenant for other in others if other.tenant),
                permissions=None if source.permissions is None else frozenset(source.permissions),
                withheld=frozenset(withheld),
                plans=None if source.plans is None else frozenset(source.plans),
                sole_tenant=sole,
            )
        )
    return found


def trust_problems(sources: Sequence[Source]) -> Iterator[str]:
    """Problems where several sources may name one tenant; none when there is one source."""
    if len(sources) < 2:
        return
    for source in sources:
        if not source.bound:
            yield (
                f"{_capital(source.name)} may name any tenant, and other sources of identities exist "
                f"({_others(source, sources)}): its tokens could impersonate their users. Set {source.remedy}."
            )
    for index, source in enumerate(sources):
        for other in sources[index + 1 :]:
            yield from _conflicts(source, other)


def _conflicts(one: Source, other: Source) -> Iterator[str]:
    for mine in one.claims:
        for theirs in other.claims:
            if not _overlap(mine, theirs):
                continue
            if one.tenant or other.tenant:
                if not (one.tenant and other.tenant) and not (_wild(mine) or _wild(theirs)):
                    owner = one if one.tenant else other
                    yield (
                        f"{_capital(one.name)} and {other.name} both name the tenant {owner.tenant!r}, which "
                        f"{owner.name} reserves for itself. List it in the tenants of both, or change one of them."
                    )
                elif one.tenant and other.tenant:
                    yield (
                        f"{_capital(one.name)} and {other.name} both reserve the tenant {mine!r}. Give each its own "
                        f"tenant, or list it in the tenants of both: each can then issue tokens for the other's users."
                    )
            elif mine != theirs:
                yield (
                    f"{_capital(one.name)} lists the tenants {mine!r} and {other.name} lists {theirs!r}, which "
                    "overlap. Write the same entry in both if they share those tenants, else separate them."
                )


def _sole_tenant(sources: Sequence[Source]) -> str:
    """The only tenant that a user can be in; empty: there are several, or the tokens decide."""
    named: set[str] = set()
    for source in sources:
        if not source.bound or any(_wild(claim) for claim in source.claims):
            return ""
        named.update(source.claims)
    return named.pop() if len(named) == 1 else ""


def _matches(pattern: str, tenant: str) -> bool:
    return tenant.startswith(pattern[:-1]) if _wild(pattern) else tenant == pattern


def _overlap(one: str, other: str) -> bool:
    if _wild(one) and _wild(other):
        return one[:-1].startswith(other[:-1]) or other[:-1].startswith(one[:-1])
    return _matches(one, other) if _wild(one) else _matches(other, one)


def _wild(pattern: str) -> bool:
    return pattern.endswith(ANY)


def _others(source: Source, sources: Sequence[Source]) -> str:
    return ", ".join(other.name for other in sources if other is not source)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
