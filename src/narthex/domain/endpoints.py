"""The paths of the gateway's wire endpoints, for every part that serves, calls or recognises them; URLs of servers.

Not here: the pages and the HTTP API, whose routes stand with their handlers (`web/`).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

WEBSOCKET: Final = "/ws"
GUARD_PREFIX: Final = "/ws"  # of a guard's HTTP routes, where its program chose no other
WEBSOCKETS: Final = (WEBSOCKET, "/websocket", "/connection/websocket")
"""Paths that upgrade; SDKs and other gateways' clients have each of them as their habit."""

CONFORMANCE: Final = "/ws/conformance"
HTTP_STREAM: Final = "/connection/http_stream"
SSE: Final = "/connection/sse"
EMULATION: Final = "/emulation"


def http_url(text: str) -> SplitResult | None:
    """The parts of an http:// or https:// URL with a host; None: the text is none."""
    try:
        parts = urlsplit(text)
        return parts if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def prefix_of(path: str) -> str:
    """The path below which a gateway is mounted, of the path of its WebSocket: `/chat` of `/chat/ws/`."""
    path = path.removesuffix("/")
    for endpoint in sorted(WEBSOCKETS, key=len, reverse=True):
        if path.endswith(endpoint):
            return path.removesuffix(endpoint)
    return path
