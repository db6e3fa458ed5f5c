"""The provider over HTTP: bodies, cookies, CSRF, CORS, introspection's caller, and nothing cached."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from narthex.app.provider import Account, ProviderPolicy
from narthex.app.sign_in import SignIn
from narthex.domain.addresses import TrustedProxies
from narthex.domain.carriers import HOST_SESSION_COOKIE, SESSION_COOKIE
from narthex.domain.origins import OriginPolicy, origin_fault, parse_origin
from narthex.domain.refusals import Refusal
from narthex.web.auth import AuthRoutes
from narthex.web.cookies import JOURNEY, REFRESH, KeptFromApplications
from narthex.web.oidc import OidcRoutes
from narthex.web.request_rules import RequestFacts, RequestRules
from tests.adapters.tokens.issuer import hs_token
from tests.adapters.tokens.memory import as_port
from tests.app.test_provider import PASSWORD, Rig
from tests.app.test_sign_in import Elsewhere

OWN = "http://testserver"
SERVICE_KEY = "service-key-0123456789abcdef0123456789"


class OpenDoor(RequestRules):
    """The gateway's rules: our own origin, and TLS where the test requests it."""

    secure = False

    def __init__(self) -> None:
        super().__init__(TrustedProxies(), OriginPolicy())

    def facts(self, request: Request) -> RequestFacts:
        return RequestFacts("192.0.2.1", self.secure, "https://gw.example" if self.secure else OWN)

    def origin_refusal(self, request: Request, *, cookie: bool = False) -> Refusal | None:
        policy = OriginPolicy(frozenset({parsed})) if (parsed := parse_origin(OWN)) else OriginPolicy()
        claimed = request.headers.get("origin")
        fault = origin_fault(policy, claimed, host="gw.example", scheme="https", cookie=cookie)
        return Refusal(code="origin_not_allowed", detail=fault) if fault else None


class Web:
    """A site with one account, and a browser."""

    def __init__(self, policy: ProviderPolicy, *, keys: tuple[str, ...] = (SERVICE_KEY,)) -> None:
        self.rig = Rig(policy)
        self.door = OpenDoor()
        site = AuthRoutes(
            provider=self.rig.provider,
            verifier=self.rig.router,
            revocations=self.rig.revocations,
            rules=self.door,
            service_keys=keys,
            clock=lambda: self.rig.now,
        )
        self.elsewhere = Elsewhere()
        sign_in = SignIn(
            self.rig.provider, self.elsewhere, as_port(self.rig.store), clock=lambda: self.rig.now
        )
        oidc = OidcRoutes(sign_in, site, self.door)
        app = Starlette(routes=[*site.routes(), *oidc.routes()], lifespan=self._lifespan)
        self.browser = TestClient(app, base_url=OWN, follow_redirects=False)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.rig.start()
        yield

    def sign_in(self, **changes: Any) -> Any:
        """Sign in as the page does."""
        body = {"email": "ada@example.com", "password": PASSWORD, **changes}
        return self.browser.post("/auth/login", json=body, headers={"Origin": OWN})


@pytest.fixture
def web() -> Iterator[Web]:
    """With accounts."""
    account = Account(email="ada@example.com", password_hash=f"plain:{PASSWORD}", name="Ada", tenant="acme")
    found = Web(ProviderPolicy(open_login=False, accounts=(account,)))
    with found.browser:
        yield found


def test_signing_in_gives_a_session_and_http_only_cookies(web: Web) -> None:
    """The body that the page and the CLI read; cookies that scripts cannot read; nothing cached."""
    response = web.sign_in()
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token", "user"}
    assert body["token_type"] == "Bearer"
    assert set(body["user"]) == {"id", "email", "name", "tenant", "plan"}
    assert response.headers["cache-control"] == "no-store"
    cookies = response.headers.get_list("set-cookie")
    session = next(cookie for cookie in cookies if cookie.startswith(SESSION_COOKIE))
    refresh = next(cookie for cookie in cookies if cookie.startswith(REFRESH.plain))
    assert "HttpOnly" in session
    assert "SameSite=lax" in session
    assert "Path=/;" in session
    assert "HttpOnly" in refresh
    assert "SameSite=strict" in refresh
    assert "Path=/auth;" in refresh
    assert "Secure" not in session + refresh


