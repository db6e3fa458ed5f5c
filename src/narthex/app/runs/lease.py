"""Whether this node still owns a run. Renewing is the engine's loop; asking is everybody who publishes.

Rules: time is the loop's monotonic clock, counted from *before* the call that took or renewed the lease, so
this node stops believing in it before the store does. Nothing of a run is published without `hold`.
"""

from __future__ import annotations

import asyncio


class OwnershipLost(Exception):
    """Somebody else owns the run now; stop at once and publish nothing more."""


class Lease:
    """One run's lease.

    Args:
        until: loop time at which it ends unless it is extended.
    """

    __slots__ = ("_changed", "lost", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.lost = False
        self._changed = asyncio.Event()

    def extend(self, until: float) -> None:
        """The store renewed it."""
        self.until = max(self.until, until)
        self._changed.set()

    def lose(self) -> None:
        """The store says that it is not ours any more."""
        self.lost = True
        self._changed.set()

    async def hold(self) -> None:
        """Return while the lease holds; wait for its renewal when it lapsed (a pause, a store that is away).

        Raises:
            OwnershipLost: it was taken over.
        """
        loop = asyncio.get_running_loop()
        while not self.lost:
            if loop.time() < self.until:
                return
            self._changed.clear()
            await self._changed.wait()
        raise OwnershipLost
