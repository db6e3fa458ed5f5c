"""The page around every HTML report.

Rules: the page loads nothing and runs nothing, and its own policy tells the browser so; text that UTF-8 cannot encode
never prevents a report.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

_STYLE: Final = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEAD: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'\">"
)


def page(title: str, parts: Iterable[str]) -> str:
    """The page: `title` is escaped, `parts` are HTML already."""
    head = f"{_HEAD}<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
    text = "".join((head, *parts, "</main></body></html>\n"))
    return text.encode("utf-8", "replace").decode()


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values at the head of a report; those without a value are left out."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows if value)
    return f"<dl>{items}</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, label: str = "") -> str:
    """A table of text: the first column names its row, the others are numbers. It scrolls on a narrow screen."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in others)
        + "</tr>"
        for first, *others in rows
    )
    rows_of = f"<thead><tr>{names}</tr></thead><tbody>{lines}</tbody>"
    return scrolling(f"<table class=numbers>{rows_of}</table>", label or head[0])


def scrolling(content: str, label: str) -> str:
    """Content that may be wider than the screen: it scrolls by itself, also with the keyboard (WCAG 2.1.1)."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'
