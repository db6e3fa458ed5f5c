"""Appends on Redis: publishes that queue while one script runs go together in the next, in one round trip.

Every publication has an idempotency key, its publisher's or a random one, so that an attempt whose answer got lost
can simply be repeated. Not here: reading, subscriptions.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from redis.exceptions import OutOfMemoryError, ResponseError

from narthex.adapters.brokers.engine_errors import EngineErrors
from narthex.adapters.brokers.redis.connection import FAULTS, NewRun
from narthex.adapters.brokers.redis.scripts import KeyNames
from narthex.errors import DISK_FULL, MEMORY_FULL, Bug, DependencyError, NarthexError
from narthex.ports.broker import LogMoved, Position, Published

REDIS: Final = EngineErrors("Redis", "Redis")
MAX_PENDING: Final = 20_000  # as the embedded broker's
REFUSED_S: Final = (
    5.0  # health names a full memory or disk for this long after the last append that was refused
)
BATCH_ENTRIES: Final = 128  # the server is busy with nothing else for about 2 ms
BATCH_BYTES: Final = 4 << 20
_MOVED: Final = 2  # the script's outcome of a publication that was not appended

_encode_tags = msgspec.json.Encoder().encode


class QueuedPublication(NamedTuple):
    """A publication to be placed; `deadline` on the loop's clock."""

    future: asyncio.Future[Published]
    channel: str
    data: bytes
    key: str
    tags: bytes
    expected: str  # as the script takes it
    deadline: float


