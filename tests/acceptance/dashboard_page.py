"""The dashboard in real Chromium: signing in, and the checks that every state of it must pass.

Not here: the programs (`program`, `fleet`), the browser (`chat_page`). Rules: as for the chat page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, Page, expect

from tests.acceptance.chat_page import ChatPage, visitor
from tests.acceptance.program import Program

AXE: Final = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
SECTIONS: Final = ("Overview", "Handshakes", "Connections", "Runs", "Instances", "Tests", "Incidents")
NARROW_JS: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def serious_findings(page: Page) -> list[str]:
    """What axe-core finds on a page as it is, of impact serious or critical."""
    # A page's policy may forbid a script of a string; a debugger's evaluation is not subject to it.
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


class Dashboard:
    """One operator's page."""

    def __init__(self, visit: ChatPage, base: str) -> None:
        self.visit = visit
        self.page: Page = visit.page
        self._base = base

    async def open(self, token: str, section: str = "") -> None:
        """Load the page and sign in with a token, as the page itself suggests."""
        await self.page.goto(f"{self._base}/dashboard{section}")
        await self.page.get_by_text("Use a token instead").click()
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Connect with this token").click()

    async def ready(self) -> None:
        """Wait until figures are shown live."""
        await self.page.locator(".live[data-live=true]").wait_for()
        await self.page.locator(".section-title").wait_for()

    async def go(self, section: str) -> None:
        """Choose a section."""
        await self.page.get_by_role("link", name=section, exact=True).click()
        await expect(self.page.locator(".section-title")).to_have_text(section)

    async def serious_findings(self) -> list[str]:
        """What axe-core finds on the page as it is, of impact serious or critical."""
        return await serious_findings(self.page)

    async def fits(self) -> bool:
        """Whether the page does not scroll sideways."""
        return int(await self.page.evaluate(NARROW_JS)) <= 0

    async def shot(self, name: str) -> None:
        """Keep a screenshot when NARTHEX_TEST_SCREENSHOTS is set."""
        await self.visit.shot(name)


def operator(browser: Browser, program: Program, name: str, **options: Any) -> Any:
    """A visitor's page, for `Dashboard`."""
    return visitor(browser, program.http, name, **options)
