"""Reads pages of a channel from the stream.

Not here: retries, which are the caller's, and writing (`appending`). The stream's leader gives the end of a channel, so
that a page lacks no acknowledged publication. From there marks lead back to the beginning of a page, `MARK_EVERY`
offsets a step; any replica may give the messages between.
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.adapters.brokers.nats.channel_log import position
from narthex.adapters.brokers.nats.codec import StreamBatch, decode_batch
from narthex.adapters.brokers.nats.jetstream import JetStream, Stored
from narthex.ports.broker import MAX_HISTORY_PAGE, Page, Position, Publication


class PageReader:
    """Reads pages. Raises jetstream's errors; the caller retries."""

    def __init__(
        self, stream: JetStream, *, subject: Callable[[str], str], epoch: Callable[[str], str]
    ) -> None:
        self._stream = stream
        self._subject = subject
        self._epoch = epoch

    async def page(self, channel: str, since: Position | None, limit: int | None, reverse: bool) -> Page:
        """See the port's `history`."""
        subject = self._subject(channel)
        last = await self._stream.last(subject)
        end_batch = decode_batch(last.body) if last is not None else None
        end = position(end_batch, self._epoch)
        if since is not None and since.epoch not in ("", end.epoch):
            return Page([], end, complete=False)
        count = MAX_HISTORY_PAGE if limit is None else min(limit, MAX_HISTORY_PAGE)
        if reverse:
            high = end.offset if since is None else min(since.offset - 1, end.offset)
            low = max(1, high - count + 1)
            if last is None or end_batch is None or high < low:
                return Page([], end, complete=True)
            found = await self._publications(subject, (last, end_batch), low, high)
            return Page(found[::-1], end, complete=len(found) == high - low + 1)
        after = 0 if since is None else since.offset
        if after > end.offset:
            return Page([], end, complete=False)
        if last is None or end_batch is None or after == end.offset or (count == 0 and since is None):
            return Page([], end, complete=True)
        low, high = after + 1, min(end.offset, after + max(count, 1))
        if since is None:
            return await self._from_oldest(subject, last, end, count)
        found = await self._publications(subject, (last, end_batch), low, high)
        complete = bool(found) and found[0].offset == low
        return Page(found[:count], end, complete=complete)

    async def _from_oldest(self, subject: str, last: Stored, end: Position, count: int) -> Page:
        messages = await self._stream.between(subject, 1, last.seq, count)
        found = [p for message in messages for p in decode_batch(message.body).publications()]
        return Page(found[:count], end, complete=True)

    async def _publications(
        self, subject: str, last: tuple[Stored, StreamBatch], low: int, high: int
    ) -> list[Publication]:
        """The publications at offsets `low` to `high` that are still kept: all, or the upper part."""
        start = await self._start(subject, last, low)
        if start == last[0].seq:
            messages = [last[0]]
        else:
            messages = await self._stream.between(subject, start, last[0].seq, high - low + 1, low)
        found = [p for message in messages for p in decode_batch(message.body).publications()]
        return [publication for publication in found if low <= publication.offset <= high]

    async def _start(self, subject: str, last: tuple[Stored, StreamBatch], offset: int) -> int:
        """A stream sequence at or before the message with `offset`, following the marks back."""
        message, batch = last
        while batch.first > offset:
            if batch.mark_seq == 0:
                return 1
            if batch.mark <= offset:
                return batch.mark_seq
            mark = await self._stream.next(subject, batch.mark_seq)
            if mark is None or mark.seq != batch.mark_seq:
                return batch.mark_seq  # it was dropped, and with it every earlier message
            message, batch = mark, decode_batch(mark.body)
        return message.seq

    async def sequence_of(self, channel: str, at: Position) -> int | None:
        """The stream sequence of the message that holds a position, or of the last message; None: it is not kept."""
        subject = self._subject(channel)
        last = await self._stream.last(subject)
        if last is None:
            return None
        end, offset = decode_batch(last.body), at.offset
        if at.epoch != position(end, self._epoch).epoch:
            return None
        if offset >= end.first:
            return last.seq
        start = await self._start(subject, (last, end), offset)
        for message in await self._stream.between(subject, start, last.seq, 1, offset):
            batch = decode_batch(message.body)
            if batch.first <= offset <= batch.top:
                return message.seq
        return None
