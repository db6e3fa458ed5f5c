"""Counting failed attempts at a secret per address and account, in bounded memory. Pure but for its own table.

Rules: the window slides: however attempts are laid in time, no stretch of `window_s` holds more than `limit` that
counted. (A window that begins with the first failure lets nearly twice as many through around its end.)
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Final

MAX_ENTRIES: Final = (
    10_000  # 3 MB at ten moments each; the oldest go first, and filling it costs an attacker as many requests
)


class Attempts:
    """Allows `limit` failures per key in any stretch of `window_s`, then none until the oldest of them is over.

    Args:
        limit: failures allowed; so many moments are kept of each key, 8 bytes each.
        window_s: how long each counts.
        max_entries: keys remembered.
    """

    def __init__(self, limit: int, window_s: float, *, max_entries: int = MAX_ENTRIES) -> None:
        self._limit = limit
        self._window_s = window_s
        self._max_entries = max_entries
        self._kept: OrderedDict[str, array[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until `key` may try again; 0.0: now."""
        moments = self._counting(key, now)
        if moments is None or len(moments) < self._limit:
            return 0.0
        return moments[0] + self._window_s - now

    def failed(self, key: str, now: float) -> None:
        """Count a failure."""
        moments = self._counting(key, now)
        if moments is None:
            moments = self._kept[key] = array("d")
        if len(moments) >= self._limit:  # several that were tried at once: the newest count longest
            del moments[0]
        moments.append(now)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def forgive(self, key: str) -> None:
        """Take one failure back: it was counted before the outcome was known, and was none."""
        moments = self._kept.get(key)
        if moments:
            moments.pop()

    def succeeded(self, key: str) -> None:
        """Forget a key's failures."""
        self._kept.pop(key, None)

    def _counting(self, key: str, now: float) -> array[float] | None:
        """The key's failures that count now, oldest first; None when there are none, and then none are kept."""
        moments = self._kept.get(key)
        if moments is None:
            return None
        over = now - self._window_s
        while moments and moments[0] <= over:
            del moments[0]
        if not moments:
            del self._kept[key]
            return None
        return moments