def test_over_https_the_cookies_are_secure_and_this_hosts_own(web: Web) -> None:
    """By the scheme that the client sees, not the socket's; the names are a promise that browsers keep."""
    web.door.secure = True
    session, refresh = web.sign_in().headers.get_list("set-cookie")
    assert session.startswith(f"{HOST_SESSION_COOKIE}=")  # RFC 6265bis: Secure, Path=/, no Domain
    assert "Secure" in session
    assert "Path=/;" in session
    assert "Domain" not in session
    assert refresh.startswith(f"{REFRESH.secure}=")
    assert refresh.startswith("__Host-")
    assert "Secure" in refresh
    assert "Path=/;" in refresh
    assert "Domain" not in refresh


def test_over_https_a_planted_cookie_signs_nobody_in(web: Web) -> None:
    """A cookie with the plain name came from another host; our own is used, and logging out removes it."""
    token, refresh = (web.sign_in().json()[name] for name in ("access_token", "refresh_token"))
    web.browser.cookies.clear()
    web.door.secure = True
    origin = {"Origin": OWN}

    def ask(session: str, renewal: str) -> tuple[int, int]:
        me = web.browser.get("/auth/me", headers={"Cookie": f"{session}={token}", **origin})
        renewed = web.browser.post("/auth/refresh", headers={"Cookie": f"{renewal}={refresh}", **origin})
        return me.status_code, renewed.status_code

    assert ask(SESSION_COOKIE, REFRESH.plain) == (401, 400)
    assert ask(HOST_SESSION_COOKIE, REFRESH.secure) == (200, 200)
    gone = web.browser.post(
        "/auth/logout", headers={"Cookie": f"{HOST_SESSION_COOKIE}={token}", **origin}
    ).headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in gone] == [HOST_SESSION_COOKIE, REFRESH.secure]
    assert web.browser.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_a_form_serves_too_and_goes_where_the_page_wanted_but_nowhere_else(web: Web) -> None:
    """Without scripts; open redirects are refused."""
    form = {"email": "ada@example.com", "password": PASSWORD}
    assert web.browser.post("/auth/login", data=form).json()["user"]["name"] == "Ada"
    there = web.browser.post("/auth/login", data={**form, "next": "/dashboard"})
    assert (there.status_code, there.headers["location"]) == (303, "/dashboard")
    for evil in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        assert web.browser.post("/auth/login", data={**form, "next": evil}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"email": "ada@example.com", "password": "wrong"}, 401, "login_failed"),
        ({"email": "nobody@example.com", "password": "wrong"}, 401, "login_failed"),
        ({"email": "not an e-mail"}, 400, "bad_request"),
        ({}, 400, "bad_request"),
        ([], 400, "bad_request"),
        ({"email": 1}, 400, "bad_request"),
        ({"email": "ada@example.com", "password": "x" * 20_000}, 400, "bad_request"),
    ],
)
def test_a_refused_sign_in_says_why_in_problem_json(web: Web, body: Any, status: int, code: str) -> None:
    """RFC 9457 with a remedy and a trace id, and no cookie."""
    response = web.browser.post("/auth/login", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["remedy"]
    assert response.json()["trace_id"]
    assert "set-cookie" not in response.headers
    assert "WWW-Authenticate" in response.headers or status != 401


def test_deep_json_is_a_bad_request(web: Web) -> None:
    """No recursion error."""
    response = web.browser.post(
        "/auth/login", content="[" * 8_000, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400


def test_too_many_failures_hear_when_to_come_back(web: Web) -> None:
    """429 with Retry-After."""
    for _ in range(5):
        web.sign_in(password="wrong")
    response = web.sign_in(password="wrong")
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 61


@pytest.mark.parametrize(
    "path", ["/auth/login", "/auth/refresh", "/auth/logout", "/auth/introspect", "/auth/revoke"]
)
def test_a_foreign_page_can_do_nothing(web: Web, path: str) -> None:
    """A disallowed Origin is refused before anything is read, `null` included."""
    web.sign_in()
    for origin in ("https://evil.example", "null"):
        response = web.browser.post(path, json={}, headers={"Origin": origin})
        assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
def test_a_cookie_needs_an_origin(web: Web, path: str) -> None:
    """Without one a cross-site form could use the cookie."""
    web.sign_in()
    response = web.browser.post(path)
    assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")


def test_a_browser_refreshes_by_its_cookie(web: Web) -> None:
    """New cookies each time; once the chain has ended they are removed."""
    first = web.sign_in().json()
    renewed = web.browser.post("/auth/refresh", headers={"Origin": OWN})
    assert renewed.status_code == 200
    assert renewed.json()["access_token"] != first["access_token"] or renewed.json()["refresh_token"]
    web.rig.store.refresh.clear()
    ended = web.browser.post("/auth/refresh", headers={"Origin": OWN})
    assert (ended.status_code, ended.json()["code"]) == (401, "refresh_invalid")
    assert SESSION_COOKIE not in web.browser.cookies


def test_a_program_refreshes_by_its_token_as_an_oauth_client_does(web: Web) -> None:
    """`grant_type=refresh_token` as a form, no Origin; reuse ends the family."""
    token = web.sign_in().json()["refresh_token"]
    web.browser.cookies.clear()
    form = {"grant_type": "refresh_token", "refresh_token": token}
    renewed = web.browser.post("/auth/refresh", data=form)
    assert renewed.status_code == 200
    assert web.browser.post("/auth/refresh", data=form).status_code == 401
    follow_up = {"refresh_token": renewed.json()["refresh_token"]}
    assert web.browser.post("/auth/refresh", json=follow_up).status_code == 401


def test_me_takes_bearer_or_cookie_and_refuses_with_a_code(web: Web) -> None:
    """And reports `token_revoked` after logging out."""
    assert web.browser.get("/auth/me").json()["code"] == "auth_required"
    token = web.sign_in().json()["access_token"]
    assert web.browser.get("/auth/me").json()["code"] == "origin_not_allowed"
    assert web.browser.get("/auth/me", headers={"Origin": OWN}).json()["tenant"] == "acme"
    web.browser.cookies.clear()
    bearer = {"Authorization": f"Bearer {token}"}
    assert web.browser.get("/auth/me", headers=bearer).json()["name"] == "Ada"
    assert web.browser.post("/auth/logout", headers=bearer).status_code == 204
    response = web.browser.get("/auth/me", headers=bearer)
    assert (response.status_code, response.json()["code"]) == (401, "token_revoked")
    forged = web.browser.get("/auth/me", headers={"Authorization": f"Bearer {hs_token()}"})
    assert forged.json()["code"] == "wrong_issuer"


def test_logging_out_removes_the_cookies_and_ends_the_chain(web: Web) -> None:
    """Also when nothing was left to end."""
    token = web.sign_in().json()["refresh_token"]
    assert web.browser.post("/auth/logout", headers={"Origin": OWN}).status_code == 204
    assert not web.browser.cookies
    assert web.browser.post("/auth/refresh", json={"refresh_token": token}).status_code == 401
    assert web.browser.post("/auth/logout", headers={"Origin": OWN}).status_code == 204


def test_introspection_is_for_services(web: Web) -> None:
    """Bearer or Basic with the key; other callers learn nothing about tokens."""
    token = web.sign_in().json()["access_token"]
    web.browser.cookies.clear()
    basic = base64.b64encode(f"gateway:{SERVICE_KEY}".encode()).decode()
    for authorization in (f"Bearer {SERVICE_KEY}", f"Basic {basic}"):
        response = web.browser.post(
            "/auth/introspect", data={"token": token}, headers={"Authorization": authorization}
        )
        assert response.json()["active"] is True
    for authorization in ("", "Bearer wrong", f"Bearer {token}", "Basic !!!", f"Basic {basic[:-8]}"):
        response = web.browser.post(
            "/auth/introspect", data={"token": token}, headers={"Authorization": authorization}
        )
        assert (response.status_code, response.json()["code"]) == (401, "client_not_allowed")


def test_service_keys_cannot_be_guessed_here_either(web: Web) -> None:
    """Ten wrong ones per minute and address, then 429 with the wait, also for the right one."""
    text = web.sign_in().json()["access_token"]
    codes = [
        web.browser.post(
            "/auth/introspect", data={"token": text}, headers={"Authorization": f"Bearer guess-{number}"}
        ).status_code
        for number in range(12)
    ]
    assert codes == [401] * 10 + [429] * 2
    right = web.browser.post(
        "/auth/introspect", data={"token": text}, headers={"Authorization": f"Bearer {SERVICE_KEY}"}
    )
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) >= 1


def test_revocation_is_by_possession(web: Web) -> None:
    """RFC 7009: 200 whether or not the token exists."""
    token = web.sign_in().json()["access_token"]
    web.browser.cookies.clear()
    for text in ("unknown", token):
        assert web.browser.post("/auth/revoke", data={"token": text}).status_code == 200
    assert (
        web.browser.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).json()["code"]
        == "token_revoked"
    )


