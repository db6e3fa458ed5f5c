"""The dashboard with twenty instances and 90 days of data: drawn within a second, and accessible."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from narthex.testing import Running
from tests.acceptance.chat_page import visitor
from tests.acceptance.dashboard_page import SECTIONS, Dashboard
from tests.acceptance.simulated_fleet import NODES, simulated_fleet
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
CHANGED_JS = """
async () => {
  const range = document.querySelector('.range select');
  const drawn = () => document.querySelectorAll('figure.plot .canvas .uplot').length;
  const before = [...document.querySelectorAll('figure.plot .canvas .uplot')];
  const began = performance.now();
  range.value = '90d';
  range.dispatchEvent(new Event('change', { bubbles: true }));
  while (before.some((one) => one.isConnected) || drawn() < before.length) await new Promise(requestAnimationFrame);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}
"""
"""Chooses 90 days; returns the milliseconds until every plot was drawn anew and is on the screen."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A gateway with twenty simulated instances and their past."""
    async with simulated_fleet(tmp_path_factory.mktemp("scale")) as running:
        yield running


@pytest.mark.alone
async def test_twenty_instances_and_ninety_days_within_a_second(fleet: Running, browser: Browser) -> None:
    """From the choice of 90 days to the last plot of the section with most of them."""
    async with visitor(browser, fleet.http, "scale", size=(1280, 1000)) as visit:
        page = Dashboard(visit, fleet.http)
        await page.open(fleet.token("op", permissions=("operator",)))
        await page.ready()
        await expect(page.page.locator("tr[data-status=ready]")).to_have_count(
            len(NODES)
        )  # the real one, too
        await expect(page.page.locator("tr[data-status=draining]")).to_have_count(1)
        await page.go("Handshakes")
        await expect(page.page.locator("figure.plot .uplot")).to_have_count(5)
        took_ms = [await page.page.evaluate(CHANGED_JS)]
        points = await page.page.evaluate("performance.getEntriesByType('resource').length")
        assert points > 0
        print(f"90 days of {len(NODES)} instances in {took_ms[0]:.0f} ms")
        assert took_ms[0] < within(1) * 1000
        visit.check()


async def test_every_section_with_data_is_accessible(fleet: Running, browser: Browser) -> None:
    """axe-core has no serious finding in any section, and none is wider than the screen."""
    async with visitor(browser, fleet.http, "sections", size=(1280, 900)) as visit:
        page = Dashboard(visit, fleet.http)
        await page.open(fleet.token("op", permissions=("operator",)))
        await page.ready()
        await page.page.get_by_label("Range").select_option("24h")
        for section in SECTIONS:
            await page.go(section)
            await page.page.locator("main .panel").first.wait_for()
            if section not in ("Tests", "Incidents"):
                await page.page.locator("figure.plot .uplot").first.wait_for()
            if section == "Tests":
                closed = page.page.locator("tr", has_text="gate closed")
                await closed.locator("summary").click()
                await expect(closed).to_contain_text("A wrong key was admitted.")
                await expect(closed).to_contain_text("candidate---chat.example.com 0.2.0")
                await expect(page.page.locator("tr", has_text="gate open")).to_have_count(1)
            assert await page.serious_findings() == [], section
            assert await page.fits(), section
            await page.shot(section.lower())
        visit.check()
