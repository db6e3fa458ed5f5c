"""Latencies over time: exact percentiles, bins that lose nothing, gaps where nothing began."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.reports.latency import SLICES, bin_edge, bin_of, histogram, merged, record


@given(st.floats(min_value=0.001, max_value=1e7))
def test_every_latency_is_within_its_bin(ms: float) -> None:
    """A bin holds what lies between its edge and the next one; the edges grow by a fourth of a doubling."""
    number = bin_of(ms)
    assert bin_edge(number) <= ms * (1 + 1e-9)
    assert ms <= bin_edge(number + 1) * (1 + 1e-9)
    assert bin_edge(number + 4) == pytest.approx(2 * bin_edge(number))


def test_a_latency_of_nothing_has_a_bin() -> None:
    """A clock may not tell an operation's end from its beginning."""
    assert bin_of(0.0) == bin_of(0.001)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 100)), min_size=1, max_size=200))
def test_a_record_loses_no_operation(waits: list[tuple[float, float]]) -> None:
    """Counts and bins add up to every operation, and the largest one is a slice's maximum."""
    found = record(waits)
    assert found is not None
    assert len(found.slices) <= SLICES
    assert sum(part.count for part in found.slices) == len(waits)
    assert merged(part.bins for part in found.slices) == histogram(wait * 1e3 for _, wait in waits)
    assert max(part.max_ms for part in found.slices) == pytest.approx(
        max(wait for _, wait in waits) * 1e3, abs=1e-3
    )
    for part in found.slices:
        assert part.p50_ms <= part.p90_ms <= part.p99_ms <= part.max_ms


def test_a_slice_without_operations_is_left_out() -> None:
    """It has no latency, and zero would be a lie."""
    found = record([(0.0, 0.001), (10.0, 0.002)], slices=10)
    assert found is not None
    assert [part.at_s for part in found.slices] == [0.0, 9.0]
    assert record([]) is None
