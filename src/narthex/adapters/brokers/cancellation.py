"""Ends a task reliably, whichever library it is running.

`asyncio.wait_for` of Python 3.11 can return a result and drop a cancellation that came at the same moment, and
nats-py's flush catches it on purpose: one cancellation is not enough there.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.1
GIVE_UP: Final = 50  # 5 s: a task that ignores so many has a bug, and must not keep the process from stopping


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel until they have ended; drops their exceptions."""
    left = {task for task in tasks if not task.done()}
    for _ in range(GIVE_UP):
        if not left:
            break
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*(task for task in tasks if task.done()), return_exceptions=True)
