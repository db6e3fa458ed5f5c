"""The embedded provider from settings, for the gateway and for `narthex auth serve`."""

from __future__ import annotations

import time
from collections.abc import Callable

from narthex.adapters.tokens.passwords import Argon2Passwords
from narthex.app.provider import Account, Provider, ProviderPolicy
from narthex.app.revocations import Revocations
from narthex.ports.credentials import Credentials
from narthex.ports.tokens import TokenMint, TokenVerifier
from narthex.settings import Settings


def make_provider(
    settings: Settings,
    *,
    credentials: Credentials,
    mint: TokenMint,
    verifier: TokenVerifier,
    revocations: Revocations,
    clock: Callable[[], float] = time.time,
) -> Provider:
    """Anybody may sign in where development is and no users are configured; else the configured users."""
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
        passwords=Argon2Passwords(),
        revocations=revocations,
        policy=ProviderPolicy(
            open_login=not accounts and not settings.policy.environment.remote, accounts=accounts
        ),
        clock=clock,
    )
