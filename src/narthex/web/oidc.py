"""Serves sign-in with another OIDC provider: `/auth/oidc/start` and `/auth/oidc/callback`.

Not here: the protocol with the provider (`app/sign_in.py`), the session's answer and cookies (`auth`).
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from narthex.app.provider import Denied
from narthex.app.sign_in import STATE_TTL_S, SignIn
from narthex.domain.refusals import Refusal
from narthex.errors import DependencyError
from narthex.web.auth import AuthRoutes
from narthex.web.cookies import JOURNEY, drop_cookie, only_cookie, put_cookie
from narthex.web.fields import local_path
from narthex.web.paths import root_path
from narthex.web.request_rules import RequestRules
from narthex.web.sign_in_problems import NO_STORE, denied, refusal


class OidcRoutes:
    """The two routes.

    Args:
        sign_in: the protocol with the provider.
        site: makes the session's answer and its cookies.
        rules: the handshake handler's rules.
    """

    def __init__(self, sign_in: SignIn, site: AuthRoutes, rules: RequestRules) -> None:
        self._sign_in = sign_in
        self._site = site
        self._rules = rules

    def routes(self) -> list[Route]:
        """Both, for a Starlette application."""
        return [
            Route("/auth/oidc/start", self.start, methods=["GET"]),
            Route("/auth/oidc/callback", self.callback, methods=["GET"]),
        ]

    async def start(self, request: Request) -> Response:
        """`?next=/path`: redirect to the provider, with a cookie that identifies the attempt when it comes back."""
        next_path = local_path(request.query_params.get("next", "")) or "/"
        try:
            url, cookie = await self._sign_in.begin(
                redirect_uri=self._redirect_uri(request), next_path=next_path
            )
        except DependencyError as error:
            return self._failed(request, error)
        response = RedirectResponse(url, status_code=303, headers=NO_STORE)
        secure, root = self._rules.facts(request).secure, root_path(request.scope)
        # Lax: the way back is a navigation from the provider's site.
        put_cookie(response, JOURNEY, cookie, secure=secure, max_age_s=STATE_TTL_S, root=root)
        return response

    async def callback(self, request: Request) -> Response:
        """The provider sends the browser here with `code` and `state`, or with an error."""
        query = request.query_params
        secure = self._rules.facts(request).secure
        found = only_cookie(request, JOURNEY, secure=secure)
        attempt = None if isinstance(found, Refusal) else self._sign_in.attempt_of(found)
        response: Response
        try:
            outcome = await self._sign_in.finish(
                attempt,
                state=query.get("state", ""),
                code=query.get("code", ""),
                issuer=query.get("iss", ""),
                redirect_uri=self._redirect_uri(request),
            )
        except DependencyError as error:
            return self._failed(request, error)
        if isinstance(outcome, Denied):
            response = self._failed(request, outcome)
        else:
            assert attempt is not None  # `finish` denies a callback without an attempt
            response = self._site.answer(request, outcome, next_path=local_path(attempt.next_path) or "/")
        drop_cookie(response, JOURNEY, secure=secure, root=root_path(request.scope))
        return response

    def _redirect_uri(self, request: Request) -> str:
        return self._rules.facts(request).base_url + "/auth/oidc/callback"

    def _failed(self, request: Request, fault: Denied | DependencyError) -> Response:
        """Redirect a browser to the page, which explains the code; other clients get problem+json."""
        why: Denied | Refusal
        if isinstance(fault, DependencyError):
            why = Refusal(code="auth_unavailable", retry_after_s=round(fault.retry_after_s))
        else:
            why = fault
        if "text/html" in request.headers.get("accept", ""):
            target = f"{root_path(request.scope)}/?{urlencode({'sign_in_error': why.code})}"
            return RedirectResponse(target, status_code=303, headers=NO_STORE)
        return denied(why) if isinstance(why, Denied) else refusal(why)
