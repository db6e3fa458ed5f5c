"""Serves `/runbooks/<name>`: the page that an alert's link leads to.

Not here: the texts (`adapters/telemetry/runbooks`). Rules: pages are static, the same for every user, and say nothing
about this gateway; of Markdown they have headings, paragraphs, lists, code, emphasis and links, which is what runbooks
are written in; links to pages that the gateway does not serve are shown as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from narthex.web.paths import root_path
from narthex.web.problem_pages import static_page

INDEX: Final = "/runbooks"
_COMMENT: Final = re.compile(r"<!-- .*? -->\n*")


def routes(pages: Mapping[str, str], read: Callable[[str], str]) -> list[Route]:
    """Starlette routes.

    Args:
        pages: the title of each page, by its name.
        read: returns a page's Markdown.
    """

    async def index(request: Request) -> Response:
        base = escape(root_path(request.scope))
        rows = (
            f'<tr><td><a href="{base}{INDEX}/{name}">{name}</a></td><td>{escape(title)}</td></tr>'
            for name, title in pages.items()
        )
        return static_page("Runbooks", f"<h1>Runbooks</h1><table>{''.join(rows)}</table>")

    async def page(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in pages:
            raise HTTPException(404)
        base = root_path(request.scope) + INDEX
        body = html_of(read(name), {f"{one}.md": f"{base}/{one}" for one in pages})
        return static_page(pages[name], f'{body}<p><a href="{escape(base)}">All runbooks</a></p>')

    return [Route(INDEX, index, methods=["GET"]), Route(INDEX + "/{name}", page, methods=["GET"])]


def html_of(markdown: str, links: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        markdown: of a runbook.
        links: the address of each page that a link may lead to; others become text.
    """
    found = []
    for block in re.split(r"\n{2,}", _COMMENT.sub("", markdown).strip()):
        lines = block.split("\n")
        if block.startswith("```"):
            found.append(f"<pre><code>{escape(chr(10).join(lines[1:-1]))}</code></pre>")
        elif block.startswith("#"):
            level, _, title = block.partition(" ")
            found.append(f"<h{len(level)}>{_inline(title, links)}</h{len(level)}>")
        elif block.startswith("- "):
            items = "".join(f"<li>{_inline(line[2:], links)}</li>" for line in lines)
            found.append(f"<ul>{items}</ul>")
        else:
            found.append(f"<p>{_inline(block, links)}</p>")
    return "".join(found)


_INLINE: Final = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*|\*(?P<em>[^*]+)\*|\[(?P<label>[^]]+)\]\((?P<to>[^)]+)\)"
)


def _inline(text: str, links: Mapping[str, str]) -> str:
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        parts.append(escape(text[at : found.start()]))
        at = found.end()
        if code := found["code"]:
            parts.append(f"<code>{escape(code)}</code>")
        elif label := found["label"]:
            target = links.get(found["to"])
            shown = _inline(label, links)
            parts.append(f'<a href="{escape(target)}">{shown}</a>' if target else shown)
        else:
            tag = "strong" if found["strong"] else "em"
            parts.append(f"<{tag}>{_inline(found['strong'] or found['em'], links)}</{tag}>")
    return "".join([*parts, escape(text[at:])])
