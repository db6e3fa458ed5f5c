"""Third-party issuers against a real gateway: tokens, rotation with open sockets, sign-in, RFC 7662."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import expect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from narthex.testing import Running, gateway
from tests.acceptance.chat_page import ChatPage, chromium, visitor
from tests.contracts.issuers import CLIENT, Issuer, MockIssuer, NpmIssuer, install_npm_package
from tests.timing import within


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which npm installed oidc-provider."""
    return install_npm_package(tmp_path_factory.mktemp("npm"))


@pytest.fixture
async def mock(tmp_path: Path) -> AsyncIterator[MockIssuer]:
    """PyPI oidc-provider-mock."""
    issuer = MockIssuer(tmp_path)
    await issuer.start()
    yield issuer
    issuer.stop()


@pytest.fixture
async def npm(tmp_path: Path, modules: Path) -> AsyncIterator[NpmIssuer]:
    """The npm package oidc-provider, with JWT access tokens."""
    issuer = NpmIssuer(tmp_path, modules)
    await issuer.start()
    yield issuer
    issuer.stop()


def bearer(token: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {token}"}


async def preflight(running: Running, token: str) -> httpx2.Response:
    """The verdict without an upgrade."""
    async with httpx2.AsyncClient(trust_env=False, base_url=running.http) as client:
        return await client.get("/ws/preflight", headers=bearer(token))


class Line:
    """A WebSocket with the few commands that these tests need."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; returns its reply, skipping pushes and pings."""
        self._next += 1
        await self._socket.send(json.dumps({"id": self._next, **command}))
        async with asyncio.timeout(within(5)):
            async for frame in self._socket:
                for line in str(frame).splitlines():
                    reply: dict[str, Any] = json.loads(line)
                    if reply.get("id") == self._next:
                        return reply
        raise AssertionError("the socket ended")

    async def echo(self) -> None:
        """Check that the socket works."""
        reply = await self.ask(rpc={"method": "echo", "data": {"hello": "there"}})
        assert reply["rpc"]["data"] == {"hello": "there"}


async def rotation_with_open_sockets(running: Running, issuer: Issuer, fresh: Any) -> None:
    """Sockets opened before stay open; afterwards new tokens are admitted, also in-band, and old ones are not."""
    old = await fresh()
    async with connect(running.ws, additional_headers=bearer(old), proxy=None) as socket:
        line = Line(socket)
        assert "connect" in await line.ask(connect={})
        await line.echo()
        await issuer.restart()
        await line.echo()
        new = await fresh()
        assert (await preflight(running, new)).status_code == 200
        assert "refresh" in await line.ask(refresh={"token": new})
        await line.echo()
        async with connect(running.ws, additional_headers=bearer(new), proxy=None) as second:
            assert "connect" in await Line(second).ask(connect={})
    refused = await preflight(running, old)
    assert refused.status_code in (
        401,
        503,
    )  # bad signature if the keys have no name, else within the cool-down


async def test_mock_tokens_enter_and_rotate(mock: MockIssuer, tmp_path: Path) -> None:
    """RS256 ID tokens, a key set without `kid`s, discovery: admitted, refused for another audience, rotated."""
    options: dict[str, Any] = {"oidc_issuer": mock.url, "jwt_audience": ["gateway"]}
    async with gateway(tmp_path / "data", **options) as running:
        admitted = await preflight(running, await mock.id_token("ada", "gateway"))
        assert admitted.status_code == 200, admitted.text
        assert admitted.json()["user"]["id"] == "ada"
        other = await preflight(running, await mock.id_token("ada", "another"))
        assert other.json()["code"] == "wrong_audience"
        await rotation_with_open_sockets(running, mock, lambda: mock.id_token("ada", "gateway"))


async def test_npm_tokens_enter_and_rotate(npm: NpmIssuer, tmp_path: Path) -> None:
    """ES256 `at+jwt` with `kid`: claims are mapped, another audience is refused, keys rotate under open sockets."""
    options: dict[str, Any] = {"oidc_issuer": npm.url, "jwt_audience": ["narthex-gateway"]}
    async with gateway(tmp_path / "data", **options) as running:
        admitted = await preflight(running, await npm.access_token())
        assert admitted.status_code == 200, admitted.text
        assert admitted.json()["user"] == {"id": CLIENT, "tenant": "acme", "plan": "mid", "class": "user"}
        await rotation_with_open_sockets(running, npm, npm.access_token)
    async with gateway(tmp_path / "other", oidc_issuer=npm.url, jwt_audience=["else"]) as running:
        assert (await preflight(running, await npm.access_token())).json()["code"] == "wrong_audience"


async def test_two_issuers_at_once(mock: MockIssuer, npm: NpmIssuer, tmp_path: Path) -> None:
    """One gateway admits both issuers, each only with its own keys."""
    config = tmp_path / "narthex.toml"
    config.write_text(
        f"""
        [[issuers]]
        name = "mock"
        discovery = "{mock.url}"
        audience = ["gateway"]
        [[issuers]]
        name = "npm"
        discovery = "{npm.url}"
        """
    )
    async with gateway(tmp_path / "data", environ={"NARTHEX_CONFIG": str(config)}) as running:
        for token in (await mock.id_token("ada", "gateway"), await npm.access_token()):
            assert (await preflight(running, token)).status_code == 200
        _, payload, signature = (await npm.access_token()).split(".")
        forged = f"{(await mock.id_token('ada', 'gateway')).partition('.')[0]}.{payload}.{signature}"
        assert (await preflight(running, forged)).status_code in (401, 503)


async def test_opaque_tokens_by_introspection(tmp_path: Path, modules: Path) -> None:
    """Admitted while active, refused soon after the issuer revoked it, unavailable when the issuer is down."""
    issuer = NpmIssuer(tmp_path, modules, opaque=True)
    await issuer.start()
    try:
        options: dict[str, Any] = {
            "introspection_url": f"{issuer.url}/token/introspection",
            "introspection_client_id": CLIENT,
            "introspection_client_secret": issuer.secret,
        }
        async with gateway(tmp_path / "data", **options) as running:
            token = await issuer.user_token("ada")
            assert "." not in token
            admitted = await preflight(running, token)
            assert admitted.status_code == 200, admitted.text
            assert admitted.json()["user"] == {"id": "ada", "tenant": "acme", "plan": "mid", "class": "user"}
            nobodys = await preflight(running, await issuer.access_token())
            assert nobodys.json()["code"] == "token_invalid", "a client's own token names no user"
            gone = await issuer.user_token("bob")
            await issuer.revoke(gone)
            assert (await preflight(running, gone)).json()["code"] == "token_invalid"
            issuer.stop()
            unknown = await preflight(running, "opaque-and-never-seen")
            assert (unknown.status_code, unknown.json()["code"]) == (503, "auth_unavailable")
            assert int(unknown.headers["retry-after"]) >= 1
            with pytest.raises(InvalidStatus) as caught:
                async with connect(running.ws, additional_headers=bearer("opaque-and-new"), proxy=None):
                    pass
            assert caught.value.response.status_code == 503
    finally:
        issuer.stop()


@contextlib.asynccontextmanager
async def signing_in(issuer: Issuer, data: Path) -> AsyncIterator[Running]:
    """A gateway whose pages sign users in at `issuer`."""
    options: dict[str, Any] = {
        "oidc_issuer": issuer.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": issuer.secret,
    }
    async with gateway(data, **options) as running:
        issuer.callback = running.http + "/auth/oidc/callback"
        await issuer.start()
        try:
            yield running
        finally:
            issuer.stop()


@pytest.mark.parametrize("kind", ["mock", "npm"])
async def test_people_sign_in_on_the_pages(kind: str, tmp_path: Path, modules: Path) -> None:
    """Authorization code with PKCE through the provider's own pages; the session has the provider's subject."""
    issuer: Issuer = MockIssuer(tmp_path) if kind == "mock" else NpmIssuer(tmp_path, modules)
    async with (
        signing_in(issuer, tmp_path / "data") as running,
        httpx2.AsyncClient(trust_env=False, base_url=running.http) as browser,
    ):
        assert (await browser.get("/ws/config")).json()["oidc_start"] == "/auth/oidc/start"
        start = await browser.get("/auth/oidc/start?next=/dashboard")
        assert start.status_code == 303, start.text
        back = await issuer.sign_in(start.headers["location"], "ada")
        done = await browser.get(back)
        assert (done.status_code, done.headers.get("location")) == (303, "/dashboard"), done.text
        me = await browser.get("/auth/me", headers={"Sec-Fetch-Site": "same-origin"})  # as our page does
        assert me.json().get("id") == "ada", me.text
        again = await browser.get(back)
        assert again.json()["code"] == "login_failed", "a journey serves once"


async def through_the_provider(page: ChatPage, subject: str) -> None:
    """Press the page's button, then sign in and consent on the provider's development pages."""
    await page.page.get_by_role("link", name="Sign in with your organisation").click()
    await page.page.locator("input[name=login]").fill(subject)
    await page.page.locator("input[name=password]").fill("any")
    await page.page.locator("button[type=submit]").click()
    await page.page.locator("input[name=prompt][value=consent]").wait_for(state="attached")
    await page.page.locator("button[type=submit]").click()


@pytest.mark.browser
async def test_a_link_to_a_thread_survives_the_sign_in_at_the_provider(tmp_path: Path, modules: Path) -> None:
    """A signed-out user opens the link: after the provider's pages the page asks whether to join; no address that a
    server sees has the link's token, and an aborted sign-in keeps it too.
    """
    async with (
        signing_in(NpmIssuer(tmp_path, modules), tmp_path / "data") as running,
        chromium() as browser,
        visitor(browser, running.http, "oidc-owner") as ada,
        visitor(browser, running.http, "oidc-guest") as bob,
    ):
        await ada.open()
        await through_the_provider(ada, "ada")
        await ada.connected()
        await ada.send("our plan")
        await ada.run("finished")
        await ada.page.get_by_role("button", name="People in this thread").click()
        await ada.page.get_by_role("button", name="Create a link").click()
        url = await ada.page.get_by_label("Link to this thread", exact=True).input_value()
        token = url.rpartition("/")[2]

        seen: list[str] = []
        bob.page.on(
            "request",
            lambda request: seen.append(
                f"{request.url.partition('#')[0]} {request.headers} {request.post_data}"
            ),
        )
        await bob.open(url.removeprefix(running.http))
        await bob.page.get_by_role("link", name="Sign in with your organisation").click()
        await bob.page.locator("input[name=login]").wait_for()
        await bob.open("/?sign_in_error=login_failed")  # as the gateway redirects back
        await expect(bob.page.locator(".refusal")).to_contain_text("The sign-in did not succeed")
        assert bob.page.url.endswith(f"/#/join/{token}")
        await through_the_provider(bob, "bob")
        dialog = bob.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("our plan")
        await bob.shot("asks")
        assert "/join/" not in bob.page.url
        assert await bob.page.evaluate("sessionStorage.length") == 0
        await dialog.get_by_role("button", name="Join the thread").click()
        await expect(bob.page.locator(".said")).to_contain_text("our plan")
        assert [request for request in seen if token in request] == []
