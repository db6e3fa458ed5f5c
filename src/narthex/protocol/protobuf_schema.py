"""The Centrifuge client protocol v2 in protobuf: commands from frames, replies and pushes to bytes. Sans-IO.

Not here: the wire format (`protobuf`), the values (`commands`, `replies`), which both formats share. The field numbers
are those of the published schema; a field that narthex has no use for is left out, and skipped in a client's message.
Payloads (`data`, `conn_info`) are JSON here too, so that clients of both formats meet in a channel.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from narthex.protocol.codes import Disconnect, ReplyError
from narthex.protocol.commands import (
    MAX_JSON_DEPTH,
    NO_DATA,
    ChannelRequest,
    Command,
    ConnectRequest,
    FrameError,
    HistoryRequest,
    PingRequest,
    PublishRequest,
    RefreshRequest,
    RequestedPosition,
    RpcRequest,
    SendRequest,
    SubRefreshRequest,
    SubscribeRequest,
    checked_json,
)
from narthex.protocol.protobuf import (
    MessageSchema,
    WireFault,
    binary,
    boolean,
    json,
    mapping,
    message,
    messages,
    number,
    signed,
    sized,
    split_frame,
    text,
    varint,
)
from narthex.protocol.replies import ClientInfo

MEDIA_TYPE: Final = "application/octet-stream"
"""Of the bodies of HTTP streams and of /emulation."""

MAX_NAME: Final = 100  # of a session or node in an emulation request
MAX_COMMANDS: Final = 1_024  # of a frame: 64 KB could hold 65,536 empty ones
PING: Final = b"\x00"
"""An empty reply; the answer is an empty command, the same byte."""

# -- what clients send ------------------------------------------------------------------------------------------------

_SUBSCRIBE: Final = MessageSchema(
    {
        1: text("channel"),
        2: text("token"),
        3: boolean("recover"),
        6: text("epoch"),
        7: number("offset"),
        8: json("data"),
        9: boolean("positioned"),
        10: boolean("recoverable"),
        11: boolean("join_leave"),
        12: text("delta"),
    },
    SubscribeRequest,
)
_CONNECT: Final = MessageSchema(
    {
        1: text("token"),
        2: json("data"),
        3: mapping("subs", _SUBSCRIBE),
        4: text("name"),
        5: text("version"),
        6: mapping("headers"),
    },
    ConnectRequest,
)
_CHANNEL: Final = MessageSchema({1: text("channel")}, ChannelRequest)
_COMMAND: Final = MessageSchema(
    {
        1: number("id", 32),
        4: message("connect", _CONNECT),
        5: message("subscribe", _SUBSCRIBE),
        6: message("unsubscribe", _CHANNEL),
        7: message("publish", MessageSchema({1: text("channel"), 2: json("data")}, PublishRequest)),
        8: message("presence", _CHANNEL),
        9: message("presence_stats", _CHANNEL),
        10: message(
            "history",
            MessageSchema(
                {
                    1: text("channel"),
                    7: signed("limit"),
                    8: message(
                        "since", MessageSchema({1: number("offset"), 2: text("epoch")}, RequestedPosition)
                    ),
                    9: boolean("reverse"),
                },
                HistoryRequest,
            ),
        ),
        11: message("ping", MessageSchema({}, PingRequest)),
        12: message("send", MessageSchema({1: json("data")}, SendRequest)),
        13: message("rpc", MessageSchema({1: json("data"), 2: text("method")}, RpcRequest)),
        14: message("refresh", MessageSchema({1: text("token")}, RefreshRequest)),
        15: message("sub_refresh", MessageSchema({1: text("channel"), 2: text("token")}, SubRefreshRequest)),
    },
    Command,
)


class EmulationRequest(msgspec.Struct, frozen=True):
    """The body of POST /emulation; `data` is a frame. The names are ours, of 32 and 17 characters."""

    node: str = ""
    session: str = ""
    data: bytes = b""


_EMULATION: Final = MessageSchema({1: text("node"), 2: text("session"), 3: binary("data")}, EmulationRequest)

# -- what the server sends --------------------------------------------------------------------------------------------

_INFO: Final = MessageSchema({1: text("user"), 2: text("client"), 3: json("conn_info")})
_PUBLICATION: Final = MessageSchema(
    {4: json("data"), 5: message("info", _INFO), 6: number("offset"), 7: mapping("tags"), 8: boolean("delta")}
)
_SUBSCRIBED: Final = MessageSchema(
    {
        1: boolean("expires"),
        2: number("ttl"),
        3: boolean("recoverable"),
        6: text("epoch"),
        7: messages("publications", _PUBLICATION),
        8: boolean("recovered"),
        9: number("offset"),
        10: boolean("positioned"),
        12: boolean("was_recovering"),
        13: boolean("delta"),
    }
)
_CONNECTED: Final = MessageSchema(
    {
        1: text("client"),
        2: text("version"),
        3: boolean("expires"),
        4: number("ttl"),
        6: mapping("subs", _SUBSCRIBED),
        7: number("ping"),
        8: boolean("pong"),
        9: text("session"),
        10: text("node"),
        11: number("time"),
    }
)
_EMPTY: Final = MessageSchema({})
_REPLIES: Final = {
    "connect": (5, _CONNECTED),
    "subscribe": (6, _SUBSCRIBED),
    "unsubscribe": (7, _EMPTY),
    "publish": (8, _EMPTY),
    "presence": (9, MessageSchema({1: mapping("presence", _INFO)})),
    "presence_stats": (10, MessageSchema({1: number("num_clients"), 2: number("num_users")})),
    "history": (
        11,
        MessageSchema({1: messages("publications", _PUBLICATION), 2: text("epoch"), 3: number("offset")}),
    ),
    "ping": (12, _EMPTY),
    "rpc": (13, MessageSchema({1: json("data")})),
    "refresh": (
        14,
        MessageSchema({1: text("client"), 2: text("version"), 3: boolean("expires"), 4: number("ttl")}),
    ),
    "sub_refresh": (15, MessageSchema({1: boolean("expires"), 2: number("ttl")})),
}
_ERROR: Final = MessageSchema({1: number("code"), 2: text("message"), 3: boolean("temporary")})
_PRESENT: Final = MessageSchema({1: message("info", _INFO)})
_PUSHES: Final = {
    "pub": (4, _PUBLICATION),
    "join": (5, _PRESENT),
    "leave": (6, _PRESENT),
    "unsubscribe": (7, MessageSchema({2: number("code"), 3: text("reason")})),
    "message": (8, MessageSchema({1: json("data")})),
    "subscribe": (
        9,
        MessageSchema(
            {1: boolean("recoverable"), 4: text("epoch"), 5: number("offset"), 6: boolean("positioned")}
        ),
    ),
    "disconnect": (11, MessageSchema({1: number("code"), 2: text("reason"), 3: boolean("reconnect")})),
    "refresh": (12, MessageSchema({1: boolean("expires"), 2: number("ttl")})),
}


def _tag(field: int) -> bytes:
    return varint(field << 3 | 2)


_PUSH: Final = _tag(4)
_CHANNEL_NAME: Final = _tag(2)
_PUBLISHED: Final = _tag(4)
_DATA: Final = _tag(4)
_OFFSET: Final = varint(6 << 3)
_REST: Final = MessageSchema({5: message("info", _INFO), 7: mapping("tags"), 8: boolean("delta")})


def is_protobuf(content_type: str | None) -> bool:
    """Whether a request with this `Content-Type` has a body in protobuf."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def decode_frame(frame: bytes, max_depth: int = MAX_JSON_DEPTH) -> list[Command]:
    """Decode a binary message into its commands, in order: each is behind its length.

    Raises:
        FrameError: some command is none; none of the frame's commands may be executed.
    """
    try:
        commands = [_COMMAND.decode(content) for content in split_frame(frame, MAX_COMMANDS)]
    except WireFault as fault:
        raise FrameError(f"not a protobuf command: {fault}") from fault
    if not commands:
        raise FrameError("an empty frame")
    return [_with_json(command, max_depth) for command in commands]