def test_a_store_that_is_away_is_503(web: Web) -> None:
    """With Retry-After, not 500 and not 401."""
    web.rig.store.away = True
    response = web.sign_in()
    assert (response.status_code, response.json()["code"]) == (503, "auth_unavailable")
    assert int(response.headers["retry-after"]) >= 1


def test_allowed_pages_may_read_the_answers(web: Web) -> None:
    """CORS with credentials for allowed origins, preflight included."""
    headers = {"Origin": OWN, "Access-Control-Request-Method": "POST"}
    preflight = web.browser.options("/auth/login", headers=headers)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == OWN
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert web.sign_in().headers["access-control-allow-origin"] == OWN


def test_the_published_documents(web: Web) -> None:
    """The documents that client libraries look for; keys without private members."""
    configuration = web.browser.get("/.well-known/openid-configuration").json()
    assert configuration["issuer"] == "narthex"
    keys = web.browser.get(configuration["jwks_uri"]).json()["keys"]
    assert [set(key) for key in keys] == [{"kty", "crv", "x", "y", "kid", "alg", "use"}]


# -- sign-in elsewhere -------------------------------------------------------------------------------------


def test_there_and_back_over_http(web: Web) -> None:
    """The sign-in cookie is short-lived, for the callback only, and removed afterwards."""
    start = web.browser.get("/auth/oidc/start?next=/dashboard")
    assert start.status_code == 303
    cookie = start.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "Path=/auth/oidc" in cookie
    assert "SameSite=lax" in cookie
    state = web.elsewhere.asked["state"]
    assert web.elsewhere.asked["redirect_uri"] == OWN + "/auth/oidc/callback"
    back = web.browser.get(f"/auth/oidc/callback?code=c&state={state}&iss=https://id.example")
    assert (back.status_code, back.headers["location"]) == (303, "/dashboard")
    assert web.browser.get("/auth/me", headers={"Origin": OWN}).json()["id"] == "sub-1"
    assert JOURNEY.plain not in web.browser.cookies