class RedisAppender:
    """Places publications.

    Args:
        names: the names of keys.
        run: runs the append script with its per-publication keys and arguments.
        attach: compares this node's state with a new server.
        seen: called with the number and the epoch of the last acknowledged publication.
        timeout_s: of a publication.
        max_pending: the most publications that may wait; more are refused.
    """

    def __init__(
        self,
        names: KeyNames,
        run: Callable[[list[str], list[Any]], Awaitable[Any]],
        *,
        attach: Callable[[], Awaitable[None]],
        seen: Callable[[int, str], None],
        timeout_s: float,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._names = names
        self._run = run
        self._attach = attach
        self._seen = seen
        self._timeout_s = timeout_s
        self._max_pending = max_pending
        self._queue: deque[QueuedPublication] = deque()
        self._task: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._accepting = False
        self._refused: tuple[float, DependencyError] | None = None  # the last time, on the loop's clock

    @property
    def pending(self) -> int:
        """Publications that wait."""
        return len(self._queue)

    def open(self) -> None:
        """Accept publications."""
        self._accepting = True

    def check_room(self) -> None:
        """Small writes may succeed where larger ones do not. Raises DependencyError for `REFUSED_S` after a refusal."""
        if self._refused is not None and asyncio.get_running_loop().time() - self._refused[0] < REFUSED_S:
            raise self._refused[1]

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
            raise REDIS.not_running()
        if len(self._queue) >= self._max_pending:
            raise REDIS.full(self._max_pending)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Published] = loop.create_future()
        chosen = f"k{key}" if key is not None else f"r{secrets.token_urlsafe(12)}"
        encoded = b"" if tags is None else _encode_tags(tags)
        end = "" if expected is None else f"{expected.offset} {expected.epoch}"
        self._queue.append(
            QueuedPublication(future, channel, data, chosen, encoded, end, loop.time() + self._timeout_s)
        )
        if self._alarm is None:
            self._alarm = loop.call_later(self._timeout_s, self._ring)
        if self._task is None:
            self._task = loop.create_task(self._work(), name="redis append")
        return future

    async def stop(self) -> None:
        """Wait until the publications under way have finished or failed; each has a deadline, so this ends."""
        self._accepting = False
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._alarm is not None:
            self._alarm.cancel()

    async def _work(self) -> None:
        """Place all waiting publications; ends when none waits."""
        wait = 0.05
        try:
            while self._queue:
                batch = self._batch()
                if not batch:
                    continue
                try:
                    await self._place(batch)
                    wait = 0.05
                    continue
                except NewRun:
                    await self._try_attach()
                except ResponseError as error:
                    if not _passing(error):
                        self._refused = asyncio.get_running_loop().time(), refused(error)
                        self._fail(batch, self._refused[1])
                        continue
                    await asyncio.sleep(wait)
                except FAULTS:
                    await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - spreads retries
                wait = min(wait * 2, 1.0)
        except Exception as error:  # a bug here must answer the publishers, not leave them waiting
            bug = Bug("append_failed", f"Appending raised {type(error).__name__}: {error}")
            bug.__cause__ = error
            self._fail(list(self._queue), bug)
        finally:
            self._task = None

    async def _try_attach(self) -> None:
        try:
            await self._attach()
        except (*FAULTS, NarthexError):
            await asyncio.sleep(0.2)

    def _batch(self) -> list[QueuedPublication]:
        """The head of the queue, without cancelled publications; they stay queued until they are placed."""
        batch: list[QueuedPublication] = []
        size = 0
        kept: deque[QueuedPublication] = deque()
        while self._queue and len(batch) < BATCH_ENTRIES and size < BATCH_BYTES:
            waiting = self._queue.popleft()
            if not waiting.future.done():
                batch.append(waiting)
                kept.append(waiting)
                size += len(waiting.data)
        self._queue.extendleft(reversed(kept))
        return batch

    async def _place(self, batch: list[QueuedPublication]) -> None:
        keys: list[str] = []
        arguments: list[Any] = []
        for waiting in batch:
            channel = waiting.channel
            keys += (
                self._names.meta(channel),
                self._names.log(channel),
                self._names.key(channel, waiting.key),
                self._names.told(channel),
            )
            arguments += (waiting.data, waiting.tags, waiting.expected)
        # The try ends at the deadline of the oldest: the others have time left for another one.
        async with asyncio.timeout_at(batch[0].deadline):
            seq, placed = await self._run(keys, arguments)
        self._seen(int(seq), placed[-1][1].decode())
        for waiting, (offset, epoch, outcome) in zip(batch, placed, strict=True):
            if self._queue and self._queue[0] is waiting:  # else it has failed by its deadline meanwhile
                self._queue.popleft()
            if waiting.future.done():
                continue
            if outcome == _MOVED:
                waiting.future.set_exception(LogMoved(Position(int(offset), epoch.decode())))
            else:
                waiting.future.set_result(Published(int(offset), epoch.decode(), bool(outcome)))

    def _ring(self) -> None:
        """Fail publications that have waited too long; a retry with its key finds one that was placed all the same."""
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0].deadline <= loop.time():
            waiting = self._queue.popleft()
            if not waiting.future.done():
                waiting.future.set_exception(REDIS.late(self._timeout_s))
        self._alarm = loop.call_at(self._queue[0].deadline, self._ring) if self._queue else None

    def _fail(self, batch: list[QueuedPublication], error: Exception) -> None:
        for waiting in batch:
            if waiting in self._queue:
                self._queue.remove(waiting)
            if not waiting.future.done():
                waiting.future.set_exception(error)


def _passing(error: ResponseError) -> bool:
    """Whether an error is transient: another script blocks the server."""
    return str(error).startswith("BUSY")


def refused(error: ResponseError) -> DependencyError:
    """The error for a server that answers and refuses a write."""
    if isinstance(error, OutOfMemoryError):
        return DependencyError(
            "broker",
            "Redis has no memory left to append.",
            "Raise its maxmemory.",
            sign=MEMORY_FULL,
        )
    if str(error).startswith("MISCONF"):  # it cannot write its file, and refuses every write
        return DependencyError(
            "broker",
            "Redis cannot write its append-only file or snapshot.",
            "Free disk space for Redis and check its log.",
            sign=DISK_FULL,
        )
    return DependencyError(
        "broker", f"Redis refused to append: {type(error).__name__}.", "Check the Redis server's log."
    )
