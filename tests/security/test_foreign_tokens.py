"""Tokens as real providers and CI systems issue them, at the real program and against a key set over HTTP."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from narthex.adapters.tokens.keys import sign_compact
from narthex.settings.groups import option_fields
from narthex.settings.options import facts
from narthex.settings.sources import OTHER_VARIABLES
from tests.acceptance.program import Program, running
from tests.adapters.tokens.http_issuer import HttpIssuer

pytestmark = pytest.mark.acceptance

E2E_KEY = "e2e-key-0123456789abcdef0123456789abcdef"
STAGING = {"ENVIRONMENT": "staging", "NARTHEX_HOST": "127.0.0.1"}


def key(kid: str = "") -> ECKey:
    """A new key, with or without a name."""
    return ECKey.generate_key("P-256", {"use": "sig", **({"kid": kid} if kid else {})})


def published(*keys: ECKey) -> dict[str, Any]:
    """A JWK set."""
    return {"keys": [found.as_dict(private=False) for found in keys]}


def signed(by: ECKey, issuer: str, **claims: Any) -> str:
    """A token; a claim with the value `...` is left out."""
    now = int(time.time())
    body = {"iss": issuer, "sub": "ann", "iat": now, "exp": now + 600} | claims
    kid = by.get("kid")
    header = {"alg": "ES256", **({"kid": kid} if kid else {})}
    return sign_compact(
        header, {name: value for name, value in body.items() if value is not ...}, "ES256", by
    )


def bearer(token: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {token}"}


async def asked(program: Program, token: str) -> dict[str, Any]:
    """The answer of the preflight."""
    found: dict[str, Any] = (await program.get("/ws/preflight", headers=bearer(token))).json()
    return found


@pytest.mark.parametrize(
    ("claim", "shape"),
    [
        ("client_id", {"client_id": "chat", "token_use": "access", "scope": "chat"}),  # Amazon Cognito
        ("azp", {"azp": "chat", "aud": "account"}),  # Keycloak
        ("azp", {"azp": "chat", "sid": "sess_1"}),  # Clerk
    ],
)
async def test_the_audience_stands_where_the_provider_puts_it(
    tmp_path: Path, claim: str, shape: dict[str, Any]
) -> None:
    """A token of this client is admitted; another client's, or one without the claim, is not."""
    own = key("k1")
    async with HttpIssuer() as issuer:
        issuer.documents["/keys"] = published(own)
        env = STAGING | {
            "NARTHEX_JWKS_URL": f"{issuer.url}/keys",
            "NARTHEX_JWT_ISSUER": issuer.url,
            "NARTHEX_JWT_AUDIENCE": "chat",
            "NARTHEX_JWT_AUDIENCE_CLAIM": claim,
        }
        async with running(tmp_path, env) as program:
            assert (await asked(program, signed(own, issuer.url, **shape)))["user"]["id"] == "ann"
            for wrong in (shape | {claim: "another-client"}, shape | {claim: ...}, shape | {claim: 7}):
                assert (await asked(program, signed(own, issuer.url, **wrong)))["code"] == "wrong_audience"


async def test_hundreds_of_roles_and_a_key_without_a_name_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """The relevant permission is picked from 300 roles by its provider's name; a sixth unnamed key is tried."""
    keys = [key() for _ in range(6)]
    settings = """
[[issuers]]
name = "directory"
issuer = "{url}"
jwks_url = "{url}/keys"
permission_names = {{ "grp-4711" = "admin" }}
claims = {{ permissions = "realm_access.roles" }}
"""
    async with HttpIssuer() as issuer:
        issuer.documents["/keys"] = published(*keys)
        (tmp_path / "narthex.toml").write_text(settings.format(url=issuer.url))
        async with running(tmp_path, STAGING) as program:
            roles = [f"r{number}" for number in range(300)]
            token = signed(keys[5], issuer.url, realm_access={"roles": [*roles, "grp-4711"]})
            assert (await asked(program, token))["user"]["id"] == "ann"
            done = await program.post("/api/v1/disconnect", json={"user": "bob"}, headers=bearer(token))
            assert done.status_code == 200, done.text  # it counted as `admin` before
            plain = signed(keys[0], issuer.url, realm_access={"roles": roles})
            done = await program.post("/api/v1/disconnect", json={"user": "bob"}, headers=bearer(plain))
            assert done.json()["code"] == "permission_denied"
            forged = await asked(program, signed(key(), issuer.url))
            assert forged["code"] in ("token_invalid", "auth_unavailable"), forged


