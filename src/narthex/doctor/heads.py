"""HTTP heads, sans-IO: requests as bytes, answers as values, and the faults of a 101.

Not here: sockets (`dialing`), frames (`frames`). Deliberately not a library: a library hides or rejects the faults
that the doctor must see. Rules: parsing never raises and is bounded by its input; only headers that cannot hold a
credential are kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.protocol.framing import accept_key

MAX_HEAD_BYTES: Final = 64 * 1024  # four times narthex' own limit; bounds a hostile answer
KEPT: Final = frozenset(
    {
        "server", "via", "date", "age", "content-type", "content-length", "transfer-encoding", "connection",
        "upgrade", "location", "retry-after", "www-authenticate", "proxy-authenticate",
        "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions",
        "sec-websocket-version", "cf-ray", "cf-mitigated", "x-cache", "x-powered-by", "x-served-by",
        "x-amz-cf-id", "x-envoy-upstream-service-time", "x-goog-iap-generated-response",
        "x-cloud-trace-context", "cache-control", "alt-svc",
    }
)  # fmt: skip
"""Response headers that are shown; all others, cookies above all, are only counted."""


class Head(NamedTuple):
    """A parsed answer. `headers` holds only names of `KEPT`, in lower case; `lines` counts all."""

    version: str
    status: int
    phrase: str
    headers: dict[str, str]
    lines: int


def accept_of(key: str) -> str:
    """`Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2)."""
    return accept_key(key.encode()).decode()


def request(resource: str, headers: list[tuple[str, str]]) -> bytes:
    """A GET as bytes; values with control characters are the caller's mistake (checked at the command line)."""
    lines = [f"GET {resource} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def looks_like_http(start: bytes) -> bool:
    """Whether bytes can be the beginning of an HTTP/1 answer."""
    return start[:5] == b"HTTP/"[: len(start)]


def parse_head(raw: bytes) -> Head | None:
    """Parse everything before the blank line; None when the status line is none."""
    lines = raw.split(b"\r\n" if b"\r\n" in raw else b"\n")
    words = lines[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit() or len(words[1]) != 3:
        return None
    kept: dict[str, str] = {}
    count = 0
    for line in lines[1:]:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            continue
        count += 1
        if (lowered := name.strip().lower()) in KEPT:
            text = value.strip()[:500]
            kept[lowered] = f"{kept[lowered]}, {text}" if lowered in kept else text
    return Head(words[0], int(words[1]), words[2] if len(words) > 2 else "", kept, count)


def faults_of(head: Head, key: str, offered: tuple[str, ...]) -> tuple[str, ...]:
    """The faults of a 101 (RFC 6455 section 4.1, the client's checks); no extension is ever offered."""
    found: list[str] = []
    if head.headers.get("upgrade", "").lower() != "websocket":
        found.append("upgrade_missing")
    connection = [token.strip().lower() for token in head.headers.get("connection", "").split(",")]
    if "upgrade" not in connection:
        found.append("connection_missing")
    accept = head.headers.get("sec-websocket-accept", "")
    if not accept:
        found.append("accept_missing")
    elif accept != accept_of(key):
        found.append("accept_wrong")
    if head.headers.get("sec-websocket-extensions"):
        found.append("extension_not_offered")
    chosen = head.headers.get("sec-websocket-protocol", "")
    if chosen and chosen not in offered:
        found.append("subprotocol_not_offered")
    return tuple(found)
