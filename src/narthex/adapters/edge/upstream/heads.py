"""Makes the head of an upstream's handshake, and checks the answer to it. Pure.

Not here: which headers are credentials (`guard`), sending (`dialing`). Rules: hop-by-hop headers end here
(RFC 9110 section 7.6.1); forwarding headers are written anew from the address that the guard determined; extensions are
negotiated end to end, so that the offer and the answer pass as they are; an answer that RFC 6455 section 4.1 does not
allow is never passed on as a success.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

from narthex.adapters.edge.responses import Headers, header_lines
from narthex.ports.edge import RequestHead
from narthex.protocol.framing import accept_key

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_FORWARDING: Final = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"}
)
_SEPARATORS: Final = re.compile(r"[^a-z0-9]")
_HANDSHAKE: Final = frozenset(
    {"content-length", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"}
)


class HandedOn(NamedTuple):
    """The parts of an admitted request that the upstream may see.

    Attributes:
        headers: without credentials; lower-case names.
        query: without the ticket.
        address: the client's.
        scheme: `https` or `http`, as the client sees it.
        protocols: the offered subprotocols that are the application's.
        own: the guard's own headers.
    """

    headers: Headers
    query: str
    address: str
    scheme: str
    protocols: list[str]
    own: Headers


class HeadAnswer(NamedTuple):
    """An upstream's answer to the handshake.

    Attributes:
        status: of the final answer.
        headers: lower-case names.
        body: of a refusal, without its transfer coding; empty for a 101.
        rest: bytes behind a 101.
    """

    status: int
    headers: Headers
    body: bytes = b""
    rest: bytes = b""

    def get(self, name: str) -> str:
        """The values of a header, as one list."""
        return ", ".join(value for key, value in self.headers if key == name)

    def passed_headers(self) -> Headers:
        """The headers that reach the client, in both kinds of answer."""
        return [header for header in end_to_end(self.headers) if header[0] not in _HANDSHAKE]


def end_to_end(headers: Headers) -> Headers:
    """Headers (lower-case names) without those of one connection, and those that `Connection` names.

    `Host` stays: a client that names it would choose which host the upstream serves.
    """
    named = {
        word.strip(" \t").lower()
        for name, value in headers
        if name == "connection"
        for word in value.split(",")
    } - {"host"}
    return [header for header in headers if header[0] not in _HOP_BY_HOP and header[0] not in named]


def forwarded_headers(headers: Headers, *, address: str, scheme: str, host: str) -> Headers:
    """Headers with forwarding headers of the guard's own in place of all others."""
    kept = [header for header in headers if not _forwards(header[0])]
    if address:
        kept.append(("X-Forwarded-For", address))
    return [*kept, ("X-Forwarded-Proto", scheme), ("X-Forwarded-Host", host)]


@lru_cache(maxsize=256)  # clients use the same few names; one that varies them only costs itself
def _forwards(name: str) -> bool:
    """Whether a server behind may take a header for a forwarding one; CGI and WSGI make `_` and `-` one."""
    return _SEPARATORS.sub("-", name) in _FORWARDING


def upgrade_request(head: RequestHead, handed: HandedOn) -> bytes:
    """The head of the upstream's handshake.

    Args:
        head: the client's request, admitted.
        handed: what the upstream may see of it.
    """
    target = quote(head.path, safe="/!$&'()*+,;=:@~") + (f"?{handed.query}" if handed.query else "")
    headers = forwarded_headers(
        end_to_end(handed.headers),
        address=handed.address,
        scheme=handed.scheme,
        host=head.get("host") or "",
    )
    lines = [*headers, ("Connection", "Upgrade"), ("Upgrade", "websocket"), *handed.own]
    return f"GET {target} HTTP/1.1\r\n".encode("latin-1") + header_lines(lines) + b"\r\n"


def fault_of(answer: HeadAnswer, head: RequestHead, offered: list[str]) -> str:
    """The reason why a 101 is no valid answer to this handshake; empty when it is.

    Args:
        answer: a 101.
        head: the client's request.
        offered: the subprotocols that the upstream was offered.
    """
    accept = accept_key((head.get("sec-websocket-key") or "").encode()).decode()
    if answer.get("upgrade").lower() != "websocket" or "upgrade" not in answer.get("connection").lower():
        return "Its 101 does not say `Upgrade: websocket`."
    if answer.get("sec-websocket-accept") != accept:
        return "Its Sec-WebSocket-Accept is wrong."
    chosen = answer.get("sec-websocket-protocol")
    if chosen and chosen not in offered:
        return "It selected a subprotocol that was not offered."
    if answer.get("sec-websocket-extensions") and not head.get("sec-websocket-extensions"):
        return "It selected an extension that was not offered."
    return ""


def refusal_answer(answer: HeadAnswer, phrase: str, *, common: bytes = b"") -> bytes:
    """The upstream's own refusal, whole, for the client. `common`: header lines of every answer."""
    headers = answer.passed_headers()
    if any(name == "date" for name, _ in headers):
        common = b""
    lines = header_lines([*headers, ("Content-Length", str(len(answer.body))), ("Connection", "close")])
    first = f"HTTP/1.1 {answer.status} {phrase}\r\n".encode("latin-1")
    return b"".join((first, common, lines, b"\r\n", answer.body))
