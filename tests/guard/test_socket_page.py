"""`narthexSocket` in real Chromium, against a guarded application under uvicorn: what a page of a team sees."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.acceptance.program import Program
from tests.guard.cores import token
from tests.guard.process import guarding, node_server
from tests.guard.servers import Running, free_port, serving
from tests.security.test_browser import chromium
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

SERVER: Final = "uvicorn-websockets"
HOST: Final = "chat.example.test"
"""Chromium resolves it to this machine; `navigator.onLine` says nothing of loopback names."""
ADMIN_KEY: Final = "an-admin-key-of-at-least-32-characters"
ENVIRON: Final = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_TOKEN_GRACE_S": "0", "NARTHEX_ALLOWED_HOSTS": HOST}

FLAGS: Final = (
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
    "--no-proxy-server",
    # Playwright answers for the page, so that Chromium does not know it as one of this machine.
    "--disable-features=LocalNetworkAccessChecks",
)

# Opens a socket whose events the page keeps, and which tests read; `mint` is the test's own.
OPEN_JS: Final = """
async ([url, options]) => {
  const { narthexSocket } = await import(`${url.replace("ws", "http")}/client.js`);
  window.events = [];
  window.refusals = [];
  const Socket = narthexSocket({
    getToken: ({ expired }) => window.mint(expired),
    onRefused: ({ code, remedy }) => window.refusals.push([code, remedy]),
    minDelayMs: 100,
    maxDelayMs: 400,
    ...options,
  });
  const socket = (window.socket = new Socket(url));
  socket.onopen = () => window.events.push(["open"]);
  socket.onmessage = ({ data }) => window.events.push(["message", data]);
  socket.onclose = ({ code, reason, willReconnect }) => window.events.push(["close", code, reason, willReconnect]);
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(*FLAGS) as found:
        yield found


class PageOfATeam:
    """A page of the guarded application's own site.

    Attributes:
        asked: for each token, whether the page was asked for a new one.
        mint: makes the next token.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.asked: list[bool] = []
        self.mint: Any = token
        self._origin = origin

    async def prepare(self) -> None:
        """Load the page."""
        html = "<!doctype html><title>a team's page</title>"
        await self.page.route(
            f"{self._origin}/", lambda route: route.fulfill(body=html, content_type="text/html")
        )
        await self.page.expose_function("mint", self._minted)
        await self.page.goto(f"{self._origin}/")

    def _minted(self, expired: bool, /) -> str:
        self.asked.append(expired)
        return str(self.mint())

    async def connect(self, url: str, **options: object) -> None:
        """Make the socket."""
        await self.page.evaluate(OPEN_JS, [url, options])

    async def events(self, count: int) -> list[list[Any]]:
        """The first events, once there are so many."""
        await self.page.wait_for_function(
            "(count) => window.events.length >= count", arg=count, timeout=within(15) * 1000
        )
        found: list[list[Any]] = await self.page.evaluate("window.events")
        return found

    async def reopened(self) -> list[list[Any]]:
        """The events up to the second `open`."""
        await self.page.wait_for_function(
            "window.events.filter(([kind]) => kind === 'open').length === 2", timeout=within(15) * 1000
        )
        found: list[list[Any]] = await self.page.evaluate("window.events")
        return found

    async def said(self, text: str, count: int) -> list[list[Any]]:
        """Send a message, and wait until there are so many events."""
        await self.page.evaluate("(text) => window.socket.send(text)", text)
        return await self.events(count)


@contextlib.asynccontextmanager
async def page_of(browser: Browser, origin: str) -> AsyncIterator[PageOfATeam]:
    """A page in a browser profile of its own."""
    context = await browser.new_context()
    try:
        found = PageOfATeam(await context.new_page(), origin)
        await found.prepare()
        yield found
    finally:
        await context.close()


def endpoint(port: int) -> str:
    """The WebSocket's URL, by the host that the page uses."""
    return f"ws://{HOST}:{port}/ws"


def origin(port: int) -> str:
    """The site."""
    return f"http://{HOST}:{port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A guarded Starlette application."""
    async with serving(SERVER, "starlette", tmp_path_factory.mktemp("page"), ENVIRON) as started:
        yield started


async def test_the_server_dies_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    """After `kill -9` and a restart the page's socket is open again, with another token, and nobody reloaded."""
    port = free_port()
    subjects = iter(f"ann-{number}" for number in range(1, 1000))
    async with page_of(browser, origin(port)) as page:
        page.mint = lambda: token(next(subjects))
        async with serving(SERVER, "starlette", tmp_path, ENVIRON, port=port) as first:
            await page.connect(endpoint(port))
            await page.events(1)
            assert (await page.said("hello", 2))[1] == ["message", "hello"]
            first.process.kill()
            await first.process.wait()
            lost = (await page.events(3))[2]
            assert (lost[0], lost[1], lost[3]) == ("close", 1006, True)
        async with serving(SERVER, "starlette", tmp_path, ENVIRON, port=port):
            events = await page.reopened()
            whole = await page.said("whoami", len(events) + 1)
            assert f'"user": "ann-{len(page.asked)}"' in whole[-1][1]
            assert [event[0] for event in whole[3:-2]] == ["close"] * (len(whole) - 5)
            assert {"unreachable"} >= {code for code, _ in await page.page.evaluate("window.refusals")}


async def test_a_refusal_reaches_the_page_with_its_reason(browser: Browser, server: Running) -> None:
    """A forged token, and a page of a foreign site: one close, final, no `open` before it."""
    async with page_of(browser, origin(server.port)) as page:
        page.mint = lambda: token(secret="another-secret-of-at-least-32-bytes!")
        await page.connect(endpoint(server.port))
        (event,) = await page.events(1)
        assert (event[1], event[2].split(":")[0], event[3]) == (3500, "token_invalid", False)
        await page.page.wait_for_function("window.refusals.length > 0")
        ((code, remedy),) = await page.page.evaluate("window.refusals")
        assert code == "token_invalid"
        assert remedy
        assert page.asked == [False]
    async with page_of(browser, "http://evil.example.test") as page:
        await page.page.context.route("http://evil.example.test/*", lambda route: route.fulfill(body=""))
        await page.connect(endpoint(server.port))
        (event,) = await page.events(1)
        assert (event[1], event[2].split(":")[0], event[3]) == (3507, "origin_not_allowed", False)
    assert not [line for line in server.reached if line != "reached" and not line.startswith("ended")]


async def test_a_revoked_user_is_told_and_stays_away(browser: Browser, server: Running) -> None:
    """3500 `token_revoked` within a second, and no further attempt."""
    async with page_of(browser, origin(server.port)) as page:
        page.mint = lambda: token("mallory")
        await page.connect(endpoint(server.port))
        await page.events(1)
        async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
            answer = await client.post(
                "/api/v1/revoke",
                headers={"Authorization": f"Bearer {ADMIN_KEY}", "Host": HOST},
                json={"kind": "subject", "value": "mallory"},
            )
        assert answer.is_success, answer.text
        closed = (await page.events(2))[1]
        assert (closed[1], closed[2].split(":")[0], closed[3]) == (3500, "token_revoked", False)
        assert await page.page.evaluate("window.socket.readyState") == 3
        assert len(page.asked) == 1


async def test_a_token_that_ends_is_replaced(browser: Browser, server: Running) -> None:
    """3005 at the token's end; the page is asked for a new one, and is connected with it."""
    async with page_of(browser, origin(server.port)) as page:
        page.mint = lambda: token("tess", ttl_s=2 if len(page.asked) == 1 else 3600)
        await page.connect(endpoint(server.port))
        events = await page.events(3)
        assert [event[0] for event in events] == ["open", "close", "open"]
        assert (events[1][1], events[1][3]) == (3005, True)
        assert page.asked == [False, True]


async def test_a_token_that_ended_while_the_laptop_slept(browser: Browser, server: Running) -> None:
    """The stale token of a cache is refused; a new one is asked for, at once, and admitted."""
    async with page_of(browser, origin(server.port)) as page:
        page.mint = lambda: token("rip", ttl_s=-100 if len(page.asked) == 1 else 3600)
        await page.connect(endpoint(server.port), minDelayMs=3_600_000, maxDelayMs=3_600_000)
        events = await page.events(2)
        assert [event[0] for event in events] == ["close", "open"]
        assert (events[0][1], events[0][2].split(":")[0], events[0][3]) == (3500, "token_expired", True)
        assert page.asked == [False, True]


async def test_offline_it_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    """A page without a network makes no attempt and no token; it connects when the network is back."""
    port = free_port()
    async with page_of(browser, origin(port)) as page:
        async with serving(SERVER, "starlette", tmp_path, ENVIRON, port=port) as first:
            await page.connect(endpoint(port))
            await page.events(1)
            await page.page.context.set_offline(True)
            first.process.kill()
            await first.process.wait()
            await page.events(2)
        asked = len(page.asked)
        async with serving(SERVER, "starlette", tmp_path, ENVIRON, port=port):
            # Long enough for several attempts (minDelayMs 100): nothing can be waited for where nothing must happen.
            await asyncio.sleep(1)
            assert (len(await page.events(2)), len(page.asked)) == (2, asked)
            await page.page.context.set_offline(False)
            assert (await page.events(3))[2] == ["open"]


async def test_a_ticket_instead_of_a_token(browser: Browser, server: Running) -> None:
    """The page's token buys a ticket for each attempt; the handshake carries no token."""
    async with page_of(browser, origin(server.port)) as page:
        page.mint = lambda: token("tick")
        await page.connect(endpoint(server.port), ticket=True)
        await page.events(1)
        given = (await page.said("whoami", 2))[1][1]
        assert '"user": "tick"' in given
        assert '"subprotocols": []' in given


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with node_server() as node:
        yield node.port


async def test_in_front_of_a_node_server(browser: Browser, upstream: int, tmp_path: Path) -> None:
    """The same class against `narthex guard`: admitted, refused with the reason, back after `kill -9`."""
    async with guarding(tmp_path, f"ws://127.0.0.1:{upstream}", ENVIRON) as guard:
        async with page_of(browser, origin(guard.port)) as page:
            page.mint = lambda: token(secret="another-secret-of-at-least-32-bytes!")
            await page.connect(endpoint(guard.port))
            (event,) = await page.events(1)
            assert (event[1], event[2].split(":")[0], event[3]) == (3500, "token_invalid", False)
        async with page_of(browser, origin(guard.port)) as page:
            await page.connect(endpoint(guard.port))
            await page.events(2)  # `open`, and the request as the Node server saw it
            await restarted(guard)
            await page.reopened()


async def restarted(guard: Program) -> None:
    """`kill -9`, and a new start."""
    guard.kill()
    await guard.start()
