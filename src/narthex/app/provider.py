"""The embedded provider: sign-in, sessions, refresh with rotation, logging out, blocking.

A session is one sign-in: a family of refresh tokens, and the access tokens that name it. Not here: HTTP
(`web/auth.py`), keys (`adapters/tokens/signing.py`), sign-in with another OIDC provider (`app/sign_in.py`). Rules:
refresh tokens are kept as hashes; a used one that comes again ends its session; a session ends as a whole, access
tokens and live sockets included; a refresh reads the source of users again and gives the current rights; a wrong
password and an unknown account get one answer in one time; no log contains a password or a token.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from narthex.app.attempts import Attempts, PendingAttempts
from narthex.app.revocations import Revocations
from narthex.domain.addresses import bucket
from narthex.domain.identity import DEFAULT_TENANT, E2E_TENANT, PROBE_TENANT, Identity
from narthex.domain.plans import FALLBACK_PLAN
from narthex.domain.secrets import fingerprint
from narthex.domain.trust import Binding
from narthex.domain.verdict import Unavailable, Valid, Verdict
from narthex.errors import ConfigError, DependencyError
from narthex.ports.credentials import Credentials, RefreshToken, User
from narthex.ports.later import settled
from narthex.ports.tokens import PasswordHashes, TokenMint, TokenVerifier

FAILED_WINDOW_S: Final = 60
OF_ADDRESS_AT_ACCOUNT: Final = 5  # failed sign-ins in the window
OF_ADDRESS_AT_ALL: Final = 30
OF_ALL_AT_ACCOUNT: Final = 50  # slows a botnet; meanwhile the owner's own sign-in may be refused
ACCESS_TTL_S: Final = 3_600.0
REFRESH_TTL_S: Final = 30 * 86_400.0
REUSE_GRACE_S: Final = 10.0  # two tabs with one cookie refresh at once; only for cookies, see `refresh`
MAX_EMAIL_LENGTH: Final = 254  # RFC 5321 section 4.5.3.1.3
MAX_NAME_LENGTH: Final = 128
OIDC_SESSION_S: Final = 12 * 3_600.0  # a working day; then the OpenID provider authenticates the user again

# The authority that authenticated a session's user, as kept with its refresh tokens.
BY_NOBODY: Final = "open"
UNAVAILABLE: Final = "unavailable"
"""The result of a sign-in or refresh that an engine or the issuer kept from its end."""
BY_PASSWORD: Final = "password"  # noqa: S105 - the name of a source; with a fingerprint of the hash after `:`
BY_OIDC: Final = "oidc"  # with the issuer after `:`


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user from settings. `password_hash` is argon2id as `narthex auth hash` prints it."""

    email: str
    password_hash: str = ""
    name: str = ""
    tenant: str = DEFAULT_TENANT
    plan: str = "free"
    permissions: tuple[str, ...] = ()


class ProviderPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's policy, which wiring makes from the settings.

    Attributes:
        open_login: any e-mail without a password (development and testing, when no accounts are configured).
        accounts: the users who may sign in otherwise.
        plan: of users who sign in openly.
        permissions: of users who sign in openly.
        access_ttl_s: life of an access token.
        refresh_ttl_s: life of a refresh token; each use gives a new one.
        environment: in which sessions are made; sessions of another environment do not count here.
        oidc_issuer: its users sign in through `SignIn`; empty: no issuer.
        oidc_binding: the tenants and rights that this issuer may give.
        oidc_session_s: how long a session of this issuer's users lasts.
    """

    open_login: bool
    accounts: tuple[Account, ...] = ()
    plan: str = "free"
    permissions: tuple[str, ...] = ("chat",)
    access_ttl_s: float = ACCESS_TTL_S
    refresh_ttl_s: float = REFRESH_TTL_S
    environment: str = ""
    oidc_issuer: str = ""
    oidc_binding: Binding = Binding()
    oidc_session_s: float = OIDC_SESSION_S


class UserSession(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a sign-in or a refresh. `refresh_token` is empty when the old one stays valid."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no session: `login_failed`, `refresh_invalid`, `account_blocked`, `rate_limited`, `bad_request`."""

    code: str
    detail: str
    retry_after_s: int = 0


