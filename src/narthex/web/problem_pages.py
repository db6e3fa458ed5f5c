"""Serves `/problems/<code>`: the page to which a problem's `type` leads, also as JSON on request.

Not here: the codes (`domain.refusals`, `domain.problem_table`). Rules: pages are static and the same for every user;
nothing of a request stands on them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from narthex.domain.problem_table import problem_codes, problem_row
from narthex.domain.refusals import PROBLEM_TYPE_BASE, TABLE, is_final
from narthex.web.paths import root_path

INDEX: Final = PROBLEM_TYPE_BASE.removesuffix("/")

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{margin:0 auto;padding:2rem 1.25rem;max-width:46rem;font:1rem/1.6 system-ui,sans-serif;overflow-wrap:anywhere}"
    "h1{font-size:1.5rem;line-height:1.3}code{font-family:ui-monospace,monospace}"
    "a{color:inherit}pre{white-space:pre-wrap;padding:.8rem 1rem;"
    "border:1px solid color-mix(in srgb,currentColor 20%,transparent)}"
    "table{border-collapse:collapse;width:100%}th,td{padding:.4rem .8rem .4rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)}th{white-space:nowrap;font-weight:600}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Cache-Control": "public, max-age=3600",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}


def routes() -> list[Route]:
    """Starlette routes: one of each code, and the list of all at `INDEX`."""
    return [
        Route(INDEX, _index, methods=["GET"]),
        *(Route(PROBLEM_TYPE_BASE + code, _page, methods=["GET"]) for code in problem_codes()),
    ]


async def _page(request: Request) -> Response:
    facts = problem_facts(request.url.path.rpartition("/")[2])
    if _wants_json(request):
        return JSONResponse(facts, headers=HEADERS)
    rows = "".join(
        f"<tr><th scope=row>{name}</th><td>{escape(text)}</td></tr>"
        for name, text in (
            ("Code", str(facts["code"])),
            ("HTTP status", str(facts["status"] or "none: only on a WebSocket")),
            ("Close code", _close_words(facts["close"])),
            ("What to do", str(facts["remedy"])),
        )
    )
    body = (
        f"<h1>{escape(str(facts['title']))}</h1><table>{rows}</table>"
        "<p>The answer's <code>detail</code> says more about the one case, and its <code>trace_id</code> finds the "
        f'line in the gateway\'s log.</p><p><a href="{escape(root_path(request.scope))}{INDEX}">All codes</a></p>'
    )
    return static_page(str(facts["title"]), body)


async def _index(request: Request) -> Response:
    found = [problem_facts(code) for code in problem_codes()]
    if _wants_json(request):
        return JSONResponse({"problems": found}, headers=HEADERS)
    base = escape(root_path(request.scope)) + PROBLEM_TYPE_BASE
    rows = (
        f'<tr><td><a href="{base}{one["code"]}"><code>{one["code"]}</code></a></td>'
        f"<td>{escape(str(one['title']))}</td></tr>"
        for one in found
    )
    return static_page("Problems", f"<h1>Problems</h1><table>{''.join(rows)}</table>")


def problem_facts(code: str) -> dict[str, object]:
    """`code`, `title`, `remedy`, and `status` and `close`, each None where that surface cannot say it."""
    row = problem_row(code)
    assert row is not None  # routes are made of the table's codes
    close = TABLE[code].close if code in TABLE else None
    return {"code": code, "title": row.title, "status": row.http, "close": close, "remedy": row.remedy}


def _close_words(close: object) -> str:
    if not isinstance(close, int):
        return "none: only over HTTP or as a command's error"
    return f"{close} ({'do not reconnect' if is_final(close) else 'reconnect'})"


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "json" in accepted and "text/html" not in accepted


def static_page(title: str, body: str) -> Response:
    """A page without scripts, the same for every user. `body` is HTML."""
    text: Iterable[str] = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)} · narthex</title><style>{_STYLE}</style></head>",
        f"<body><main>{body}</main></body></html>",
    )
    return Response("".join(text), headers=HEADERS, media_type="text/html")
