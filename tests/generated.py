"""Which pages of docs/ are generated, wholly or between two marks, and from what.

Rules: a page is compared byte for byte; what a person wrote around the marks stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


def _settings() -> str:
    from narthex.settings import render_docs

    return render_docs()


def _between(page: Path, name: str, text: str) -> str:
    """The page with `text` between `<!-- name -->` and `<!-- /name -->`."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def _operations() -> str:
    from narthex.adapters.telemetry.catalogue import render_table

    return _between(ROOT / "docs" / "operations.md", "metrics", render_table())


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/settings.md": _settings,
    "docs/operations.md": _operations,
}


def stale() -> list[str]:
    """Pages that do not say what the code says."""
    return [name for name, render in PAGES.items() if _text(ROOT / name) != render()]


def write() -> list[str]:
    """Bring the stale pages up to date; their names."""
    pages = stale()
    for name in pages:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
    return pages


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""
