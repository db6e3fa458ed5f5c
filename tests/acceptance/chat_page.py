"""The chat page in real Chromium, operated through its visible texts and the keyboard.

Not here: the program (`program`). Rules: waits are for visible changes only; every page is monitored for errors, for
requests that leave the gateway and for violations of the Content-Security-Policy, and `check` fails on any. Set
NARTHEX_TEST_SCREENSHOTS to a folder to keep screenshots.
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
"""Chromium's own console messages for answers such as 401 and for an unreachable server."""

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
"""Presses Send; returns the milliseconds until a frame shows text of the answer. Only for the first answer on a
page.
"""


_households = itertools.count()
_domain = "example.org"


def new_household() -> None:
    """Let later `sign_in` calls use a fresh e-mail domain: the same names, but different users."""
    global _domain
    _domain = f"house-{next(_households)}.example.org"


def browser_path() -> str | None:
    """Chromium, or the browser of its family that is there."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless."""
    path = browser_path()
    assert path is not None, "install chromium (Debian: apt-get install chromium)"
    expect.set_options(timeout=TIMEOUT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class ChatPage:
    """One user's page.

    Attributes:
        page: Playwright's, for actions without a method here.
        faults: descriptions of the errors on the page so far.
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

    # -- actions -------------------------------------------------------------------------------------------

    async def open(self, path: str = "/") -> None:
        """Load the page."""
        await self.page.goto(self._base + path)

    async def sign_in(self, email: str) -> None:
        """Sign in through the form and wait until messages can be sent. `example.org` stands for the test's own
        domain.
        """
        name, _, domain = email.partition("@")
        await self.page.get_by_label("E-mail").fill(f"{name}@{_domain}" if domain == "example.org" else email)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.connected()

    async def connected(self) -> None:
        """Wait until the page reports that it is connected."""
        await self.page.locator(".link[data-phase=connected]").wait_for(state="attached")
        await self.composer.wait_for()

    async def send(self, text: str) -> None:
        """Type a message and press Send."""
        await self.composer.fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def shot(self, what: str) -> None:
        """Keep a screenshot when NARTHEX_TEST_SCREENSHOTS is set."""
        folder = os.environ.get("NARTHEX_TEST_SCREENSHOTS")
        if folder:
            self._shots += 1
            await self.page.screenshot(
                path=f"{folder}/{self._name}-{self._shots}-{what}.png"
            )  # creates the folder

    # -- observations --------------------------------------------------------------------------------------

    @property
    def composer(self) -> Locator:
        """The message field."""
        return self.page.get_by_label("Message", exact=True)

    @property
    def runs(self) -> Locator:
        """The answers, oldest first."""
        return self.page.locator("article.run")

    async def run(self, phase: str, at: int = -1) -> Locator:
        """Wait until the run at an index (default: the last) is in a phase; return the run."""
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
        """The user id that the gateway has for this page."""
        found = await self.page.evaluate(
            "fetch('/auth/me').then((answer) => answer.json()).then((me) => me.id)"
        )
        return str(found)

    def check(self) -> None:
        """Check that the page had no error that a user would not see."""
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
    """A page in its own browser profile, or in another page's (a second tab)."""
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
