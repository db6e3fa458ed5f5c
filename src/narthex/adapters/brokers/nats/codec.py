"""Encodes and decodes the stream's messages: batches of publications, subjects, and presence notices.

Not here: I/O, and the rows of keys in a batch (`keys`). One stream message holds a batch of one channel's publications,
so that publishes which queue while one is in flight cost one message together. Rules: no clock; two channel keys never
give the same subject; a batch names its first offset, so that the last message of a subject is the channel's whole
state.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from narthex.adapters.brokers.nats.keys import Summary
from narthex.ports.broker import Member, Publication

MARK_EVERY: Final = 256  # offsets between marks: a read begins at most this many too early

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9/:_~=@-]")


class StreamEntry(msgspec.Struct, array_like=True, frozen=True):
    """One publication. `at` is seconds since the epoch on the publisher's clock."""

    at: float
    data: bytes
    tags: dict[str, str] | None = None
    key: str | None = None


class StreamBatch(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Consecutive publications of one channel. Without entries it is the mark of a removed channel (another
    incarnation), or of a trim (`keys`).

    Attributes:
        nonce: identifies the attempt, so that its sender recognises it when the answer got lost.
        incarnation: empty, or the suffix that the channel's epoch got when it was removed.
        first: offset of the first entry.
        mark, mark_seq: offset and stream sequence of an earlier message (0: none), at most `MARK_EVERY` offsets
            back: the last one that crossed a multiple of it, or the mark of a later trim.
        keys: in a mark, the keys used from offset `mark` on; after a trim all that count.
    """

    nonce: bytes
    incarnation: str
    first: int
    mark: int
    mark_seq: int
    entries: list[StreamEntry]
    keys: Summary | None = None

    @property
    def top(self) -> int:
        """Offset of the last entry, or of the one before an empty batch; 0 where a log begins."""
        return self.first + len(self.entries) - 1

    @property
    def is_mark(self) -> bool:
        """Whether later messages point at this one. A trim's message is a mark, because it drops earlier ones."""
        return marks(self.first, self.top) or (not self.entries and self.keys is not None)

    def publications(self) -> list[Publication]:
        """The entries as publications."""
        return [
            Publication(offset, entry.data, entry.tags, entry.at)
            for offset, entry in enumerate(self.entries, start=self.first)
        ]


def marks(first: int, top: int) -> bool:
    """Whether later messages point at a batch with these offsets."""
    return top // MARK_EVERY > (first - 1) // MARK_EVERY


class Notice(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A member joined or left a channel."""

    member: Member
    joined: bool


_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(StreamBatch).decode
_decode_live = msgspec.msgpack.Decoder(StreamBatch | Notice).decode


def encode(message: StreamBatch | Notice) -> bytes:
    """The body of a message."""
    return _encode(message)


def decode_batch(body: bytes) -> StreamBatch:
    """The inverse, for messages of the log. Raises msgspec.MsgspecError."""
    return _decode_batch(body)


def decode_live(body: bytes) -> StreamBatch | Notice:
    """The inverse, for the messages that subscribers get. Raises msgspec.MsgspecError."""
    found: Any = _decode_live(body)
    assert isinstance(found, StreamBatch | Notice)
    return found


def token(channel: str) -> str:
    """A channel key as one subject token: readable, without `.`, `*`, `>`, spaces or `%` of its own."""
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), channel)