def _with_json(command: Command, max_depth: int) -> Command:
    """The command, with the data that handlers read checked: everything else counts on valid JSON."""
    if command.rpc is not None and command.rpc.data is not NO_DATA:
        raw = bytes(command.rpc.data)
        data = checked_json(raw, max_depth, "rpc.data")
        if data is not raw:
            return replace(command, rpc=replace(command.rpc, data=msgspec.Raw(data)))
    if command.publish is not None and command.publish.data is not NO_DATA:
        raw = bytes(command.publish.data)
        data = checked_json(raw, max_depth, "publish.data")
        if data is not raw:
            return replace(command, publish=replace(command.publish, data=msgspec.Raw(data)))
    return command


def decode_emulation(body: bytes) -> EmulationRequest:
    """Raises: FrameError."""
    try:
        found: EmulationRequest = _EMULATION.decode(body)
    except WireFault as fault:
        raise FrameError(f"not an emulation request: {fault}") from fault
    if max(len(found.node), len(found.session)) > MAX_NAME:
        raise FrameError("not an emulation request: a name is too long")
    return found


def encode_reply(command_id: int, member: str, result: object) -> bytes:
    """A reply behind its length; `result` is a Struct or a dict."""
    field, kind = _REPLIES[member]
    return sized(b"\x08" + varint(command_id) + _tag(field) + sized(kind.encode(result)))


def encode_error(command_id: int, error: ReplyError) -> bytes:
    """A reply with an error."""
    return sized(b"\x08" + varint(command_id) + _tag(2) + sized(_ERROR.encode(error)))


def push_prefix(channel: str) -> bytes:
    """The part of a publication push before its publication; keep it per channel."""
    return _CHANNEL_NAME + sized(channel.encode()) + _PUBLISHED


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
    body = _DATA + sized(data)
    if offset:
        body += _OFFSET + varint(offset)
    if tags or info or delta:
        body += _REST.encode({"info": info, "tags": tags, "delta": delta})
    return sized(_PUSH + sized(prefix + sized(body)))


def encode_push(channel: str, member: str, body: object) -> bytes:
    """Any other push."""
    field, kind = _PUSHES[member]
    name = _CHANNEL_NAME + sized(channel.encode()) if channel else b""
    return sized(_PUSH + sized(name + _tag(field) + sized(kind.encode(body))))


def encode_disconnect(disconnect: Disconnect) -> bytes:
    """The disconnect push of transports that have no close frame."""
    return encode_push(
        "", "disconnect", msgspec.structs.asdict(disconnect) | {"reconnect": disconnect.reconnect}
    )
