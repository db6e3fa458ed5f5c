"""Authorises callers of the server API, at two levels, and scrapers of `/metrics`.

The process's operator (the admin key, or a token with the permission `operator`) may do what concerns every tenant:
statistics, draining, all results. A tenant's administrator (the admin key, or a token with `admin`) may do what
concerns that tenant. Not here: verifying tokens (the handshake handler does). Rules: the admin key administers every
tenant, a token only its own; a test identity is never an operator; a wrong key is refused like any wrong credential,
and further attempts from its address are slowed down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.requests import Request

from narthex.app.attempts import WRONG_KEYS, WRONG_KEYS_WINDOW_S, Attempts, PendingAttempts
from narthex.domain.addresses import bucket
from narthex.domain.identity import ADMIN, Identity
from narthex.domain.refusals import Refusal, rate_limited
from narthex.domain.secrets import any_equal
from narthex.web.fields import bearer

Authenticate = Callable[[Request], Awaitable[Identity | Refusal]]


class Operator(NamedTuple):
    """An authorised caller: `tenant` is the only tenant that it may act on; None: any."""

    tenant: str | None
    name: str


class Access:
    """Authorises requests; see the module.

    Args:
        admin_keys: valid keys, which may be renewed (`LiveSecrets`); empty: only tokens count.
        person: returns the user of a request's token or cookie.
        address: returns the client's address of a request.
        now: returns seconds.
        metrics_tokens: valid tokens of scrapers.
        trusted_scraper: whether a request may read `/metrics` without a token.
        origin: returns the reason why a request's origin may not use a credential here.
    """

    def __init__(
        self,
        admin_keys: Sequence[str],
        person: Authenticate,
        address: Callable[[Request], str],
        now: Callable[[], float],
        *,
        metrics_tokens: Sequence[str] = (),
        trusted_scraper: Callable[[Request], bool] = lambda _: False,
        origin: Callable[[Request], Refusal | None] = lambda _: None,
    ) -> None:
        self._origin = origin
        self._keys = admin_keys
        self._metrics_tokens = metrics_tokens
        self._trusted_scraper = trusted_scraper
        self._authenticate = person
        self._address = address
        self._now = now
        self._pending_attempts = PendingAttempts(Attempts(WRONG_KEYS, WRONG_KEYS_WINDOW_S), now=now)
        # A table of its own: a scraper with a stale token locks no operator out.
        self._wrong_scrapes = Attempts(WRONG_KEYS, WRONG_KEYS_WINDOW_S)

    def wrong_keys(self) -> int:
        """Addresses with a wrong admin key lately, of at most `attempts.MAX_ENTRIES`."""
        return len(self._pending_attempts)

    async def signed_in_user(self, request: Request) -> Identity | Refusal:
        """The signed-in user of a request."""
        return await self._authenticate(request)

    async def operator(self, request: Request) -> Operator | Refusal:
        """The operator of the whole process, or the reason why the caller is not one."""
        found = await self.caller(request)
        if isinstance(found, Operator | Refusal):
            return found
        if not found.is_operator:
            return Refusal(code="permission_denied", detail="The permission `operator` is needed.")
        return Operator(None, found.subject)

    async def administrator(self, request: Request) -> Operator | Refusal:
        """The caller as an administrator (`Operator.tenant` is its only tenant; None: any), or why it is none."""
        found = await self.caller(request)
        if isinstance(found, Operator | Refusal):
            return found
        return self._administrator(found)

    async def intervener(self, request: Request) -> Operator | Refusal:
        """The caller as one who may close connections and revoke tokens: an operator (in any tenant), else as
        `administrator`.
        """
        found = await self.caller(request)
        if isinstance(found, Operator | Refusal):
            return found
        return Operator(None, found.subject) if found.is_operator else self._administrator(found)

    @staticmethod
    def _administrator(found: Identity) -> Operator | Refusal:
        if not found.may(ADMIN):
            return Refusal(code="permission_denied", detail="The permission `admin` is needed.")
        return Operator(found.tenant, found.subject)

    async def caller(self, request: Request) -> Operator | Identity | Refusal:
        """The caller: the operator by the admin key, else the user of a token or cookie, or the reason for neither.

        A JWT has dots and an admin key has none. A credential without dots may also be an opaque token: it is verified
        as one only after it was counted as a wrong key, otherwise keys could be guessed while an issuer is away.
        Calls beyond the limit wait for those under way, because valid tokens are taken off the count again.
        """
        sent = bearer(request)
        if sent:  # `person` checks the origin itself
            refused = self._origin(request)
            if refused is not None:
                return refused
        if not sent or "." in sent:
            return await self._authenticate(request)
        async with self._pending_attempts.attempt(bucket(self._address(request))) as attempt:
            if attempt.wait_s > 0:
                return rate_limited(attempt.wait_s)
            attempt.right = _is_live(sent, self._keys)
            if attempt.right:
                return Operator(None, "admin key")
            found = await self._authenticate(request)
            attempt.right = isinstance(found, Identity)
        if isinstance(found, Refusal) and found.code in ("token_malformed", "auth_required"):
            return _wrong("The admin key is wrong.")  # no issuer here issues such tokens
        return found

    def scraper(self, request: Request) -> Refusal | None:
        """The reason why a request may not read `/metrics`; None: it may."""
        sent = bearer(request)
        refused = self._origin(request)
        if refused is not None:
            return refused
        if self._trusted_scraper(request):
            return None
        if not sent:
            detail = (
                "`/metrics` requires NARTHEX_METRICS_TOKEN as a Bearer token, or NARTHEX_TRUSTED_SCRAPERS."
            )
            return Refusal(code="auth_required", detail=detail, carriers_checked=("authorization",))
        address, now = bucket(self._address(request)), self._now()
        wait_s = self._wrong_scrapes.wait_s(address, now)
        if wait_s > 0:
            return rate_limited(wait_s)
        if _is_live(sent, (*self._metrics_tokens, *self._keys)):
            return None
        self._wrong_scrapes.failed(address, now)
        return _wrong("The metrics token is wrong.")


def _is_live(sent: str, live: Sequence[str]) -> bool:
    # Headers are latin-1 text of bytes that were UTF-8 when the key was typed.
    return any_equal(sent.encode("latin-1", "replace"), live)


def _wrong(detail: str) -> Refusal:
    return Refusal(code="token_invalid", detail=detail, carriers_checked=("authorization",))
