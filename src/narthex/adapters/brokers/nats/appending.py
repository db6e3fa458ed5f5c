"""Appends to channels: one batch in flight per channel, placed by compare-and-set on the channel's last message.

That gives contiguous offsets with any number of publishers: a batch names the message that it follows, and only one
batch can follow it. A publisher that loses reads the messages appended meanwhile and retries, so that it knows every
recent key of its channel and every attempt of its own whose answer got lost (by its nonce): retries through a
fail-over place a publication once. A channel that this node follows needs no reading, because its messages arrive by
`heard`. Not here: subscriptions, reading pages, connections.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from narthex.adapters.brokers.engine_errors import EngineErrors
from narthex.adapters.brokers.nats.channel_log import KnownChannelLog, PendingPublication
from narthex.adapters.brokers.nats.codec import StreamBatch, StreamEntry, decode_batch, encode, marks
from narthex.adapters.brokers.nats.contention import Contention
from narthex.adapters.brokers.nats.jetstream import (
    Conflict,
    JetStream,
    JetStreamUnavailable,
    RequestRejected,
    Stored,
    StreamMissing,
)
from narthex.adapters.brokers.nats.streams import new_epoch
from narthex.errors import Bug, DependencyError
from narthex.ports.broker import ANY_OFFSET, IDEMPOTENCY_WINDOW_S, LogMoved, Position, Published, fulfils

NATS: Final = EngineErrors("NATS", "JetStream")
MAX_PENDING: Final = 20_000  # as the embedded broker's: less than a second of work for a healthy JetStream
MAX_CHANNELS: Final = 20_000  # kept states; one round trip reads an idle one again after it was dropped
BATCH_ENTRIES: Final = 512
BATCH_BYTES: Final = 512 * 1024  # half of the server's default max_payload
RESERVED_BYTES: Final = 128 * 1024  # for the next publication of the largest size, and the frame
BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0
SEQUENCE: Final = "Nats-Sequence"
LAST_SEQUENCE: Final = "Nats-Last-Sequence"  # of the same subject; 0: none
T = TypeVar("T")


class NatsAppender:
    """Places publications.

    Args:
        stream: the log's stream.
        subject: returns a channel's subject.
        epoch: returns a position's epoch for an incarnation.
        timeout_s: the time for all tries of a publication.
        clock: returns seconds since the epoch.
        recheck: called when JetStream repeatedly does not answer, to check whether the stream still exists.
        max_body: returns the bytes that the server accepts in one message.
        contention: notified of every publication that lost to another node's.
        prove: verifies that the stream is still the one of its epoch, before a channel begins in it.
        max_pending: the most publications that may wait.
    """

    def __init__(
        self,
        stream: JetStream,
        *,
        subject: Callable[[str], str],
        epoch: Callable[[str], str],
        timeout_s: float,
        clock: Callable[[], float],
        recheck: Callable[[], None],
        max_body: Callable[[], int],
        contention: Contention,
        prove: Callable[[], Awaitable[object]],
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._stream = stream
        self._subject = subject
        self._epoch = epoch
        self._timeout_s = timeout_s
        self._clock = clock
        self._recheck = recheck
        self._max_body = max_body
        self._contention = contention
        self._prove = prove
        self._max_pending = max_pending
        self._logs: OrderedDict[str, KnownChannelLog] = OrderedDict()
        self._accepting = False
        self.pending = 0
        self.highest_seq = (
            0  # of the stream, as far as this process has seen: a stream that ends earlier has lost data
        )

    def open(self) -> None:
        """Accept publications."""
        self._accepting = True

    def submit(
        self,
        channel: str,
        data: bytes,
        key: str | None,
        tags: dict[str, str] | None,
        expected: Position | None,
    ) -> asyncio.Future[Published]:
        """Queue a publication. Raises Overloaded or DependencyError."""
        if not self._accepting:
            raise NATS.not_running()
        if self.pending >= self._max_pending:
            raise NATS.full(self._max_pending)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Published] = loop.create_future()
        log = self._log(channel)
        deadline = loop.time() + self._timeout_s
        log.waiting.append(PendingPublication(future, data, key, tags, expected, deadline))
        self.pending += 1
        log.used_at = loop.time()
        if log.alarm is None:
            log.alarm = loop.call_later(self._timeout_s, self._ring, log)
        if log.task is None:
            log.task = loop.create_task(self._work(log), name=f"append {channel}")
        return future

    def heard(self, channel: str, batch: StreamBatch, headers: Mapping[str, str]) -> None:
        """Take in a republished message of a followed channel, which then need not be read.

        `headers` are those of NATS's republishing: the sequences of the message and of the channel's previous one.
        """
        log = self._logs.get(channel)
        if log is None or log.stale:
            return
        before = int(headers.get(LAST_SEQUENCE, -1))
        if log.seq == before and (log.known or before):  # else not the next one, or the log is unknown
            self._follow(log, int(headers[SEQUENCE]), batch)

    def forget(self) -> None:
        """The stream is another one, or lost its end: read everything again before the next append."""
        for log in self._logs.values():
            log.stale = True

    async def remember(self, channel: str) -> bool:
        """Append every key that counts in a message of its own, so that earlier messages may be dropped.

        Returns:
            False: the keys are too many for a message, or the channel is empty.

        Raises:
            DependencyError: JetStream does not answer.
        """

        async def append(log: KnownChannelLog) -> bool:
            await self._learn(log, 0)
            now = self._clock()
            log.keys.expire(now - IDEMPOTENCY_WINDOW_S)
            keys = log.keys.summary(0, log.top, now)
            if keys is None or log.seq == 0:
                return False
            batch = StreamBatch(os.urandom(8), log.incarnation, log.top + 1, log.mark, log.mark_seq, [], keys)
            body = encode(batch)
            if len(body) > self._max_body():
                return False
            seq = await self._stream.publish(log.subject, body, expected=log.seq)
            self._follow(log, seq, batch)
            return True

        return await self._in_turn(channel, append)

    async def remove(self, channel: str, incarnation: str) -> None:
        """Replace a channel's messages by the mark of a new incarnation. Raises DependencyError."""

        async def append(log: KnownChannelLog) -> None:
            last = await self._stream.last(log.subject)
            batch = StreamBatch(os.urandom(8), incarnation, 1, 0, 0, [])
            expected = last.seq if last else 0
            await self._stream.publish(log.subject, encode(batch), expected=expected, rollup=True)
            log.known = False

        await self._in_turn(channel, append)

    async def _in_turn(self, channel: str, append: Callable[[KnownChannelLog], Awaitable[T]]) -> T:
        """Append a message other than publications, with retries until `timeout_s` is over. Raises DependencyError."""
        log = self._log(channel)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        attempt = 0
        while True:
            try:
                async with log.turn:
                    return await append(log)
            except (Conflict, JetStreamUnavailable, StreamMissing) as error:
                attempt += 1
                if asyncio.get_running_loop().time() > deadline:
                    raise NATS.late(self._timeout_s) from error
                await _back_off(attempt)
            except RequestRejected as refused:
                raise _refusal(refused) from refused

    async def stop(self) -> None:
        """Wait until the publications under way have finished or failed; each has a deadline, so this ends."""
        self._accepting = False
        tasks = [log.task for log in self._logs.values() if log.task is not None]
        if tasks:
            await asyncio.wait(tasks)
        for log in self._logs.values():
            self._quiet(log)

    def _log(self, channel: str) -> KnownChannelLog:
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = KnownChannelLog(channel, self._subject(channel))
            if len(self._logs) > MAX_CHANNELS:
                idle = [name for name, old in self._logs.items() if old.task is None and name != channel]
                for name in idle[: MAX_CHANNELS // 10]:
                    self._quiet(self._logs.pop(name))
        else:
            self._logs.move_to_end(channel)
        return log

    async def _work(self, log: KnownChannelLog) -> None:
        """Place all waiting publications of a channel; ends when none waits."""
        failures = end = 0  # the channel's last message, as far as an answer gave it
        try:
            while log.waiting:
                try:
                    async with log.turn:
                        if not log.known or log.stale or self._in_doubt(log):
                            await self._learn(log, end)
                            end = 0
                        await self._place(log)
                    failures = 0
                except Conflict as conflict:
                    log.known, end = False, conflict.last
                    failures += 1
                    self._contention.lost(log)
                    if failures > 2:  # many nodes write to one channel: back off for the others
                        await asyncio.sleep(random.uniform(0, 0.005 * failures))  # noqa: S311 - spreads, hides nothing
                except (JetStreamUnavailable, StreamMissing):
                    log.known, end = False, 0
                    failures += 1
                    if failures % 3 == 0:
                        self._recheck()
                    await _back_off(failures)
        except RequestRejected as refused:
            self._fail_all(log, _refusal(refused))
        except Exception as error:  # a bug here must answer the publishers, not leave them waiting
            bug = Bug("append_failed", f"Appending raised {type(error).__name__}: {error}")
            bug.__cause__ = error
            self._fail_all(log, bug)
        finally:
            log.task = None

    def _in_doubt(self, log: KnownChannelLog) -> bool:
        """Whether a waiting publication is a repeat, or expects another end than the known one. Before it gets that
        answer, the log must be read for it: it may be another log, or have gone on.
        """
        end = self._end(log)
        return any(
            waiting.name in log.keys or (waiting.expected is not None and not fulfils(end, waiting.expected))
            for waiting in log.waiting
            if not waiting.read
        )

    def _end(self, log: KnownChannelLog) -> Position:
        return Position(log.top, self._epoch(log.incarnation))

    async def _learn(self, log: KnownChannelLog, end: int) -> None:
        """Read the messages appended since `log.seq`; at first the keys of the last `IDEMPOTENCY_WINDOW_S`.

        `end` is the sequence of the channel's last message if a conflict named it, else 0. When it is in doubt (a
        smaller one means another stream, or that newer messages arrived since), this asks the stream.
        """
        if log.stale:
            log.forget()
        answered = list(log.waiting)
        if end == 0 or log.seq == 0 or end < log.seq:
            last = await self._stream.last(log.subject)
            lost = log.seq > 0 and (last is None or last.seq < log.seq)
            if last is None or lost:  # no log any more, or another: our state is void
                log.forget()
                if (
                    lost and last is None
                ):  # the next log is another one, also when no other loss turns up later
                    log.incarnation = new_epoch()
            if last is None or lost:
                await self._proven(log)
            if last is None:
                self._has_read(log, answered)
                return
            if log.seq == 0:
                await self._read_window(log, last)
            end = last.seq
        for message in await self._stream.between(log.subject, log.seq + 1, end):
            self._follow(log, message.seq, decode_batch(message.body), fences=True)
        if log.restarted:
            await self._proven(log)
            log.restarted = False
        self._has_read(log, answered)

    @staticmethod
    def _has_read(log: KnownChannelLog, answered: list[PendingPublication]) -> None:
        log.known = True
        for waiting in answered:
            waiting.read = True

    async def _proven(self, log: KnownChannelLog) -> None:
        """Verify that the stream is still the one of our epoch. Raises JetStreamUnavailable: it is another one, whose
        epoch is known now, and everything is read again.
        """
        await self._prove()
        if log.stale:
            raise JetStreamUnavailable("the stream was replaced")

    async def _read_window(self, log: KnownChannelLog, last: Stored) -> None:
        """Read back over the window of keys: every message down to the last mark, before it only marks."""
        cutoff = self._clock() - IDEMPOTENCY_WINDOW_S
        found = [(last.seq, decode_batch(last.body))]
        while (start := _before(found[0][1], cutoff)) is not None:
            seq, first = found[0]
            if first.keys is not None:
                message = await self._stream.next(log.subject, start)
                older = [message] if message is not None and message.seq == start else []
            else:
                older = await self._stream.between(log.subject, start, seq - 1)
            if not older:
                break
            found[:0] = [(message.seq, decode_batch(message.body)) for message in older]
        for seq, batch in found:
            self._follow(log, seq, batch)

    def _follow(self, log: KnownChannelLog, seq: int, batch: StreamBatch, *, fences: bool = False) -> None:
        """Take in a message. With `fences` its keys count for waiting publications at any age: this node may have been
        frozen since its last read, together with the publications that it is about to repeat.
        """
        if seq <= log.seq:  # taken in by another way meanwhile
            return
        placed = log.follow(seq, batch)
        if placed:
            done = {id(waiting) for waiting, _ in placed}
            log.waiting = deque(waiting for waiting in log.waiting if id(waiting) not in done)
            for waiting, offset in placed:
                self._resolve(log, waiting, offset)
        if fences and log.waiting:
            self._answer_repeats(log)
        log.keys.expire(self._clock() - IDEMPOTENCY_WINDOW_S)  # also when this node only subscribes
        self.highest_seq = max(self.highest_seq, seq)

    async def _place(self, log: KnownChannelLog) -> None:
        """Send the next batch; returns when it is stored."""
        chosen = self._choose(log)
        if not chosen:
            return
        nonce = os.urandom(8)
        now = round(self._clock(), 3)
        entries = [StreamEntry(now, waiting.data, waiting.tags, waiting.key) for waiting in chosen]
        first, top = log.top + 1, log.top + len(entries)
        keys = log.keys.summary(log.mark, log.top, now) if marks(first, top) else None
        batch = StreamBatch(nonce, log.incarnation, first, log.mark, log.mark_seq, entries, keys)
        log.attempts[nonce] = chosen
        seq = await self._stream.publish(log.subject, encode(batch), expected=log.seq)
        self._follow(log, seq, batch)
        log.attempts.clear()  # older attempts follow an older message and can no longer be stored

    def _choose(self, log: KnownChannelLog) -> list[PendingPublication]:
        """The head of the queue that fits in one message; answers repeats and drops cancelled publications."""
        log.keys.expire(self._clock() - IDEMPOTENCY_WINDOW_S)
        chosen: list[PendingPublication] = []
        keys: set[bytes] = set()
        size = 0
        limit = min(BATCH_BYTES, self._max_body()) - RESERVED_BYTES
        kept: deque[PendingPublication] = deque()
        while log.waiting and len(chosen) < BATCH_ENTRIES:
            waiting = log.waiting[0]
            if waiting.name is not None and waiting.name in keys:
                break  # answered once the first of that key is placed
            if chosen and waiting.expected is not None and waiting.expected.offset != ANY_OFFSET:
                break  # it expects to be the next one
            log.waiting.popleft()
            if waiting.future.done():
                self._settle(waiting)
                continue
            before = log.keys.find(waiting.name)
            if before is not None:
                self._resolve(log, waiting, before.offset, duplicate=True)
                continue
            if waiting.expected is not None and not fulfils(self._end(log), waiting.expected):
                if waiting.read:
                    self._refuse(waiting, LogMoved(self._end(log)))
                    continue
                log.waiting.appendleft(waiting)  # it came while the log was read
                break
            size += len(waiting.data) + 64
            kept.append(waiting)
            chosen.append(waiting)
            if waiting.name is not None:
                keys.add(waiting.name)
            if size > limit:
                break
        kept.extend(log.waiting)
        log.waiting = kept  # they leave the queue when they are placed
        return chosen

    def _answer_repeats(self, log: KnownChannelLog) -> None:
        for waiting in list(log.waiting):
            before = log.keys.find(waiting.name)
            if before is not None:
                log.waiting.remove(waiting)
                self._resolve(log, waiting, before.offset, duplicate=True)

    def _settle(self, waiting: PendingPublication) -> None:
        """End its wait; a late one may come here twice, when it turns out to be placed after all."""
        if waiting.counted:
            waiting.counted = False
            self.pending -= 1

    def _resolve(
        self, log: KnownChannelLog, waiting: PendingPublication, offset: int, *, duplicate: bool = False
    ) -> None:
        self._settle(waiting)
        if not waiting.future.done():
            waiting.future.set_result(Published(offset, self._epoch(log.incarnation), duplicate))

    def _ring(self, log: KnownChannelLog) -> None:
        """Fail publications that have waited too long; one may still turn out to be placed, which a retry with its key
        shows.
        """
        loop = asyncio.get_running_loop()
        while log.waiting and log.waiting[0].deadline <= loop.time():
            self._fail(log, NATS.late(self._timeout_s))
        log.alarm = loop.call_at(log.waiting[0].deadline, self._ring, log) if log.waiting else None

    def _fail_all(self, log: KnownChannelLog, error: Exception) -> None:
        while log.waiting:
            self._fail(log, error)

    def _fail(self, log: KnownChannelLog, error: Exception) -> None:
        self._refuse(log.waiting.popleft(), error)

    def _refuse(self, waiting: PendingPublication, error: Exception) -> None:
        self._settle(waiting)
        if not waiting.future.done():
            waiting.future.set_exception(error)

    @staticmethod
    def _quiet(log: KnownChannelLog) -> None:
        if log.alarm is not None:
            log.alarm.cancel()


def _before(batch: StreamBatch, cutoff: float) -> int | None:
    """The sequence from which to read the keys before `batch`; None: none of them counts, or all are known.

    With `keys` that is one message, the previous mark; without, it is every message from there.
    """
    if batch.keys is not None:
        return None if batch.keys.since == 0 or batch.keys.at <= cutoff else batch.mark_seq
    if not batch.entries or batch.entries[0].at <= cutoff or batch.first == 1:
        return None
    return batch.mark_seq or 1


def _refusal(refused: RequestRejected) -> DependencyError:
    return DependencyError(
        "broker", f"JetStream refused: {refused}.", "Check the NATS server's log.", sign=refused.sign
    )


async def _back_off(attempt: int) -> None:
    limit = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(attempt, 8))
    await asyncio.sleep(random.uniform(limit / 2, limit))  # noqa: S311 - spreads retries, hides nothing
