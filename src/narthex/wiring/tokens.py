"""Assembles the trusted token sources: one a configured issuer, the provider's keys, the test identities' keys.

Not here: verifying tokens (`adapters/tokens`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.tokens.assembly import ClaimDefaults, IssuerSpec, Outside, build_router
from narthex.adapters.tokens.breaker import BreakerBoard
from narthex.adapters.tokens.claims import ClaimNames, ClaimRules
from narthex.adapters.tokens.fetching import Fetcher
from narthex.adapters.tokens.router import E2E_ISSUER, PROVIDER_ISSUER, TokenRouter
from narthex.adapters.tokens.signing import SESSION_CLAIM, KeyRing
from narthex.app.e2e import Admissions, KeyProofs
from narthex.app.exchange import CiOidc, TokenExchange
from narthex.domain.secrets import Lookalikes
from narthex.domain.trust import Binding
from narthex.errors import NarthexError
from narthex.ports.breaker import BreakerChange
from narthex.ports.credentials import Credentials
from narthex.ports.telemetry import Meter
from narthex.settings import IssuerSettings, Settings
from narthex.settings.trust import trust_of

log = get_logger("narthex.tokens")


class Tokens(NamedTuple):
    """The token parts made from settings. `ci` verifies CI's own tokens, None where there is no issuer."""

    verifier: TokenRouter
    fetcher: Fetcher
    breakers: BreakerBoard
    outside: Outside
    provider_keys: KeyRing | None
    e2e_keys: KeyRing
    ci: TokenRouter | None


def make_exchange(
    settings: Settings,
    tokens: Tokens,
    proofs: KeyProofs,
    admissions: Admissions,
    meter: Meter,
    now: Callable[[], float],
) -> TokenExchange:
    """The exchange of an end-to-end key, or of CI's own token, for the token of a test identity."""
    ci = None
    if tokens.ci is not None and settings.e2e_oidc_subject:
        ci = CiOidc(tokens.ci, settings.e2e_oidc_subject)
    return TokenExchange(
        environment=settings.policy.environment,
        proofs=proofs,
        mint=tokens.e2e_keys,
        admissions=admissions,
        ci=ci,
        meter=meter,
        clock=now,
    )


def make_tokens(
    settings: Settings,
    credentials: Credentials,
    meter: Meter,
    now: Callable[[], float],
    on_withdrawn: Callable[[frozenset[str]], None] = lambda _: None,
) -> Tokens:
    """Third-party issuers and our own key rings. Raises ConfigError for unusable keys.

    `on_withdrawn` takes the names of our own keys that are accepted no longer.
    """
    bypass = settings.policy.auth_bypass_active
    e2e_permissions = tuple(settings.e2e_permissions)
    defaults = ClaimDefaults(
        leeway_s=settings.jwt_leeway_s,
        plans=frozenset(settings.plan_table()),
        allow_e2e=bypass,
        e2e_permissions=e2e_permissions,
    )
    trust = trust_of(settings, remote=settings.policy.environment.remote)
    fetcher = Fetcher()
    secrets = (*settings.admin_keys(), *settings.metrics_tokens(), *settings.e2e_keys())
    breakers = BreakerBoard(meter, _breaker_changed)
    outside = Outside(
        fetcher,
        breakers,
        _fetch_failed,
        Lookalikes(secrets),
        meter.read_from,
    )
    provider_keys: KeyRing | None = None
    if settings.provider_enabled:
        provider_keys = KeyRing(
            credentials,
            "provider",
            issuer=settings.base_url or PROVIDER_ISSUER,
            aliases=(PROVIDER_ISSUER,),
            rules=provider_rules(settings, trust.provider),
            clock=now,
            on_withdrawn=on_withdrawn,
        )
    e2e_keys = KeyRing(
        credentials,
        "e2e",
        issuer=E2E_ISSUER,
        rules=ClaimRules(
            leeway_s=defaults.leeway_s,
            plans=defaults.plans,
            allow_e2e=True,
            only_e2e=True,
            e2e_permissions=e2e_permissions,
        ),
        clock=now,
        on_withdrawn=on_withdrawn,
    )
    # Never in production: the tokens of a ring that is no source come from an unknown issuer.
    for ring in (provider_keys, e2e_keys):
        if ring is not None:
            meter.read_from(ring.readings)
    own = [ring for ring in (provider_keys, e2e_keys if bypass else None) if ring is not None]
    specs = [
        _spec(issuer, binding) for issuer, binding in zip(settings.all_issuers(), trust.issuers, strict=True)
    ]
    verifier = build_router(specs, defaults, outside, own=own)
    ci: TokenRouter | None = None
    if bypass and settings.e2e_oidc_issuer:
        spec = IssuerSpec(
            name="ci", discovery=settings.e2e_oidc_issuer, audience=tuple(settings.e2e_oidc_audience)
        )
        ci = build_router([spec], defaults, outside)
    return Tokens(verifier, fetcher, breakers, outside, provider_keys, e2e_keys, ci)


