"""A node's wall clock: virtual time, plus how wrong it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EPOCH_S: Final = 1_800_000_000.0
"""Where virtual time begins on a right clock."""


class WallClock:
    """Seconds since the epoch, as one node sees them; `ahead_s` is moved by the plan."""

    def __init__(self, time: Callable[[], float], ahead_s: float = 0.0) -> None:
        self._time = time
        self.ahead_s = ahead_s

    def now(self) -> float:
        """What `time.time` would say there."""
        return EPOCH_S + self._time() + self.ahead_s
