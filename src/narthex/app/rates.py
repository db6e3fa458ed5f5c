"""Token buckets by key in bounded memory: so many at once, then a steady rate.

Rules: a key that is forgotten starts full again, so the table is large enough that forgetting one takes as many keys.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

MAX_KEYS: Final = 50_000  # about 8 MB; the longest unused go first


class Rates:
    """One rate for every key.

    Args:
        per_s: how many a second come back.
        burst: how many at once.
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
        """Count one; 0, or the whole seconds after which the next is allowed, and then none was counted."""
        level, at = self._levels.get(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_s)
        if level < 1.0:
            return max(1, math.ceil((1.0 - level) / self._per_s))
        self._levels[key] = (level - 1.0, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return 0