async def test_ci_tokens_are_taken_for_their_audience_and_whole_parts_of_their_subject(
    tmp_path: Path,
) -> None:
    """A workflow's token for another service, and a repository whose name only starts the same, are refused."""
    own = key("ci")
    async with HttpIssuer() as issuer:
        issuer.documents["/.well-known/openid-configuration"] = {
            "issuer": issuer.url,
            "jwks_uri": f"{issuer.url}/keys",
        }
        issuer.documents["/keys"] = published(own)
        env = STAGING | {
            "E2E_OAUTH_SIMULATION_KEY": E2E_KEY,
            "NARTHEX_E2E_OIDC_ISSUER": issuer.url,
            "NARTHEX_E2E_OIDC_AUDIENCE": "https://chat.example",
            "NARTHEX_E2E_OIDC_SUBJECT": "repo:acme/chat:*",
        }
        async with running(tmp_path, env) as program:

            async def exchanged(**claims: Any) -> tuple[int, str]:
                good = {"aud": "https://chat.example", "sub": "repo:acme/chat:ref:refs/heads/main"}
                token = signed(own, issuer.url, **(good | claims))
                answer = await program.post("/auth/e2e/test-auth", headers=bearer(token))
                return answer.status_code, answer.json().get("code", "")

            assert await exchanged() == (200, "")
            assert await exchanged(aud="sts.amazonaws.com") == (401, "wrong_audience")
            assert await exchanged(aud=...) == (401, "wrong_audience")
            assert await exchanged(sub="repo:acme/chat-evil:ref:refs/heads/main") == (
                403,
                "permission_denied",
            )


@pytest.mark.parametrize(
    ("subject", "audience", "named"),
    [
        ("repo:acme/chat*", "https://chat.example", "after `:` or `/`"),
        ("repo:*/chat:*", "https://chat.example", "after `:` or `/`"),
        ("repo:acme/chat:*", "", "NARTHEX_E2E_OIDC_AUDIENCE"),
    ],
)
def test_a_ci_issuer_that_would_let_strangers_in_is_refused(
    tmp_path: Path, subject: str, audience: str, named: str
) -> None:
    """`check` names the setting that is too permissive."""
    env = STAGING | {
        "E2E_OAUTH_SIMULATION_KEY": E2E_KEY,
        "NARTHEX_E2E_OIDC_ISSUER": "https://ci.example",
        "NARTHEX_E2E_OIDC_AUDIENCE": audience,
        "NARTHEX_E2E_OIDC_SUBJECT": subject,
    }
    done = Program(tmp_path, env).run("check")
    assert done.returncode == 78 and named in done.stderr, done.stderr


async def test_shells_of_desktop_and_mobile_are_allowed_by_name(tmp_path: Path) -> None:
    """`file://`, `null` and `app://-` are allowed once listed, with a token; unlisted ones and cookies are refused."""
    env = {"NARTHEX_ALLOWED_ORIGINS": "file://, null, app://-, capacitor://localhost"}
    async with running(tmp_path, env) as program:
        token = await program.login("ann@example.com")
        for origin in ("file://", "null", "app://-", "capacitor://localhost"):
            async with connect(
                program.ws, additional_headers=bearer(token), origin=Origin(origin), proxy=None
            ):
                pass
        cookie = {"Cookie": f"narthex_session={token}"}
        for origin, headers in (("app://evil", bearer(token)), ("null", cookie), ("file://", cookie)):
            with pytest.raises(InvalidStatus) as caught:
                async with connect(program.ws, additional_headers=headers, origin=Origin(origin), proxy=None):
                    pass
            assert caught.value.response.status_code == 403, origin


def test_variables_of_clients_are_no_settings(tmp_path: Path) -> None:
    """`token`, `check` and `serve` start with every variable that the docs give to clients."""
    env = {"NARTHEX_E2E_BASE_URL": "https://staging.example", "NARTHEX_CI_OIDC_TOKEN": "a.b.c"}
    program = Program(tmp_path, env | {"NARTHEX_TOKEN": "a.b.c", "NARTHEX_URL": "wss://x.example"})
    assert program.run("check").returncode == 0
    assert program.token("ada").count(".") == 2
    try:
        asyncio.run(program.start())
    finally:
        program.end()


def test_every_variable_in_the_documents_is_known() -> None:
    """A variable named on a page is a setting, a secret's `_FILE`, or one of the client's."""
    known = set(OTHER_VARIABLES)
    for name, (_, field) in option_fields().items():
        for variable in facts(name, field).variables:
            known |= {variable, f"{variable}_FILE"}
    root = Path(__file__).parents[2]
    unknown: dict[str, str] = {}
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for variable in re.findall(r"\bNARTHEX_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()):
            if variable not in known and not variable.startswith("NARTHEX_TEST_"):
                unknown[variable] = page.name
    assert unknown == {}
