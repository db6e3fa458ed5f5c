"""Latencies over time, small enough for a file: percentiles and a histogram for each slice of time.

Not here: their plots (`plots`). Rules: the percentiles are exact, the histogram's bins grow by a fourth of a factor
of two; a slice in which nothing began is left out, since it has no latency.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

SLICES: Final = 30
"""Most slices of a record. More would not be seen in a plot, and a saved report grows with them."""
BINS_PER_DOUBLING: Final = 4

PERCENTILES: Final = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("max", "max_ms"))
"""The lines of a plot over time: a name, and the member of `LatencySlice`."""

Waits: TypeAlias = Sequence[tuple[float, float]]
"""When each operation began (on any clock) and how long it took, both in seconds."""


class LatencySlice(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of time.

    Attributes:
        at_s: its beginning, in seconds since that of the record.
        bins: the number of operations by bin, see `bin_of`.
    """

    at_s: float
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    bins: dict[int, int]


class LatencyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The slices of one measurement, `slice_s` seconds each."""

    slice_s: float
    slices: list[LatencySlice]

    def every(self) -> list[LatencySlice | None]:
        """All slices from the first to the last; None: nothing began in it."""
        known = {round(part.at_s / self.slice_s): part for part in self.slices}
        return [known.get(at) for at in range(max(known) + 1)]


def bin_of(ms: float) -> int:
    """The bin of a latency; a clock that cannot tell it from nothing has 1 µs."""
    return math.floor(BINS_PER_DOUBLING * math.log2(max(ms, 0.001)))


def bin_edge(number: int) -> float:
    """Where a bin begins, in ms; it ends where the next one begins."""
    return float(2.0 ** (number / BINS_PER_DOUBLING))


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted values lie; 0 of nothing."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def histogram(values_ms: Iterable[float]) -> dict[int, int]:
    """The number of values by bin, in order."""
    return dict(sorted(Counter(map(bin_of, values_ms)).items()))


def merged(histograms: Iterable[dict[int, int]]) -> dict[int, int]:
    """The sum of several histograms, in order."""
    bins: Counter[int] = Counter()
    for one in histograms:
        bins.update(one)
    return dict(sorted(bins.items()))


def record(waits: Waits, slices: int = SLICES) -> LatencyRecord | None:
    """The record of a measurement; None where nothing was timed."""
    if not waits:
        return None
    began = min(at for at, _ in waits)
    slice_s = max((max(at for at, _ in waits) - began) / slices, 1e-6)
    by_slice: dict[int, list[float]] = {}
    for at, wait in waits:
        by_slice.setdefault(min(slices - 1, int((at - began) / slice_s)), []).append(wait * 1e3)
    return LatencyRecord(
        slice_s=slice_s,
        slices=[_slice(number * slice_s, sorted(found)) for number, found in sorted(by_slice.items())],
    )


def _slice(at_s: float, values: list[float]) -> LatencySlice:
    return LatencySlice(
        at_s=round(at_s, 6),
        count=len(values),
        p50_ms=round(percentile(values, 0.5), 4),
        p90_ms=round(percentile(values, 0.9), 4),
        p99_ms=round(percentile(values, 0.99), 4),
        max_ms=round(values[-1], 4),
        bins=histogram(values),
    )
