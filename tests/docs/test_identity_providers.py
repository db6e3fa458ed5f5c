"""docs/tutorials/identity-providers.md: tokens of each provider's form, put to the settings that the page shows.

The claims are those of the providers' documentation, which the page links; the tokens are signed with a key of ours, and
the issuer's host is this machine's. Not here: whether `narthex check` takes the settings (`test_tutorials`).
"""

# ruff: noqa: E501 - the table of tokens reads in rows
from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from narthex.cli.token import inspect
from tests.acceptance.program import POLICY_VARIABLES
from tests.docs.blocks import ROOT, blocks_of

SETTINGS: Final = {
    match[1]: block.text
    for block in blocks_of(ROOT / "docs" / "tutorials" / "identity-providers.md")
    if (match := re.search(r"OIDC_ISSUER=(\S+)", block.text))
}
"""Issuer of the page → the block that names it."""
AUTH0, KEYCLOAK, COGNITO, ENTRA, FIREBASE, GOOGLE, CLERK = SETTINGS
TENANT_ID: Final = "11111111-1111-1111-1111-111111111111"
API_ID: Final = "22222222-2222-2222-2222-222222222222"

CLAIMS: Final[dict[str, dict[str, Any]]] = {
    AUTH0: {
        "sub": "auth0|65a1b2c3d4e5f60718293a4b", "azp": "my_client_id", "scope": "openid profile", "org_id": "org_9ybsU1dN2dKf",
        "aud": ["https://chat.example.com/api", "https://acme.eu.auth0.com/userinfo"], "permissions": ["chat", "read:logs"],
        "https://chat.example.com/plan": "mid",
    },
    KEYCLOAK: {
        "sub": "0a8f3c9e-6a5e-4f0e-9d0f-1c2b3a4d5e6f", "typ": "Bearer", "azp": "web", "aud": ["narthex", "account"],
        "realm_access": {"roles": ["offline_access", "default-roles-acme", "uma_authorization", "chat"]},
        "preferred_username": "ada", "scope": "profile email", "sid": "5b1f6f0e-2d0f-4ec1-8a54-3f1e0d6a9b7c",
    },
    COGNITO: {
        "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "client_id": "1example23456789", "token_use": "access",
        "cognito:groups": ["admin", "eu-central-1_AbCdEf123_Google"], "username": "ada", "scope": "openid",
        "origin_jti": "b1", "event_id": "c1", "auth_time": 1,
    },
    ENTRA: {
        "aud": API_ID, "tid": TENANT_ID, "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "oid": API_ID, "azp": API_ID,
        "azpacr": "1", "scp": "chat", "roles": ["chat", "Survey.Create"], "ver": "2.0", "name": "Ada", "uti": "u", "rh": "r",
    },
    FIREBASE: {
        "aud": "my-project", "sub": "JhLeHBmZXkPHgQeBxDnG9OpPrtG2", "user_id": "JhLeHBmZXkPHgQeBxDnG9OpPrtG2", "auth_time": 1,
        "email": "ada@example.com", "email_verified": True, "permissions": ["chat"], "plan": "mid",
        "firebase": {"identities": {"email": ["ada@example.com"]}, "sign_in_provider": "password", "tenant": "acme-1a2b3"},
    },
    GOOGLE: {
        "aud": "1234567890-abc.apps.googleusercontent.com", "azp": "1234567890-abc.apps.googleusercontent.com",
        "sub": "110169484474386276334", "hd": "example.com", "email": "ada@example.com", "email_verified": True,
    },
    CLERK: {
        "azp": "https://app.example.com", "sub": "user_2abcDEF", "sid": "sess_2abcDEF", "v": 2, "sts": "active", "fva": [1, -1],
        "o": {"id": "org_2abcDEF", "rol": "admin", "slg": "acme", "per": "read,write", "fpm": "1"},
    },
}  # fmt: skip
"""Claims of a provider's token beside `iss`, `iat` and `exp`."""


@functools.cache
def key() -> RSAKey:
    """The key of all issuers here."""
    return RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})


class Case(NamedTuple):
    """A token and its verdict: the claims with `change`, read with the settings and `settings`."""

    provider: str
    said: str
    expected: dict[str, Any]
    change: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda _: {}
    settings: Mapping[str, str] = {}
    typ: str = "JWT"


def without(*names: str) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """The claims without some."""
    return lambda _: dict.fromkeys(names)


def admitted(user: str, *permissions: str, plan: str = "free") -> dict[str, Any]:
    """The verdict on a user's token."""
    return {"admitted": True, "user": user, "permissions": list(permissions), "plan": plan}


def refused(code: str) -> dict[str, Any]:
    """The verdict on another one."""
    return {"admitted": False, "code": code}


