"""Bodies that are sent again and again: gzipped for clients that accept that, 304 for those that have them already.

Not here: which bodies there are (`pages`, `status/routes`). Rule: an ETag is strong for the plain bytes only.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

WORTH_GZIP: Final = 1_024  # smaller ones fit one packet anyway


class ServedBody(msgspec.Struct, frozen=True):
    """One body with its headers. `zipped` is empty where gzip gains nothing."""

    body: bytes
    zipped: bytes
    etag: str
    media_type: str
    cache_control: str

    @classmethod
    def of(cls, body: bytes, media_type: str, cache_control: str) -> ServedBody:
        """The body, zipped once."""
        # mtime=0: the same bytes on every instance, so that the ETag holds across them
        zipped = gzip.compress(body, 6, mtime=0) if len(body) >= WORTH_GZIP else b""
        zipped = zipped if len(zipped) < len(body) * 0.95 else b""
        return cls(body, zipped, f'"{hashlib.sha256(body).hexdigest()[:32]}"', media_type, cache_control)

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """The body, or 304 (RFC 9110 section 13.1.2: weak comparison, or `*`)."""
        zipped = bool(self.zipped) and "gzip" in request.headers.get("accept-encoding", "")
        found = {
            **headers,
            # RFC 9110 section 8.8.3: weak, because these are not the plain body's bytes
            "ETag": f"W/{self.etag}" if zipped else self.etag,
            "Cache-Control": self.cache_control,
            "Vary": "Accept-Encoding",
        }
        known = request.headers.get("if-none-match", "").split(",")
        if any(part.strip().removeprefix("W/") in (self.etag, "*") for part in known):
            return Response(status_code=304, headers=found)
        if zipped:
            found["Content-Encoding"] = "gzip"
        return Response(self.zipped if zipped else self.body, headers=found, media_type=self.media_type)
