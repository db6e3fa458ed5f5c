"""Attacks that only a browser shows, in Chromium: cookies planted by a neighbouring host, `EventSource` with a
cookie.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.acceptance.chat_page import FLAGS
from tests.acceptance.program import running

pytestmark = pytest.mark.acceptance

HOST: Final = "chat.example.test"
SIBLING: Final = "https://evil.example.test/"
HOME: Final = f"https://{HOST}/ws/config"

REFRESH_JS: Final = """
async () => {
  const answer = await fetch('/auth/refresh', {method: 'POST', body: '{}'});
  const body = await answer.json();
  return [answer.status, body.user ? body.user.email : body.code];
}
"""
SIGN_IN_JS: Final = """
async (email) => {
  const headers = {'Content-Type': 'application/json'};
  const answer = await fetch('/auth/login', {method: 'POST', headers, body: JSON.stringify({email})});
  return answer.status;
}
"""
LISTEN_JS: Final = """
(base) => new Promise((resolve) => {
  const command = encodeURIComponent(JSON.stringify({id: 1, connect: {}}));
  const source = new EventSource(`${base}/connection/sse?cf_connect=${command}`, {withCredentials: true});
  source.onmessage = (event) => { source.close(); resolve(event.data); };
  source.onerror = () => { source.close(); resolve('refused'); };
})
"""


def certificate(directory: Path) -> ssl.SSLContext:
    """A server's TLS with a new self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "tls.pem"
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@contextlib.asynccontextmanager
async def tls_proxy(directory: Path, upstream: int) -> AsyncIterator[int]:
    """Terminates TLS in front of the gateway and reports it, one request per connection; returns its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = [line for line in head.split("\r\n") if not line.lower().startswith("connection:")]
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            lines[1:1] = ["X-Forwarded-Proto: https", "Connection: close"]
            from_gateway, to_gateway = await asyncio.open_connection("127.0.0.1", upstream)
            to_gateway.write("\r\n".join(lines).encode("latin-1") + body)
            writer.write(await from_gateway.read(-1))
            await writer.drain()
            to_gateway.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate(directory))
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "install chromium (Debian: apt-get install chromium)"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


async def planted(context: BrowserContext, refresh_token: str) -> None:
    """A page of a neighbouring host sets every cookie name ever used for the refresh cookie, for the whole domain."""
    page = await context.new_page()
    await page.route(f"{SIBLING}**", lambda route: route.fulfill(body="<p>hello", content_type="text/html"))
    await page.goto(SIBLING)
    for name in ("narthex_refresh", "__Secure-narthex_refresh", "__Host-narthex_refresh"):
        for path in ("/", "/auth"):
            cookie = f"{name}={refresh_token}; Domain=example.test; Path={path}; Secure"
            await page.evaluate("(text) => { document.cookie = text; }", cookie)
    names = {cookie.get("name") for cookie in await context.cookies()}
    assert "__Secure-narthex_refresh" in names, "the attack itself must work, or this test proves nothing"
    await page.close()


async def test_a_neighbouring_host_cannot_sign_a_page_in(tmp_path: Path) -> None:
    """A `Domain=` cookie of the attacker takes over neither a page without a session nor one with its own."""
    env = {
        "ENVIRONMENT": "testing",
        "NARTHEX_ALLOWED_HOSTS": HOST,
        "NARTHEX_TRUSTED_PROXIES": "127.0.0.1",
        "NARTHEX_PUBLIC_URL": f"https://{HOST}",
    }
    async with running(tmp_path, env) as program, tls_proxy(tmp_path, program.port) as port:
        login = await program.post("/auth/login", json={"email": "mallory@evil.example"})
        stolen: dict[str, Any] = login.json()
        rules = f"--host-resolver-rules=MAP *.example.test:443 127.0.0.1:{port}"
        async with chromium(rules, "--ignore-certificate-errors") as browser:
            context = await browser.new_context(ignore_https_errors=True)
            await planted(context, stolen["refresh_token"])
            page = await context.new_page()
            await page.goto(HOME)
            assert await page.evaluate(REFRESH_JS) == [400, "bad_request"]
            assert await page.evaluate(SIGN_IN_JS, "victim@example.com") == 200
            await planted(context, stolen["refresh_token"])
            assert await page.evaluate(REFRESH_JS) == [200, "victim@example.com"]
            ours = [cookie for cookie in await context.cookies() if "__Host-" in str(cookie.get("name"))]
            assert {cookie.get("name") for cookie in ours} == {
                "__Host-narthex_session",
                "__Host-narthex_refresh",
            }
            for cookie in ours:
                assert (cookie.get("path"), cookie.get("domain"), cookie.get("secure")) == ("/", HOST, True)
                assert cookie.get("httpOnly") is True


async def test_event_source_works_on_our_own_page_and_on_no_other(tmp_path: Path) -> None:
    """Chromium sends no `Origin` with a same-origin GET: the cookie is accepted because of `Sec-Fetch-Site`."""
    async with (
        running(tmp_path) as program,
        running(_below(tmp_path, "other")) as other,
        chromium() as browser,
    ):
        page = await browser.new_page()
        await page.goto(f"{program.http}/ws/config")
        assert '"connect"' not in await page.evaluate(LISTEN_JS, "")  # not signed in
        assert await page.evaluate(SIGN_IN_JS, "ann@example.com") == 200
        assert '"connect"' in await page.evaluate(LISTEN_JS, "")
        # the same host at another port: the browser sends the cookie, and the gateway refuses the page
        await page.goto(f"{other.http}/ws/config")
        assert await page.evaluate(LISTEN_JS, program.http) == "refused"


def _below(directory: Path, name: str) -> Path:
    found = directory / name
    found.mkdir()
    return found