class Provider:
    """See the module.

    Args:
        credentials: users and refresh tokens.
        mint: signs access tokens.
        verifier: verifies access tokens (for introspection); the router that the gateway uses.
        passwords: argon2id.
        revocations: logging out and blocking end tokens by it.
        policy: see `ProviderPolicy`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        mint: TokenMint,
        verifier: TokenVerifier,
        passwords: PasswordHashes,
        revocations: Revocations,
        policy: ProviderPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.mint = mint
        self.policy = policy
        # By `ok`, the code of the refusal, or `UNAVAILABLE`; sign-ins also by `password`, `open` or `oidc`.
        self.refreshes: Counter[str] = Counter()
        self.sign_ins: Counter[tuple[str, str]] = Counter()
        self._credentials = credentials
        self._verifier = verifier
        self._passwords = passwords
        self._revocations = revocations
        self._clock = clock
        self._accounts = {account.email.lower(): account for account in policy.accounts}
        self._per_account = Attempts(OF_ADDRESS_AT_ACCOUNT, FAILED_WINDOW_S)
        self._pending_attempts = PendingAttempts(
            self._per_account,
            Attempts(OF_ALL_AT_ACCOUNT, FAILED_WINDOW_S),
            Attempts(OF_ADDRESS_AT_ALL, FAILED_WINDOW_S),
            now=clock,
        )

    def failed_sign_ins(self) -> int:
        """Accounts, addresses or pairs of them with a failed sign-in lately; of at most `attempts.MAX_ENTRIES`."""
        return len(self._pending_attempts)

    @property
    def takes_passwords(self) -> bool:
        """Whether users can sign in here with an e-mail; else only through another provider."""
        return self.policy.open_login or bool(self._accounts)

    async def start(self, *, verify_mint: bool = True) -> None:
        """Store the accounts of settings, and check that a token minted here is admitted here.

        Args:
            verify_mint: False where the embedding program brought a verifier of its own.

        Raises:
            ConfigError: the keys do not match, or an account is invalid.
            DependencyError: the store does not answer.
        """
        for account in self._accounts.values():
            if account.tenant in {E2E_TENANT, PROBE_TENANT}:
                raise ConfigError(
                    [f"The user {account.email} cannot be in tenant {account.tenant!r}. Choose another."]
                )
            await self._keep_account(account)
        if verify_mint:
            await mint_and_verify(self.mint, self._verifier, self._clock())

    # -- sign in -------------------------------------------------------------------------------------------

    async def login(self, email: str, password: str, *, name: str = "", address: str) -> UserSession | Denied:
        """Sign in with an e-mail and, unless `open_login`, a password.

        Args:
            email: compared in lower case.
            password: ignored where login is open.
            name: for display, only where login is open.
            address: the client's, for the limits.

        Raises:
            DependencyError: the store does not answer, or too many sign-ins wait.
        """
        method = "open" if self.policy.open_login else "password"
        return await self.count_sign_in(method, self._login(email, password, name, address))

    async def count_sign_in(
        self, method: str, signing_in: Awaitable[UserSession | Denied]
    ) -> UserSession | Denied:
        """Await a sign-in and count its outcome."""
        return await _counted(signing_in, lambda result: self.sign_ins.update([(method, result)]))

    async def _login(self, email: str, password: str, name: str, address: str) -> UserSession | Denied:
        email = email.strip().lower()
        if not 3 <= len(email) <= MAX_EMAIL_LENGTH or "@" not in email[1:-1] or not email.isprintable():
            return Denied(code="bad_request", detail="`email` is not an e-mail address.")
        if self.policy.open_login:
            return await self._begin(await self._keep_open(email, name), BY_NOBODY)
        return await self._login_with_password(email, password, address)

    async def _login_with_password(self, email: str, password: str, address: str) -> UserSession | Denied:
        place = bucket(address)
        async with self._pending_attempts.attempt(f"{place} {email}", email, place) as attempt:
            if attempt.wait_s > 0:
                return Denied(
                    code="rate_limited",
                    detail="Too many failed sign-ins.",
                    retry_after_s=int(attempt.wait_s) + 1,
                )
            account = self._accounts.get(email)
            right = await self._passwords.verify(account.password_hash if account else "", password)
            if account is None or not right:
                return Denied(code="login_failed", detail="The e-mail or the password is wrong.")
            attempt.right = True
        self._per_account.succeeded(f"{place} {email}")
        return await self._begin(await self._keep_account(account), _by_password(account))

    async def begin_for(self, user: User, issuer: str) -> UserSession | Denied:
        """A session for a user whom the OpenID provider `issuer` authenticated."""
        return await self._begin(await self._credentials.upsert_user(user), f"{BY_OIDC}:{issuer}")

    async def _keep_account(self, account: Account) -> User:
        email = account.email.lower()
        return await self._keep(
            account.tenant,
            email,
            name=account.name or email.partition("@")[0],
            plan=account.plan,
            permissions=account.permissions,
            password_hash=account.password_hash,
        )

    async def _keep_open(self, email: str, name: str) -> User:
        shown = "".join(character for character in name[:MAX_NAME_LENGTH] if character.isprintable())
        return await self._keep(
            DEFAULT_TENANT,
            email,
            name=shown or email.partition("@")[0],
            plan=self.policy.plan,
            permissions=self.policy.permissions,
        )

    async def _keep(self, tenant: str, email: str, **known: Any) -> User:
        user_id = user_id_of(tenant, email)
        user = User(user_id=user_id, tenant=tenant, email=email, created_at=self._clock(), **known)
        return await self._credentials.upsert_user(user)

    async def _begin(self, user: User, source: str) -> UserSession | Denied:
        if user.blocked_at:
            return Denied(code="account_blocked", detail="The account is blocked.")
        now = self._clock()
        refresh = secrets.token_urlsafe(32)
        first = RefreshToken(
            token_hash=fingerprint(refresh),
            family=secrets.token_hex(16),
            tenant=user.tenant,
            user_id=user.user_id,
            created_at=now,
            expires_at=now + self.policy.refresh_ttl_s,
            environment=self.policy.environment,
            source=source,
            signed_in_at=now,
        )
        await self._credentials.put_refresh(first)
        return self._with_access(user, first.family, refresh)

    async def _next(self, user: User, used: RefreshToken) -> UserSession | Denied:
        """The next link of a session."""
        now = self._clock()
        refresh = secrets.token_urlsafe(32)
        link = msgspec.structs.replace(
            used,
            token_hash=fingerprint(refresh),
            created_at=now,
            expires_at=now + self.policy.refresh_ttl_s,
            used_at=0.0,
        )
        if not await self._credentials.put_refresh(link, replaces=used.token_hash):
            return _SESSION_OVER  # the session ended while this refresh was under way
        return self._with_access(user, used.family, refresh)

    def _with_access(self, user: User, family: str, refresh: str) -> UserSession:
        ttl_s = self.policy.access_ttl_s
        return UserSession(
            access_token=self.mint.mint(identity_of(user, family), ttl_s=ttl_s, now=self._clock()),
            expires_in=int(ttl_s),
            refresh_token=refresh,
            refresh_expires_in=int(self.policy.refresh_ttl_s),
            user=user,
        )

    # -- refresh -------------------------------------------------------------------------------------------

    async def refresh(
        self, refresh_token: str, *, from_cookie: bool, holder: Identity | None = None
    ) -> UserSession | Denied:
        """As `_refresh`, counted."""
        refreshing = self._refresh(refresh_token, from_cookie=from_cookie, holder=holder)
        return await _counted(refreshing, lambda result: self.refreshes.update([result]))

    async def _refresh(
        self, refresh_token: str, *, from_cookie: bool, holder: Identity | None
    ) -> UserSession | Denied:
        """Exchange a refresh token for a new one and an access token (RFC 6749 section 6, RFC 9700 section 4.14).

        A token used before ends its whole session. One exception: within `REUSE_GRACE_S`, from the cookie of
        a browser (whose tabs share it and may race), it gives an access token and no new refresh token.

        Args:
            refresh_token: unparsed.
            from_cookie: it came from a browser's cookie.
            holder: the user of the session's cookie beside it, expired or not; None: there is none. Another user's
                refresh token beside it was planted.
        """
        now = self._clock()
        outcome, token = await self._credentials.use_refresh(fingerprint(refresh_token), now)
        if token is None or outcome == "unknown":
            return Denied(code="refresh_invalid", detail="The refresh token is unknown or has expired.")
        if holder is not None and (holder.tenant, holder.subject) != (token.tenant, token.user_id):
            return Denied(code="credential_conflict", detail="The refresh cookie belongs to another user.")
        raced = outcome == "reused" and from_cookie and now - token.used_at <= REUSE_GRACE_S
        if outcome == "reused" and not raced:
            await self._end(token.tenant, token.family, "a refresh token was used twice")
            return Denied(
                code="refresh_invalid",
                detail="The refresh token was already used; its session has ended. Sign in again.",
            )
        user = await self._vouched_for(token, now)
        if isinstance(user, Denied):
            await self._end(token.tenant, token.family, "the account may no longer sign in")
            return user
        return self._with_access(user, token.family, "") if raced else await self._next(user, token)

    async def _vouched_for(self, token: RefreshToken, now: float) -> User | Denied:
        """The user of a session with the current rights, or why the user could not sign in again in the same way."""
        kept = await self._credentials.user(token.tenant, token.user_id)
        if kept is None or token.environment != self.policy.environment:
            return _SESSION_OVER
        if kept.blocked_at:
            return Denied(code="account_blocked", detail="The account is blocked.")
        by, _, mark = token.source.partition(":")
        if by == BY_NOBODY and self.policy.open_login:
            return await self._keep_open(kept.email, kept.name)
        if by == BY_PASSWORD:
            account = self._accounts.get(kept.email)
            if (
                account is not None
                and account.tenant == token.tenant
                and token.source == _by_password(account)
            ):
                return await self._keep_account(account)
        if by == BY_OIDC and mark == self.policy.oidc_issuer and self.policy.oidc_issuer:
            return self._bound(kept, token, now)
        return _SESSION_OVER

    def _bound(self, kept: User, token: RefreshToken, now: float) -> User | Denied:
        """A user of the OpenID issuer, with the tenants and rights that its binding allows now."""
        binding = self.policy.oidc_binding
        if now - token.signed_in_at >= self.policy.oidc_session_s:
            return Denied(
                code="refresh_invalid", detail="The session has ended; sign in with your provider again."
            )
        if binding.tenant not in ("", kept.tenant) or not binding.may_name(kept.tenant):
            return _SESSION_OVER
        return msgspec.structs.replace(
            kept,
            permissions=binding.granted(kept.permissions, kept.tenant),
            plan=kept.plan if binding.may_plan(kept.plan) else FALLBACK_PLAN,
        )

    # -- ending --------------------------------------------------------------------------------------------

    async def logout(self, identity: Identity | None, refresh_token: str) -> None:
        """End a session, by any token of it: every access and refresh token of the sign-in. Raises DependencyError."""
        if refresh_token:
            await self._end_by_refresh(refresh_token, "logout")
        if identity is not None:
            await self._end_by_access(identity, "logout")

    async def revoke(self, token: str) -> None:
        """RFC 7009: end what `token` gives, a refresh or an access token; unknown ones change nothing."""
        if await self._end_by_refresh(token, "revoked by its holder"):
            return
        verdict = await self._verify(token)
        if isinstance(verdict, Valid):
            await self._end_by_access(verdict.identity, "revoked by its holder")

    async def _end_by_refresh(self, refresh_token: str, reason: str) -> bool:
        _, token = await self._credentials.use_refresh(fingerprint(refresh_token), self._clock())
        if token is None:
            return False
        await self._end(token.tenant, token.family, reason)
        return True

    async def _end_by_access(self, identity: Identity, reason: str) -> None:
        if identity.session:
            await self._end(identity.tenant, identity.session, reason)
        else:
            await self._revocations.revoke_token(identity, reason=reason)

    async def _end(self, tenant: str, family: str, reason: str) -> None:
        """End a session. Its refresh tokens first: a token minted after that is of another session."""
        await self._credentials.revoke_family(family)
        await self._revocations.revoke_session(
            tenant, family, max_ttl_s=self.policy.access_ttl_s, reason=reason
        )

    async def block_user(self, tenant: str, user_id: str, *, blocked: bool, reason: str) -> bool:
        """Block a user everywhere within a second (tokens, refresh, sign-in), or end the block; both are recorded.

        Returns:
            Whether the embedded provider knows the user; other issuers' tokens are blocked by their subject all the
            same. Of the end of a block: whether there was a user or a block.
        """
        now = self._clock()
        known = await self._credentials.block_user(tenant, user_id, now if blocked else 0.0)
        if blocked:
            await self._credentials.revoke_user_refresh(tenant, user_id)
            await self._revocations.revoke_subject(tenant, user_id, until=_FOR_GOOD, reason=reason)
            return known
        return await self._revocations.allow_subject(tenant, user_id, reason=reason) or known

    # -- asking --------------------------------------------------------------------------------------------

    async def introspect(self, token: str) -> dict[str, object]:
        """RFC 7662 section 2.2: `{"active": false}`, or the token's claims.

        Raises:
            DependencyError: the token cannot be checked right now (never answered as inactive).
        """
        verdict = await self._verify(token)
        if not isinstance(verdict, Valid) or self._revocations.covers(verdict.identity):
            return {"active": False}
        identity = verdict.identity
        found: dict[str, object] = {
            "active": True,
            "sub": identity.subject,
            "iss": identity.issuer,
            "token_type": "Bearer",
            "tenant": identity.tenant,
            "plan": identity.plan,
            "scope": " ".join(identity.permissions),
        }
        if identity.name:
            found["name"] = identity.name
        if identity.token_id:
            found["jti"] = identity.token_id
        if identity.expires_at is not None:
            found["exp"] = int(identity.expires_at)
        if identity.issued_at is not None:
            found["iat"] = int(identity.issued_at)
        if identity.e2e:
            found |= {"e2e": True, "test_run": identity.test_run}
        return found

    async def _verify(self, token: str) -> Verdict:
        verdict: Verdict = await settled(self._verifier.verify(token, now=self._clock(), traffic="user"))
        if isinstance(verdict, Unavailable):
            raise DependencyError("auth", "The token cannot be verified right now.", "Try again shortly.")
        return verdict


_FOR_GOOD: Final = 253_402_300_799.0  # the end of the year 9999: a block ends when an operator ends it


def user_id_of(tenant: str, email: str) -> str:
    """A subject that is the same on every data directory and reveals nothing about the user."""
    return "u-" + hashlib.sha256(f"{tenant}\0{email}".encode()).hexdigest()[:20]


_SESSION_OVER: Final = Denied(code="refresh_invalid", detail="The session has ended; sign in again.")


async def _counted(
    work: Awaitable[UserSession | Denied], count: Callable[[str], None]
) -> UserSession | Denied:
    """Await a sign-in or refresh, and count its result: `ok`, the refusal's code, or `UNAVAILABLE`."""
    try:
        outcome = await work
    except Exception:
        count(UNAVAILABLE)
        raise
    count(outcome.code if isinstance(outcome, Denied) else "ok")
    return outcome


def _by_password(account: Account) -> str:
    """The source of sessions of an account; a new password makes another one, which ends the sessions before."""
    return f"{BY_PASSWORD}:{fingerprint(account.password_hash)[:16]}"


def identity_of(user: User, session: str) -> Identity:
    """The identity of an access token of `user` in a session."""
    return Identity(
        subject=user.user_id,
        tenant=user.tenant,
        plan=user.plan,
        permissions=user.permissions,
        name=user.name,
        session=session,
    )


async def mint_and_verify(mint: TokenMint, verifier: TokenVerifier, now: float) -> None:
    """At start-up: check that a token minted here is admitted here, through everything that is configured.

    Raises:
        ConfigError: it is not admitted: another issuer has the same name, or the keys do not match.
    """
    token = mint.mint(Identity(subject="start-up-check"), ttl_s=60, now=now)
    verdict: Verdict = await settled(verifier.verify(token, now=now, traffic="user"))
    if not isinstance(verdict, Valid):
        code = verdict.cause if isinstance(verdict, Unavailable) else verdict.code
        problem = f"A token of the embedded provider (issuer {mint.issuer!r}) is not admitted here: {code}."
        raise ConfigError(
            [f"{problem} Give every configured issuer its own `iss`, or turn the provider off."]
        )