def test_over_https_only_its_own_browser_comes_back(web: Web) -> None:
    """The cookie's name cannot be set over plain http, so no browser is signed in to another user's account."""
    web.door.secure = True
    start = web.browser.get("/auth/oidc/start?next=/dashboard")
    name, _, value = start.headers["set-cookie"].partition(";")[0].partition("=")
    assert name == JOURNEY.secure
    assert "Secure" in start.headers["set-cookie"]
    web.browser.cookies.clear()
    path = f"/auth/oidc/callback?code=c&state={web.elsewhere.asked['state']}&iss=https://id.example"
    planted = web.browser.get(path, headers={"Cookie": f"{JOURNEY.plain}={value}"})
    assert planted.json()["code"] == "login_failed"
    back = web.browser.get(path, headers={"Cookie": f"{name}={value}"})
    assert (back.status_code, back.headers["location"]) == (303, "/dashboard")


def test_a_failed_sign_in_comes_back_to_the_page_with_a_code(web: Web) -> None:
    """A browser sees the page, a program problem+json."""
    web.browser.get("/auth/oidc/start")
    html = {"Accept": "text/html,*/*"}
    page = web.browser.get("/auth/oidc/callback?error=access_denied&state=forged", headers=html)
    assert (page.status_code, page.headers["location"]) == (303, "/?sign_in_error=login_failed")
    program = web.browser.get("/auth/oidc/callback?code=c&state=forged")
    assert (program.status_code, program.json()["code"]) == (401, "login_failed")
    assert SESSION_COOKIE not in web.browser.cookies


