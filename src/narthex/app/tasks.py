"""Owns background tasks: a bounded set that logs failures and ends everything on `stop`; ends single tasks.

Every task of the app belongs to one `Tasks`; there is no fire-and-forget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from narthex.errors import Overloaded

log = structlog.get_logger("narthex.tasks", log_name="narthex.tasks")


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel the tasks and wait until they have ended; drops their results and errors, which `log_error` logs where it
    is a callback. None: nothing to end.
    """
    found = [task for task in tasks if task is not None]
    for task in found:
        task.cancel()
    await asyncio.gather(*found, return_exceptions=True)


def retrieve_error(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's error, as its done callback: all that wait for it through `asyncio.shield` may be gone, and
    asyncio would log the error as one that was never looked at.
    """
    if not task.cancelled():
        task.exception()


def log_error(task: asyncio.Task[Any]) -> None:
    """Log the error that ended a task, as its done callback: the owner looks at the task only when it stops."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        log.error("background_task_raised", task=task.get_name(), exc_info=fault)


class Tasks:
    """A bounded set of running tasks.

    Args:
        name: for error messages.
        limit: more at once raise `Overloaded`.
        on_error: takes every exception that ended a task (never CancelledError).
    """

    __slots__ = ("_limit", "_name", "_on_error", "_running")

    def __init__(self, name: str, limit: int, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._limit = limit
        self._on_error = on_error
        self._running: dict[asyncio.Task[None], None] = {}  # in the order of their beginning

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of this set.

        Raises:
            Overloaded: `limit` tasks run already; the coroutine was closed.
        """
        if len(self._running) >= self._limit:
            coroutine.close()
            raise Overloaded(
                "gateway", f"{self._name} already runs {self._limit} tasks, its limit.", "Try again shortly."
            )
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._on_error(fault)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all have ended, at most `timeout_s`; then `stop`."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
        await self.stop()

    async def stop(self) -> None:
        """Cancel the running tasks and wait for them."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=5)  # a task that ignores its cancellation is not waited for
