"""Figures: growth between readings, sums over nodes and intervals, quantiles."""

from __future__ import annotations

import pytest

from narthex.domain.figures import Figures, Histogram, increase, quantile, total


def test_growth_is_the_difference_and_a_counter_that_fell_is_all_new() -> None:
    """A process that was restarted counts from zero."""
    before = Figures({"a": 5, "b": 9}, {}, {}, {"h": Histogram([1, 1], 2.0)})
    after = Figures({"a": 7, "b": 2, "c": 0}, {"g": 3}, {}, {"h": Histogram([1, 4], 5.0)})
    grown = increase(before, after)
    assert grown.counters == {"a": 2, "b": 2}
    assert grown.gauges == {"g": 3}
    assert grown.histograms == {"h": Histogram([0, 3], 3.0)}


def test_histogram_of_a_restarted_process_is_all_new() -> None:
    """Its counts fell, so none of the earlier ones may be subtracted."""
    before = Figures(histograms={"h": Histogram([5, 5])})
    grown = increase(before, Figures(histograms={"h": Histogram([1, 2])}))
    assert grown.histograms == {"h": Histogram([1, 2])}


def test_sum_over_nodes_and_intervals() -> None:
    """Counters and histograms add up, gauges are means over the intervals, the worst peak counts."""
    one = Figures({"n": 1}, {"g": 4}, {"p": 0}, {"h": Histogram([1, 0], 1.0)})
    two = Figures({"n": 2}, {"g": 6}, {"p": 2}, {"h": Histogram([0, 2], 4.0)})
    found = total([one, two, one, two], intervals=2)
    assert found.counters == {"n": 6}
    assert found.gauges == {"g": 10}
    assert found.peaks == {"p": 2}
    assert found.histograms == {"h": Histogram([2, 4], 10.0)}
    assert one.histograms == {"h": Histogram([1, 0], 1.0)}


def test_sum_of_different_buckets_keeps_the_finer_ones() -> None:
    """Two versions of narthex run side by side during a deploy; counts of different buckets cannot be added."""
    coarse, fine = Figures(histograms={"h": Histogram([1])}), Figures(histograms={"h": Histogram([1, 2])})
    assert total([coarse, fine, coarse], 1).histograms == {"h": Histogram([1, 2])}


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [([0, 0, 0], 0.5, None), ([10, 0, 0], 0.5, 0.5), ([5, 5, 0], 0.9, 1.8), ([0, 0, 4], 0.5, 2.0)],
)
def test_quantile(counts: list[int], share: float, expected: float | None) -> None:
    """Linear within the bucket; the largest bound where the value is above it; None without values."""
    assert quantile((1.0, 2.0), counts, share) == (None if expected is None else pytest.approx(expected))
