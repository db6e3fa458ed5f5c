"""Pages of front-end kits in real Chromium, on two gateways with one broker and one store: what their tests share.

Not here: the pages (`web/test/kits`), the agent (`kit_agents`). Rules: a page is served under a gateway's own origin by
Playwright; it loads nothing from elsewhere and logs no error, and `check` fails on any; waits are for what the page or
the agent shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from playwright.async_api import Browser, BrowserContext, Locator, Page, Route
from playwright.async_api import TimeoutError as PageTimeoutError

from tests.acceptance.fleet import fleet
from tests.acceptance.program import Program
from tests.acceptance.scripts import WEB, node_with
from tests.timing import within

PAGES: Final = WEB / "test" / "kits"
BUILD: Final = PAGES / "build.mjs"
TIMEOUT_MS: Final = within(20) * 1000
HTML: Final = (
    '<!doctype html><meta charset="utf-8"><title>kit</title><link rel="icon" href="data:,">{style}'
    '<div id="root"></div><script type="module" src="/kits/{name}.js"></script>'
)
STYLE: Final = '<link rel="stylesheet" href="/kits/{name}.css">'


class Kits:
    """Two gateways whose agent is `model`, and the built pages.

    Attributes:
        gateways: both.
        folder: of the agent's notes and gates.
        bundles: the built pages.
        token: ada's.
    """

    def __init__(self, gateways: list[Program], folder: Path, bundles: Path) -> None:
        self.gateways = gateways
        self.folder = folder
        self.bundles = bundles
        self.token = gateways[0].token("ada")

    def open_gate(self, name: str) -> None:
        """Let the run that waits for it go on."""
        (self.folder / name).touch()

    def calls(self, last: str) -> int:
        """How often the model was called with such a last message."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines().count(last) if noted.exists() else 0

    async def cancelled(self, gate: str) -> float:
        """Wait until a run that waits for a gate was cancelled; the time at which that was."""
        note = self.folder / f"{gate}.cancelled"
        async with asyncio.timeout(within(20)):
            while not note.exists() or not note.read_text():  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.01)
        return float(note.read_text())

    async def idle(self, chat: str) -> None:
        """Wait until the store has no queued or running run of a thread."""
        async with asyncio.timeout(within(20)):
            while (await self.thread(chat))["runs"]:  # noqa: ASYNC110  # another process ends it
                await asyncio.sleep(0.05)

    async def thread(self, chat: str) -> dict[str, Any]:
        """The stored thread."""
        headers = {"Authorization": f"Bearer {self.token}"}
        found: dict[str, Any] = (
            await self.gateways[0].get(f"/agui/model/threads/{chat}", headers=headers)
        ).json()
        return found


@contextlib.asynccontextmanager
async def kits(directory: Path, source: Path, **env: str) -> AsyncIterator[Kits]:
    """Build the pages of a folder, and start the gateways."""
    node = node_with("esbuild")
    bundles, folder = directory / "bundles", directory / "notes"
    folder.mkdir()
    built = await asyncio.to_thread(
        subprocess.run,
        [node, str(BUILD), str(bundles), str(source)],
        cwd=WEB,
        capture_output=True,
        text=True,
        timeout=within(60),
        check=False,
    )
    assert built.returncode == 0, built.stderr
    env = {"KITS_FOLDER": str(folder), "PYTHONPATH": str(Path(__file__).parents[2]), **env}
    async with fleet(directory, **env) as started:
        gateways = await started.gateways(2, "--agent", "tests.acceptance.kit_agents:model")
        yield Kits(gateways, folder, bundles)


class KitPage:
    """One tab.

    Attributes:
        page: Playwright's.
        chat: the name of its thread.
        thread: the id of a thread to open; empty: none yet.
        token: ada's, unless a test sets another.
        faults: errors on the page so far.
    """

    def __init__(self, page: Page, found: Kits, name: str, chat: str) -> None:
        self.page = page
        self.chat = chat
        self.thread = ""
        self.token = found.token
        self.faults: list[str] = []
        self._kits = found
        self._name = name
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                self.faults.append(f"{message.type}: {message.text} {message.location}")
                if message.type == "error"
                else None
            ),
        )

    async def open(self, gateway: int = 0) -> None:
        """Load the page, anew if it was loaded before."""
        base = self._kits.gateways[gateway].http

        async def serve(route: Route) -> None:
            path = route.request.url.partition("?")[0].removeprefix(base)
            if path == f"/kits/{self._name}":
                styled = (self._kits.bundles / f"{self._name}.css").exists()
                style = STYLE.format(name=self._name) if styled else ""
                await route.fulfill(body=HTML.format(name=self._name, style=style), content_type="text/html")
            else:
                await route.fulfill(path=self._kits.bundles / path.removeprefix("/kits/"))

        await self.page.route(f"{base}/kits/**", serve)
        query = {
            "url": f"{base}/agui/model",
            "ws": f"{base.replace('http', 'ws', 1)}/ws",
            "token": self.token,
            "chat": self.chat,
            **({"thread": self.thread} if self.thread else {}),
        }
        await self.page.goto(f"{base}/kits/{self._name}?{urlencode(query)}")
        await self._soon(self.message.wait_for())

    @property
    def message(self) -> Locator:
        """The field for a message."""
        return self.page.get_by_label("Message")

    @property
    def send_button(self) -> Locator:
        """Sends what is in the field."""
        return self.page.get_by_role("button", name="Send")

    @property
    def stop_button(self) -> Locator:
        """Stops the run."""
        return self.page.get_by_role("button", name="Stop")

    async def send(self, text: str) -> None:
        """Type and press Send."""
        await self.message.fill(text)
        await self.send_button.click()

    async def stop(self) -> None:
        """Press Stop."""
        await self.stop_button.click()

    async def shows(self, text: str) -> None:
        """Wait until a text is on the page."""
        await self._soon(self.page.get_by_text(text).first.wait_for())

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds."""
        await self._soon(self.page.wait_for_function(expression))

    async def value(self, expression: str) -> Any:
        """Of a JavaScript expression, as plain JSON."""
        return json.loads(await self.page.evaluate(f"JSON.stringify({expression})"))

    async def _soon(self, wait: Awaitable[object]) -> None:
        """Wait; if it takes too long, fail with the page's own errors."""
        try:
            await wait
        except PageTimeoutError as fault:
            raise AssertionError(self.faults) from fault

    def check(self) -> None:
        """Check that the page had no error that a user would not see."""
        assert not self.faults, self.faults


@contextlib.asynccontextmanager
async def tab(
    browser: Browser,
    found: Kits,
    name: str,
    chat: str = "",
    *,
    context: BrowserContext | None = None,
    kind: type[KitPage] = KitPage,
) -> AsyncIterator[KitPage]:
    """A page of a kit in a profile of its own, or in another tab's."""
    own = context is None
    where = context or await browser.new_context()
    page = kind(await where.new_page(), found, name, chat or f"chat-{uuid.uuid4().hex}")
    try:
        yield page
    finally:
        await (where.close() if own else page.page.close())
