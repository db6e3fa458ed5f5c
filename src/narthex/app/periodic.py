"""Repeated housekeeping: one task, soon after the start and then at an interval, until it is stopped.

Not here: the work. Rule: times have jitter, so that instances that were started together do not meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable


class Periodic:
    """One task; `start` and `stop`.

    Args:
        work: called each time; it raises nothing, an exception ends the task.
        every_s: from the end of one time to the next; the first is after a twentieth of it.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        self._work = work
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first time is soon, for entries that ended while no process ran."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, in the middle of the work if need be."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        pause_s = self._every_s / 20
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter guards nothing
            pause_s = self._every_s
            await self._work()
