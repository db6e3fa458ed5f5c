"""Background tasks: one that is owned between `start` and `stop`, and repeated housekeeping.

Not here: the work. Rule: times have jitter, so that instances that were started together do not meet.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from narthex.app.tasks import end_tasks, log_error


class BackgroundTask:
    """One task. `start` and `stop` are idempotent; a later `start` begins anew.

    Args:
        run: the task's work, from its start to its cancellation; it raises nothing, an exception ends it and is logged.
        name: of the task.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._run_task = run
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether it is between `start` and `stop`."""
        return self._task is not None

    async def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run_task(), name=self._name)
            self._task.add_done_callback(log_error)

    async def stop(self) -> None:
        """End, in the middle of the work if need be."""
        task, self._task = self._task, None
        await end_tasks(task)


class Periodic(BackgroundTask):
    """Work that is repeated; the first time is soon, for entries that ended while no process ran.

    Args:
        work: called each time; it raises nothing, an exception ends the task and is logged with the work's name.
        every_s: from the end of one time to the next; the first is after a twentieth of it.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        super().__init__(self._repeat, f"periodic {getattr(work, '__qualname__', type(work).__name__)}")
        self._work = work
        self._every_s = every_s

    async def _repeat(self) -> None:
        pause_s = self._every_s / 20
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter guards nothing
            pause_s = self._every_s
            await self._work()
