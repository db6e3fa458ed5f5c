"""Deletes credentials that have ended (tickets, refresh tokens, keys, revocations), so that the store stays small.

Rules: several instances may do it at once (deleting twice deletes once); a store that is away is tried next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final

from narthex.errors import DependencyError
from narthex.ports.credentials import Credentials

EVERY_S: Final = 600.0  # a hundred tickets a second leave 60,000 small rows until then


class CredentialExpiry:
    """One task; `start` and `stop`.

    Args:
        credentials: where they are.
        clock: seconds since the epoch.
        every_s: how often, with jitter so that instances do not meet.
    """

    def __init__(
        self, credentials: Credentials, *, clock: Callable[[], float] = time.time, every_s: float = EVERY_S
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first time is soon, for what ended while nothing ran."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
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
            with contextlib.suppress(DependencyError):
                await self._credentials.expire(self._clock())
