"""Commands of the Centrifuge client protocol v2 as msgspec Structs, and how a frame of JSON becomes commands.

Not here: frames of protobuf (`protobuf_schema`), the commands that each state allows (`session`). Rules: decoding
raises only `FrameError`; JSON deeper than the limit is refused before it is parsed; `data` stays raw bytes until a
handler needs it; an escape of half a surrogate pair, which JSON allows and UTF-8 cannot hold, becomes U+FFFD.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from narthex.domain.json_depth import json_depth_exceeds

MAX_JSON_DEPTH: Final = 32
NO_DATA: Final = msgspec.Raw(b"null")


class FrameError(Exception):
    """The frame is not a list of commands. `reason` is plain text for the close frame."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RequestedPosition(msgspec.Struct, frozen=True):
    """A stream position that a client names."""

    offset: int = 0
    epoch: str = ""


class SubscribeRequest(msgspec.Struct, frozen=True):
    """`subscribe`, and each value of `connect.subs` (then without `channel`)."""

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    data: msgspec.Raw = NO_DATA
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""


class ConnectRequest(msgspec.Struct, frozen=True):
    """`connect`. `headers`: an SDK's emulation of request headers, where its platform lets it set none."""

    token: str = ""
    data: msgspec.Raw = NO_DATA
    subs: dict[str, SubscribeRequest] | None = None
    name: str = ""
    version: str = ""
    headers: dict[str, str] | None = None


class ChannelRequest(msgspec.Struct, frozen=True):
    """`unsubscribe`, `presence` and `presence_stats`."""

    channel: str = ""


class PublishRequest(msgspec.Struct, frozen=True):
    """`publish`."""

    channel: str = ""
    data: msgspec.Raw = NO_DATA


class HistoryRequest(msgspec.Struct, frozen=True):
    """`history`: `limit` 0 asks for the position only, -1 for all."""

    channel: str = ""
    limit: int = 0
    since: RequestedPosition | None = None
    reverse: bool = False


class PingRequest(msgspec.Struct, frozen=True):
    """`ping` of old clients; the answer is an empty reply."""


class SendRequest(msgspec.Struct, frozen=True):
    """`send`: a message without a reply."""

    data: msgspec.Raw = NO_DATA


class RpcRequest(msgspec.Struct, frozen=True):
    """`rpc`."""

    method: str = ""
    data: msgspec.Raw = NO_DATA


class RefreshRequest(msgspec.Struct, frozen=True):
    """`refresh`."""

    token: str = ""


class SubRefreshRequest(msgspec.Struct, frozen=True):
    """`sub_refresh`."""

    channel: str = ""
    token: str = ""


class Command(msgspec.Struct, frozen=True):
    """One command. Exactly one of the members after `id` is set; none is a pong."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


Request = (
    ConnectRequest
    | SubscribeRequest
    | ChannelRequest
    | PublishRequest
    | HistoryRequest
    | PingRequest
    | SendRequest
    | RpcRequest
    | RefreshRequest
    | SubRefreshRequest
)

MEMBERS: Final = (
    "rpc", "subscribe", "unsubscribe", "connect", "publish", "history", "presence", "presence_stats", "refresh",
    "sub_refresh", "send", "ping",
)  # fmt: skip
"""Names of commands, the frequent ones first."""

_decoder: Final = msgspec.json.Decoder(Command)
_any_json: Final = msgspec.json.Decoder(msgspec.Raw)
# Every escape from the left: a whole pair, (1) half of one, any other.
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def decode_frame(frame: bytes, max_depth: int = MAX_JSON_DEPTH) -> list[Command]:
    """Decode a text message into its newline-joined commands, in order.

    Args:
        frame: one WebSocket message's payload, UTF-8.
        max_depth: of JSON nesting.

    Raises:
        FrameError: some line is not a command; none of the frame's commands may be executed.
    """
    if json_depth_exceeds(frame, max_depth):
        raise FrameError(f"JSON nests deeper than {max_depth}")
    try:
        try:
            commands = _decoded(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if b"\\u" not in frame:
                raise
            # JavaScript sends half of an emoji where a text was cut in two; that must not end the connection.
            commands = _decoded(_ESCAPE.sub(_whole_pair, frame))
    except msgspec.ValidationError as fault:
        # msgspec names the path and the expected type, never the value.
        raise FrameError(f"not a command: {fault}") from fault
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        raise FrameError("not valid JSON") from fault
    if not commands:
        raise FrameError("an empty frame")
    return commands


def _decoded(frame: bytes) -> list[Command]:
    if b"\n" not in frame:
        return [_decoder.decode(frame)]
    return [_decoder.decode(line) for line in frame.split(b"\n") if line]


def checked_json(raw: bytes, max_depth: int, name: str) -> bytes:
    """A payload that came beside a command, by the rules of a frame of JSON.

    Raises:
        FrameError: it is not JSON, or nests too deep; the reason has the payload's name.
    """
    if json_depth_exceeds(raw, max_depth):
        raise FrameError(f"{name} nests deeper than {max_depth}")
    if b"\\u" in raw:
        raw = _ESCAPE.sub(_whole_pair, raw)
    try:
        raw.decode()
        _any_json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        raise FrameError(f"{name} is not valid JSON") from fault
    return raw


def _whole_pair(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def request_of(command: Command) -> tuple[str, Request] | None:
    """The command's name and request; None for a pong (nothing set).

    Raises:
        FrameError: more than one member is set.
    """
    found: tuple[str, Request] | None = None
    for name in MEMBERS:
        request: Request | None = getattr(command, name)
        if request is not None:
            if found is not None:
                raise FrameError("a command with two members")
            found = (name, request)
    return found
