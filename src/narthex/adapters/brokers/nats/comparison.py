"""Compares a node's positions in its channels with the ends of their logs in the stream.

Not here: appending the mark that proves an answer (`stream_monitor`). A comparison asks the stream for the last
messages since the previous comparison, a thousand subjects a request: 10,000 channels that did not move cost this node
7 ms and the server 20 ms. Rules: any replica may answer, so an answer counts only if it covers everything that the
stream held at the request (`through`); a read of a channel counts as a comparison up to the sequence that was
acknowledged to this node before the read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

from narthex.adapters.brokers.nats.channel_log import position
from narthex.adapters.brokers.nats.codec import decode_batch
from narthex.adapters.brokers.nats.jetstream import SUBJECTS_AT_ONCE, JetStream, JetStreamUnavailable, Stored
from narthex.ports.broker import Position

LAGGING_S: Final = 0.05  # a replica applies the majority's messages within milliseconds
TRIES: Final = 20  # 1 s: a replica that is cut off for longer cannot answer for the log


class Comparison:
    """See the module.

    Args:
        stream: the log's stream.
        subject: returns a channel's subject.
        epoch: returns a position's epoch for an incarnation.
        mark: the subject of this node's own marks. Every request includes it, because a server reports how far its
            stream reaches only together with a message that it found.
    """

    def __init__(
        self,
        stream: JetStream,
        *,
        subject: Callable[[str], str],
        epoch: Callable[[str], str],
        mark: Callable[[], str],
    ) -> None:
        self._stream = stream
        self._mark = mark
        self._subject = subject
        self._epoch = epoch
        self._equal: set[str] = set()  # channels that ended at this node's position, as of `_through`
        self._through = 0
        self._since: dict[str, int] = {}  # of the others: the sequence up to which they were compared

    def read(self, channel: str, seq: int) -> None:
        """A channel was read to its end, after everything up to `seq` was acknowledged.

        Only the first read since the channel was followed counts: it is the node's position. A later one is another
        subscriber's, and does not show which messages the node got in between.
        """
        if channel not in self._equal:
            self._since.setdefault(channel, seq)

    def forget(self, channel: str) -> None:
        """The channel is not followed any more."""
        self._equal.discard(channel)
        self._since.pop(channel, None)

    def clear(self) -> None:
        """The stream is another one: compare everything from its beginning."""
        self._equal = set()  # a new object, so that a comparison under way notices
        self._since.clear()

    async def behind(self, known: Mapping[str, Position], through: int) -> dict[str, Position]:
        """See the port. `through` is the sequence of a message that the stream stored after the call began.

        Raises:
            JetStreamUnavailable: no replica that has `through` answers.
        """
        equal, before = self._equal, self._through
        others = {channel: self._since.get(channel, 0) for channel in known if channel not in equal}
        found = await self._moved([one for one in known if one in equal], before, through)
        # Grouped by start: a new channel and one that was never read must not share a request.
        for since in sorted(set(others.values())):
            asked = [one for one, its in others.items() if its == since]
            ends = await self._moved(asked, since, through)
            if since == 0:  # asked from the start: a channel without an answer has no log any more
                ends |= {one: None for one in asked if one not in ends}
            found |= ends
        behind = {
            channel: end
            for channel, message in found.items()
            if (end := self._end(message)) != known[channel]
        }
        if self._equal is not equal:  # cleared meanwhile: the answers came from another stream
            return behind
        for channel in equal - known.keys():  # being read again now: compared later from its earlier position
            self._since.setdefault(channel, before)
        for channel in known:
            if channel not in behind:
                self._since.pop(channel, None)
            elif channel not in others:
                self._since[channel] = before
        self._equal, self._through = known.keys() - behind.keys(), through
        return behind

    def _end(self, message: Stored | None) -> Position:
        return position(decode_batch(message.body) if message is not None else None, self._epoch)

    async def _moved(self, channels: Iterable[str], since: int, through: int) -> dict[str, Stored | None]:
        """The last message of every channel that has one after `since`."""
        found: dict[str, Stored | None] = {}
        left = iter(channels)
        while part := {self._subject(channel): channel for channel in islice(left, SUBJECTS_AT_ONCE)}:
            found |= {part[one.subject]: one for one in await self._latest(list(part), since, through)}
        return found

    async def _latest(self, subjects: list[str], since: int, through: int) -> list[Stored]:
        mark = self._mark()
        for _ in range(TRIES):
            answer = await self._stream.latest_after([*subjects, mark], since)
            if answer.through >= through:
                return [message for message in answer.found if message.subject != mark]
            await asyncio.sleep(LAGGING_S)
        raise JetStreamUnavailable("no replica that has the end of the stream responds")
