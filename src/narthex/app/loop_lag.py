"""Measures how late the event loop is: a timer compares its time with the time of its call.

Not here: the cause of a delay (`loop_watch`, or py-spy). Why: all clients share one loop, so a call that
blocks it for 100 ms delays every client by 100 ms, and no other number shows it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from narthex.ports.telemetry import Meter

EVERY_S: Final = 0.25  # each samples the delay of any timer; a wake of an idle process costs 0.1 ms of CPU


class LoopLag:
    """See the module. One timer, owned between `start` and `stop`."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def start(self) -> None:
        """Start measuring."""
        self._arm()

    async def stop(self) -> None:
        """Stop measuring; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._due = self._clock() + EVERY_S
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def _look(self) -> None:
        self._meter.observe("loop_lag_seconds", max(0.0, self._clock() - self._due))
        self._arm()
