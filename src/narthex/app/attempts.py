"""Counting failed attempts at a secret per address and account, in bounded memory. Pure but for its own table."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_ENTRIES: Final = (
    10_000  # about 2 MB; the oldest go first, and filling it costs an attacker as many requests
)


class Attempts:
    """Allows `limit` failures per key in any window of `window_s`, then none until the window has passed.

    Args:
        limit: failures allowed in a window.
        window_s: its length; a key's window begins with its first failure.
        max_entries: keys remembered.
    """

    def __init__(self, limit: int, window_s: float, *, max_entries: int = MAX_ENTRIES) -> None:
        self._limit = limit
        self._window_s = window_s
        self._max_entries = max_entries
        self._kept: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until `key` may try again; 0.0: now."""
        found = self._kept.get(key)
        if found is None:
            return 0.0
        began, count = found
        left = began + self._window_s - now
        if left <= 0:
            del self._kept[key]
            return 0.0
        return left if count >= self._limit else 0.0

    def failed(self, key: str, now: float) -> None:
        """Count a failure."""
        began, count = self._kept.get(key, (now, 0))
        if now - began >= self._window_s:
            began, count = now, 0
        self._kept[key] = (began, count + 1)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def forgive(self, key: str) -> None:
        """Take one failure back: it was counted before the outcome was known, and was none."""
        found = self._kept.get(key)
        if found is not None:
            self._kept[key] = (found[0], max(0, found[1] - 1))

    def succeeded(self, key: str) -> None:
        """Forget a key's failures."""
        self._kept.pop(key, None)
