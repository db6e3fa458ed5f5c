"""Serves the embedded provider over HTTP: `/auth/*` and `/.well-known/*`.

Not here: the provider itself (`app/provider.py`), the end-to-end exchange, tickets, sign-in with another OIDC provider
(`web/oidc.py`). Rules: every answer that holds a token says `no-store`; the one rule for `Origin`
(`domain.origins.origin_fault`) applies, so that no foreign page can use a cookie (CSRF); bodies are bounded before
they are parsed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from narthex.app.attempts import WRONG_KEYS, WRONG_KEYS_WINDOW_S, Attempts
from narthex.app.provider import Denied, Provider, UserSession
from narthex.app.revocations import Revocations
from narthex.domain.addresses import bucket
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal, rate_limited
from narthex.domain.secrets import any_equal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import DependencyError
from narthex.ports.credentials import User
from narthex.ports.later import settled
from narthex.ports.tokens import TokenVerifier
from narthex.web.cookies import REFRESH, SESSION, Cookie, drop_cookie, only_cookie, put_cookie
from narthex.web.fields import basic_password, bearer, local_path, read_fields
from narthex.web.paths import below_root, root_path
from narthex.web.request_rules import RequestRules
from narthex.web.sign_in_problems import NO_STORE, denied, problem, refusal

JWKS_MAX_AGE_S: Final = 30  # half of the lead that a new signing key has
_PUBLIC: Final = {"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}", "Access-Control-Allow-Origin": "*"}


class AuthRoutes:
    """The routes and what they need.

    Args:
        provider: the embedded provider.
        verifier: verifies access tokens; the gateway's own.
        revocations: checked after every verdict.
        rules: the handshake handler's rules.
        service_keys: keys of callers that may introspect, as Bearer token or Basic password.
        open_introspection: any caller may introspect (development on loopback, when no key is set).
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        verifier: TokenVerifier,
        revocations: Revocations,
        rules: RequestRules,
        service_keys: Sequence[str] = (),
        open_introspection: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._provider = provider
        self._verifier = verifier
        self._revocations = revocations
        self._rules = rules
        self._service_keys = service_keys
        self._open_introspection = open_introspection
        self._wrong_keys = Attempts(WRONG_KEYS, WRONG_KEYS_WINDOW_S)
        self._clock = clock

    def routes(self) -> list[Route]:
        """All routes, for a Starlette application."""
        posts = {
            "/auth/login": self.login,
            "/auth/refresh": self.refresh,
            "/auth/logout": self.logout,
            "/auth/introspect": self.introspect,
            "/auth/revoke": self.revoke,
        }
        return [
            *(
                Route(path, self._guarded(handler), methods=["POST", "OPTIONS"])
                for path, handler in posts.items()
            ),
            Route("/auth/me", self._guarded(self.me), methods=["GET", "OPTIONS"]),
            Route("/.well-known/openid-configuration", self.configuration, methods=["GET"]),
            Route("/.well-known/jwks.json", self.jwks, methods=["GET"]),
        ]

    # -- sign in -------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """`{email, password?, name?}` as JSON or form → a session and its cookies."""
        fields = await read_fields(request)
        if fields is None or not fields.get("email"):
            return problem("bad_request", "Send `email` and, where needed, `password`, as JSON or as a form.")
        outcome = await self._provider.login(
            fields["email"],
            fields.get("password", ""),
            name=fields.get("name", ""),
            address=self._rules.facts(request).address,
        )
        if isinstance(outcome, Denied):
            return denied(outcome)
        return self.answer(request, outcome, next_path=local_path(fields.get("next", "")))

    async def refresh(self, request: Request) -> Response:
        """`{refresh_token}` as JSON or form, or the refresh cookie → a new session (also an OAuth refresh grant)."""
        fields = await read_fields(request)
        if fields is None:
            return problem("bad_request", "Send `refresh_token` as JSON or as a form.")
        token = fields.get("refresh_token", "")
        from_cookie = not token
        if from_cookie:
            found = self._cookie(request, REFRESH)
            if isinstance(found, Refusal):
                return refusal(found)
            if not found:
                return problem("bad_request", "Send `refresh_token`, or sign in first.")
            token = found
            refused = self._rules.origin_refusal(request, cookie=True)
            if refused is not None:
                return refusal(refused)
        holder = await self._holder(request) if from_cookie else None
        if isinstance(holder, Refusal):
            return refusal(holder)
        outcome = await self._provider.refresh(token, from_cookie=from_cookie, holder=holder)
        if isinstance(outcome, Denied):
            response = denied(outcome)
            if from_cookie:
                self._drop_cookies(request, response)
            return response
        return self.answer(request, outcome)

    async def _holder(self, request: Request) -> Identity | Refusal | None:
        """The identity in the session's cookie, expired or not; None: there is no valid one."""
        token = self._cookie(request, SESSION)
        if isinstance(token, Refusal) or not token:
            return token or None
        verdict = await self._verdict(token)
        if isinstance(verdict, Rejected):
            return verdict.expired
        return verdict.identity if isinstance(verdict, Valid) else None

    async def logout(self, request: Request) -> Response:
        """End the session of the Bearer token or cookie, and of `{refresh_token}`; 204 in any case."""
        fields = await read_fields(request) or {}
        refresh_token = fields.get("refresh_token", "")
        cookies = [self._cookie(request, SESSION), self._cookie(request, REFRESH)]
        sent = bearer(request)
        if not sent and not refresh_token:
            refused = next((found for found in cookies if isinstance(found, Refusal)), None)
            if refused is None and any(cookies):
                refused = self._rules.origin_refusal(request, cookie=True)
            if refused is not None:
                return refusal(refused)
        session, refresh = ("" if isinstance(found, Refusal) else found for found in cookies)
        identity: Identity | None = None
        if token := sent or session:
            verdict = await self._verdict(token)
            if isinstance(verdict, Unavailable):
                return refusal(verdict.refusal())
            # An expired token still names the session that its holder wants to end.
            identity = verdict.expired if isinstance(verdict, Rejected) else verdict.identity
        await self._provider.logout(identity, refresh_token or refresh)
        response = Response(status_code=204, headers=NO_STORE)
        self._drop_cookies(request, response)
        return response

    def answer(self, request: Request, session: UserSession, *, next_path: str = "") -> Response:
        """A session as JSON (or, with `next_path`, a redirect to it) with its cookies."""
        facts = self._rules.facts(request)
        response: Response
        if next_path:
            target = below_root(next_path, request.scope)
            response = RedirectResponse(target, status_code=303, headers=NO_STORE)
        else:
            body: dict[str, object] = {
                "access_token": session.access_token,
                "token_type": "Bearer",
                "expires_in": session.expires_in,
                "user": user_json(session.user),
            }
            if session.refresh_token:
                body["refresh_token"] = session.refresh_token
            response = JSONResponse(body, headers=NO_STORE)
        if request.headers.get("origin") is not None and self._rules.origin_refusal(request, cookie=True):
            # Any page can have that origin: an app could not use a cookie, and a foreign page could use it to sign a
            # browser in as another user.
            return response
        put = partial(put_cookie, response, secure=facts.secure, root=root_path(request.scope))
        put(SESSION, session.access_token, max_age_s=session.expires_in)
        if session.refresh_token:
            put(REFRESH, session.refresh_token, max_age_s=session.refresh_expires_in)
        return response

    def _drop_cookies(self, request: Request, response: Response) -> None:
        secure, root = self._rules.facts(request).secure, root_path(request.scope)
        for cookie in (SESSION, REFRESH):
            drop_cookie(response, cookie, secure=secure, root=root)

    def _cookie(self, request: Request, cookie: Cookie) -> str | Refusal:
        return only_cookie(request, cookie, secure=self._rules.facts(request).secure)

    # -- asking --------------------------------------------------------------------------------------------

    async def me(self, request: Request) -> Response:
        """The user of the Bearer token or cookie: `{id, name, tenant, plan, permissions, expires_at, …}`."""
        carriers = ("authorization", "cookie")
        token: str | Refusal | None = bearer(request)
        if not token:
            token = self._cookie(request, SESSION)
            if token and not isinstance(token, Refusal):
                token = self._rules.origin_refusal(request, cookie=True) or token
        if isinstance(token, Refusal):
            return refusal(token)
        if not token:
            return refusal(Refusal(code="auth_required", carriers_checked=carriers))
        verdict = await self._verdict(token)
        if not isinstance(verdict, Valid):
            return refusal(verdict.refusal(carriers))
        identity = verdict.identity
        if self._revocations.covers(identity):
            return refusal(Refusal(code="token_revoked", carriers_checked=carriers))
        return JSONResponse(
            {
                "id": identity.subject,
                "name": identity.name,
                "tenant": identity.tenant,
                "plan": identity.plan,
                "permissions": list(identity.permissions),
                "issuer": identity.issuer,
                "e2e": identity.e2e,
                "expires_at": identity.expires_at,
            },
            headers=NO_STORE,
        )

    async def introspect(self, request: Request) -> Response:
        """RFC 7662: `token` as a form or JSON, from a caller with a service key."""
        refused = self._introspection_refused(request)
        if refused is not None:
            return refused
        fields = await read_fields(request)
        if fields is None or not fields.get("token"):
            return problem("bad_request", "Send `token` as a form.")
        return JSONResponse(await self._provider.introspect(fields["token"]), headers=NO_STORE)

    def _introspection_refused(self, request: Request) -> Response | None:
        """The reason why the caller may not introspect; None: it may. Guesses of keys are limited as elsewhere."""
        if not self._service_keys:
            return None if self._open_introspection else problem("client_not_allowed", "")
        place, now = bucket(self._rules.facts(request).address), self._clock()
        wait_s = self._wrong_keys.wait_s(place, now)
        if wait_s > 0:
            return refusal(rate_limited(wait_s))
        offered = bearer(request) or basic_password(request)
        if any_equal(offered, self._service_keys):
            return None
        if offered:
            self._wrong_keys.failed(place, now)
        return problem("client_not_allowed", "")

    async def revoke(self, request: Request) -> Response:
        """RFC 7009: the holder of a token may end it; 200 whether or not there was one."""
        fields = await read_fields(request)
        if fields is None or not fields.get("token"):
            return problem("bad_request", "Send `token` as a form.")
        await self._provider.revoke(fields["token"])
        return JSONResponse({}, headers=NO_STORE)

    async def configuration(self, request: Request) -> Response:
        """OpenID Connect Discovery 1.0 section 3, without an authorization end point, which this provider lacks."""
        base = self._rules.facts(request).base_url
        return JSONResponse(
            {
                "issuer": self._provider.mint.issuer,
                "jwks_uri": f"{base}/.well-known/jwks.json",
                "token_endpoint": f"{base}/auth/refresh",
                "introspection_endpoint": f"{base}/auth/introspect",
                "revocation_endpoint": f"{base}/auth/revoke",
                "userinfo_endpoint": f"{base}/auth/me",
                "grant_types_supported": ["refresh_token"],
                "response_types_supported": [],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            },
            headers=_PUBLIC,
        )

    async def jwks(self, _: Request) -> Response:
        """RFC 7517 section 5: the public keys."""
        return JSONResponse(self._provider.mint.public_keys(), headers=_PUBLIC)

    async def _verdict(self, token: str) -> Verdict:
        return await settled(self._verifier.verify(token, now=self._clock(), traffic="user"))

    # -- around every request ------------------------------------------------------------------------------

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Origin check, CORS for allowed origins, and dependencies' faults as 503."""

        async def guarded(request: Request) -> Response:
            origin = request.headers.get("origin")
            refused = self._rules.origin_refusal(request)
            if refused is not None:
                return refusal(refused)
            if request.method == "OPTIONS":
                response = Response(status_code=204)
            else:
                try:
                    response = await handler(request)
                except DependencyError as error:
                    response = refusal(
                        Refusal(code="auth_unavailable", retry_after_s=max(1, round(error.retry_after_s)))
                    )
            if origin is not None:
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Access-Control-Allow-Credentials"] = "true"
                response.headers["Access-Control-Allow-Headers"] = "authorization, content-type"
                response.headers.add_vary_header("Origin")
            return response

        return guarded


def user_json(user: User) -> dict[str, object]:
    """`{id, email, name, tenant, plan}` of a signed-in user."""
    return {
        "id": user.user_id,
        "email": user.email,
        "name": user.name,
        "tenant": user.tenant,
        "plan": user.plan,
    }
