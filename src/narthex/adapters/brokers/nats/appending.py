"""Appending to channels: one batch on its way per channel, placed by compare-and-set on the channel's last message.

That gives contiguous offsets with any number of publishers: a batch names the message it follows, and only one
can follow it. Whoever loses reads what was appended meanwhile and tries again, so a publisher always knows
every recent key of its channel and every attempt whose answer got lost (by its nonce): retries through a
fail-over place a publication once. Not here: subscriptions, reading pages, connections.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from narthex.adapters.brokers.nats.codec import Batch, Entry, decode_batch, encode
from narthex.adapters.brokers.nats.jetstream import (
    Conflict,
    JetStream,
    Refused,
    Stored,
    StreamMissing,
    Unavailable,
)
from narthex.errors import Bug, DependencyError, Overloaded
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, Position, Published

MAX_PENDING: Final = 20_000  # as the embedded broker's: under a second of work when JetStream is well
MAX_CHANNELS: Final = 20_000  # states kept; an idle one that was dropped is read again in one round trip
BATCH_ENTRIES: Final = 512
BATCH_BYTES: Final = 512 * 1024  # half of the server's default max_payload
RESERVED_BYTES: Final = 128 * 1024  # the next publication could be as long as a message may be, and the frame
BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0


class Waiting:
    """A publication that is to be placed."""

    __slots__ = ("data", "deadline", "future", "key", "tags")

    def __init__(
        self,
        future: asyncio.Future[Published],
        data: bytes,
        key: str | None,
        tags: dict[str, str] | None,
        deadline: float,
    ) -> None:
        self.future = future
        self.data = data
        self.key = key
        self.tags = tags
        self.deadline = deadline


class ChannelLog:
    """What is known of one channel's log, as of stream sequence `seq` (0: nothing was ever appended)."""

    def __init__(self, channel: str, subject: str) -> None:
        self.channel = channel
        self.subject = subject
        self.known = False
        self.seq = 0
        self.top = 0
        self.incarnation = ""
        self.mark = 0
        self.mark_seq = 0
        self.keys: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key → offset and when
        self.waiting: deque[Waiting] = deque()
        self.attempts: dict[bytes, list[Waiting]] = {}  # by nonce: sent, and not known whether stored
        self.task: asyncio.Task[None] | None = None

    def follow(self, message: Stored) -> list[tuple[Waiting, int]]:
        """Take in the next message of the channel; returns own publications that turn out to be placed."""
        batch = decode_batch(message.body)
        if batch.incarnation != self.incarnation:
            self.keys.clear()
            self.incarnation = batch.incarnation
        self.seq, self.top = message.seq, batch.top
        if batch.is_mark:
            self.mark, self.mark_seq = batch.first, message.seq
        else:
            self.mark, self.mark_seq = batch.mark, batch.mark_seq
        for offset, entry in enumerate(batch.entries, start=batch.first):
            if entry.key is not None:
                self.keys[entry.key] = (offset, entry.at)
        return list(zip(self.attempts.pop(batch.nonce, ()), range(batch.first, batch.top + 1), strict=False))

    def forget(self) -> None:
        """The channel has no messages: never had, or its stream is another one now."""
        self.seq = self.top = self.mark = self.mark_seq = 0
        self.incarnation = ""
        self.keys.clear()

    def expire_keys(self, cutoff: float) -> None:
        """Forget keys that were used before `cutoff`."""
        while self.keys and next(iter(self.keys.values()))[1] <= cutoff:
            self.keys.popitem(last=False)


