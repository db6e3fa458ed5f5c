"""Whose tokens count: one source a configured issuer, the embedded provider's ring, the test identities' ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narthex.adapters.tokens.claims import ClaimNames, ClaimRules
from narthex.adapters.tokens.judgement import IssuerRules
from narthex.adapters.tokens.router import E2E_ISSUER, PROVIDER_ISSUER, TokenRouter
from narthex.adapters.tokens.signing import KeyRing
from narthex.adapters.tokens.sources import KeySource
from narthex.adapters.tokens.static_keys import StaticKeys
from narthex.ports.credentials import Credentials
from narthex.settings import IssuerSettings, Settings
from narthex.settings.tables import HMAC_ALGORITHMS, PUBLIC_KEY_ALGORITHMS


class Tokens(NamedTuple):
    """What wiring makes of the token settings."""

    verifier: TokenRouter
    provider_keys: KeyRing | None
    e2e_keys: KeyRing | None


def make_tokens(settings: Settings, credentials: Credentials, now: Callable[[], float]) -> Tokens:
    """Sources in the order of the settings; the rings last. Raises ConfigError for an unusable key."""
    rules = _claim_rules(settings)
    sources: list[KeySource] = [make_source(settings, issuer) for issuer in settings.all_issuers()]
    provider_keys: KeyRing | None = None
    if settings.provider_enabled:
        provider_keys = KeyRing(
            credentials,
            "provider",
            issuer=settings.public_url or PROVIDER_ISSUER,
            aliases=(PROVIDER_ISSUER,),
            rules=rules,
            clock=now,
        )
        sources.append(provider_keys)
    e2e_keys: KeyRing | None = None
    if settings.policy.auth_bypass_active:  # never in production: the issuer is not even known there
        e2e_keys = KeyRing(
            credentials, "e2e", issuer=E2E_ISSUER, rules=_claim_rules(settings, allow_e2e=True), clock=now
        )
        sources.append(e2e_keys)
    return Tokens(TokenRouter(sources), provider_keys, e2e_keys)


def make_source(settings: Settings, issuer: IssuerSettings) -> KeySource:
    """The key source of one configured issuer."""
    names = ClaimNames(**issuer.claims.model_dump())
    claims = _claim_rules(settings, issuer, names, allow_e2e=settings.policy.auth_bypass_active)
    if issuer.secret is not None:
        algorithms = frozenset(issuer.algorithms or ("HS256",))
        rules = IssuerRules(claims=claims, algorithms=algorithms & frozenset(HMAC_ALGORITHMS))
        return StaticKeys.from_secret(issuer.secret.get_secret_value(), rules)
    public = IssuerRules(
        claims=claims,
        algorithms=frozenset(issuer.algorithms or ("RS256", "ES256", "EdDSA")) & frozenset(PUBLIC_KEY_ALGORITHMS),
    )
    assert issuer.public_key is not None
    return StaticKeys.from_text(issuer.public_key, public)


def _claim_rules(
    settings: Settings,
    issuer: IssuerSettings | None = None,
    names: ClaimNames | None = None,
    *,
    allow_e2e: bool = False,
) -> ClaimRules:
    return ClaimRules(
        issuer=(issuer.issuer or "") if issuer else "",
        audiences=tuple(issuer.audience) if issuer else (),
        fixed_tenant=(issuer.tenant or "") if issuer else "",
        leeway_s=settings.jwt_leeway_s,
        plans=frozenset(settings.plan_table()),
        allow_e2e=allow_e2e,
        names=names or ClaimNames(),
    )
