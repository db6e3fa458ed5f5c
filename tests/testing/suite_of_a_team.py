"""A suite as a team writes it, with the plugin's fixtures; test_pytest_plugin runs it in pytest of its own."""

# ruff: noqa: ANN001, ANN202 - teams write tests without annotations
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.async_api import async_playwright
from playwright.sync_api import sync_playwright
from websockets.exceptions import ConnectionClosed

from narthex.testing import ConnectFailed, Issuer

KEY = os.environ["E2E_OAUTH_SIMULATION_KEY"]


if secret := os.environ.get("TEAM_SECRET", ""):

    @pytest.fixture(scope="session")
    def narthex_issuer():
        return Issuer(secret=secret, url="", admin_key=os.environ["TEAM_ADMIN_KEY"])


@pytest.fixture(scope="session")
def base_url(narthex_issuer, tmp_path_factory):
    """The URL of a server that runs already, else of the guarded application under uvicorn."""
    if given := os.environ.get("TEAM_URL", ""):
        yield given
        return
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = os.environ | narthex_issuer.environ
    env |= {
        "ENVIRONMENT": "staging",
        "E2E_TEST_ENV": "staging",
        "NARTHEX_ALLOWED_HOSTS": "127.0.0.1",
        "NARTHEX_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "guarded_app:app",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    server = subprocess.Popen(command, env=env, cwd=Path(__file__).parent)
    try:
        for _ in range(600):
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def url(base_url):
    return base_url.replace("http", "ws") + "/ws"


def test_admitted(url, narthex_issuer, ws_connect):
    with ws_connect(url, narthex_issuer.valid()) as socket:
        socket.recv()
        socket.send("hello")
        assert socket.recv() == "hello"


def test_admitted_in_a_loop(url, narthex_issuer, ws_connect):
    async def main():
        async with ws_connect(url, narthex_issuer.valid("bob")) as socket:
            await socket.recv()
            await socket.send("hello")
            assert await socket.recv() == "hello"

    asyncio.run(main())


def test_refusals(url, base_url, narthex_issuer, assert_refused):
    assert_refused(url, "auth_required")
    assert assert_refused(url, "token_expired", narthex_issuer.expired()).status == 401
    assert_refused(url, "token_invalid", narthex_issuer.forged(), carrier="subprotocol")
    assert_refused(url, "origin_not_allowed", narthex_issuer.valid(), origin="https://evil.example")
    assert_refused(url, "token_revoked", narthex_issuer.revoked(base_url))


def test_refusals_in_a_loop(url, narthex_issuer, assert_refused):
    async def main():
        assert_refused(url, "token_expired", narthex_issuer.expired())
        await asyncio.to_thread(assert_refused, url, "auth_required")

    asyncio.run(main())


def test_a_failed_connect_says_why(url, narthex_issuer, ws_connect):
    token = narthex_issuer.expired()
    with pytest.raises(ConnectFailed) as caught, ws_connect(url, token):
        pass
    text = str(caught.value)
    assert (caught.value.code, caught.value.status) == ("token_expired", 401)
    assert "remedy:" in text
    assert "token_expired_here" in text  # the doctor's own name of the cause
    assert token not in text

    async def main():
        async with ws_connect(url):
            pass

    with pytest.raises(ConnectFailed, match="auth_required"):
        asyncio.run(main())
    with pytest.raises(ConnectFailed, match="refuse"), ws_connect("ws://127.0.0.1:9/ws"):
        pass


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("token_expired", "valid", "it was admitted"),
        ("token_invalid", "expired", "it was refused with HTTP 401 `token_expired`"),
    ],
)
def test_a_wrong_expectation_fails(url, narthex_issuer, assert_refused, code, kind, said):
    with pytest.raises(AssertionError, match=said):
        assert_refused(url, code, getattr(narthex_issuer, kind)())


def test_nothing_is_no_refusal(assert_refused):
    with pytest.raises(AssertionError, match="nothing answered"):
        assert_refused("ws://127.0.0.1:9/ws", "auth_required")


@pytest.mark.skipif("TEAM_URL" in os.environ, reason="the other server has no close of its own")
def test_a_close_is_explained(url, narthex_issuer, ws_connect):
    with pytest.raises(ConnectionClosed) as caught, ws_connect(url, narthex_issuer.valid()) as socket:
        socket.recv()
        socket.send("quit")
        socket.recv()
    assert "4000" in caught.value.__notes__[0]
    assert "as you wish" in caught.value.__notes__[0]


def test_a_confined_identity(url, base_url, narthex_identity, ws_connect):
    narthex_identity.base_url = base_url
    ada = narthex_identity("ada")
    assert narthex_identity("ada") is ada
    assert ada.token not in repr(ada)
    with ws_connect(url, ada.token) as socket:
        first = socket.recv()
    if first.startswith("{"):  # the Node server shows its request's headers
        headers = json.loads(first)["headers"]
        first = f"{headers['narthex-tenant']} {headers['narthex-test-run']}"
    assert first == f"e2e {ada.test_run}"
    assert narthex_identity("bob").test_run != ada.test_run


@pytest.mark.skipif("TEAM_URL" in os.environ, reason="the other server has no page")
def test_a_page_is_signed_in(base_url, narthex_identity, sign_in_page):
    narthex_identity.base_url = base_url
    chromium = shutil.which("chromium")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        stranger = browser.new_page()
        stranger.goto(base_url)
        stranger.wait_for_function("document.title.startsWith('closed')")
        page = browser.new_page()
        sign_in_page(page, storage_key="token")
        page.goto(base_url)
        page.wait_for_function("document.title.startsWith('e2e pytest-')")
        assert page.evaluate("localStorage.token.length") > 100
        browser.close()

    async def main():
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = await browser.new_page()
            await sign_in_page(page, "carol")
            await page.goto(base_url)
            await page.wait_for_function("document.title.endsWith('-carol')")
            await browser.close()

    asyncio.run(main())
