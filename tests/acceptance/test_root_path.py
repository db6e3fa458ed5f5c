"""`--root-path`: four programs behind one real nginx, each below a path that nginx removes; Chromium and clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from narthex.e2e.children import free_port
from tests.acceptance.chat_page import visitor
from tests.acceptance.dashboard_page import Dashboard
from tests.acceptance.fleet import ADMIN_KEY
from tests.acceptance.program import Program
from tests.guard.cores import SECRET, token
from tests.guard.proxies import NGINX, program
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SERVER: Final = """
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    location /chat/   {{ proxy_pass http://127.0.0.1:{chat}/; }}
    location /door/   {{ proxy_pass http://127.0.0.1:{door}/; }}
    location /id/     {{ proxy_pass http://127.0.0.1:{provider}/; }}
    location /up/time/ {{ proxy_pass http://127.0.0.1:{uptime}/; }}
}}
"""
LINK: Final = re.compile(r'(?:href|src)="([^"#][^"]*)"')


class Site(NamedTuple):
    """nginx, and the programs behind it."""

    port: int
    chat: Program

    @property
    def http(self) -> str:
        """Of nginx, without a path."""
        return f"http://127.0.0.1:{self.port}"


async def echo(socket: ServerConnection) -> None:
    """Say who it is and under which path it came, and then what was said."""
    assert socket.request is not None
    await socket.send(f"{socket.request.headers['Narthex-Subject']} at {socket.request.path}")
    async for message in socket:
        await socket.send(message)


@contextlib.contextmanager
def nginx(folder: Path, port: int, **ports: int) -> Iterator[None]:
    """Nginx with the three locations."""
    text = SERVER.format(port=port, **ports)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, documented=text))
    command = [program("nginx", "apt-get install nginx-light"), "-c", str(folder / "nginx.conf")]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(within(10))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The site; its programs trust nginx."""
    proxied = {"NARTHEX_TRUSTED_PROXIES": "127.0.0.1"}
    async with serve(echo, "127.0.0.1", 0) as upstream:
        behind = next(iter(upstream.sockets)).getsockname()[1]
        chat = Program(
            tmp_path_factory.mktemp("chat"),
            proxied | {"NARTHEX_ADMIN_KEY": ADMIN_KEY},
            ("--root-path", "/chat"),
        )
        door = Program(
            tmp_path_factory.mktemp("door"),
            proxied | {"NARTHEX_JWT_SECRET": SECRET},
            ("--upstream", f"ws://127.0.0.1:{behind}", "--root-path", "/door"),
            serving="guard",
        )
        uptime = Program(
            tmp_path_factory.mktemp("uptime"), proxied, ("--root-path", "/up/time"), serving="status serve"
        )
        port = free_port()
        public = ("--root-path", "/id", "--public-url", f"http://127.0.0.1:{port}")
        provider = Program(tmp_path_factory.mktemp("provider"), proxied, public, serving="auth serve")
        programs = {"chat": chat, "door": door, "uptime": uptime, "provider": provider}
        try:
            await asyncio.gather(*(one.start() for one in programs.values()))
            ports = {name: one.port for name, one in programs.items()}
            with nginx(tmp_path_factory.mktemp("nginx"), port, **ports):
                found = Site(port, chat)
                await answers(found)
                yield found
        finally:
            for one in programs.values():
                one.end()


async def answers(site: Site) -> None:
    """Wait until nginx listens."""
    async with asyncio.timeout(within(10)), httpx2.AsyncClient(trust_env=False) as web:
        while True:
            with contextlib.suppress(httpx2.TransportError):
                await web.get(f"{site.http}/chat/livez")
                return
            await asyncio.sleep(0.02)


async def test_the_chat_page(site: Site, browser: Browser) -> None:
    """Signing in, an answer, a reload, signing out: every request of the page stays below the path."""
    async with visitor(browser, f"{site.http}/chat", "rooted") as page:
        await page.open("/")
        await page.sign_in("ada@example.org")
        await page.send("echo one")
        await expect(page.page.locator(".run .prose").last).to_contain_text("one")
        paths = {cookie["path"] for cookie in await page.page.context.cookies()}
        assert paths == {"/chat/", "/chat/auth"}
        await page.page.reload()
        await page.connected()
        await page.page.get_by_role("link", name="echo one").first.wait_for()
        page.check()


async def test_the_dashboard(site: Site, browser: Browser) -> None:
    """Figures come, and its link leads to the status page."""
    async with visitor(browser, f"{site.http}/chat", "rooted-dashboard") as visit:
        page = Dashboard(visit, f"{site.http}/chat")
        await page.open(site.chat.token("root", permission="operator"))
        await page.ready()
        await page.page.get_by_role("link", name="Status page").click()
        await expect(page.page).to_have_url(f"{site.http}/chat/status")
        await page.page.get_by_role("link", name="JSON").click()
        await expect(page.page).to_have_url(f"{site.http}/chat/status.json")


async def test_documents_and_answers(site: Site) -> None:
    """Each address in an answer begins with the path, and leads somewhere; a client's header changes none of them."""
    base = f"{site.http}/chat"
    async with httpx2.AsyncClient(trust_env=False, headers={"X-Forwarded-Prefix": "/evil"}) as web:

        async def got(path: str, **options: Any) -> httpx2.Response:
            return await web.get(base + path, **options)

        refused = await got("/auth/me")
        assert refused.json()["type"] == "/chat/problems/auth_required"
        assert refused.headers["content-length"] == str(len(refused.content))
        page = await web.get(site.http + refused.json()["type"], headers={"Accept": "text/html"})
        assert 'href="/chat/problems"' in page.text
        for found in (await got("/nothing"), await got("/api/v1/threads")):
            assert found.json()["type"].startswith("/chat/problems/")
        index = (await got("/problems", headers={"Accept": "text/html"})).text
        assert {link.rpartition("/")[0] for link in LINK.findall(index)} == {"/chat/problems"}
        config = (await got("/ws/config")).json()
        assert config["url"] == f"ws://127.0.0.1:{site.port}/chat/ws"
        assert all(path.startswith("/chat/") for path in config["paths"].values())
        oidc = (await got("/.well-known/openid-configuration")).json()
        assert (await web.get(oidc["jwks_uri"])).status_code == 200
        assert (await got("/api/v1/openapi.json")).json()["servers"] == [{"url": "/chat"}]
        for path in ("/", "/dashboard", "/status"):
            text = (await got(path)).text
            for link in LINK.findall(text):
                assert link.startswith("/chat/"), (path, link)
                assert (await web.get(site.http + link)).status_code == 200, (path, link)
        feed = (await got("/status.atom")).text
        assert f'href="{base}/status.atom"' in feed
        signed_in = await web.post(
            f"{base}/auth/login", data={"email": "eva@example.org", "next": "/dashboard"}
        )
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/chat/dashboard")
        cookies = [SimpleCookie(value) for value in signed_in.headers.get_list("set-cookie")]
        assert sorted(one["path"] for cookie in cookies for one in cookie.values()) == [
            "/chat/",
            "/chat/auth",
        ]


async def test_upgrades(site: Site) -> None:
    """A refusal of the edge names the page that explains it; an admitted client chats."""
    url = f"ws://127.0.0.1:{site.port}/chat/ws"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, proxy=None, additional_headers={"Authorization": "Bearer nonsense"}):
            pass
    assert json.loads(refused.value.response.body)["type"] == "/chat/problems/token_malformed"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url + "/nowhere", proxy=None):
            pass
    assert json.loads(refused.value.response.body)["type"] == "/chat/problems/no_route"
    headers = {"Authorization": f"Bearer {site.chat.token('ada')}"}
    async with connect(url, proxy=None, additional_headers=headers) as socket:
        await socket.send('{"id":1,"connect":{}}')
        assert "client" in json.loads(await socket.recv())["connect"]


async def test_a_guard(site: Site) -> None:
    """The server behind gets the path as the guard got it; the guard's own answers have the prefix."""
    url = f"ws://127.0.0.1:{site.port}/door/ws"
    headers = {"Authorization": f"Bearer {token(subject='ada')}"}
    async with connect(url + "?x=1", proxy=None, additional_headers=headers) as socket:
        assert await socket.recv() == "ada at /ws?x=1"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, proxy=None):
            pass
    assert json.loads(refused.value.response.body)["type"] == "/door/problems/auth_required"
    async with httpx2.AsyncClient(trust_env=False) as web:
        config = (await web.get(f"{site.http}/door/ws/config")).json()
        assert config["url"] == url
        assert config["paths"]["health"] == "/door/ws/health"
        assert (await web.get(site.http + config["paths"]["health"])).json()["status"] == "healthy"


async def test_a_status_service(site: Site) -> None:
    """Its start page leads to the status page, whose links stay below the path."""
    async with httpx2.AsyncClient(trust_env=False) as web:
        page = await web.get(f"{site.http}/up/time/", follow_redirects=True)
        assert page.url == f"{site.http}/up/time/status"
        links = LINK.findall(page.text)
        assert links
        for link in links:
            assert link.startswith("/up/time/status"), link


async def test_an_auth_service(site: Site) -> None:
    """Its discovery and its keys are below the path, which ends the issuer of its tokens; so are its refusals."""
    issuer = f"{site.http}/id"
    async with httpx2.AsyncClient(trust_env=False) as web:
        found = (await web.get(f"{issuer}/.well-known/openid-configuration")).json()
        assert found["issuer"] == issuer
        assert (await web.get(found["jwks_uri"])).json()["keys"]
        refused = await web.get(found["userinfo_endpoint"])
        assert refused.json()["type"] == "/id/problems/auth_required"
        signed_in = await web.post(f"{issuer}/auth/login", json={"email": "eva@example.org"})
        claims = jwt.decode(signed_in.json()["access_token"], options={"verify_signature": False})
        assert claims["iss"] == issuer
