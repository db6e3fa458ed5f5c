"""The requests of each kind of server: upgrade, connect, subscribe and publish.

`raw`: plain WebSocket, `/echo` echoes, a message to `/pub` goes to all sockets on `/sub`. `narthex`: token in
the Authorization header, `connect`, `publish` with a service's token. `centrifugo`: token in `connect`,
Centrifugo's server API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from narthex.bench.load.wire import command, frame, mint, post, upgrade
from narthex.protocol.client import StreamPosition

Protocol = Literal["raw", "narthex", "centrifugo"]
MARKER: Final = b'"bench":'
"""Stands once in every publication; counting it counts deliveries."""


class BenchTarget(msgspec.Struct, kw_only=True, frozen=True):
    """A server's data for the generator.

    Attributes:
        protocol: see the module.
        pids: processes whose CPU, with that of their descendants, is read around the operations.
        secret: HS256 secret of the tokens; empty: none are sent.
        api_key: of the server API.
        paths: paths that differ from the protocol's own, by name (`socket`, `echo`, `sub`, `pub`, `publish`).
    """

    name: str
    protocol: Protocol
    host: str
    port: int
    pids: list[int]
    secret: str = ""
    api_key: str = ""
    paths: dict[str, str] = {}


class ServerDialect:
    """Makes the bytes for a target."""

    def __init__(self, target: BenchTarget) -> None:
        self.target = target
        self.host = f"{target.host}:{target.port}"
        self.raw = target.protocol == "raw"

    def _path(self, name: str, default: str) -> str:
        return self.target.paths.get(name, default)

    def token(self, subject: str, **claims: Any) -> str:
        """A token of `subject`; empty where the target wants none."""
        if not self.target.secret:
            return ""
        return mint(self.target.secret, subject, plan="enterprise", **claims)

    def upgrade(self, subject: str, *, role: str = "sub") -> bytes:
        """The upgrade request. `role`: `sub`, `echo`, or `pub` for the publisher."""
        if self.raw:
            return upgrade(self._path(role, f"/{role}"), self.host, {})
        if self.target.protocol == "centrifugo":
            return upgrade(self._path("socket", "/connection/websocket"), self.host, {})
        token = self.token(subject, permissions=["admin"]) if role == "pub" else self.token(subject)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return upgrade(self._path("socket", "/ws"), self.host, headers)

    def connect(self, subject: str, recover: Mapping[str, StreamPosition] | None = None) -> bytes:
        """The first command; empty for raw servers.

        Args:
            subject: the token's, where the token is in the command.
            recover: the last positions in the subject's channels, for those that the server subscribes.
        """
        if self.raw:
            return b""
        subs = {channel: position.recovery for channel, position in (recover or {}).items()}
        body: dict[str, Any] = {"subs": subs} if subs else {}
        if self.target.protocol == "centrifugo":
            body["token"] = self.token(subject)
        return command(1, "connect", body)

    def subscribe(self, channel: str, position: StreamPosition | None = None) -> bytes:
        """Subscribe to a channel; with a `position` ask for the publications since then."""
        return command(2, "subscribe", {"channel": channel, **(position.recovery if position else {})})

    @property
    def serverside(self) -> bool:
        """Whether the server subscribes a connection to its user's channel."""
        return self.target.protocol == "narthex"

    def echo(self, payload: bytes) -> tuple[bytes, bytes]:
        """A frame that the server answers, and the end of the answer."""
        if self.raw:
            return frame(payload), payload[-1:]
        method = {"narthex": "echo"}.get(self.target.protocol)
        if method is not None:
            return command(3, "rpc", {"method": method, "data": {"text": payload.decode()}}), b"}"
        return command(3, "history", {"channel": "bench", "limit": 0}), b"}"

    def publication(self, number: int, size: int) -> bytes:
        """About `size` bytes of JSON with the marker; the same for every target."""
        bare = b'{"type":"CUSTOM","name":"bench","value":{"bench":%d,"pad":"' % number
        return bare + b"x" * max(0, size - len(bare) - 3) + b'"}}'

    @property
    def published_over_http(self) -> bool:
        """Whether services publish to it through its server API: narthex and raw servers take frames."""
        return self.target.protocol == "centrifugo" or (
            self.target.protocol == "narthex" and not self.target.secret
        )

    def publish(self, channel: str, data: bytes) -> bytes:
        """One publication as a frame."""
        if self.raw:
            return frame(data)
        return command(4, "publish", {"channel": channel, "data": msgspec.Raw(data)})

    def post(self, channel: str, data: bytes) -> bytes:
        """One publication as an HTTP request to the server API."""
        body = msgspec.json.encode({"channel": channel, "data": msgspec.Raw(data)})
        if self.target.protocol == "centrifugo":
            headers = {"X-API-Key": self.target.api_key}
            return post(self._path("publish", "/api/publish"), self.host, headers, body)
        headers = {"Authorization": f"Bearer {self.target.api_key}"}
        return post(self._path("publish", "/api/v1/publish"), self.host, headers, body)
