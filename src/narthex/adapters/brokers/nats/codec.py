"""What lies in the stream: batches of publications, their subjects, and presence notices. Pure: no I/O, no clock.

One stream message holds a batch of one channel's publications, so that publishes which pile up while one is on
its way cost one message together. Rules: a subject is made from a channel key so that two keys never collide;
a batch says where it begins in the channel, so the last message of a subject is the channel's whole state.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from narthex.adapters.brokers.nats.keys import Summary
from narthex.ports.broker import Member, Publication

MARK_EVERY: Final = 256  # offsets between marks: reading from anywhere skips at most so many too many

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9/:_~=@-]")


class StreamEntry(msgspec.Struct, array_like=True, frozen=True):
    """One publication. `at` is seconds since the epoch on the publisher's clock."""

    at: float
    data: bytes
    tags: dict[str, str] | None = None
    key: str | None = None


class StreamBatch(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Consecutive publications of one channel. Without entries it is what a removed channel leaves (another
    incarnation), or what a trim does (`keys`).

    Attributes:
        nonce: who sent it, so that an attempt whose answer got lost is recognised.
        incarnation: empty, or what the channel's epoch got when it was removed.
        first: offset of the first entry.
        mark, mark_seq: offset and stream sequence of an earlier message (0: none), at most `MARK_EVERY` offsets
            back, the last one that crossed a multiple of it, or what a trim left since.
        keys: with a mark those used from offset `mark` on, after a trim all that count.
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
        """Whether later messages point at this one: a trim may drop every mark before it, so its own is one."""
        return marks(self.first, self.top) or (not self.entries and self.keys is not None)

    def publications(self) -> list[Publication]:
        """The entries as publications."""
        return [
            Publication(offset, entry.data, entry.tags, entry.at)
            for offset, entry in enumerate(self.entries, start=self.first)
        ]


def marks(first: int, top: int) -> bool:
    """Whether a batch with these offsets is one that later messages point at."""
    return top // MARK_EVERY > (first - 1) // MARK_EVERY


class Notice(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Somebody joined or left a channel."""

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
    """The inverse, for what subscribers get. Raises msgspec.MsgspecError."""
    found: Any = _decode_live(body)
    assert isinstance(found, StreamBatch | Notice)
    return found


def token(channel: str) -> str:
    """A channel key as one subject token: readable, without `.`, `*`, `>`, spaces or `%` of its own."""
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), channel)
