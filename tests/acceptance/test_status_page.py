"""The status page in real Chromium: light, dark, on a phone, at 200 % zoom, by keyboard, and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from tests.acceptance.chat_page import visitor
from tests.acceptance.dashboard_page import NARROW_JS, serious_findings
from tests.acceptance.program import Program
from tests.acceptance.status_service import filled_service
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A status service with 90 days of data, an open incident and maintenance to come."""
    with filled_service(tmp_path_factory.mktemp("status")) as program:
        yield program


@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [("status", (1100, 900), False), ("status-dark", (1100, 900), True), ("status-phone", (360, 740), False)],
)
async def test_page_is_accessible_and_fits(
    service: Program, browser: Browser, name: str, size: tuple[int, int], *, dark: bool
) -> None:
    """axe-core has no serious finding on the page and on that of an incident, and nothing is wider than the screen."""
    async with visitor(browser, service.http, name, size=size, dark=dark) as visit:
        page = visit.page
        await visit.open("/status")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Some systems are degraded")
        await page.locator("summary").first.click()
        await expect(page.locator("details li", has_text="outage 120 min").first).to_be_visible()
        assert await serious_findings(page) == []
        assert int(await page.evaluate(NARROW_JS)) <= 0
        await page.locator("summary").first.click()
        await visit.shot(name)
        await page.get_by_role("link", name="Answers begin late").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Answers begin late")
        assert await serious_findings(page) == []
        assert int(await page.evaluate(NARROW_JS)) <= 0
        await visit.shot("incident")
        visit.check()


async def test_page_fits_at_twice_its_size(service: Program, browser: Browser) -> None:
    """At 200 % zoom a screen of 1280 has 640 of its pixels, at 400 % 320 (WCAG 1.4.4 and 1.4.10)."""
    for width in (640, 320):
        async with visitor(browser, service.http, f"status-{width}", size=(width, 450)) as visit:
            await visit.open("/status")
            assert int(await visit.page.evaluate(NARROW_JS)) <= 0
            await visit.shot("zoom")
            visit.check()


async def test_page_works_by_keyboard_alone(service: Program, browser: Browser) -> None:
    """The link past the header first, then every link and every list of days; the focus is always visible."""
    async with visitor(browser, service.http, "status-keyboard") as visit:
        page = visit.page
        await visit.open("/status")
        reached: list[tuple[str, str, bool]] = []
        for _ in range(30):
            await page.keyboard.press("Tab")
            found = await page.evaluate(
                """() => { const one = document.activeElement, style = getComputedStyle(one);
                const box = one.getBoundingClientRect();
                const text = one === document.body ? "" : one.textContent.trim();
                return [text, style.outlineStyle, box.left >= 0 && box.width > 0]; }"""
            )
            if not found[0]:  # after the last link
                break
            reached.append(tuple(found))
            if found[0].startswith("Days with problems"):
                await page.keyboard.press("Enter")
        names = [name for name, _, _ in reached]
        assert names[0] == "Skip to content"
        assert {
            "Acme",
            "Support",
            "Answers begin late",
            "Upgrade of the database",
            "Atom feed",
            "JSON",
        } <= set(names)
        assert all(outline != "none" and visible for _, outline, visible in reached), reached
        await expect(page.locator("details li", has_text="outage 120 min").first).to_be_visible()
        await visit.shot("focus")
        visit.check()


async def test_page_says_the_same_without_javascript(service: Program, browser: Browser) -> None:
    """Its text is complete, and the lists of days open all the same."""
    texts = []
    for scripts in (True, False):
        context = await browser.new_context(java_script_enabled=scripts, locale="en-GB")
        page = await context.new_page()
        await page.goto(f"{service.http}/status")
        await page.locator("summary").first.click()
        await expect(page.locator("details li", has_text="outage 120 min").first).to_be_visible()
        await expect(page.get_by_text("99.89% uptime in 90 days").first).to_be_visible()
        texts.append(await page.locator("main").inner_text())
        await context.close()
    assert (
        texts[0].splitlines()[2:] == texts[1].splitlines()[2:]
    )  # between two minutes the headline's time may change


async def test_page_keeps_itself_up_to_date(service: Program, browser: Browser) -> None:
    """What changed appears, is announced once, and takes neither the focus nor an opened list; a failure is said."""
    async with visitor(browser, service.http, "status-live") as visit:
        page, answers = visit.page, ["good"]

        async def answer(route: Route) -> None:
            if answers[0] == "away":
                await route.abort()
                return
            found = await route.fetch()
            text = await found.text()
            if answers[0] == "outage":
                text = text.replace("Some systems are degraded", "There is an outage")
            await route.fulfill(response=found, body=text)

        await page.clock.install()
        await page.route("**/status", answer)
        await visit.open("/status")
        summary = page.locator("summary").first
        await summary.press("Enter")
        title = page.get_by_role("heading", level=1)
        await expect(title).to_have_text("Some systems are degraded")
        answers[0] = "outage"
        async with page.expect_response("**/status"):
            await page.clock.run_for(12_000)
        await expect(title).to_have_text("There is an outage")
        await expect(page.get_by_role("status")).to_have_text("There is an outage")
        await expect(summary).to_be_focused()
        await expect(page.locator("details[open]")).to_have_count(1)
        assert "There is an outage" in await page.title()
        answers[0] = "away"
        stale = page.get_by_text("This page could not be updated.")
        for _ in range(2):
            await expect(stale).to_be_hidden()
            async with page.expect_event("requestfailed"):
                await page.clock.run_for(12_000)
        await expect(stale).to_be_visible()
        await expect(title).to_have_text("There is an outage")
        answers[0] = "good"
        async with page.expect_response("**/status"):
            await page.clock.run_for(12_000)
        await expect(title).to_have_text("Some systems are degraded")
        await expect(stale).to_be_hidden()


async def test_ninety_days_render_in_a_second(service: Program, browser: Browser) -> None:
    """From the request until everything is drawn, in a browser that has never seen the page."""
    async with visitor(browser, service.http, "status-speed") as visit:
        await visit.open("/status")
        spent_ms = await visit.page.evaluate(
            "() => { const n = performance.getEntriesByType('navigation')[0]; return n.loadEventEnd - n.startTime; }"
        )
        print(f"loaded after {spent_ms:.0f} ms")
        assert 0 < spent_ms < within(1) * 1000
        assert await visit.page.locator(".bars g").count() == 360
        visit.check()


async def test_files_work_without_a_server(service: Program, browser: Browser, tmp_path: Path) -> None:
    """The export, opened from a disk: style, logo and links."""
    done = service.run("status", "export", str(tmp_path), "--data-dir", str(service.directory / "data"))
    assert done.returncode == 0, done.stderr
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"file://{tmp_path}/index.html")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Some systems are degraded")
    assert await page.locator(".headline").evaluate("one => getComputedStyle(one).borderRadius") == "10px"
    await page.get_by_role("link", name="Answers begin late").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Answers begin late")
    await page.get_by_role("link", name="All services").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Some systems are degraded")
    await context.close()
