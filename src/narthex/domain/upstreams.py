"""Parses the URL of the server behind a guard. Not here: connecting to it."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

_PORTS: Final = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_EXAMPLE: Final = "Write for example ws://127.0.0.1:9000."


class UpstreamAddress(NamedTuple):
    """A server behind.

    Attributes:
        host: name or address, without brackets.
        port: its port.
        secure: whether it speaks TLS.
    """

    host: str
    port: int
    secure: bool

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_upstream(url: str) -> UpstreamAddress | str:
    """`ws://`, `wss://`, `http://` or `https://` with host and port only; otherwise what is wrong, and the remedy."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL ({error}). {_EXAMPLE}"
    if parts.scheme not in _PORTS or not host:
        return f"is no URL of a WebSocket server. {_EXAMPLE}"
    if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        return (
            "has more than scheme, host and port. The path and the query of each request are handed on as they are, "
            f"so leave them out. {_EXAMPLE}"
        )
    if port == 0:
        return f"has port 0. {_EXAMPLE}"
    return UpstreamAddress(host, port or _PORTS[parts.scheme], parts.scheme in ("wss", "https"))
