"""Holds a node's state of one channel's log, and the publications that wait to be placed in it.

Not here: I/O (`appending`). Rules: the state moves forward message by message (`follow`); `known` is False while it may
be incomplete, and then the appender reads the log first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from narthex.adapters.brokers.nats.codec import StreamBatch, StreamEntry
from narthex.adapters.brokers.nats.keys import KeyWindow, digest
from narthex.ports.broker import Position, Published


class PendingPublication:
    """A publication to be placed; `counted` until its publisher has an answer, `read` once the log was read for it."""

    __slots__ = ("counted", "data", "deadline", "expected", "future", "key", "name", "read", "tags")

    def __init__(
        self,
        future: asyncio.Future[Published],
        data: bytes,
        key: str | None,
        tags: dict[str, str] | None,
        expected: Position | None,
        deadline: float,
    ) -> None:
        self.future = future
        self.data = data
        self.key = key
        self.name = digest(key) if key is not None else None
        self.tags = tags
        self.expected = expected
        self.deadline = deadline
        self.counted = True
        self.read = False


class KnownChannelLog:
    """The known state of one channel's log, as of stream sequence `seq` (0: it never had a message)."""

    def __init__(self, channel: str, subject: str) -> None:
        self.channel = channel
        self.subject = subject
        self.known = False
        self.seq = 0
        self.top = 0
        self.incarnation = ""
        self.mark = 0
        self.mark_seq = 0
        self.keys = KeyWindow()
        self.waiting: deque[PendingPublication] = deque()
        # By nonce: sent, but not known to be stored
        self.attempts: dict[bytes, list[PendingPublication]] = {}
        self.task: asyncio.Task[None] | None = None
        self.alarm: asyncio.TimerHandle | None = None
        self.turn = asyncio.Lock()  # for reads and appends; `heard` only moves the state forward
        self.stale = False
        self.restarted = (
            False  # offsets went back: the stream has another epoch, which this node may not know yet
        )
        self.conflicts = 0
        self.used_at = 0.0  # by a publisher on this node, on the loop's clock

    def follow(self, seq: int, batch: StreamBatch) -> list[tuple[PendingPublication, int]]:
        """Take in the next message of the channel; returns own publications that turn out to be placed."""
        if batch.incarnation != self.incarnation:
            self.keys.clear()
            self.incarnation = batch.incarnation
        elif batch.first <= self.top:  # purged, and begun again by another node
            self.keys.clear()
            self.restarted = True
        if batch.keys is not None and not self.known:
            self.keys.take(batch.keys)
        self.seq, self.top = seq, batch.top
        if batch.is_mark:
            self.mark, self.mark_seq = batch.first, seq
        else:
            self.mark, self.mark_seq = batch.mark, batch.mark_seq
        own = self.attempts.pop(batch.nonce, [])
        names = [waiting.name for waiting in own] or [_name(entry) for entry in batch.entries]
        for offset, entry in enumerate(batch.entries, start=batch.first):
            name = names[offset - batch.first]
            if name is not None:
                self.keys.add(name, offset, entry.at)
        return list(zip(own, range(batch.first, batch.top + 1), strict=False))

    def forget(self) -> None:
        """The channel has no messages: it never had any, or its stream is another one now."""
        self.known = self.stale = self.restarted = False
        self.seq = self.top = self.mark = self.mark_seq = 0
        self.incarnation = ""
        self.keys.clear()


def _name(entry: StreamEntry) -> bytes | None:
    return digest(entry.key) if entry.key is not None else None


def position(log_end: StreamBatch | None, epoch: Callable[[str], str]) -> Position:
    """The position after a channel's last message (None: it has none)."""
    return (
        Position(log_end.top, epoch(log_end.incarnation)) if log_end is not None else Position(0, epoch(""))
    )
