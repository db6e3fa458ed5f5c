"""Reads the length of the run queue now and then, for the metrics.

Not here: claiming (`loops`). Rule: while the store is away the last numbers stand, and the age grows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from narthex.app.periodic import Periodic
from narthex.errors import DependencyError
from narthex.ports.runs import Runs
from narthex.ports.telemetry import Meter, Reading

EVERY_S: Final = 5.0  # one query over the active runs


class QueueWatch(Periodic):
    """See the module.

    Args:
        runs: the queue.
        meter: gets `narthex_runs_queued` and `narthex_run_queue_seconds`.
        clock: seconds since the epoch.
        every_s: from one look to the next.
    """

    def __init__(
        self, runs: Runs, meter: Meter, clock: Callable[[], float], *, every_s: float = EVERY_S
    ) -> None:
        super().__init__(self._look, every_s=every_s)
        self._runs = runs
        self._clock = clock
        self._length = 0
        self._oldest_at = float("inf")
        meter.read_from(self._readings)

    async def _look(self) -> None:
        with contextlib.suppress(DependencyError):
            queue = await self._runs.queue()
            self._length, self._oldest_at = queue.length, queue.oldest_at

    def _readings(self) -> Iterable[Reading]:
        yield "runs_queued", (), self._length
        yield "run_queue_seconds", (), max(0.0, self._clock() - self._oldest_at)
