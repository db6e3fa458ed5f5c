"""Takes credentials, and claims of an identity from outside, out of a request before an application sees it. Pure.

Rules: `Authorization`, our cookies, our subprotocols, tickets, the end-to-end headers and everything under `narthex-`
go; the application's own cookies, subprotocols and parameters stay, byte for byte and in their order. Any character
of a name that is no letter and no digit counts as a hyphen, because CGI, WSGI and PHP make one variable of them:
`Narthex.Subject` is HTTP_NARTHEX_SUBJECT there. A name in capitals goes too: ASGI's are lower case, and a server that
passes others (hypercorn with `h11_pass_raw_headers`) would hide a header from these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from narthex.domain.carriers import E2E_KEY_HEADER, E2E_TEST_RUN_HEADER, EXPLAIN, JWT_AUTH
from narthex.ports.tracing import Span
from narthex.web.cookies import JOURNEY, REFRESH, SESSION

RawHeaders = list[tuple[bytes, bytes]]
"""Lower-case names and values, in order."""

CLAIMS: Final = b"narthex-"
"""The beginning of headers that name an identity: only the guard writes them."""

_FOLDED: Final = bytes(
    ord(chr(byte).lower()) if chr(byte).isalnum() and byte < 128 else ord("-") for byte in range(256)
)

_DROPPED: Final = frozenset(
    {b"authorization", E2E_KEY_HEADER.encode(), E2E_TEST_RUN_HEADER.encode(), b"sec-websocket-protocol"}
)
_COOKIES: Final = frozenset(
    name.encode() for cookie in (SESSION, REFRESH, JOURNEY) for name in (cookie.plain, cookie.secure)
)


def without_claims(headers: RawHeaders) -> RawHeaders:
    """The headers without those that name an identity; the same list where there are none."""
    if any(name[:7].lower() == b"narthex" for name, _ in headers):
        return [header for header in headers if not _claims(header[0])]
    return headers


def without_credentials(headers: Iterable[tuple[bytes, bytes]], subprotocols: Iterable[str]) -> RawHeaders:
    """The headers of an upgrade for the application.

    Args:
        headers: of the request.
        subprotocols: from `own_subprotocols`.
    """
    kept: RawHeaders = []
    for header in headers:
        name, value = header
        if _may_pass(name):
            if name != b"cookie" or b"narthex_" not in value:
                kept.append(header)
            elif own := _without_cookies(value):
                kept.append((name, own))
    offered = ", ".join(subprotocols)
    if offered:
        kept.append((b"sec-websocket-protocol", offered.encode("latin-1")))
    return kept


def continued_trace(headers: RawHeaders, span: Span) -> RawHeaders:
    """The headers with the guard's own position in the trace, so that the application's spans are below its handshake;
    the same list while tracing is off.
    """
    if span.context is None:
        return headers
    kept = [header for header in headers if header[0] not in (b"traceparent", b"tracestate")]
    return kept + [(name.encode(), value.encode()) for name, value in span.context.headers().items()]


def own_subprotocols(offered: Sequence[str]) -> list[str]:
    """The application's own subprotocols among the offered ones."""
    if not offered:
        return []
    # In any case of letters: a token that was offered in a wrong one proves nothing, and is a token all the same.
    return [
        name
        for name in offered
        if (lower := name.lower()) not in (JWT_AUTH, EXPLAIN, "jwt") and not lower.startswith("jwt.")
    ]


def without_ticket(query: bytes) -> bytes:
    """A query string without its tickets."""
    if b"ticket" not in query and b"%" not in query:
        return query
    return b"&".join(
        part
        for part in query.split(b"&")
        if unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")) != b"ticket"
    )


@lru_cache(maxsize=1024)  # clients use the same few names; one that varies them only costs itself
def _may_pass(name: bytes) -> bool:
    """Whether a header of this name may reach the application; a cookie's value is looked at, too."""
    return name == name.lower() and name.translate(_FOLDED) not in _DROPPED and not _claims(name)


def _claims(name: bytes) -> bool:
    return name.translate(_FOLDED).startswith(CLAIMS)


def _without_cookies(value: bytes) -> bytes:
    pairs = value.split(b";")
    return b";".join(pair for pair in pairs if pair.partition(b"=")[0].strip() not in _COOKIES).strip()
