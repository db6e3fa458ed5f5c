"""Replies and pushes of the Centrifuge client protocol v2 as values, and encoded to JSON bytes.

Not here: the same in protobuf (`protobuf_schema`), how bytes are framed (`framing`). Members that are empty are left
out, as Centrifugo does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from narthex.protocol.codes import Disconnect, ReplyError

PING: Final = b"{}"
_ERROR: Final = b',"error":{"code":'

_encode: Final = msgspec.json.Encoder().encode


class ClientInfo(msgspec.Struct, omit_defaults=True):
    """A client that is present in a channel, or that published."""

    user: str
    client: str
    conn_info: dict[str, Any] | None = None


class PublicationView(msgspec.Struct, omit_defaults=True):
    """A publication as clients see it.

    Attributes:
        data: JSON as it was published; for a client that takes deltas, this or the delta, in JSON as a string.
        info: the client that published it.
    """

    data: msgspec.Raw
    offset: int = 0
    tags: dict[str, str] | None = None
    info: ClientInfo | None = None
    delta: bool = False


class SubscribeResult(msgspec.Struct, omit_defaults=True):
    """Answer to `subscribe`, and each value of `ConnectResult.subs`."""

    recoverable: bool = False
    epoch: str = ""
    publications: list[PublicationView] | None = None
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False
    expires: bool = False
    ttl: int = 0
    delta: bool = False


class ConnectResult(msgspec.Struct, omit_defaults=True):
    """Answer to `connect`. `ttl`, `ping` in seconds."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    subs: dict[str, SubscribeResult] | None = None
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class RefreshResult(msgspec.Struct, omit_defaults=True):
    """Answer to `refresh`."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class HistoryResult(msgspec.Struct):
    """Answer to `history`."""

    publications: list[PublicationView]
    epoch: str
    offset: int


class PresenceResult(msgspec.Struct):
    """Answer to `presence`."""

    presence: dict[str, ClientInfo]


class PresenceStatsResult(msgspec.Struct):
    """Answer to `presence_stats`."""

    num_clients: int
    num_users: int


def encode_json(value: object) -> bytes:
    """Any JSON-able value or Struct as UTF-8 JSON."""
    return _encode(value)


def encode_reply(command_id: int, member: str, result: object) -> bytes:
    """`{"id":…,"<member>":<result>}`; `result` is a Struct, a dict or Raw."""
    return b'{"id":%d,"%s":%s}' % (command_id, member.encode(), _encode(result))


def encode_error(command_id: int, error: ReplyError) -> bytes:
    """`{"id":…,"error":{…}}`."""
    return b'{"id":%d,"error":%s}' % (command_id, _encode(error))


def error_code(reply: bytes) -> str:
    """The code of a reply that `encode_error` made; `ok` of any other reply."""
    at = reply.find(_ERROR, 6, 36)  # behind `{"id":` and a number of at most 20 digits
    if at < 0:
        return "ok"
    begin = at + len(_ERROR)
    return reply[begin : begin + 5].partition(b",")[0].decode("ascii", "replace")


def push_prefix(channel: str) -> bytes:
    """The part of a publication push before its data; keep it per channel."""
    return b'{"push":{"channel":%s,"pub":{"data":' % _encode(channel)


def encode_publication(
    prefix: bytes,
    data: bytes,
    offset: int,
    tags: dict[str, str] | None = None,
    info: ClientInfo | None = None,
    *,
    delta: bool = False,
) -> bytes:
    """A publication push from `push_prefix`'s bytes; offset 0 (not in history) is left out."""
    tail = b',"tags":' + _encode(tags) if tags else b""
    if info is not None:
        tail += b',"info":' + _encode(info)
    if delta:
        tail += b',"delta":true'
    if offset:
        return b'%s%s,"offset":%d%s}}}' % (prefix, data, offset, tail)
    return b"%s%s%s}}}" % (prefix, data, tail)


def encode_push(channel: str, member: str, body: object) -> bytes:
    """Any other push: `join`, `leave`, `unsubscribe`, `subscribe`, `message`, `refresh`."""
    push: dict[str, object] = {"channel": channel} if channel else {}
    push[member] = body
    return _encode({"push": push})


def encode_disconnect(disconnect: Disconnect) -> bytes:
    """The disconnect push of transports that have no close frame (HTTP streaming, SSE)."""
    body = msgspec.structs.asdict(disconnect) | {"reconnect": disconnect.reconnect}
    return encode_push("", "disconnect", body)
