"""Putting a verifier together: from descriptions of issuers, plain values, to one `TokenRouter`.

Not here: settings (wiring turns them into `IssuerSpec`s). Rules: one place knows which source serves which
description; algorithms are cut to the kind of key here, so HMAC never meets a public key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from narthex.adapters.tokens.claims import LEEWAY_S, ClaimNames, ClaimRules
from narthex.adapters.tokens.fetching import Fetcher
from narthex.adapters.tokens.introspection import Introspection
from narthex.adapters.tokens.jwks import JwksKeys, constant_address
from narthex.adapters.tokens.keys import ALGORITHMS, SYMMETRIC
from narthex.adapters.tokens.oidc import Discovery
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.sources import KeySource, OpaqueSource
from narthex.adapters.tokens.static_keys import StaticKeys
from narthex.adapters.tokens.verification import ASYMMETRIC_DEFAULT, HMAC_DEFAULT, IssuerRules
from narthex.domain.trust import Binding
from narthex.errors import ConfigError, NarthexError
from narthex.ports.breaker import Breakers
from narthex.ports.telemetry import Source


class IssuerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One configured issuer. Exactly one of the five sources of keys is set.

    Attributes:
        name: for health, logs and breakers.
        issuer: required `iss`; empty: not looked at (for `discovery`: the discovery URL itself).
        audience: one of these must be in the audience claim; empty: not looked at.
        audience_claim: where the issuer puts the audience.
        algorithms: allowed; empty: the default of the key's kind.
        secret: HMAC secret.
        public_key: PEM, JWK or JWK set as text.
        jwks_url: address of the key set.
        discovery: issuer URL with a discovery document.
        introspection_url: RFC 7662 end point, asked with `introspection_client`.
        introspection_client: id and secret.
        binding: which tenants, permissions and plans it may give.
        permission_names: maps the issuer's role names to permissions.
        claims: the mapping of claims.
    """

    name: str = "default"
    issuer: str = ""
    audience: tuple[str, ...] = ()
    audience_claim: str = "aud"
    algorithms: tuple[str, ...] = ()
    secret: str = ""
    public_key: str = ""
    jwks_url: str = ""
    discovery: str = ""
    introspection_url: str = ""
    introspection_client: tuple[str, str] = ("", "")
    binding: Binding = Binding()
    permission_names: dict[str, str] = {}
    claims: ClaimNames = ClaimNames()


class ClaimDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for every issuer.

    Attributes:
        leeway_s: clock difference allowed.
        plans: known plan names; empty: any.
        allow_e2e: whether a claim may make a test identity here (never in production).
        e2e_permissions: of every test identity, whichever issuer signed it.
    """

    leeway_s: float = LEEWAY_S
    plans: frozenset[str] = frozenset()
    allow_e2e: bool = False
    e2e_permissions: tuple[str, ...] = ()


class Outside(msgspec.Struct, frozen=True):
    """Shared by the sources; `withheld` recognises our own secrets, which are never sent to another service, and
    `read_from` takes what the metrics show of a source.
    """

    fetcher: Fetcher
    breakers: Breakers
    on_fault: Callable[[str, NarthexError], None] = lambda _name, _fault: None
    withheld: Callable[[str], bool] = lambda _: False
    read_from: Callable[[Source], None] = lambda _: None


def claim_rules(spec: IssuerSpec, defaults: ClaimDefaults) -> ClaimRules:
    """The rules of one issuer's claims."""
    return ClaimRules(
        issuer=spec.issuer or spec.discovery,
        audiences=spec.audience,
        audience_claim=spec.audience_claim,
        leeway_s=defaults.leeway_s,
        binding=spec.binding,
        plans=defaults.plans,
        allow_e2e=defaults.allow_e2e,
        e2e_permissions=defaults.e2e_permissions,
        permission_names=spec.permission_names,
        names=spec.claims,
    )


def build_router(
    specs: Iterable[IssuerSpec], defaults: ClaimDefaults, outside: Outside, *, own: Iterable[KeySource] = ()
) -> TokenRouter:
    """The verifier over everything configured.

    Args:
        specs: other people's issuers.
        defaults: rules for all issuers.
        outside: shared by the sources that fetch; the caller that made `fetcher` closes it.
        own: our key rings (the provider's; the end-to-end one only where test identities may be).

    Raises:
        ConfigError: with every problem of every issuer.
    """
    sources: list[KeySource] = list(own)
    opaque: list[OpaqueSource] = []
    problems: list[str] = []
    for spec in specs:
        try:
            made = _source(spec, defaults, outside)
        except ConfigError as error:
            problems += error.problems
            continue
        if isinstance(made, Introspection):
            opaque.append(made)
        else:
            sources.append(made)
        outside.read_from(made.readings)
    if len(opaque) > 1:
        problems.append("Two issuers use introspection; opaque tokens name no issuer. Keep one.")
    if problems:
        raise ConfigError(problems)
    return TokenRouter(sources, opaque=opaque[0] if opaque else None)


def _source(
    spec: IssuerSpec, defaults: ClaimDefaults, outside: Outside
) -> StaticKeys | JwksKeys | Introspection:
    claims = claim_rules(spec, defaults)
    if spec.introspection_url:
        return Introspection(
            spec.name,
            spec.introspection_url,
            spec.introspection_client,
            claims,
            fetcher=outside.fetcher,
            breakers=outside.breakers,
            on_fault=outside.on_fault,
            withheld=outside.withheld,
        )
    if spec.secret:
        return StaticKeys.from_secret(spec.secret, IssuerRules(claims=claims, algorithms=_allowed(spec)))
    if spec.public_key:
        return StaticKeys.from_text(spec.public_key, IssuerRules(claims=claims, algorithms=_allowed(spec)))
    if spec.jwks_url:
        address = constant_address(spec.jwks_url)
    elif spec.discovery:
        address = Discovery(spec.discovery, outside.fetcher).jwks_address
    else:
        raise ConfigError([f"The issuer {spec.name!r} has no source of keys. Give it one."])
    return JwksKeys(
        spec.name,
        address,
        IssuerRules(claims=claims, algorithms=_allowed(spec)),
        fetcher=outside.fetcher,
        breakers=outside.breakers,
        on_fault=outside.on_fault,
    )


def _allowed(spec: IssuerSpec) -> frozenset[str]:
    """The allowed algorithms of the key's kind. Raises ConfigError for names that are none."""
    unknown = [name for name in spec.algorithms if name not in ALGORITHMS]
    if unknown:
        raise ConfigError([f"{unknown[0]!r} is not an algorithm. Choose from {', '.join(ALGORITHMS)}."])
    if spec.secret:
        return frozenset(spec.algorithms) & SYMMETRIC if spec.algorithms else HMAC_DEFAULT
    if spec.public_key:
        # a JWK set in settings may hold symmetric keys on purpose; each key's type still decides what it serves
        return frozenset(spec.algorithms) or ASYMMETRIC_DEFAULT | HMAC_DEFAULT
    return (frozenset(spec.algorithms) or ASYMMETRIC_DEFAULT) - SYMMETRIC
