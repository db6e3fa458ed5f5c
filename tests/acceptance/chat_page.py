"""The chat page in real Chromium, as a person uses it: by what is written on it and by the keyboard.

Not here: the program (`program`). Rules: waits are for what a person would see; every page is watched for errors,
for requests that leave the gateway and for violations of the Content-Security-Policy, and `check` fails on any.
Set NARTHEX_TEST_SCREENSHOTS to a folder to keep what was seen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator
from typing import Final

from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

from tests.timing import within

TIMEOUT_MS: Final = within(10) * 1000
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_EXPECTED: Final = re.compile(r"Failed to load resource|WebSocket connection to .* failed")
"""What Chromium itself logs for an answer such as 401 and for a server that is away."""

FIRST_TEXT_JS: Final = """
() => new Promise((resolve) => {
  const send = document.querySelector('.send');
  let began = 0;
  const seen = () => {
    const texts = document.querySelectorAll('.run .prose');
    if (began && texts.length && texts[texts.length - 1].textContent.trim()) resolve(performance.now() - began);
    else requestAnimationFrame(seen);
  };
  send.form.addEventListener('submit', () => { began = performance.now(); }, { once: true, capture: true });
  seen();
  send.click();
})
"""
"""Presses Send; milliseconds until a frame shows text of an answer. Only for the first answer on a page."""


_households = itertools.count()
_domain = "example.org"


def new_household() -> None:
    """From now on `sign_in` puts people at a domain of their own: the same names, other users."""
    global _domain
    _domain = f"house-{next(_households)}.example.org"


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "install chromium (Debian: apt-get install chromium)"
    expect.set_options(timeout=TIMEOUT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class ChatPage:
    """One person's page.

    Attributes:
        page: Playwright's, for what has no method here.
        faults: what went wrong on it so far, in words.
    """

    def __init__(self, page: Page, base: str, name: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self._base = base
        self._name = name
        self._shots = 0
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                self.faults.append(f"{message.type}: {message.text}")
                if message.type in {"error", "warning"} and not _EXPECTED.search(message.text)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((base, "data:", "blob:"))
                else self.faults.append(f"request elsewhere: {request.url}")
            ),
        )

    # -- doing ---------------------------------------------------------------------------------------------

    async def open(self, path: str = "/") -> None:
        """Load the page."""
        await self.page.goto(self._base + path)

    async def sign_in(self, email: str) -> None:
        """Through the form, then wait until one can write. `example.org` stands for the test's own domain."""
        name, _, domain = email.partition("@")
        await self.page.get_by_label("E-mail").fill(f"{name}@{_domain}" if domain == "example.org" else email)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.connected()

    async def connected(self) -> None:
        """Wait until the page says that it is."""
        await self.page.locator(".link[data-phase=connected]").wait_for(state="attached")
        await self.composer.wait_for()

    async def send(self, text: str) -> None:
        """Write and press Send."""
        await self.composer.fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def shot(self, what: str) -> None:
        """Keep a picture if somebody wants them."""
        folder = os.environ.get("NARTHEX_TEST_SCREENSHOTS")
        if folder:
            self._shots += 1
            await self.page.screenshot(
                path=f"{folder}/{self._name}-{self._shots}-{what}.png"
            )  # makes the folder

    # -- seeing --------------------------------------------------------------------------------------------

    @property
    def composer(self) -> Locator:
        """Where one writes."""
        return self.page.get_by_label("Message", exact=True)

    @property
    def runs(self) -> Locator:
        """Answers, oldest first."""
        return self.page.locator("article.run")

    async def run(self, phase: str, at: int = -1) -> Locator:
        """Wait until the run at a place (default: the last) is in a phase; the run."""
        which = self.runs.nth(at) if at >= 0 else self.runs.last
        await self.page.wait_for_function(
            "([at, phase]) => [...document.querySelectorAll('article.run')].at(at)?.dataset.phase === phase",
            arg=[at, phase],
        )
        return which

    async def proven(self, at: int = -1) -> None:
        """Wait until the run's badge is green."""
        which = self.runs.nth(at) if at >= 0 else self.runs.last
        await which.locator(".badge.good").wait_for()

    async def user_id(self) -> str:
        """Who the gateway takes this page for."""
        found = await self.page.evaluate(
            "fetch('/auth/me').then((answer) => answer.json()).then((me) => me.id)"
        )
        return str(found)

    def check(self) -> None:
        """Nothing went wrong on the page that no person would see."""
        assert not self.faults, self.faults


@contextlib.asynccontextmanager
async def visitor(
    browser: Browser,
    base: str,
    name: str,
    *,
    size: tuple[int, int] = (1180, 820),
    dark: bool = False,
    context: BrowserContext | None = None,
) -> AsyncIterator[ChatPage]:
    """A page in a browser profile of its own, or in another's (a second tab)."""
    own = context is None
    where = context or await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
        locale="en-GB",
    )
    page = ChatPage(await where.new_page(), base, name)
    try:
        yield page
    finally:
        await (where.close() if own else page.page.close())
