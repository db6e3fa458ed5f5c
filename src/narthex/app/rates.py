"""Token buckets by key in bounded memory: a burst, then a steady rate.

Rules: a dropped key starts full again; the table is so large that an attacker needs as many keys to have one dropped.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

MAX_KEYS: Final = 50_000  # about 8 MB; the longest unused go first


class Rates:
    """One rate for every key.

    Args:
        per_s: tokens that come back a second.
        burst: tokens of a full bucket.
        max_keys: keys remembered.
    """

    def __init__(self, per_s: float, burst: int, *, max_keys: int = MAX_KEYS) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._max_keys = max_keys
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str, now: float) -> int:
        """Take one token; returns 0, or the whole seconds until the next is allowed, and then none was taken."""
        level, at = self._levels.get(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_s)
        if level < 1.0:
            return max(1, math.ceil((1.0 - level) / self._per_s))
        self._levels[key] = (level - 1.0, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return 0
