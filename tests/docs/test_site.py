"""The documentation site: it builds strictly, fetches nothing from other hosts, draws and searches in Chromium."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.acceptance.chat_page import TIMEOUT_MS, chromium
from tests.check import build_site
from tests.generated import ROOT

KEPT = os.environ.get("NARTHEX_TEST_SCREENSHOTS")
LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)|<link([^>]*)>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout."""
    into = tmp_path_factory.mktemp("site") / "built"
    assert build_site(ROOT, into)
    return into


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    """Scripts, styles, images and fonts of each page come from the site; a page with diagrams has their script."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for found in LOADED.finditer(text):
            link = found.group(2) or ""
            loads = found.group(1) or re.search(
                r"rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*href=[\"']?https?:", link
            )
            assert not loads, f"{page.name}: {found.group(0)}"
        assert ('class="mermaid"' in text) == ("mermaid.min.js" in text), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_llms_txt_lists_every_page(site: Path) -> None:
    """`llms.txt` names each built page once, and search knows the pages too."""
    listed = re.findall(
        r"\]\(https://narthex\.example/docs/([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8")
    )
    built = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html"}
    assert sorted(listed) == sorted(built)
    assert "environment" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_links_to_the_sources_are_written_as_paths(site: Path) -> None:
    """The README is the first page, its links lead to pages, and a link to a source file became a path."""
    text = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r"href=[\"']?runs\.html", text)
    assert not re.search(r"href=[\"']?(?:docs|\.\./src)/", text)


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](security.md#nowhere)", "[x](../src/nowhere.py)"])
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A page, an anchor or a source file that does not exist is named, and the build fails."""
    for name in ("docs", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "plans.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{link}\n", encoding="utf-8")
    assert not build_site(tmp_path, tmp_path / "site")
    assert "nowhere" in capfd.readouterr().err


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site's address on a plain file server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    ) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


def watched(page: Page, address: str) -> list[str]:
    """Faults of the page from now on: errors, and requests to another place than `address`."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:", "about:"))
            else faults.append(request.url)
        ),
    )
    return faults


@pytest.mark.browser
async def test_diagrams_are_drawn_in_light_and_dark(address: str) -> None:
    """Each Mermaid block of the design page becomes a picture with text in it, in both colour schemes."""
    blocks = len(
        re.findall(r"^```mermaid$", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert blocks >= 8
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
            faults = watched(page, address)
            # Material draws into closed shadow roots: open them, so that this test can look into them.
            await page.add_init_script(
                "const attach = Element.prototype.attachShadow;"
                "Element.prototype.attachShadow = function () { return attach.call(this, {mode: 'open'}) }"
            )
            await page.goto(f"{address}/design.html")
            await expect(page.locator("div.mermaid svg")).to_have_count(blocks, timeout=TIMEOUT_MS)
            await expect(page.locator("pre.mermaid")).to_have_count(0)
            drawn = await page.locator("div.mermaid").evaluate_all(
                "all => all.map(one => [one.shadowRoot.textContent, one.getBoundingClientRect().height])"
            )
            assert all("Syntax error" not in text and height > 100 for text, height in drawn)
            texts = " ".join(text for text, _ in drawn)
            for shown in ("HandshakeHandler", "origin_not_allowed", "interrupted", "CONNECTING", "protocol"):
                assert shown in texts
            if KEPT:
                for number in range(blocks):
                    await (
                        page.locator("div.mermaid")
                        .nth(number)
                        .screenshot(path=f"{KEPT}/diagram-{number}-{scheme}.png")
                    )
            assert faults == []
            await page.close()


@pytest.mark.browser
@pytest.mark.parametrize("served", [True, False], ids=["from a server", "from a directory"])
async def test_search_finds_a_page(served: bool, address: str, site: Path) -> None:
    """A word that one page explains leads to it, also where the site is opened as a file."""
    start = address if served else site.as_uri()
    async with chromium() as browser:
        page = await browser.new_page()
        faults = watched(page, start)
        await page.goto(f"{start}/index.html")
        await page.locator(".md-search__input").first.click()
        await page.locator(".md-search__input").first.press_sequentially("mkdocs material")
        found = page.locator(".md-search-result__link").filter(has_text="MkDocs Material")
        await expect(found.first).to_be_visible(timeout=TIMEOUT_MS)
        assert "0023" in (await found.first.get_attribute("href") or "")
        assert faults == []
