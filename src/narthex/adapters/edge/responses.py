"""Renders the bytes that end a handshake: refusals as RFC 9457 problems, and the 101. Pure.

Not here: sending (`tcp`). Rules: a refusal always says `Connection: close` and is never cached; a header that the app
adds cannot inject another line.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from narthex.domain.refusals import Refusal
from narthex.errors import Bug
from narthex.protocol.framing import accept_key

Headers = list[tuple[str, str]]

_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_encode: Final = msgspec.json.Encoder().encode


def refusal_response(
    refusal: Refusal,
    trace_id: str,
    *,
    root: str = "",
    extra: Headers | None = None,
    common: bytes = b"",
    head: bool = False,
) -> bytes:
    """The whole HTTP answer of a refusal.

    Args:
        refusal: the reason.
        trace_id: for the body.
        root: the path under which clients reach this server, see `Refusal.problem`.
        extra: more headers of the app's, CORS for example.
        common: header lines of every answer (`Date`), each with its CRLF.
        head: whether the request's method was HEAD: then the body is counted and not sent.
    """
    body = _encode(refusal.problem(trace_id, root))
    lines = [
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *refusal.headers(),
        *(extra or ()),
    ]
    # RFC 9110 section 7.8: a sender of `Upgrade` lists it in `Connection`.
    connection = "Upgrade, close" if refusal.code == "upgrade_required" else "close"
    lines.append(("Connection", connection))
    start = _STATUS[refusal.row.http or 400].encode()
    return b"".join((start, common, header_lines(lines), b"\r\n", b"" if head else body))


def switching_protocols(key: str, *, subprotocol: str | None, extension: str, extra: Headers) -> bytes:
    """The 101 for `Sec-WebSocket-Key` `key` (RFC 6455 section 4.2.2)."""
    accept = accept_key(key.encode())
    if subprotocol is None and not extension and not extra:
        return _SWITCHING + accept + b"\r\n\r\n"
    lines = list(extra)
    if subprotocol is not None:
        lines.append(("Sec-WebSocket-Protocol", subprotocol))
    if extension:
        lines.append(("Sec-WebSocket-Extensions", extension))
    return b"".join((_SWITCHING, accept, b"\r\n", header_lines(lines), b"\r\n"))


def header_lines(headers: Headers) -> bytes:
    """Header lines with their CRLFs.

    Raises:
        Bug: a name or value holds a line break, which would forge headers, or does not fit latin-1.
    """
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise Bug("bad_header", "A response header contains a line break.")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise Bug("bad_header", "A response header contains characters outside latin-1.") from error
