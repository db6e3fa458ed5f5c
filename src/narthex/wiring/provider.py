"""Makes the embedded provider from settings, for the gateway and for `narthex auth serve`.

Not here: the provider itself (`app/provider`), its routes (`web/auth`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from narthex.adapters.tokens.assembly import Outside
from narthex.adapters.tokens.claims import ClaimNames, ClaimRules
from narthex.adapters.tokens.code_flow import CodeFlow
from narthex.adapters.tokens.passwords import MAX_WAITING, Argon2Passwords
from narthex.adapters.tokens.verification import ASYMMETRIC_DEFAULT, IssuerRules
from narthex.app.buffers import buffer_readings
from narthex.app.provider import Account, Provider, ProviderPolicy
from narthex.app.revocations import Revocations
from narthex.domain.trust import Binding
from narthex.ports.credentials import Credentials
from narthex.ports.telemetry import Meter
from narthex.ports.tokens import TokenMint, TokenVerifier
from narthex.settings import Settings
from narthex.settings.trust import trust_of


def make_provider(
    settings: Settings,
    *,
    credentials: Credentials,
    mint: TokenMint,
    verifier: TokenVerifier,
    revocations: Revocations,
    meter: Meter,
    clock: Callable[[], float] = time.time,
) -> Provider:
    """The provider. Any e-mail may sign in where development is and no users are configured; else configured users."""
    passwords = Argon2Passwords()
    meter.read_from(partial(buffer_readings, [("password_queue", lambda: passwords.waiting, MAX_WAITING)]))
    remote = settings.policy.environment.remote
    signs_in_elsewhere = bool(settings.oidc_client_id and settings.oidc_issuer)
    accounts = tuple(
        Account(
            email=user.email,
            password_hash=user.password_hash.get_secret_value() if user.password_hash else "",
            name=user.name,
            tenant=user.tenant,
            plan=user.plan,
            permissions=tuple(user.permissions),
        )
        for user in settings.users
    )
    return Provider(
        credentials=credentials,
        mint=mint,
        verifier=verifier,
        passwords=passwords,
        revocations=revocations,
        policy=ProviderPolicy(
            open_login=settings.open_login,
            accounts=accounts,
            environment=settings.environment,
            oidc_issuer=(settings.oidc_issuer or "") if signs_in_elsewhere else "",
            oidc_binding=trust_of(settings, remote=remote).issuers[0] if signs_in_elsewhere else Binding(),
        ),
        clock=clock,
    )


def make_code_flow(settings: Settings, outside: Outside) -> CodeFlow | None:
    """Sign-in with the configured OIDC provider; None where no client id is set."""
    if not settings.oidc_client_id or not settings.oidc_issuer:
        return None
    issuer = settings.flat_issuer()
    trust = trust_of(settings, remote=settings.policy.environment.remote)
    claims = ClaimRules(
        leeway_s=settings.jwt_leeway_s,
        plans=frozenset(settings.plan_table()),
        names=ClaimNames(**issuer.claims.model_dump()),
        binding=trust.issuers[0],
    )
    return CodeFlow(
        issuer.name,
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else "",
        IssuerRules(claims=claims, algorithms=frozenset(issuer.algorithms) or ASYMMETRIC_DEFAULT),
        fetcher=outside.fetcher,
        breakers=outside.breakers,
    )
