"""Runs a coroutine to its end for a test that is no coroutine itself.

Rules: in a thread of its own, because a loop may run in the caller's: Playwright's synchronous API has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

HINT: Final = (
    "This call blocks the test's event loop. If the server runs in it: `async with`, or `asyncio.to_thread`."
)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, or its exception."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


def blocks_a_loop() -> bool:
    """Whether an event loop runs in this thread, and waits while this thread does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
