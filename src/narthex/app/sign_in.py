"""Sign-in with another OIDC provider: the state between redirect and return, and the local account.

Not here: the exchange (`adapters/tokens/code_flow.py`), HTTP (`web/oidc.py`). Rules: state, nonce and code verifier
are random, live in a short-lived cookie of the browser that began, which only we can make, and serve once; a user who
merely has the same e-mail at the provider does not take over an account of ours.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from narthex.app.provider import Denied, Provider, UserSession
from narthex.domain.identity import E2E_TENANT
from narthex.domain.secrets import equal, fingerprint
from narthex.domain.verdict import Rejected, Unavailable
from narthex.errors import DependencyError
from narthex.ports.credentials import Credentials, User
from narthex.ports.sign_in import IdentityProvider, SignedInUser

STATE_TTL_S: Final = 600  # as long as users take to find their second factor
MAX_COOKIE_BYTES: Final = 4_096
MAX_NEXT_PATH: Final = 512


class SignInAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One browser's sign-in under way; it lives in its cookie, sealed by `SignIn`."""

    state: str
    nonce: str
    verifier: str
    next_path: str


@dataclass(eq=False)
class SignIn:
    """See the module.

    Attributes:
        provider: begins the session here.
        elsewhere: the other OIDC provider.
        credentials: stores accounts.
        clock: seconds since the epoch.
    """

    provider: Provider
    elsewhere: IdentityProvider
    credentials: Credentials
    _: KW_ONLY
    clock: Callable[[], float] = time.time

    async def begin(self, *, redirect_uri: str, next_path: str) -> tuple[str, str]:
        """Returns the URL for the browser, and the value of its cookie. Raises DependencyError."""
        attempt = SignInAttempt(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            next_path=next_path if len(next_path) <= MAX_NEXT_PATH else "/",
        )
        challenge = (
            urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        )
        url = await self.elsewhere.authorization_url(
            redirect_uri=redirect_uri, state=attempt.state, nonce=attempt.nonce, challenge=challenge
        )
        values = msgspec.to_builtins(attempt)
        return url, self.provider.mint.seal(values, ttl_s=STATE_TTL_S, now=self.clock())

    def attempt_of(self, cookie: str) -> SignInAttempt | None:
        """The sign-in in a browser's cookie; None when it is not ours, altered, or too old."""
        if not cookie or len(cookie) > MAX_COOKIE_BYTES:
            return None
        values = self.provider.mint.unseal(cookie, self.clock())
        try:
            return None if values is None else msgspec.convert(values, SignInAttempt)
        except msgspec.ValidationError:
            return None

    async def finish(
        self, attempt: SignInAttempt | None, *, state: str, code: str, issuer: str, redirect_uri: str
    ) -> UserSession | Denied:
        """As `_finish`, counted."""
        return await self.provider.count_sign_in(
            "oidc", self._finish(attempt, state, code, issuer, redirect_uri)
        )

    async def _finish(
        self, attempt: SignInAttempt | None, state: str, code: str, issuer: str, redirect_uri: str
    ) -> UserSession | Denied:
        """Finish after the redirect back: check the state, redeem the code, begin a session here.

        Args:
            attempt: from the browser's cookie.
            state: the query's.
            code: the query's; empty when the provider sent an error instead.
            issuer: the query's `iss` (RFC 9207), empty when there is none.
            redirect_uri: the same as at the beginning.

        Raises:
            DependencyError: the provider or the store does not answer.
        """
        now = self.clock()
        if attempt is None or not state or not equal(state, attempt.state):
            return Denied(
                code="login_failed", detail="The sign-in did not start in this browser, or took too long."
            )
        if issuer and issuer != self.elsewhere.issuer:
            return Denied(code="login_failed", detail="A different provider answered. Start again.")
        if not await self.credentials.spend(fingerprint(f"journey:{attempt.state}"), now + STATE_TTL_S):
            return Denied(code="login_failed", detail="This sign-in was already completed. Start a new one.")
        if not code:
            return Denied(code="login_failed", detail="The provider did not sign in a user.")
        outcome = await self.elsewhere.redeem(
            code, redirect_uri=redirect_uri, verifier=attempt.verifier, nonce=attempt.nonce, now=now
        )
        if isinstance(outcome, Unavailable):
            raise DependencyError(
                "auth",
                "The provider cannot be reached right now.",
                "Try again.",
                retry_after_s=outcome.retry_after_s,
            )
        if isinstance(outcome, Rejected):
            return Denied(code="login_failed", detail=outcome.detail or "The provider's answer is not valid.")
        if outcome.identity.tenant == E2E_TENANT:
            return Denied(code="login_failed", detail="Test identities cannot sign in on the pages.")
        return await self.provider.begin_for(await self._account(outcome), self.elsewhere.issuer)

    async def _account(self, person: SignedInUser) -> User:
        """The account of the same subject, so that the provider's own tokens and this session are one user."""
        identity = person.identity
        known = await self.credentials.user(identity.tenant, identity.subject)
        email = known.email if known is not None else await self._free_email(person)
        return User(
            user_id=identity.subject,
            tenant=identity.tenant,
            email=email,
            name=identity.name or email.partition("@")[0],
            plan=identity.plan,
            permissions=identity.permissions,
            created_at=self.clock(),
        )

    async def _free_email(self, person: SignedInUser) -> str:
        """The verified e-mail if no account has it yet, else a stand-in: an e-mail alone must not take an account."""
        tenant, email = person.identity.tenant, person.email.lower()
        if email and await self.credentials.user_by_email(tenant, email) is None:
            return email
        issuer = self.elsewhere.issuer
        digest = hashlib.sha256(f"{issuer}\0{person.identity.subject}".encode()).hexdigest()[:24]
        return f"{digest}@{urlsplit(issuer).hostname}"
