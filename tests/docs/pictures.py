"""The pictures of the documentation, taken of the real pages in Chromium, light and dark: `./check --pictures`.

Not here: the pages that show them, and their texts for readers who see no picture; the programs (`tests.acceptance`).
Rules: `./check --docs` takes all pictures anew for the site that it builds. docs/images holds the light ones for
readers of a checkout; a release renews them (docs/releasing.md). A page that has an error gives no picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from playwright.async_api import Browser, expect

from narthex.bench import baseline, html_report
from narthex.doctor import canary_report
from tests.acceptance.chat_page import ChatPage, browser_path, chromium, new_household, visitor
from tests.acceptance.dashboard_page import Dashboard
from tests.acceptance.program import shared
from tests.acceptance.simulated_fleet import simulated_fleet
from tests.acceptance.status_service import filled_service
from tests.reports.samples import bench_report, rounds

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
SCHEMES: Final = ("light", "dark")
MARK_JS: Final = "document.querySelectorAll('.uplot').forEach(one => { one.dataset.before = '' })"
Show = Callable[[ChatPage], Awaitable[None]]


class Picture(NamedTuple):
    """A page, and what a reader of the documentation sees of it. `show` leads a visitor to it."""

    name: str
    show: Show
    size: tuple[int, int] = (1100, 800)
    whole: bool = False


def file_name(name: str, scheme: str) -> str:
    """Of a picture's file; the light one is the one that pages name."""
    return f"{name}.png" if scheme == "light" else f"{name}-{scheme}.png"


def take_all(into: Path) -> list[str]:
    """Take every picture in both colour schemes; the names of the files.

    Raises:
        AssertionError: a page had an error, or never showed what the picture is of.
    """
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="narthex-pictures-") as scratch:
        directory = Path(scratch)
        return [
            *_of_gateway(directory, into),
            *_of_status(directory, into),
            *asyncio.run(_of_dashboard(directory, into)),
            *asyncio.run(_of_reports(directory, into)),
        ]


async def _take(browser: Browser, base: str, picture: Picture, into: Path) -> list[str]:
    names = []
    for scheme in SCHEMES:
        async with visitor(browser, base, picture.name, size=picture.size, dark=scheme == "dark") as visit:
            new_household()
            await picture.show(visit)
            visit.check()
            names.append(file_name(picture.name, scheme))
            await visit.page.screenshot(path=into / names[-1], full_page=picture.whole, animations="disabled")
    return names


async def _taken(base: str, into: Path, *pictures: Picture) -> list[str]:
    async with chromium() as browser:
        return [name for picture in pictures for name in await _take(browser, base, picture, into)]


def _of_gateway(scratch: Path, into: Path) -> list[str]:
    with shared(_directory(scratch, "gateway")) as program:
        pictures = (Picture("chat", _chat, (1100, 860)), Picture("problem", _problem, (820, 430)))
        return asyncio.run(_taken(program.http, into, *pictures))


async def _chat(visit: ChatPage) -> None:
    await visit.open()
    await visit.sign_in("ada@example.org")
    for text in ("Why would I be refused here?", "Count to 20", "How healthy is this gateway right now?"):
        await visit.page.get_by_role("button", name="New thread").click()
        await visit.send(text)
        await visit.run("finished")
        await visit.proven()


async def _problem(visit: ChatPage) -> None:
    await visit.open("/problems/origin_not_allowed")
    await expect(visit.page.get_by_role("heading", level=1)).to_be_visible()


def _of_status(scratch: Path, into: Path) -> list[str]:
    with filled_service(_directory(scratch, "status")) as program:
        return asyncio.run(_taken(program.http, into, Picture("status", _status, (1100, 900), whole=True)))


async def _status(visit: ChatPage) -> None:
    await visit.open("/status")
    await expect(visit.page.get_by_role("heading", level=1)).to_have_text("Some systems are degraded")


async def _of_dashboard(scratch: Path, into: Path) -> list[str]:
    async with simulated_fleet(_directory(scratch, "fleet")) as running:
        token = running.token("op", permissions=("operator",))

        def section(name: str) -> Show:
            async def show(visit: ChatPage) -> None:
                page = Dashboard(visit, running.http)
                await page.open(token)
                await page.ready()
                await page.go(name)
                await page.page.locator("figure.plot .uplot").first.wait_for()
                await page.page.evaluate(MARK_JS)
                await page.page.get_by_label("Range").select_option("24h")
                await expect(page.page.locator(".uplot[data-before]")).to_have_count(0)  # drawn anew
                await page.page.locator("figure.plot .uplot").first.wait_for()

            return show

        return await _taken(
            running.http,
            into,
            Picture("dashboard-overview", section("Overview"), (1280, 900)),
            Picture("dashboard-handshakes", section("Handshakes"), (1280, 900)),
        )


async def _of_reports(scratch: Path, into: Path) -> list[str]:
    then, now = bench_report(), bench_report(slower=1.5, seed=9)
    day = rounds(120, failing=range(40, 44))
    texts = {
        "bench": html_report.as_html(now, then=then, changes=baseline.compare(then, now)),
        "probe": canary_report.as_html(day, "wss://chat.example.com/ws"),
    }
    directory = _directory(scratch, "reports")
    for name, text in texts.items():
        (directory / f"{name}.html").write_text(text, encoding="utf-8")

    def report(name: str) -> Show:
        async def show(visit: ChatPage) -> None:
            await visit.open(f"/{name}.html")
            plot = visit.page.locator("figure", has_text="by time and latency").first
            await plot.evaluate("one => one.previousElementSibling.scrollIntoView()")

        return show

    return await _taken(
        directory.as_uri(), into, *(Picture(name, report(name), (1100, 900)) for name in texts)
    )


def _directory(scratch: Path, name: str) -> Path:
    directory = scratch / name
    directory.mkdir()
    return directory


@contextlib.contextmanager
def taken() -> Iterator[Path | None]:
    """All pictures in a directory that goes away afterwards; None where there is no Chromium."""
    if not browser_path():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="narthex-images-") as directory:
        take_all(Path(directory))
        yield Path(directory)


def renew() -> list[str]:
    """Take the light pictures anew into docs/images; their names."""
    with taken() as directory:
        if directory is None:
            raise SystemExit("There is no Chromium to take pictures with. Debian: apt-get install chromium")
        light = sorted(path for path in directory.iterdir() if not path.stem.endswith("-dark"))
        for path in light:
            shutil.copy(path, IMAGES / path.name)
        return [path.name for path in light]
