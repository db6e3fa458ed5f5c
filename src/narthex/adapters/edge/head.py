"""Reads request heads from bytes, within their limits.

Not here: the check of a head's content (`rules`). httptools (llhttp, strict) does the parsing; this module bounds its
input, so that a head is complete within `head_bytes` or refused, and turns its fields into the app's `RequestHead`.
Rules: no I/O and no clock;
llhttp already refuses obs-fold, bare CR or LF, control characters, a space before the colon, two
Content-Lengths, and Content-Length beside Transfer-Encoding; any split of the bytes gives the same outcome.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

import httptools

from narthex.domain.refusals import Refusal
from narthex.errors import Bug
from narthex.ports.edge import RequestHead

# Names that clients send, in their usual spelling, to avoid decoding and lower-casing each one.
_NAMES: Final[dict[bytes, str]] = {
    spelling: name.lower()
    for name in (
        *("Host", "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version"),
        *("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "Authorization"),
        *("Cookie", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control"),
        *("Pragma", "Content-Length", "Content-Type", "Transfer-Encoding", "Referer"),
        *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded"),
        *("Traceparent", "Tracestate", "X-E2E-Bypass-Key", "X-E2E-Test-Run", "Sec-Fetch-Dest"),
        *("Sec-Fetch-Mode", "Sec-Fetch-Site"),
    )
    for spelling in (name.encode(), name.lower().encode())
}


class Fields(NamedTuple):
    """A head from llhttp; headers in the app's form."""

    method: bytes
    target: bytes
    version: str
    headers: list[tuple[str, str]]


class Complete(NamedTuple):
    """A whole head, and the number of bytes since the reader's start that belong to it."""

    fields: Fields
    size: int


class _Enough(Exception):
    """More headers than allowed: stops llhttp from within its callback, and never leaves this module."""


def too_large(head_bytes: int, headers: int) -> Refusal:
    """431, with the limits."""
    return Refusal(
        code="head_too_large", detail=f"At most {head_bytes} bytes and {headers} headers are accepted."
    )


def malformed(what: str) -> Refusal:
    """400, with the fault. `what` must not contain text from the client."""
    return Refusal(code="bad_request", detail=what)


class HeadReader:
    """Reads one head. Feed bytes until `feed` returns something, then drop the reader.

    Args:
        head_bytes: the most bytes of a head.
        headers: the most header lines.
    """

    __slots__ = ("_fed", "_fields", "_head_bytes", "_headers", "_max_headers", "_parser", "_target")

    def __init__(self, head_bytes: int, headers: int) -> None:
        self._head_bytes = head_bytes
        self._max_headers = headers
        self._fed = 0
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._fields: Fields | None = None
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> Complete | Refusal | None:
        """Take the next bytes.

        Returns:
            None while the head is incomplete; then its fields or a refusal.
        """
        room = self._head_bytes - self._fed
        part = data if len(data) <= room else data[:room]
        parser = self._parser
        if parser is None:
            raise Bug("head_reader_spent", "A request head's reader was fed after its end.")
        size = 0  # of an upgrade's head within `part`; llhttp reports it only then
        try:
            parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            size = self._fed + int(upgrade.args[0])
        except httptools.HttpParserError as error:
            if self._fields is None:
                self.drop()
                if isinstance(error.__context__, _Enough):
                    return too_large(self._head_bytes, self._max_headers)
                return malformed("The request is not well-formed HTTP/1.1.")
        self._fed += len(part)
        if self._fields is not None:
            fields = self._fields
            self.drop()
            return Complete(fields, size)
        if self._fed >= self._head_bytes:
            self.drop()
            return too_large(self._head_bytes, self._max_headers)
        return None

    def drop(self) -> None:
        """Break the cycle reader → parser → bound methods → reader, to spare the garbage collector."""
        self._parser = None

    # llhttp's callbacks; bytes behind the head (a body, a next request) are not this reader's.

    def on_url(self, target: bytes) -> None:
        """A piece of the request target."""
        if self._fields is None:
            self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header line (or, after the head, a chunked body's trailer)."""
        if self._fields is None:
            headers = self._headers
            if len(headers) >= self._max_headers:
                raise _Enough
            # `header` inlined: this runs for every line of every head
            headers.append(
                (
                    _NAMES.get(name) or name.decode("latin-1").lower(),
                    value.decode("latin-1").strip(" \t"),
                )
            )

    def on_headers_complete(self) -> None:
        """The empty line."""
        parser = self._parser
        if self._fields is None and parser is not None:
            self._fields = Fields(
                parser.get_method(),
                self._target,
                parser.get_http_version(),
                self._headers,
            )


def header(name: bytes, value: bytes) -> tuple[str, str]:
    """A header line in the app's form: lower-case name, value without the white space around it."""
    return _NAMES.get(name) or name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")


def request_head(fields: Fields, *, peer: tuple[str, int], secure: bool, received_at: float) -> RequestHead:
    """The app's form of a head. `path` is empty when the target is neither origin- nor absolute-form.

    Of an absolute-form target (RFC 9112 section 3.2.2) this uses the path; `rules` checks its authority.
    """
    target = fields.target
    if not target.startswith(b"/"):
        target = _after_authority(target)
    path, _, query = target.partition(b"?")
    text = path.decode("latin-1")
    return RequestHead(
        method=fields.method.decode("latin-1"),
        path=unquote(text) if "%" in text else text,
        query=query.decode("latin-1"),
        headers=fields.headers,
        http_version=fields.version,
        peer=peer,
        secure=secure,
        received_at=received_at,
    )


def authority(target: bytes) -> str | None:
    """The authority of an absolute-form `http(s)` target, lower-case; None for any other form."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return None
    for end in (b"/", b"?"):
        rest = rest.partition(end)[0]
    return rest.decode("latin-1").lower()


def _after_authority(target: bytes) -> bytes:
    name = authority(target)
    if name is None:
        return b""
    rest = target.partition(b"://")[2][len(name) :]
    return rest if rest.startswith(b"/") else b"/" + rest
