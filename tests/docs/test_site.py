"""The documentation site: it builds strictly, fetches nothing from other hosts, draws and searches in Chromium.

The site of these tests has two versions, release 0.1.0 and this checkout, with pictures taken now.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import re
import shutil
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from tools.docs_build import Release, build_site, build_versions, present_version

from tests.acceptance.chat_page import TIMEOUT_MS, chromium
from tests.docs.pictures import IMAGES, SCHEMES, file_name, take_all
from tests.generated import ROOT
from tests.timing import within

pytestmark = pytest.mark.timeout(within(600))  # the fixtures take all pictures and build two sites
BRIGHTNESS_JS = """async (data) => {
  const image = new Image();
  image.src = "data:image/png;base64," + data;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data, counts = new Array(256).fill(0);
  for (let at = 0; at < pixels.length; at += 4) counts[(pixels[at] + pixels[at + 1] + pixels[at + 2]) / 3 | 0]++;
  return { mean: counts.reduce((sum, count, shade) => sum + count * shade, 0) / (pixels.length / 4),
           shades: counts.filter(Boolean).length };
}"""
KEPT = os.environ.get("NARTHEX_TEST_SCREENSHOTS")
LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)|<link([^>]*)>")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every picture, taken now."""
    into = tmp_path_factory.mktemp("pictures")
    take_all(into)
    return into


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The sites of all versions."""
    into = tmp_path_factory.mktemp("site") / "built"
    assert build_versions(into, pictures=pictures)
    return into


@pytest.fixture(scope="module")
def site(versions: Path) -> Path:
    """The site of this checkout."""
    return versions / Release(present_version()).directory


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
        rf"\]\(https://narthex\.example/docs/{site.name}/([^)]+)\)",
        (site / "llms.txt").read_text(encoding="utf-8"),
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
def served(versions: Path) -> Iterator[str]:
    """The address of all versions on a plain file server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(versions))
    ) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def address(served: str, site: Path) -> str:
    """The address of this checkout's site."""
    return f"{served}/{site.name}"


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
            faults = watched(page, address.rpartition("/")[0])
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
@pytest.mark.parametrize("by_http", [True, False], ids=["from a server", "from a directory"])
async def test_search_finds_a_page(by_http: bool, address: str, site: Path) -> None:
    """A word that one page explains leads to it, also where the site is opened as a file."""
    start = address if by_http else site.as_uri()
    async with chromium() as browser:
        page = await browser.new_page()
        faults = watched(page, start.rpartition("/")[0])
        await page.goto(f"{start}/index.html")
        await page.locator(".md-search__input").first.click()
        await page.locator(".md-search__input").first.press_sequentially("mkdocs material")
        found = page.locator(".md-search-result__link").filter(has_text="MkDocs Material")
        await expect(found.first).to_be_visible(timeout=TIMEOUT_MS)
        assert "0023" in (await found.first.get_attribute("href") or "")
        assert faults == []


@pytest.mark.browser
async def test_the_switcher_leads_to_the_same_page_of_the_release(served: str, address: str) -> None:
    """The list has both versions; the other one is entered at the same page and says that it is not this one."""
    async with chromium() as browser:
        page = await browser.new_page()
        faults = watched(page, served)
        await page.goto(f"{address}/doctor.html")
        await expect(page.locator(".md-version__current")).to_have_text(present_version(), timeout=TIMEOUT_MS)
        await expect(page.get_by_text("not of the newest release")).to_be_visible()
        await page.locator(".md-version__current").focus()
        await expect(page.locator(".md-version__link")).to_have_text([present_version(), "0.1.0"])
        await page.locator(".md-version__link", has_text="0.1.0").click()
        await page.wait_for_url(f"{served}/0.1/doctor.html")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("doctor", ignore_case=True)
        await expect(page.get_by_text("not of the newest release")).to_be_hidden()
        await page.goto(f"{served}/")
        await page.wait_for_url(f"{served}/0.1/index.html")
        assert faults == []


@pytest.mark.browser
async def test_each_colour_scheme_shows_its_pictures(address: str) -> None:
    """A page with a picture shows the one of the reader's colour scheme, whole and with its text."""
    async with chromium() as browser:
        for scheme in SCHEMES:
            page = await browser.new_page(color_scheme=scheme)
            await page.goto(f"{address}/status-page.html")
            shown = page.locator("article img:visible")
            await expect(shown).to_have_count(1, timeout=TIMEOUT_MS)
            assert file_name("status", scheme) in (await shown.get_attribute("src") or "")
            await page.wait_for_function(
                "[...document.images].every(one => one.complete && one.naturalWidth > 800)"
            )
            assert len(await shown.get_attribute("alt") or "") > 40
            await page.close()


def test_every_picture_is_of_a_page_and_on_a_page(pictures: Path) -> None:
    """Pages show the pictures that are taken and no others, each with a text; docs/images has the light ones."""
    light = {path.name for path in pictures.glob("*.png") if not path.stem.endswith("-dark")}
    assert {path.name for path in pictures.iterdir()} == {
        file_name(name.removesuffix(".png"), scheme) for name in light for scheme in SCHEMES
    }
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = {name: text for text, name in re.findall(r"!\[([^\]]*)\]\([\w./-]*images/([\w.-]+)\)", texts)}
    assert shown.keys() == light == {path.name for path in IMAGES.iterdir()}
    assert all(len(text) > 20 for text in shown.values())


@pytest.mark.browser
async def test_pictures_are_of_their_colour_scheme(pictures: Path) -> None:
    """The dark picture of each page is much darker than the light one, and neither is of one colour."""
    async with chromium() as browser:
        page = await browser.new_page()
        for path in await asyncio.to_thread(lambda: sorted(pictures.glob("*-dark.png"))):
            both = [path, path.with_name(path.name.replace("-dark", ""))]
            dark, light = [
                await page.evaluate(BRIGHTNESS_JS, b64encode(one.read_bytes()).decode()) for one in both
            ]
            assert dark["mean"] + 100 < light["mean"], path.name
            assert min(dark["shades"], light["shades"]) > 8, path.name
