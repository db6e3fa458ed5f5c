"""Whether a worker's event loop turns: it counts in shared memory, and its parent looks.

Not here: what is done about it (`supervisor`). Rules: silence is counted in the parent's own turns, so that a machine
which stood still for everybody condemns nobody; the first beat may take longer, for it waits for the imports.
"""

from __future__ import annotations

import asyncio
from multiprocessing.context import SpawnContext
from typing import Final

BEAT_S: Final = 1.0
HUNG_S: Final = 30.0  # no agent may hold the loop for so long, nor does a collapse of the machine's load last
UNBORN_S: Final = (
    120.0  # to the first beat: the imports of narthex take 1.3 s, those of people's agents what they like
)


class Heartbeat:
    """Shared between a parent and one life of a worker; made by the parent, handed over with the process."""

    def __init__(self, context: SpawnContext) -> None:
        self._count = context.RawValue("Q", 0)

    @property
    def count(self) -> int:
        """How often it has beaten."""
        return int(self._count.value)

    async def beat(self) -> None:
        """The worker's part, until cancelled."""
        while True:
            self._count.value += 1
            await asyncio.sleep(BEAT_S)


class Watchdog:
    """The parent's part: for how long a count has not moved. `most_s`: what one turn counts at most."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._count = 0
        self._looked_at = 0.0
        self.seconds = 0.0

    def stalled_for_s(self, count: int, now: float) -> bool:
        """Whether it is too long now (`HUNG_S`, `UNBORN_S`); `now` is seconds of a clock that never goes back."""
        turn_s = min(now - self._looked_at, self._most_s)
        self._looked_at = now
        if count != self._count:
            self._count, self.seconds = count, 0.0
        else:
            self.seconds += turn_s
        return self.seconds > (HUNG_S if count else UNBORN_S)
