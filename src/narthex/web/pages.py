"""Serves the pages (`/` and, when the bundle has it, `/dashboard`) and their files at `/static/*`.

Not here: the pages' own code (`web/` in the repository, TypeScript), access to the data that they request (the
API), the status page (`status`). Rules: only files that the bundle's manifest names are served, each from memory; a
page loads nothing from elsewhere, which the Content-Security-Policy enforces; a file whose name holds its content's
hash may be cached for ever, a page only with revalidation. Without a built bundle, `/` says so.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.domain.refusals import Refusal
from narthex.web.paths import root_path
from narthex.web.problems import problem, trace_id_for
from narthex.web.served_bodies import ServedBody

STATIC_DIR: Final = Path(__file__).parent / "static"
PAGES: Final = {"/": "chat", "/dashboard": "dashboard"}
"""Path → page. A page that is not in the bundle has no route, except `/`."""

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        # Our own scripts, too, can make HTML only through DOMPurify's policy.
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"
_TYPES: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".tgz": "application/gzip",
}
FOR_OTHER_SITES: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
"""Headers of the helper's files: public code that a page of another site may import."""
HELPER_FILES: Final = frozenset({"client.js", "narthex-client.tgz"})

_OWN_FILES: Final = b'"/static/'
"""The beginning of each address in a page, as `web/build.mjs` writes it."""

_NOT_BUILT: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>narthex: no pages</title></head><body>
<h1>The gateway runs; its pages were not built</h1>
<p>This installation has no page bundle. Build it in the repository with
<code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>, or install again with <code>pip install .</code>
(the build asks for Node by itself) and without <code>NARTHEX_SKIP_WEB_BUILD</code>.</p>
<p>Everything else is there: connect any Centrifuge SDK to <code>/ws</code>, or look at
<a href="./ws/health">/ws/health</a>.</p>
</body></html>
"""


class _Listed(msgspec.Struct, frozen=True):
    """A file in the manifest."""

    immutable: bool


class _Manifest(msgspec.Struct, frozen=True):
    """The manifest that `web/build.mjs` wrote: page → file name, file name → its facts."""

    pages: dict[str, str]
    files: dict[str, _Listed]


class Bundle:
    """The built pages, in memory; read again when the manifest changes (`npm run build` while the gateway runs).

    Args:
        directory: the directory of `manifest.json`.
    """

    def __init__(self, directory: Path = STATIC_DIR) -> None:
        self._directory = directory
        self._stamp = -1
        self._pages: dict[str, str] = {}
        self._files: dict[str, ServedBody] = {}
        self.refresh()

    @property
    def pages(self) -> frozenset[str]:
        """Names of the pages that were built."""
        return frozenset(self._pages)

    def refresh(self) -> None:
        """Read the bundle again if it changed on disk. A broken bundle counts as none."""
        path = self._directory / "manifest.json"
        try:
            stamp = path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
            files = {name: self._read(name, listed) for name, listed in manifest.files.items()}
        except (OSError, msgspec.MsgspecError):
            self._stamp, self._pages, self._files = -1, {}, {}
            return
        self._stamp, self._pages, self._files = stamp, manifest.pages, files

    def page(self, name: str, root: str = "") -> ServedBody | None:
        """A page's HTML for clients that reach us under `root` (`web.paths`), or None when it was not built."""
        file = self._files.get(self._pages.get(name, ""))
        if file is None or not root:
            return file
        body = file.body.replace(_OWN_FILES, b'"%s/static/' % escape(root).encode())
        return msgspec.structs.replace(file, body=body, zipped=b"", etag=f'{file.etag[:-1]}{_tag(root)}"')

    def file(self, name: str) -> ServedBody | None:
        """A file by its exact name in the manifest; pages are not among them."""
        return None if name in self._pages.values() else self._files.get(name)

    def _read(self, name: str, listed: _Listed) -> ServedBody:
        path = self._directory / name
        if path.parent != self._directory:  # a name in the manifest must not leave the directory
            raise FileNotFoundError(name)
        body = path.read_bytes()
        media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        charset = "; charset=utf-8" if media_type.startswith("text/") else ""
        return ServedBody.of(body, media_type + charset, _FOR_EVER if listed.immutable else _ASK_AGAIN)


def routes(directory: Path = STATIC_DIR, *, pages: Sequence[str] = tuple(PAGES)) -> list[BaseRoute]:
    """Routes of the pages and of `/static/*`, for a Starlette application.

    Args:
        directory: the bundle; the package's own by default.
        pages: the paths of `PAGES` to serve. `/` has a route also without a bundle, the others only when the bundle
            has them.
    """
    bundle = Bundle(directory)
    served = [path for path in pages if path == "/" or PAGES[path] in bundle.pages]
    return [
        Route("/static/{name}", _static(bundle), methods=["GET"]),
        *(Route(path, _page(bundle, PAGES[path]), methods=["GET"]) for path in served),
    ]


def helper_routes(directory: Path = STATIC_DIR) -> list[Route]:
    """Routes of the helper's files below `/ws`, for a server without pages. The bundle is read on first request."""
    bundle = cache(lambda: Bundle(directory))

    def route(name: str) -> Route:
        async def helper(request: Request) -> Response:
            return _answer(request, bundle().file(name), name)

        return Route(f"/ws/{name}", helper, methods=["GET"])

    return [route(name) for name in sorted(HELPER_FILES)]


def _page(bundle: Bundle, name: str) -> Any:
    async def page(request: Request) -> Response:
        bundle.refresh()
        file = bundle.page(name, root_path(request.scope))
        if file is None:
            headers = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
            return Response(_NOT_BUILT, 503, headers=headers, media_type="text/html")
        return file.answer(request, SECURITY_HEADERS)

    return page


def _static(bundle: Bundle) -> Any:
    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        return _answer(request, bundle.file(name), name)

    return static


def _answer(request: Request, file: ServedBody | None, name: str) -> Response:
    if file is None:
        return problem(Refusal(code="no_route"), trace_id_for(request), headers=SECURITY_HEADERS)
    return file.answer(request, SECURITY_HEADERS | (FOR_OTHER_SITES if name in HELPER_FILES else {}))


def _tag(root: str) -> str:
    return hashlib.sha256(root.encode()).hexdigest()[:8]
