"""The doctor's target: a parsed URL, and the only place that the doctor may send anything to.

Not here: dialling. Rules: a URL is never printed whole, because a query may hold a credential; the query is sent
only to the path that its owner gave.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from narthex.domain.endpoints import prefix_of
from narthex.domain.environment import is_loopback
from narthex.errors import ClientError

SCHEMES: Final = {"ws": False, "http": False, "wss": True, "https": True}
_PARENTS: Final = 4  # directories of an endpoint that are looked at; each costs two requests
_CREDENTIAL_NAMES: Final = frozenset(
    {"token", "access_token", "jwt", "auth", "authorization", "key", "api_key"}
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint.

    Attributes:
        host: in the form for look-up and the `Host` header; no brackets.
        port: 1 to 65535.
        tls: whether TLS is spoken.
        path: of the WebSocket, begins with `/`.
        query: without `?`; never printed.
        path_given: whether the URL named a path.
    """

    host: str
    port: int
    tls: bool
    path: str = "/"
    query: str = ""
    path_given: bool = True

    @property
    def authority(self) -> str:
        """The `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """`host:port`, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """The origin of a page that this host itself would serve."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def shown(self) -> str:
        """The URL for people: without parts that may be secret."""
        query = "?…" if self.query else ""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}{query}"

    @property
    def resource(self) -> str:
        """The request target of the handshake."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def loopback(self) -> bool:
        """Whether the target is this machine."""
        return is_loopback(self.host)

    @property
    def credential_in_query(self) -> str:
        """The name of a query parameter that looks like a credential; empty when there is none."""
        for name, value in parse_qsl(self.query):
            if value.startswith("eyJ") or (name.lower() in _CREDENTIAL_NAMES and len(value) >= 16):
                return name
        return ""

    def beside(self, name: str) -> str:
        """The path of a narthex's other routes: `beside("health")` is `/ws/health`, below the same prefix."""
        return f"{prefix_of(self.path)}/ws/{name}"

    def route_paths(self, name: str) -> tuple[str, ...]:
        """Where such a route may be, the likely ones first: beside a gateway's endpoint; a guard's are at the root, or
        below a directory of the endpoint: `Guard(prefix="/chat")`, a mount, a proxy's prefix.
        """
        parents = [prefix_of(self.path).rstrip("/")]
        while parents[-1] and len(parents) < _PARENTS:
            parents.append(parents[-1].rpartition("/")[0])
        below = [f"{one}{routes}/{name}" for one in parents for routes in ("/ws", "") if one or routes]
        return tuple(dict.fromkeys((self.beside(name), f"/ws/{name}", *below)))


def parse_target(url: str) -> Target:
    """Take `ws://`, `wss://`, `http://` or `https://` apart; a bare `host:port` is `ws://`.

    Raises:
        ClientError: it is none of these.
    """
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        port = parts.port
    except ValueError:  # brackets that hold no IPv6 address, a port that is none
        parts, port = urlsplit(""), 0
    if parts.scheme not in SCHEMES or not parts.hostname or port == 0:
        raise ClientError(
            "bad_url",
            "The URL is not a WebSocket URL.",
            "Give it as wss://host[:port]/path, or https://host[:port].",
        )
    if parts.username or parts.password:
        raise ClientError(
            "credential_in_url", "The URL has a user or password.", "Remove it; use --token or --header."
        )
    if re.search(r"[\s\x00-\x1f\x7f]", f"{parts.path}{parts.query}"):
        raise ClientError("bad_url", "The URL contains white space.", "Percent-encode it.")
    tls = SCHEMES[parts.scheme]
    return Target(
        host=parts.hostname,
        port=port or (443 if tls else 80),
        tls=tls,
        path=parts.path or "/",
        query=parts.query,
        path_given=parts.path not in ("", "/"),
    )
