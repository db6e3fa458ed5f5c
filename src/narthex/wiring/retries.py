"""Starts a process while an engine is late: gateways, workers and the auth service retry until it answers.

Not here: the components (`app/lifecycle`). Rules: only an error that time can mend is tried again; each cause is
logged once, not each try.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from narthex.errors import Damaged, DependencyError

FIRST_S: Final = 0.25
LAST_S: Final = 1.0
"""Bounds of the wait between two tries, with full jitter below: an engine that comes late is used within a second."""


async def until_started(
    start: Callable[[], Awaitable[None]], log: Any, stopping: asyncio.Event | None = None
) -> None:
    """Call `start` until it succeeds, or until `stopping` is set.

    Args:
        start: opens everything that is not open yet.
        log: a structlog logger: gets the cause of each failure once.
        stopping: ends the tries; None: only a cancellation does.

    Raises:
        Damaged: the data cannot be used; no later try would succeed.
        ConfigError: the settings cannot be used; no later try would succeed.
    """
    ended = stopping or asyncio.Event()
    delay_s, said = FIRST_S, ""
    while not ended.is_set():
        try:
            return await start()
        except Damaged:
            raise
        except DependencyError as fault:
            if fault.message != said:
                log.warning("start", code=fault.code, detail=fault.message, remedy=fault.remedy)
                said = fault.message
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s * random.random()):  # noqa: S311 - jitter guards nothing
                await ended.wait()
        delay_s = min(delay_s * 2, LAST_S)
    return None


def started_well(task: asyncio.Task[None]) -> bool:
    """Whether a finished start was cancelled or succeeded; otherwise the server behind it must stop."""
    return task.cancelled() or task.exception() is None