@pytest.mark.parametrize("path", ["/auth/introspect", "/auth/revoke"])
def test_a_question_without_a_token_is_the_callers_mistake(web: Web, path: str) -> None:
    """400 with the members to send, and not an answer about nothing."""
    response = web.browser.post(path, data={}, headers={"Authorization": f"Bearer {SERVICE_KEY}"})
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert "`token`" in response.json()["detail"]


@pytest.mark.parametrize("cookie", ["session", "refresh"])
def test_two_cookies_of_one_name_are_a_conflict(web: Web, cookie: str) -> None:
    """The order of cookies proves nothing; the same value twice is one cookie, and a Bearer token takes precedence."""
    body = web.sign_in().json()
    web.browser.cookies.clear()
    name, value = (
        (SESSION_COOKIE, body["access_token"])
        if cookie == "session"
        else (REFRESH.plain, body["refresh_token"])
    )
    path, method = ("/auth/me", "GET") if cookie == "session" else ("/auth/refresh", "POST")
    origin = {"Origin": OWN}
    two = {"Cookie": f"{name}={value}; {name}=another", **origin}
    for asked, how in ((path, method), ("/auth/logout", "POST")):
        response = web.browser.request(how, asked, headers=two)
        assert (response.status_code, response.json()["code"]) == (400, "credential_conflict"), asked
    same = {"Cookie": f"{name}={value}; {name}={value}", **origin}
    assert web.browser.request(method, path, headers=same).status_code == 200
    bearer = {"Authorization": f"Bearer {body['access_token']}"}
    assert web.browser.get("/auth/me", headers=two | bearer).status_code == 200


async def test_an_application_beside_us_sees_the_session_and_no_other_cookie_of_ours() -> None:
    """The refresh cookie is sent to every path; only `/auth` gets it."""
    seen: dict[str, list[bytes]] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen[scope["path"]] = [value for name, value in scope["headers"] if name == b"cookie"]

    raw = b"a=1; __Host-narthex_session=s; __Host-narthex_refresh=r; narthex_refresh=p; __Host-narthex_oidc=o; b=2"
    for path in ("/", "/mine", "/auth/refresh", "/authors"):
        scope = {"type": "http", "path": path, "headers": [(b"host", b"x"), (b"cookie", raw)]}
        await KeptFromApplications(app)(scope, None, None)  # type: ignore[arg-type]  # neither is called
    assert seen["/auth/refresh"] == [raw]
    for path in ("/", "/mine", "/authors"):
        assert seen[path] == [b"a=1; __Host-narthex_session=s; b=2"], path
    only = {"type": "http", "path": "/", "headers": [(b"cookie", b"__Host-narthex_refresh=r")]}
    await KeptFromApplications(app)(only, None, None)  # type: ignore[arg-type]  # as above
    assert seen["/"] == []
