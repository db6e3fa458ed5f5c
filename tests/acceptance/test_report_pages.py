"""Reports of bench, probe and test in real Chromium: light, dark, on a phone, magnified, and by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from narthex.bench import baseline, html_report
from narthex.doctor import canary_report
from narthex.e2e import reports as suite_report
from tests.acceptance.dashboard_page import NARROW_JS, serious_findings
from tests.e2e.test_reports import report as end_to_end_report
from tests.reports.samples import bench_report, rounds

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

INVISIBLE_JS = """() => [...document.querySelectorAll("svg :is(path.line, rect, circle, text)")]
    .filter(one => { const style = getComputedStyle(one), box = one.getBoundingClientRect();
        const paint = one.tagName === "path" ? style.stroke : style.fill;
        return paint === "none" || !(box.width || box.height); })
    .map(one => one.outerHTML.slice(0, 120))"""
OUTSIDE_JS = """() => [...document.querySelectorAll("svg text")].filter(one => {
        const box = one.getBoundingClientRect(), image = one.ownerSVGElement.getBoundingClientRect();
        return box.left < image.left - 1 || box.right > image.right + 1 || box.top < image.top - 1
            || box.bottom > image.bottom + 1; })
    .map(one => one.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A benchmark beside its baseline, a prober's day with an outage, and an end-to-end run with failures."""
    directory = tmp_path_factory.mktemp("reports")
    then, now = bench_report(rounds=2), bench_report(rounds=2, slower=1.5, seed=9)
    for report in (then, now):
        report.figures = report.figures[:1]  # axe-core takes seconds for each thousand cells
    texts = {
        "bench": html_report.as_html(now, then=then, changes=baseline.compare(then, now)),
        "probe": canary_report.as_html(rounds(120, failing=range(40, 44)), "wss://chat.example.com/ws"),
        "suite": suite_report.as_html(end_to_end_report()),
    }
    for name, text in texts.items():
        (directory / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: directory / f"{name}.html" for name in texts}


@pytest.mark.parametrize("name", ["bench", "probe", "suite"])
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (360, False)])
async def test_plots_are_seen_and_accessible(
    pages: dict[str, Path], browser: Browser, name: str, width: int, *, dark: bool
) -> None:
    """axe-core has no serious finding, the policy lets the style through, each part is painted, and no text is cut."""
    page = await browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    try:
        await page.goto(pages[name].as_uri())
        for summary in await page.locator("summary").all():
            await summary.press("Enter")
        await expect(page.locator("details[open]")).to_have_count(await page.locator("details").count())
        assert await serious_findings(page) == []
        assert int(await page.evaluate(NARROW_JS)) <= 0, "wide plots scroll by themselves"
        assert await page.evaluate(INVISIBLE_JS) == []
        assert await page.evaluate(OUTSIDE_JS) == []
        assert said == []
    finally:
        await page.close()


async def test_a_plot_that_is_too_wide_scrolls_by_keyboard(pages: dict[str, Path], browser: Browser) -> None:
    """On a phone the arrow keys move it (WCAG 2.1.1)."""
    page = await browser.new_page(viewport={"width": 360, "height": 740})
    try:
        await page.goto(pages["probe"].as_uri())
        plot = page.get_by_role("region", name="Time of a whole round")
        await plot.focus()
        await page.keyboard.press("ArrowRight")
        await page.wait_for_function("document.activeElement.scrollLeft > 0")
    finally:
        await page.close()


async def test_pages_fit_when_they_are_magnified(pages: dict[str, Path], browser: Browser) -> None:
    """At 200 % zoom a screen of 1280 has 640 of its pixels, at 400 % 320 (WCAG 1.4.4 and 1.4.10)."""
    for width in (640, 320):
        page = await browser.new_page(viewport={"width": width, "height": 450})
        try:
            for name, file in pages.items():
                await page.goto(file.as_uri())
                assert int(await page.evaluate(NARROW_JS)) <= 0, (name, width)
        finally:
            await page.close()


async def test_pages_work_by_keyboard_alone(pages: dict[str, Path], browser: Browser) -> None:
    """Tab reaches every list that opens and every part that scrolls, each with a visible focus."""
    page = await browser.new_page(viewport={"width": 640, "height": 450})
    try:
        for name, file in pages.items():
            await page.goto(file.as_uri())
            places = await page.locator("summary, [tabindex='0'], a[href]").count()
            assert places > 2, name
            for _ in range(places):
                await page.keyboard.press("Tab")
                tag, outline = await page.evaluate(
                    "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
                )
                assert tag != "BODY", name
                assert outline != "none", (name, tag)
                if tag == "SUMMARY":
                    await page.keyboard.press("Enter")
    finally:
        await page.close()
