"""Figures of a process: counters, gauges and histograms as plain values, their difference and their sums.

Not here: reading them from a meter (`adapters/telemetry`), keeping them (`app/fleet`). Rules: a key is the metric's
name and its labels' values, joined by `|`; a counter that fell belongs to a process that was restarted, so all of it is
new; histograms are counts by bucket, so that percentiles of a sum are right; gauges of several nodes add up, peaks do
not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec


class Histogram(msgspec.Struct, array_like=True):
    """Counts by bucket (not cumulative, the last one above the largest bound) and the sum of the values."""

    counts: list[int]
    total: float = 0.0


class Figures(msgspec.Struct, omit_defaults=True):
    """Figures of one process, or of several.

    Attributes:
        counters: by key; in a snapshot since the process's start, in history within the interval.
        gauges: by key; those of several nodes add up.
        peaks: by key; of several the largest counts (the state of a breaker).
        histograms: by key; as counters.
    """

    counters: dict[str, float] = {}
    gauges: dict[str, float] = {}
    peaks: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}


def increase(before: Figures, after: Figures) -> Figures:
    """The figures of the interval between two readings of one process. Counters that did not change are left out."""
    counters: dict[str, float] = {}
    for key, value in after.counters.items():
        earlier = before.counters.get(key, 0.0)
        grown = value - earlier if value >= earlier else value
        if grown:
            counters[key] = grown
    histograms: dict[str, Histogram] = {}
    for key, found in after.histograms.items():
        old = before.histograms.get(key)
        if old is None or len(old.counts) != len(found.counts) or sum(old.counts) > sum(found.counts):
            old = Histogram([0] * len(found.counts))
        counts = [now - then for now, then in zip(found.counts, old.counts, strict=True)]
        if any(counts):
            histograms[key] = Histogram(counts, round(found.total - old.total, 6))
    return Figures(counters, after.gauges, after.peaks, histograms)


def total(rows: Iterable[Figures], intervals: int) -> Figures:
    """The figures of a longer interval, of one process or several.

    Args:
        rows: of every process and every shorter interval.
        intervals: the number of shorter intervals that the rows are of: gauges are means over them.
    """
    found = Figures({}, {}, {}, {})
    for row in rows:
        for key, value in row.counters.items():
            found.counters[key] = found.counters.get(key, 0.0) + value
        for key, value in row.gauges.items():
            found.gauges[key] = found.gauges.get(key, 0.0) + value
        for key, value in row.peaks.items():
            if value > found.peaks.get(key, float("-inf")):
                found.peaks[key] = value
        for key, one in row.histograms.items():
            _add(found.histograms, key, one)
    if intervals > 1:
        for key, value in found.gauges.items():
            found.gauges[key] = round(value / intervals, 3)
    return found


def _add(sums: dict[str, Histogram], key: str, one: Histogram) -> None:
    other = sums.get(key)
    if other is None or len(other.counts) < len(
        one.counts
    ):  # of a version with other buckets: the finer ones stay
        sums[key] = Histogram(list(one.counts), one.total)
    elif len(other.counts) == len(one.counts):
        other.counts = [left + right for left, right in zip(other.counts, one.counts, strict=True)]
        other.total += one.total


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """A quantile by linear interpolation within its bucket, as Prometheus computes it; None without values.

    Args:
        bounds: upper bounds of the buckets, ascending; one fewer than `counts`.
        counts: by bucket.
        share: between 0 and 1.
    """
    everything = sum(counts)
    if everything == 0 or not bounds:
        return None
    rank, seen = share * everything, 0
    for at, count in enumerate(counts[: len(bounds)]):
        if count and seen + count >= rank:
            low = bounds[at - 1] if at else 0.0
            return low + (bounds[at] - low) * (rank - seen) / count
        seen += count
    return bounds[-1]