CASES: Final = [
    Case(AUTH0, "the organization, the API's permissions, the plan",
         admitted("org_9ybsU1dN2dKf/auth0|65a1b2c3d4e5f60718293a4b", "chat", plan="mid")),
    Case(AUTH0, "of the profile of RFC 9068", admitted("default/auth0|1"), lambda _: {
         "sub": "auth0|1", "org_id": None, "permissions": None, "https://chat.example.com/plan": None}, typ="at+jwt"),
    Case(AUTH0, "the issuer without its slash", refused("wrong_issuer"), lambda found: {"iss": found["iss"].rstrip("/")}),
    Case(KEYCLOAK, "realm roles but those of Keycloak's own",
         admitted("default/0a8f3c9e-6a5e-4f0e-9d0f-1c2b3a4d5e6f", "chat")),
    Case(KEYCLOAK, "no audience mapper", refused("wrong_audience"), lambda _: {"aud": "account"}),
    Case(KEYCLOAK, "the client in the place of a mapper", admitted("default/0a8f3c9e-6a5e-4f0e-9d0f-1c2b3a4d5e6f", "chat"),
         lambda _: {"aud": "account"}, {"NARTHEX_JWT_AUDIENCE_CLAIM": "azp", "NARTHEX_JWT_AUDIENCE": "web"}),
    Case(KEYCLOAK, "by an internal host name", refused("wrong_issuer"),
         lambda _: {"iss": "http://keycloak:8080/realms/acme"}),
    Case(KEYCLOAK, "without the scope `basic`", refused("token_invalid"), without("sub")),
    Case(COGNITO, "an access token, its groups", admitted("default/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "admin")),
    Case(COGNITO, "an ID token", refused("wrong_audience"),
         lambda _: {"client_id": None, "aud": "1example23456789", "token_use": "id"}),
    Case(ENTRA, "the directory and the app roles",
         admitted(f"{TENANT_ID}/AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "chat")),
    Case(ENTRA, "version 1", refused("wrong_issuer"), lambda _: {"iss": f"https://sts.windows.net/{TENANT_ID}/"}),
    Case(ENTRA, "for Microsoft Graph", refused("wrong_audience"),
         lambda _: {"aud": "00000003-0000-0000-c000-000000000000"}),
    Case(FIREBASE, "its tenant and custom claims",
         admitted("acme-1a2b3/JhLeHBmZXkPHgQeBxDnG9OpPrtG2", "chat", plan="mid")),
    Case(FIREBASE, "an anonymous user, without tenants", admitted("default/anon1"), lambda _: {
         "sub": "anon1", "firebase": {"identities": {}, "sign_in_provider": "anonymous"}, "permissions": None, "plan": None}),
    Case(GOOGLE, "of the Workspace domain", admitted("example.com/110169484474386276334")),
    Case(GOOGLE, "a private account", refused("tenant_mismatch"), without("hd")),
    Case(GOOGLE, "of another Workspace domain", refused("tenant_mismatch"), lambda _: {"hd": "other.example"}),
    Case(GOOGLE, "the issuer without https", refused("wrong_issuer"), lambda _: {"iss": "accounts.google.com"}),
    Case(CLERK, "the organization and the role in it", admitted("org_2abcDEF/user_2abcDEF", "admin")),
    Case(CLERK, "of another page", refused("wrong_audience"), lambda _: {"azp": "https://other.example"}),
    Case(CLERK, "of a client that sends no Origin", refused("wrong_audience"), without("azp")),
    Case(CLERK, "version 1 of the token", admitted("org_1/user_2abcDEF", "admin"),
         lambda _: {"v": None, "o": None, "org_id": "org_1", "org_role": "admin"},
         {"NARTHEX_CLAIM_TENANT": "org_id", "NARTHEX_CLAIM_PERMISSIONS": "org_role"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def issuers() -> Iterator[dict[str, str]]:
    """Issuer of the page → the one that stands for it here, with the same end."""
    answers: dict[str, Any] = {"/keys": {"keys": [key().as_dict(private=False)]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path)).encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        base = f"http://127.0.0.1:{server.server_port}"
        found = {url: f"{base}/{number}{urlsplit(url).path}" for number, url in enumerate(SETTINGS)}
        for url in found.values():
            path = urlsplit(url).path.rstrip("/") + "/.well-known/openid-configuration"
            answers[path] = {"issuer": url, "jwks_uri": f"{base}/keys"}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{urlsplit(case.provider).hostname}: {case.said}")
def test_a_token_of_the_provider_s_form(
    case: Case,
    issuers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The settings as the page shows them admit it with the tenant, permissions and plan of its claims, or refuse it."""
    for name in POLICY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    shown = re.findall(r"(NARTHEX_\w+)=(\S+)", SETTINGS[case.provider])
    assert len(shown) >= 4
    for name, value in [*shown, *case.settings.items()]:
        monkeypatch.setenv(name, issuers.get(value, value))
    now = int(time.time())
    claims = CLAIMS[case.provider] | {"iss": issuers[case.provider], "iat": now - 5, "exp": now + 60}
    claims |= case.change(claims)
    present = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode({"alg": "RS256", "kid": "k1", "typ": case.typ}, present, key())
    inspect(token, json_=True, data_dir=tmp_path)
    report = json.loads(capsys.readouterr().out)
    assert {name: report.get(name) for name in case.expected} == case.expected, report


def test_every_provider_has_its_cases() -> None:
    """A provider that is added to the page, or a bullet without a token, is noticed."""
    assert {case.provider for case in CASES} == set(SETTINGS) == set(CLAIMS)
    for url in SETTINGS:
        of_one = [case for case in CASES if case.provider == url]
        assert {case.expected["admitted"] for case in of_one} == {True, False} or url == FIREBASE