class Appender:
    """Places publications.

    Args:
        stream: the log's.
        subject: of a channel.
        epoch: of a position, for an incarnation.
        timeout_s: how long a publication is tried.
        clock: seconds since the epoch.
        doubt: called when JetStream does not answer again and again: is the stream still there?
        max_body: bytes that the server takes in one message.
        max_pending: publications that may wait.
    """

    def __init__(
        self,
        stream: JetStream,
        *,
        subject: Callable[[str], str],
        epoch: Callable[[str], str],
        timeout_s: float,
        clock: Callable[[], float],
        doubt: Callable[[], None],
        max_body: Callable[[], int],
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._stream = stream
        self._subject = subject
        self._epoch = epoch
        self._timeout_s = timeout_s
        self._clock = clock
        self._doubt = doubt
        self._max_body = max_body
        self._max_pending = max_pending
        self._logs: OrderedDict[str, ChannelLog] = OrderedDict()
        self._accepting = False
        self.pending = 0
        self.highest_seq = (
            0  # of the stream, as far as this process has seen: a stream that ends before lost data
        )

    def open(self) -> None:
        """Accept publications."""
        self._accepting = True

    def submit(
        self, channel: str, data: bytes, key: str | None, tags: dict[str, str] | None
    ) -> asyncio.Future[Published]:
        """Queue a publication. Raises Overloaded or DependencyError."""
        if not self._accepting:
            raise DependencyError("broker", "The NATS broker is not running.", "Call start() first.")
        if self.pending >= self._max_pending:
            raise Overloaded(
                "broker",
                f"{self._max_pending} publications wait for JetStream.",
                "Come back later; if it lasts, look at the NATS servers.",
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Published] = loop.create_future()
        log = self._log(channel)
        log.waiting.append(Waiting(future, data, key, tags, loop.time() + self._timeout_s))
        self.pending += 1
        if log.task is None:
            log.task = loop.create_task(self._work(log), name=f"append {channel}")
        return future

    async def remove(self, channel: str, incarnation: str) -> None:
        """Replace a channel's messages by the mark of a new incarnation. Raises DependencyError."""
        log = self._log(channel)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        attempt = 0
        while True:
            try:
                if log.task is None:  # else the worker's compare-and-set is the one to lose and learn
                    log.known = False
                last = await self._stream.last(log.subject)
                body = encode(Batch(os.urandom(8), incarnation, 1, 0, 0, []))
                await self._stream.publish(log.subject, body, expected=last.seq if last else 0, rollup=True)
                return
            except (Conflict, Unavailable, StreamMissing) as error:
                attempt += 1
                if asyncio.get_running_loop().time() > deadline:
                    raise _lost(self._timeout_s) from error
                await _back_off(attempt)

    async def stop(self) -> None:
        """Let publications under way finish or fail; each has a deadline, so this ends."""
        self._accepting = False
        tasks = [log.task for log in self._logs.values() if log.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def _log(self, channel: str) -> ChannelLog:
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = ChannelLog(channel, self._subject(channel))
            if len(self._logs) > MAX_CHANNELS:
                for name in [name for name, old in self._logs.items() if old.task is None][
                    : MAX_CHANNELS // 10
                ]:
                    if name != channel:
                        del self._logs[name]
        else:
            self._logs.move_to_end(channel)
        return log

    async def _work(self, log: ChannelLog) -> None:
        """Place everything that waits in a channel; ends when nothing does."""
        failures = 0
        fresh = False  # whether the log was asked for since this task began
        try:
            while log.waiting:
                try:
                    if not log.known or (not fresh and self._repeats(log)):
                        await self._learn(log)
                        fresh = True
                    await self._place(log)
                    failures = 0
                except Conflict:
                    log.known = False
                    failures += 1
                    if failures > 2:  # many nodes write to one channel: let one of them through
                        await asyncio.sleep(random.uniform(0, 0.005 * failures))  # noqa: S311 - spreads, hides nothing
                except (Unavailable, StreamMissing):
                    log.known = False
                    failures += 1
                    if failures % 3 == 0:
                        self._doubt()
                    await _back_off(failures)
                self._drop_late(log)
        except Refused as refused:
            self._fail_all(log, DependencyError("broker", f"JetStream refused: {refused}.", "See its log."))
        except Exception as error:  # a bug here must answer the publishers, not leave them waiting
            bug = Bug("append_failed", f"Appending raised {type(error).__name__}: {error}")
            bug.__cause__ = error
            self._fail_all(log, bug)
        finally:
            log.task = None

    def _repeats(self, log: ChannelLog) -> bool:
        """Whether a key that waits is known: before it is answered, the log is asked if it is still that log."""
        return any(waiting.key in log.keys for waiting in log.waiting)

    async def _learn(self, log: ChannelLog) -> None:
        """Read what was appended since `log.seq`; at first the keys of the last `IDEMPOTENCY_WINDOW_S`."""
        last = await self._stream.last(log.subject)
        if last is None:
            log.forget()
        elif last.seq < log.seq:  # another stream of that name: what we knew is gone
            log.forget()
            await self._read_window(log, last)
        elif log.seq == 0:
            await self._read_window(log, last)
        elif last.seq > log.seq:
            self._follow(log, await self._stream.between(log.subject, log.seq + 1, last.seq))
        log.known = True

    async def _read_window(self, log: ChannelLog, last: Stored) -> None:
        cutoff = self._clock() - IDEMPOTENCY_WINDOW_S
        messages = [last]
        while True:
            first = decode_batch(messages[0].body)
            if not first.entries or first.entries[0].at <= cutoff or first.first == 1:
                break
            older = await self._stream.between(log.subject, first.mark_seq or 1, messages[0].seq - 1)
            if not older:
                break
            messages = older + messages
        self._follow(log, messages)

    def _follow(self, log: ChannelLog, messages: list[Stored]) -> None:
        for message in messages:
            placed = log.follow(message)
            if placed:
                done = {id(waiting) for waiting, _ in placed}
                log.waiting = deque(waiting for waiting in log.waiting if id(waiting) not in done)
                for waiting, offset in placed:
                    self._resolve(log, waiting, offset)
        if messages:
            self.highest_seq = max(self.highest_seq, messages[-1].seq)

    async def _place(self, log: ChannelLog) -> None:
        """Send the next batch; returns when it is stored."""
        chosen = self._choose(log)
        if not chosen:
            return
        nonce = os.urandom(8)
        now = round(self._clock(), 3)
        entries = [Entry(now, waiting.data, waiting.tags, waiting.key) for waiting in chosen]
        batch = Batch(nonce, log.incarnation, log.top + 1, log.mark, log.mark_seq, entries)
        body = encode(batch)
        log.attempts[nonce] = chosen
        seq = await self._stream.publish(log.subject, body, expected=log.seq)
        self._follow(log, [Stored(seq, body)])
        log.attempts.clear()  # older attempts follow an older message: they can no longer be stored

    def _choose(self, log: ChannelLog) -> list[Waiting]:
        """The head of the queue that fits in one message; answers repeats and drops cancelled ones."""
        log.expire_keys(self._clock() - IDEMPOTENCY_WINDOW_S)
        chosen: list[Waiting] = []
        keys: set[str] = set()
        size = 0
        limit = min(BATCH_BYTES, self._max_body()) - RESERVED_BYTES
        kept: deque[Waiting] = deque()
        while log.waiting and len(chosen) < BATCH_ENTRIES:
            waiting = log.waiting[0]
            if waiting.key is not None and waiting.key in keys:
                break  # answered once the first of that key is placed
            log.waiting.popleft()
            if waiting.future.done():
                self.pending -= 1
                continue
            before = log.keys.get(waiting.key) if waiting.key is not None else None
            if before is not None:
                self._resolve(log, waiting, before[0], duplicate=True)
                continue
            size += len(waiting.data) + 64
            kept.append(waiting)
            chosen.append(waiting)
            if waiting.key is not None:
                keys.add(waiting.key)
            if size > limit:
                break
        kept.extend(log.waiting)
        log.waiting = kept  # they leave the queue when they are placed
        return chosen

    def _resolve(self, log: ChannelLog, waiting: Waiting, offset: int, *, duplicate: bool = False) -> None:
        self.pending -= 1
        if not waiting.future.done():
            waiting.future.set_result(Published(offset, self._epoch(log.incarnation), duplicate))

    def _drop_late(self, log: ChannelLog) -> None:
        """Fail what has waited for too long; it may yet turn out to be placed, and its key will say so."""
        now = asyncio.get_running_loop().time()
        while log.waiting and log.waiting[0].deadline <= now:
            waiting = log.waiting.popleft()
            self.pending -= 1
            if not waiting.future.done():
                waiting.future.set_exception(_lost(self._timeout_s))

    def _fail_all(self, log: ChannelLog, error: Exception) -> None:
        while log.waiting:
            waiting = log.waiting.popleft()
            self.pending -= 1
            if not waiting.future.done():
                waiting.future.set_exception(error)


def position(log_end: Batch | None, epoch: Callable[[str], str]) -> Position:
    """The position after a channel's last message (None: it has none)."""
    return (
        Position(log_end.top, epoch(log_end.incarnation)) if log_end is not None else Position(0, epoch(""))
    )


def _lost(timeout_s: float) -> DependencyError:
    return DependencyError(
        "broker",
        f"JetStream did not acknowledge within {timeout_s:g} s.",
        "Retry with the same key; if it lasts, look at the NATS servers.",
    )


async def _back_off(attempt: int) -> None:
    limit = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(attempt, 8))
    await asyncio.sleep(random.uniform(limit / 2, limit))  # noqa: S311 - spreads retries, hides nothing
