"""Every route and transport that takes a credential, at the real program: one rule of origins, two levels of
operators.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from narthex.adapters.tokens.keys import key_from_secret, sign_compact
from tests.acceptance.program import Program, running
from tests.adapters.tokens.http_issuer import HttpIssuer

pytestmark = pytest.mark.acceptance

ADMIN_KEY = "4f1c9a7be0d25836c4f1"
METRICS_TOKEN = "9d8e7f6a5b4c3d2e1f0a"
E2E_KEY = "e2e-key-0123456789abcdef0123456789abcdef"
SECRET = "a-shared-secret-0123456789abcdef0123456789"
EVIL = {"Origin": "https://evil.example"}
STAGING = {"ENVIRONMENT": "staging", "NARTHEX_HOST": "127.0.0.1", "NARTHEX_ADMIN_KEY": ADMIN_KEY}


def bearer(token: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {token}"}


def token(**claims: Any) -> str:
    """A token of the configured secret."""
    now = int(time.time())
    body = {"sub": "svc", "iat": now, "exp": now + 600} | claims
    return sign_compact({"alg": "HS256"}, body, "HS256", key_from_secret(SECRET).key)


async def test_a_foreign_page_uses_no_credential_anywhere(tmp_path: Path) -> None:
    """Each surface, with a valid credential: 403 with a foreign `Origin`, and admitted without one."""
    env = {
        **STAGING,
        "NARTHEX_METRICS_TOKEN": METRICS_TOKEN,
        "E2E_OAUTH_SIMULATION_KEY": E2E_KEY,
        "NARTHEX_JWT_SECRET": SECRET,
        "NARTHEX_EMBEDDED_PROVIDER": "on",
    }
    text = token()
    surfaces: list[tuple[str, str, dict[str, str], object]] = [
        ("POST", "/auth/e2e/test-auth", {"X-E2E-Bypass-Key": E2E_KEY}, {}),
        ("POST", "/api/v1/disconnect", bearer(ADMIN_KEY), {"user": "bob"}),
        ("GET", "/ws/stats", bearer(ADMIN_KEY), None),
        ("GET", "/api/v1/e2e/results", bearer(ADMIN_KEY), None),
        ("GET", "/metrics", bearer(METRICS_TOKEN), None),
        ("POST", "/auth/introspect", bearer(ADMIN_KEY), {"token": text}),
        ("GET", "/auth/me", bearer(text), None),
        ("GET", "/api/v1/threads", bearer(text), None),
        ("POST", "/ws/ticket", bearer(text), None),
        ("GET", "/ws/preflight", bearer(text), None),
        ("GET", "/agui", bearer(text), None),
        ("GET", "/ws/preflight", {"X-E2E-Bypass-Key": E2E_KEY}, None),
    ]
    async with running(tmp_path, env) as program:

        async def status(method: str, path: str, headers: dict[str, str], body: object) -> tuple[int, str]:
            if method == "GET":
                answer = await program.get(path, headers=headers)
            else:
                answer = await program.post(path, headers=headers, json=body)
            refused = answer.headers.get("content-type", "").startswith("application/problem+json")
            return answer.status_code, answer.json()["code"] if refused else ""

        for method, path, headers, body in surfaces:
            assert (await status(method, path, headers, body))[0] == 200, path
            assert await status(method, path, headers | EVIL, body) == (403, "origin_not_allowed"), path
            own = {"Origin": program.http}
            assert (await status(method, path, headers | own, body))[0] == 200, path
        posted = {"session": "x", "node": "", "data": "{}"}
        assert (await status("POST", "/emulation", EVIL, posted))[1] == "origin_not_allowed"


async def test_a_cookie_needs_a_page_of_our_own(tmp_path: Path) -> None:
    """`Sec-Fetch-Site: same-origin` replaces `Origin` on plain HTTP, but never at the upgrade."""
    async with running(tmp_path) as program:
        cookie = {"Cookie": f"narthex_session={await program.login('ann@example.com')}"}
        same = {"Sec-Fetch-Site": "same-origin"}
        for path in ("/auth/me", "/ws/preflight", "/api/v1/threads", "/agui"):
            for headers, expected in (
                (cookie, 403),
                (cookie | {"Sec-Fetch-Site": "cross-site"}, 403),
                (cookie | same, 200),
                (cookie | {"Origin": program.http}, 200),
                (cookie | same | EVIL, 403),
            ):
                assert (await program.get(path, headers=headers)).status_code == expected, (path, headers)
        with pytest.raises(InvalidStatus) as caught:
            async with connect(program.ws, additional_headers=cookie | same, proxy=None):
                pass
        assert caught.value.response.status_code == 403


async def test_a_tenants_administrator_is_not_the_operator(tmp_path: Path) -> None:
    """Statistics, draining and other tenants' results need `operator` or the admin key; with one tenant `admin`
    includes it.
    """
    results = {"test_run": "somebody-elses", "passed": 1, "failed": 0}
    drain = {"node": "no-such-node"}

    async def may(program: Program, text: str) -> list[int]:
        return [
            (await program.get("/ws/stats", headers=bearer(text))).status_code,
            (await program.get("/api/v1/e2e/results", headers=bearer(text))).status_code,
            (await program.post("/api/v1/e2e/results", headers=bearer(text), json=results)).status_code,
            (await program.post("/api/v1/drain", headers=bearer(text), json=drain)).status_code,
        ]

    env = STAGING | {"NARTHEX_JWT_SECRET": SECRET}
    async with running(tmp_path, env) as program:
        assert await may(program, token(permissions=["admin"], tenant="acme")) == [403] * 4
        assert await may(program, token(permissions=["operator"], tenant="acme")) == [200] * 4
        assert await may(program, ADMIN_KEY) == [200] * 4
        body = {"user": "bob", "tenant": "acme"}
        operator = token(permissions=["operator"], tenant="acme")
        answer = await program.post("/api/v1/disconnect", json=body, headers=bearer(operator))
        assert answer.status_code == 200  # from the dashboard's list of connections, with an audit record
        audits = await program.get("/api/v1/operator/audits?kind=disconnect", headers=bearer(operator))
        assert [record["subject"] for record in audits.json()["audits"]] == ["bob"]
        administrator = bearer(token(permissions=["admin"], tenant="other"))
        answer = await program.post("/api/v1/disconnect", json=body, headers=administrator)
        assert answer.status_code == 403  # another tenant's administrator
        program.terminate()
        program.env |= {"NARTHEX_JWT_TENANT": "default"}
        await program.start()
        assert await may(program, token(permissions=["admin"])) == [200] * 4


async def test_production_tells_strangers_nothing_and_believes_no_test_header(tmp_path: Path) -> None:
    """A made-up test run stays in class `user`, health names no cause, loopback names serve local probes only."""
    async with HttpIssuer() as issuer:
        dead = issuer.url
    env = STAGING | {
        "ENVIRONMENT": "production",
        "NARTHEX_ALLOWED_HOSTS": "chat.example.com",
        "NARTHEX_JWKS_URL": f"{dead}/keys",
        "NARTHEX_JWT_ISSUER": dead,
    }
    async with running(tmp_path, env) as program:
        with pytest.raises(InvalidStatus):
            async with connect(program.ws, additional_headers={"X-E2E-Test-Run": "hidden"}, proxy=None):
                pass
        numbers = (await program.get("/metrics")).text
        refusals = [line for line in numbers.splitlines() if "auth_required" in line and "handshakes" in line]
        assert refusals and not any('class="e2e"' in line for line in refusals), refusals
        health = (await program.get("/ws/health")).json()
        assert health["checks"]["auth"]["status"] == "degraded"
        assert health["checks"]["auth"]["detail"] == "auth_unavailable"
        assert dead not in json.dumps(health) and "Connect" not in json.dumps(health)
        for host, more, expected in (
            ("chat.example.com", {}, 200),
            (f"localhost:{program.port}", {}, 200),
            (f"localhost:{program.port}", {"X-Forwarded-For": "203.0.113.9"}, 400),
            ("127.0.0.1", {"Forwarded": "for=203.0.113.9"}, 400),
            ("evil.example", {}, 400),
        ):
            answer = await program.get("/ws/config", headers={"Host": host} | more)
            assert answer.status_code == expected, (host, more)


async def test_an_origin_that_any_page_can_have_plants_no_cookie(tmp_path: Path) -> None:
    """A sandboxed page (`Origin: null`) that posts its own sign-in or refresh token must not sign a browser in."""
    async with running(tmp_path, {"NARTHEX_ALLOWED_ORIGINS": "null,https://app.example"}) as program:
        shell, page = {"Origin": "null"}, {"Origin": "https://app.example"}
        for headers, cookies in ((shell, False), (page, True), ({}, True)):
            signed_in = await program.post("/auth/login", json={"email": "eve@example.com"}, headers=headers)
            assert signed_in.status_code == 200 and signed_in.json()["access_token"]
            assert ("set-cookie" in signed_in.headers) == cookies, headers
            body = {"refresh_token": signed_in.json()["refresh_token"]}
            renewed = await program.post("/auth/refresh", json=body, headers=headers)
            assert renewed.status_code == 200 and renewed.json()["refresh_token"]
            assert ("set-cookie" in renewed.headers) == cookies, headers
