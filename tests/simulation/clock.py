"""A node's wall clock: virtual time plus its error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EPOCH_S: Final = 1_800_000_000.0
"""The time of a correct clock at the start of virtual time."""


class WallClock:
    """Seconds since the epoch, as one node sees them; the plan changes `ahead_s`."""

    def __init__(self, time: Callable[[], float], ahead_s: float = 0.0) -> None:
        self._time = time
        self.ahead_s = ahead_s

    def now(self) -> float:
        """The value of `time.time` on that node."""
        return EPOCH_S + self._time() + self.ahead_s
