"""The documentation site: it builds strictly, fetches nothing from other hosts, and llms.txt lists every page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.check import build_site
from tests.generated import ROOT

LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?((?:https?:)?//[^\"' >]+)|<link([^>]*)>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout."""
    into = tmp_path_factory.mktemp("site") / "built"
    assert build_site(ROOT, into)
    return into


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    """Scripts, styles, images and fonts of each page come from the site itself, and no diagram asks for a script."""
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
        assert 'class="mermaid"' not in text, page.name
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
