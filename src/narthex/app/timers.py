"""One coarse timer for all connections: a wheel of slots, one loop handle however many connections wait.

A connection costs a dict entry instead of a timer handle (10,000 handles are 2 MB and a heap to sift). Rules: an object
has at most one time, and scheduling it again replaces that; scheduling and cancelling cost a dict operation each (a
handshake does both); a wake is at most two slots late, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.25


class Sleeper(Protocol):
    """An object with a time to wake. `due` is the wheel's: its slot, 0 while it is not scheduled."""

    due: int

    def wake(self, now: float) -> None:
        """The time has come, and it has been cleared. Must not block; may schedule itself again."""


class TimerWheel:
    """Slots of `TICK_S`; ticks only while an object waits. Belongs to one event loop.

    Args:
        loop: the clock.
        on_error: called with the exception of a `wake` that failed.
    """

    __slots__ = ("_handle", "_loop", "_on_error", "_slots")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[Exception], None] = lambda _: None
    ) -> None:
        self._loop = loop
        self._on_error = on_error
        self._slots: dict[int, dict[Sleeper, None]] = {}
        self._handle: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """The loop's monotonic time, seconds."""
        return self._loop.time()

    def schedule(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at` (loop time, past ones at the next tick); replaces an earlier schedule."""
        if sleeper.due:
            self.cancel(sleeper)
        sleeper.due = slot = max(int(at / TICK_S), 0) + 1
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {sleeper: None}
            if self._handle is None:
                self._handle = self._loop.call_later(TICK_S, self._tick)
        else:
            waiting[sleeper] = None

    def cancel(self, sleeper: Sleeper) -> None:
        """Forget `sleeper`; nothing happens when it is not scheduled."""
        slot, sleeper.due = sleeper.due, 0
        waiting = self._slots.get(slot)
        if waiting is not None:  # None also while the slot's turn has come
            waiting.pop(sleeper, None)
            if not waiting:
                del self._slots[slot]

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def stop(self) -> None:
        """Forget everything and tick no more."""
        for waiting in self._slots.values():
            for sleeper in waiting:
                sleeper.due = 0
        self._slots.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = None
        now = self._loop.time()
        last = int(now / TICK_S)
        for slot in sorted(slot for slot in self._slots if slot <= last):
            for sleeper in self._slots.pop(slot, ()):
                if sleeper.due != slot:  # an earlier one's wake cancelled it
                    continue
                sleeper.due = 0
                try:
                    sleeper.wake(now)
                except Exception as fault:  # one connection's exception must not stop the others' clock
                    self._on_error(fault)
        if self._slots and self._handle is None:
            self._handle = self._loop.call_later(TICK_S, self._tick)