def provider_rules(settings: Settings, binding: Binding) -> ClaimRules:
    """The rules of our own tokens: those of sessions and of `narthex token`."""
    return ClaimRules(
        leeway_s=settings.jwt_leeway_s,
        plans=frozenset(settings.plan_table()),
        binding=binding,
        environment=settings.environment,
        session_claim=SESSION_CLAIM,
    )


def _spec(issuer: IssuerSettings, binding: Binding) -> IssuerSpec:
    return IssuerSpec(
        name=issuer.name,
        issuer=issuer.issuer or "",
        audience=tuple(issuer.audience),
        audience_claim=issuer.audience_claim,
        algorithms=tuple(issuer.algorithms),
        secret=issuer.secret.get_secret_value() if issuer.secret else "",
        public_key=issuer.public_key or "",
        jwks_url=issuer.jwks_url or "",
        discovery=issuer.discovery or "",
        introspection_url=issuer.introspection_url or "",
        introspection_client=(
            issuer.introspection_client_id or "",
            issuer.introspection_client_secret.get_secret_value()
            if issuer.introspection_client_secret
            else "",
        ),
        binding=binding,
        permission_names=dict(issuer.permission_names),
        claims=ClaimNames(**issuer.claims.model_dump()),
    )


def _breaker_changed(change: BreakerChange) -> None:
    log.warning(
        "breaker",
        dependency=change.dependency,
        traffic=change.traffic,
        before=change.before,
        after=change.after,
        reason=change.reason,
    )


def _fetch_failed(issuer: str, fault: NarthexError) -> None:
    log.warning("key fetch failed", issuer=issuer, code=fault.code, detail=fault.message, remedy=fault.remedy)


def make_issuer(settings: Settings, issuer: IssuerSettings, meter: Meter) -> tuple[TokenRouter, Fetcher]:
    """One configured issuer alone, and its fetcher (`narthex check --connect`). Raises ConfigError."""
    return _without_store(settings, [_spec(issuer, Binding())], meter)


def make_issuers(settings: Settings, meter: Meter) -> tuple[TokenRouter, Fetcher]:
    """Every configured issuer as a gateway trusts it, and their fetcher, for a process without a store.

    Raises ConfigError. Not among them: the embedded provider and test identities, whose keys are in the store.
    """
    trust = trust_of(settings, remote=settings.policy.environment.remote)
    issuers = zip(settings.all_issuers(), trust.issuers, strict=True)
    return _without_store(settings, [_spec(issuer, binding) for issuer, binding in issuers], meter)


def _without_store(settings: Settings, specs: list[IssuerSpec], meter: Meter) -> tuple[TokenRouter, Fetcher]:
    fetcher = Fetcher()
    defaults = ClaimDefaults(leeway_s=settings.jwt_leeway_s, plans=frozenset(settings.plan_table()))
    withheld = Lookalikes((*settings.admin_keys(), *settings.metrics_tokens(), *settings.status_tokens()))
    breakers = BreakerBoard(meter, _breaker_changed)
    outside = Outside(fetcher, breakers, _fetch_failed, withheld, meter.read_from)
    return build_router(specs, defaults, outside), fetcher
