"""One coarse clock for every deadline of the edge, so that no connection owns a timer handle or a task.

A wheel: moments are rounded up to slots of `GRANULARITY_S`, and one `call_later` ticks only while a slot is
occupied. Rules: an object has at most one deadline; setting and clearing cost a dict operation each (a
handshake does both); a deadline is met at most two slots late, never early.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Final, Protocol

GRANULARITY_S: Final = 0.5  # deadlines are seconds: half a second late hurts nobody and batches the work

_log: Final = logging.getLogger("narthex.edge")


class Expiring(Protocol):
    """Something with a deadline. `due` is the wheel's: its slot, 0 when no deadline is set."""

    due: int

    def expired(self) -> None:
        """The deadline passed; it has been cleared."""

    def end(self) -> None:
        """The process is stopping: let go of the connection now."""


class Deadlines:
    """The wheel. Belongs to one event loop."""

    __slots__ = ("_loop", "_slots", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, dict[Expiring, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, who: Expiring, after_s: float) -> None:
        """Call `who.expired()` in `after_s` seconds, instead of an earlier arrangement."""
        if who.due:
            self.clear(who)
        slot = int((self._loop.time() + after_s) / GRANULARITY_S) + 1
        who.due = slot
        waiting = self._slots.get(slot)
        if waiting is None:
            self._slots[slot] = {who: None}
            if self._timer is None:
                self._timer = self._loop.call_later(GRANULARITY_S, self._tick)
        else:
            waiting[who] = None

    def move(self, old: Expiring, new: Expiring) -> None:
        """Give `old`'s deadline to `new`."""
        slot = old.due
        if slot:
            waiting = self._slots[slot]
            del waiting[old]
            waiting[new] = None
            old.due, new.due = 0, slot

    def clear(self, who: Expiring) -> None:
        """Forget `who`; nothing happens when it had no deadline."""
        slot = who.due
        if slot:
            who.due = 0
            waiting = self._slots[slot]
            del waiting[who]
            if not waiting:
                del self._slots[slot]

    def __iter__(self) -> Iterator[Expiring]:
        """Everything that waits, in no order."""
        return iter([who for waiting in self._slots.values() for who in waiting])

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def stop(self) -> None:
        """Forget everything and tick no more."""
        for who in self:
            who.due = 0
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = int(self._loop.time() / GRANULARITY_S)
        for slot in sorted(slot for slot in self._slots if slot <= now):
            for who in list(self._slots[slot]):
                if who.due != slot:  # an earlier one's expiry cleared it
                    continue
                self.clear(who)
                try:
                    who.expired()
                except Exception:  # one broken connection must not cost the others their deadlines
                    _log.exception("a deadline's handler failed")
        if self._slots and self._timer is None:
            self._timer = self._loop.call_later(GRANULARITY_S, self._tick)
