"""The two formats of the Centrifuge client protocol, each as one value: a client's own functions for frames both ways.

Not here: the formats themselves (`commands` and `replies` for JSON, `protobuf_schema`), the bytes of a WebSocket frame
(`framing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from narthex.protocol import commands, protobuf_schema, replies
from narthex.protocol.codes import Disconnect, ReplyError
from narthex.protocol.commands import Command


class Codec(NamedTuple):
    """A format of the protocol.

    Attributes:
        binary: whether its messages are binary ones.
        ping: the server's ping, and the client's answer.
        decode: a message and the deepest nesting of JSON in it, to its commands; raises `FrameError`.
        reply: a command's id, its name and its result, to bytes.
        error: a command's id and its error, to bytes.
        push: a channel, the push's name and its body, to bytes; not for publications (`broadcast`).
        disconnect: the disconnect push of transports that have no close frame.
        join: several encoded messages to one.
    """

    binary: bool
    ping: bytes
    decode: Callable[[bytes, int], list[Command]]
    reply: Callable[[int, str, object], bytes]
    error: Callable[[int, ReplyError], bytes]
    push: Callable[[str, str, object], bytes]
    disconnect: Callable[[Disconnect], bytes]
    join: Callable[[Iterable[bytes]], bytes]


JSON: Final = Codec(
    binary=False,
    ping=replies.PING,
    decode=commands.decode_frame,
    reply=replies.encode_reply,
    error=replies.encode_error,
    push=replies.encode_push,
    disconnect=replies.encode_disconnect,
    join=b"\n".join,
)
PROTOBUF: Final = Codec(
    binary=True,
    ping=protobuf_schema.PING,
    decode=protobuf_schema.decode_frame,
    reply=protobuf_schema.encode_reply,
    error=protobuf_schema.encode_error,
    push=protobuf_schema.encode_push,
    disconnect=protobuf_schema.encode_disconnect,
    join=b"".join,
)
