"""Counts failed attempts at a secret per address and account, in bounded memory.

Not here: comparing secrets (the callers do that). Rules: the window slides: no stretch of `window_s` holds more than
`limit` counted attempts, however they are spread in time. (A window that begins with the first failure lets nearly
twice as many through around its end.) Where the check takes time, an attempt counts as failed from its beginning, so
that parallel guesses cannot all pass; an attempt that finds the limit reached waits for the checks under way, because a
right secret is uncounted.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Final

WRONG_KEYS: Final = (
    10  # per address and window, for each kind of key: no person mistypes one ten times a minute
)
WRONG_KEYS_WINDOW_S: Final = 60.0
PATIENCE_S: Final = 5.0  # an issuer answers within 2 s, or is down
MAX_ENTRIES: Final = (
    10_000  # 3 MB at ten moments each; the oldest go first, and filling it costs an attacker as many requests
)


class Attempts:
    """Allows `limit` failures per key in any stretch of `window_s`, then none until the oldest of them is over.

    Args:
        limit: failures allowed; as many moments are kept of each key, 8 bytes each.
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

    def take(self, key: str, now: float) -> float:
        """Count a request, unless the limit is reached: as `wait_s`."""
        wait_s = self.wait_s(key, now)
        if wait_s == 0.0:
            self.failed(key, now)
        return wait_s

    def failed(self, key: str, now: float) -> None:
        """Count a failure."""
        moments = self._counting(key, now)
        if moments is None:
            moments = self._kept[key] = array("d")
        if len(moments) >= self._limit:  # several parallel attempts: the newest count longest
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


class PendingAttempt:
    """One attempt whose check takes time.

    Attributes:
        wait_s: more than 0: the limit is reached; refuse, and check nothing.
        right: set it when the secret was right; else the attempt stays counted as a failure.
    """

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.right = False


class _UnderWay:
    """The number of attempts of one key that are being checked, and an event that is set when one of them ends."""

    def __init__(self) -> None:
        self.count = 0
        self.one_ended = asyncio.Event()


class PendingAttempts:
    """Attempts that several limits count, and whose check takes time.

    Args:
        limits: each counts an attempt under a key of its own.
        now: seconds, on the clock of `limits`.
        patience_s: how long an attempt waits for others that are under way.
    """

    def __init__(self, *limits: Attempts, now: Callable[[], float], patience_s: float = PATIENCE_S) -> None:
        self._limits = limits
        self._now = now
        self._patience_s = patience_s
        self._under_way: dict[tuple[Attempts, str], _UnderWay] = {}

    def __len__(self) -> int:
        """The keys that the fullest of the limits remembers."""
        return max(map(len, self._limits))

    @contextlib.asynccontextmanager
    async def attempt(self, *keys: str) -> AsyncIterator[PendingAttempt]:
        """Count an attempt, one key a limit, and take it back if the secret was right. See `PendingAttempt`."""
        places = list(zip(self._limits, keys, strict=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                while (reached := self._reached(places)) in self._under_way:
                    await self._under_way[reached].one_ended.wait()
        attempt = PendingAttempt(max(limit.wait_s(key, self._now()) for limit, key in places))
        if attempt.wait_s > 0:
            yield attempt
            return
        for place in places:
            place[0].failed(place[1], self._now())
            self._under_way.setdefault(place, _UnderWay()).count += 1
        try:
            yield attempt
        finally:
            for place in places:
                self._ended(place, attempt.right)

    def _reached(self, places: list[tuple[Attempts, str]]) -> tuple[Attempts, str] | None:
        return next((place for place in places if place[0].wait_s(place[1], self._now()) > 0), None)

    def _ended(self, place: tuple[Attempts, str], right: bool) -> None:
        if right:
            place[0].forgive(place[1])
        under_way = self._under_way[place]
        under_way.one_ended.set()
        under_way.one_ended = asyncio.Event()
        under_way.count -= 1
        if under_way.count == 0:
            del self._under_way[place]
