"""examples/react in Chromium: its commands as they stand, and what its README says you see."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.acceptance.chat_page import chromium
from tests.docs.blocks import ROOT
from tests.examples.following import example, rows
from tests.services import missing
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.timeout(within(240))]


async def test_react(tmp_path: Path) -> None:
    """An answer, a question with buttons, and the same thread after a reload; the types hold."""
    if shutil.which("npm") is None:
        missing("npm", "apt-get install nodejs npm")
    async with example("react", tmp_path) as walk, chromium() as browser:
        help_, approval = rows(walk)
        page = await browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(f"http://127.0.0.1:{walk.ports['5173']}")
        await page.get_by_label("Your e-mail").fill("ada@example.org")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("status")).to_have_text("connected")

        await page.get_by_label("Message").fill(help_)
        await page.get_by_role("button", name="Send").click()
        begin = rows(walk)[help_].partition("*")[2].partition("*")[0]
        await expect(page.locator("li.run").first).to_contain_text(begin, timeout=within(20) * 1000)
        await expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=within(20) * 1000)

        await page.get_by_label("Message").fill(approval)
        await page.get_by_role("button", name="Send").click()
        await page.get_by_role("button", name="Approve").click()
        await expect(page.locator("li.run")).to_have_count(3)
        await expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=within(20) * 1000)

        before = await page.locator("li").all_inner_texts()
        assert "answered" in before[3]
        await page.reload()
        shown = "(texts) => texts.join() === [...document.querySelectorAll('li')].map((one) => one.innerText).join()"
        await page.wait_for_function(shown, arg=before, timeout=within(20) * 1000)
        assert faults == []
        await typed(walk.folder / "examples" / "react")


async def typed(folder: Path) -> None:
    """Check the page's types with the TypeScript of web/."""
    tsc = await asyncio.create_subprocess_exec(
        ROOT / "web/node_modules/.bin/tsc", cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await tsc.communicate()
    assert tsc.returncode == 0, said.decode()
