"""Keeps the idempotency keys lately used in a channel, and packs them into messages of its log.

Not here: I/O and the clock; `appending` decides when to read or write keys. A node that writes to a channel for the
first time must know the keys of the last `IDEMPOTENCY_WINDOW_S`. To read them from their own messages costs 70 µs each;
so every mark carries the keys since the previous mark, and a trim writes those of the whole window. Rules: a key is
stored as its digest of 128 bits, so that collisions are negligible; a row holds the offset and the moment to a tenth of
a second, rounded to the later one.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

import msgspec

DIGEST_BYTES: Final = 16
MOST_ROWS: Final = 20_000  # per summary: 440 KB, half of the server's default max_payload

_ROW: Final = Struct(f">{DIGEST_BYTES}sIH")  # digest; offsets before `top`; tenths of a second before `at`
_OLDEST: Final = 0xFFFF  # ages end here: 109 minutes


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """The keys that still counted when a message was written.

    Attributes:
        since: every publication from this offset on has its key in `rows`, or in the message itself.
        top: the offset that rows count back from.
        at: the moment that rows count back from, seconds since the epoch.
        rows: oldest first, see `_ROW`.
    """

    since: int
    top: int
    at: float
    rows: bytes


class Use(NamedTuple):
    """The offset and moment of a key's use; `at` is seconds since the epoch."""

    offset: int
    at: float


def digest(key: str) -> bytes:
    """A key's digest."""
    return blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


class KeyWindow:
    """The keys of one channel, by ascending offset of their last use."""

    def __init__(self) -> None:
        self._uses: OrderedDict[bytes, Use] = OrderedDict()

    def __len__(self) -> int:
        return len(self._uses)

    def __contains__(self, name: bytes | None) -> bool:
        return name in self._uses

    def find(self, name: bytes | None) -> Use | None:
        """The use of a key by its digest."""
        return self._uses.get(name) if name is not None else None

    def add(self, name: bytes, offset: int, at: float) -> None:
        """Add a use, the newest so far. The key may be known, if another node forgot it a moment sooner."""
        self._uses.pop(name, None)
        self._uses[name] = Use(offset, at)

    def clear(self) -> None:
        """Forget all keys: the log is another one."""
        self._uses.clear()

    def expire(self, cutoff: float) -> None:
        """Forget keys that were used before `cutoff`."""
        while self._uses and next(iter(self._uses.values())).at <= cutoff:
            self._uses.popitem(last=False)

    def summary(self, since: int, top: int, now: float) -> Summary | None:
        """The uses at offset `since` and later of a log that ends at `top`; None when too many for a message."""
        rows: list[bytes] = []
        for name, use in reversed(self._uses.items()):  # offsets ascend
            if use.offset < since:
                break
            rows.append(_ROW.pack(name, top - use.offset, _age(now - use.at)))
            if len(rows) > MOST_ROWS:
                return None
        return Summary(since, top, now, b"".join(reversed(rows)))

    def take(self, summary: Summary) -> None:
        """Add a summary's uses that are not known yet. Those of a trim may come before the known ones."""
        end = next(reversed(self._uses.values())).offset if self._uses else 0
        ordered = True
        for name, back, age in _ROW.iter_unpack(summary.rows):
            offset = summary.top - back
            known = self._uses.get(name)
            if known is None or known.offset < offset:
                self.add(name, offset, summary.at - age / 10)
                ordered &= offset >= end
        if not ordered:
            self._uses = OrderedDict(sorted(self._uses.items(), key=lambda one: one[1].offset))


def _age(seconds: float) -> int:
    """Whole tenths, rounded down: a key counts a moment longer rather than shorter."""
    return max(0, min(_OLDEST, int(seconds * 10)))
