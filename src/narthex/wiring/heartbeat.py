"""Shows whether a worker's event loop turns: the worker counts in shared memory, and its parent reads the count.

Not here: replacing a worker (`supervisor`). Rules: silence is counted in the parent's own turns, so that a pause
of the whole machine ends no worker; the first beat may take longer, because it waits for the imports.
"""

from __future__ import annotations

import asyncio
from multiprocessing.context import SpawnContext
from typing import Final

BEAT_S: Final = 1.0
HUNG_S: Final = 30.0  # neither an agent nor a collapse under load may block the loop for so long
UNBORN_S: Final = 120.0  # to the first beat: the imports of narthex take 1.3 s, those of agents any time


class Heartbeat:
    """Shared between a parent and one process of a worker; made by the parent, handed over with the process."""

    def __init__(self, context: SpawnContext) -> None:
        self._count = context.RawValue("Q", 0)

    @property
    def count(self) -> int:
        """The number of beats."""
        return int(self._count.value)

    async def beat(self) -> None:
        """The worker's part, until cancelled."""
        while True:
            self._count.value += 1
            await asyncio.sleep(BEAT_S)


class Watchdog:
    """The parent's part: measures for how long a count has not moved. `most_s`: the most that one turn counts."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._count = 0
        self._looked_at = 0.0
        self.seconds = 0.0

    def stalled_for_s(self, count: int, now: float) -> bool:
        """Whether it has been too long (`HUNG_S`, `UNBORN_S`); `now` is seconds of a clock that never goes back."""
        turn_s = min(now - self._looked_at, self._most_s)
        self._looked_at = now
        if count != self._count:
            self._count, self.seconds = count, 0.0
        else:
            self.seconds += turn_s
        return self.seconds > (HUNG_S if count else UNBORN_S)
