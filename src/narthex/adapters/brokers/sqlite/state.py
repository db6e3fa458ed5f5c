"""Holds the writer's state in memory: the ends of channels, and the keys of the last two minutes.

Not here: SQL (`log.py`). Rules: keys of all channels expire in the order in which they were added, so that expiry never
searches; their number is bounded.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_KEYS: Final = (
    1_000_000  # about 230 MB; 8,000 publications with keys a second, far above the rate of one loop
)


class ChannelState:
    """A channel as of the last append. `kept` is its retention by count, `keys` maps keys to offsets."""

    __slots__ = ("epoch", "floor", "id", "kept", "keys", "top")

    def __init__(self, number: int, epoch: str, floor: int, top: int, kept: int) -> None:
        self.id = number
        self.epoch = epoch
        self.floor = floor
        self.top = top
        self.kept = kept
        self.keys: dict[str, int] = {}


class RecentKeys:
    """Forgets the keys of all channels when their time is over."""

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        self._recent: deque[tuple[float, dict[str, int], str, int]] = deque()

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, keys: dict[str, int], key: str, offset: int, at: float, *, bounded: bool = True) -> bool:
        """Add a key to its channel's `keys`; False when there are too many already.

        `bounded=False` is for keys that are in the file already: they count, but are always added.
        """
        if bounded and len(self._recent) >= self._limit:
            return False
        keys[key] = offset
        self._recent.append((at, keys, key, offset))
        return True

    def expire(self, cutoff: float) -> None:
        """Forget keys that were added at or before `cutoff`.

        Keys that were read back from the file may be queued behind younger ones and then live up to twice as long:
        the port's window is a lower bound.
        """
        recent = self._recent
        while recent and recent[0][0] <= cutoff:
            _, keys, key, offset = recent.popleft()
            if keys.get(key) == offset:  # not used again since, and its log is not removed
                del keys[key]
                if not keys:
                    keys.clear()  # gives its table back: half of what a channel takes that was busy once
