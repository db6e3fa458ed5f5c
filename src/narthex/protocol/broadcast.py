"""Messages to all subscribers of a channel, whatever their format: encoded at most once in each.

Not here: the formats (`codec`), who gets a message (app/hub). The JSON is made at once, because nearly every channel
has subscribers that take it; the protobuf when the first subscriber needs it.
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.protocol import protobuf_schema, replies
from narthex.protocol.framing import Framing, Prepared
from narthex.protocol.replies import ClientInfo


class Broadcast(Prepared):
    """A message for clients of both formats; `payload` is its JSON.

    Args:
        payload: JSON.
        encode: makes the same in protobuf.
    """

    __slots__ = ("_encode", "_protobuf")

    def __init__(self, payload: bytes, encode: Callable[[], bytes]) -> None:
        super().__init__(payload)
        self._encode = encode
        self._protobuf: Prepared | None = None

    def framed(self, framing: Framing) -> bytes:
        """The bytes to write for `framing`; computed at most once each."""
        if framing < Framing.PROTOBUF_WEBSOCKET:
            return Prepared.framed(self, framing)
        if self._protobuf is None:
            self._protobuf = Prepared(self._encode())
        return self._protobuf.framed(framing)


class ChannelEncoder:
    """Encodes the pushes of one channel, whose name is encoded once."""

    __slots__ = ("_json", "_name", "_protobuf")

    def __init__(self, name: str) -> None:
        self._name = name
        self._json = replies.push_prefix(name)
        self._protobuf = protobuf_schema.push_prefix(name)

    def publication(
        self, data: bytes, offset: int, tags: dict[str, str] | None = None, info: ClientInfo | None = None
    ) -> Broadcast:
        """A publication; offset 0 is one that no history keeps."""
        return Broadcast(
            replies.encode_publication(self._json, data, offset, tags, info),
            lambda: protobuf_schema.encode_publication(self._protobuf, data, offset, tags, info),
        )

    def delta_publication(
        self, data: bytes, offset: int, tags: dict[str, str] | None, info: ClientInfo | None, *, delta: bool
    ) -> Broadcast:
        """A publication for clients that take deltas: `data` is a delta, or whole; in JSON either is a string."""
        text = replies.encode_json(data.decode())
        return Broadcast(
            replies.encode_publication(self._json, text, offset, tags, info, delta=delta),
            lambda: protobuf_schema.encode_publication(self._protobuf, data, offset, tags, info, delta=delta),
        )

    def push(self, member: str, body: object) -> Broadcast:
        """Any other push: `join`, `leave`."""
        return Broadcast(
            replies.encode_push(self._name, member, body),
            lambda: protobuf_schema.encode_push(self._name, member, body),
        )
