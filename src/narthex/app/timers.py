"""One coarse timer for all connections: a wheel of buckets, one loop handle however many sockets wait.

A connection costs one list entry instead of a timer handle (10,000 handles are 2 MB and a heap to sift).
Rules: `wake` is called with the loop's time, late by at most `TICK_S`; a connection may schedule itself again
from there; scheduling twice is harmless (the earlier wake finds nothing due).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.25


class Sleeper(Protocol):
    """Whoever wants to be woken."""

    def wake(self, now: float) -> None:
        """The time asked for has come. Must not raise and must not block."""


class TimerWheel:
    """Buckets of `TICK_S`; runs only while somebody waits."""

    __slots__ = ("_buckets", "_handle", "_loop", "_next", "_on_error")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        self._loop = loop
        self._on_error = on_error
        self._buckets: dict[int, list[Sleeper]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._next = 0

    def now(self) -> float:
        """The loop's monotonic time, seconds."""
        return self._loop.time()

    def schedule(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at` (loop time) or up to `TICK_S` later."""
        if self._handle is None:
            self._next = int(self._loop.time() / TICK_S)
            self._handle = self._loop.call_later(TICK_S, self._turn)
        slot = max(int(at / TICK_S) + 1, self._next)  # what is past already is due at the next turn
        bucket = self._buckets.get(slot)
        if bucket is None:
            self._buckets[slot] = [sleeper]
        else:
            bucket.append(sleeper)

    def _turn(self) -> None:
        now = self._loop.time()
        last = int(now / TICK_S)
        first, self._next = self._next, last + 1
        if last - first > len(self._buckets):  # after a long pause: look at buckets, not at slots
            due = sorted(slot for slot in self._buckets if slot <= last)
        else:
            due = [slot for slot in range(first, last + 1) if slot in self._buckets]
        for slot in due:
            for sleeper in self._buckets.pop(slot):
                try:
                    sleeper.wake(now)
                except Exception as fault:  # one connection's bug must not stop everybody's clock
                    self._on_error(fault)
        self._handle = self._loop.call_later(TICK_S, self._turn) if self._buckets else None

    def stop(self) -> None:
        """Wake nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
