"""One node's ownership of a run. The engine's loop renews it; every publish checks it.

Not here: renewing (`loops`), leases of other nodes (`observed`). Rules: time is the loop's monotonic clock, counted
from *before* the call that took or renewed the lease, so this node stops relying on it before another node may take the
run over. A monotonic clock can stand still while the machine is suspended: then the wall clock moves against it, and
this node does not rely on the lease until the store has renewed it. That is the one use of a wall clock here, and a
wrong clock costs a renewal and nothing else. Nothing of a run is published without `hold`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

JUMP_S: Final = (
    4.0  # between the two clocks since the last renewal; corrections of a running clock are far smaller
)


class OwnershipLost(Exception):
    """Another owner has the run now; stop at once and publish nothing more."""


class Lease:
    """One run's lease.

    Args:
        until: loop time at which it ends unless it is extended.
        wall: the wall clock, which shows a suspension; None for a lease that never ends.
    """

    __slots__ = ("_ahead_s", "_changed", "_wall", "lost", "until")

    def __init__(self, until: float, wall: Callable[[], float] | None = None) -> None:
        self.until = until
        self.lost = False
        self._wall = wall
        self._ahead_s = self.wall_ahead_s()
        self._changed = asyncio.Event()

    def extend(self, until: float, ahead_s: float = 0.0) -> None:
        """The store renewed it; `ahead_s` is `wall_ahead_s` from before the request to the store."""
        self.until = max(self.until, until)
        self._ahead_s = ahead_s
        self._changed.set()

    def lose(self) -> None:
        """The store reports that another node owns the run."""
        self.lost = True
        self._changed.set()

    async def hold(self) -> None:
        """Return while the lease holds; wait for its renewal when it lapsed (a pause, a store that is down).

        Raises:
            OwnershipLost: another node took it over.
        """
        loop = asyncio.get_running_loop()
        while not self.lost:
            if loop.time() < self.until and abs(self.wall_ahead_s() - self._ahead_s) < JUMP_S:
                return
            self._changed.clear()
            await self._changed.wait()
        raise OwnershipLost

    def wall_ahead_s(self) -> float:
        """How far the wall clock is ahead of the loop's."""
        return 0.0 if self._wall is None else self._wall() - asyncio.get_running_loop().time()
