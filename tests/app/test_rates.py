"""Token buckets by key: exact at N and N+1, waits that are long enough and no longer, bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from narthex.app.rates import Rates


def test_a_burst_is_taken_at_once_and_then_the_rate_holds() -> None:
    """The next one waits whole seconds, at least one, and refused requests do not count."""
    rates = Rates(0.25, 3)
    assert [rates.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 4]
    assert rates.take("b", 100.0) == 0
    assert [rates.take("a", now) for now in (101.0, 103.5, 104.0, 104.0)] == [3, 1, 0, 4]


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    """However long the pause was; a clock that goes back removes nothing."""
    rates = Rates(1.0, 2)
    assert [rates.take("a", now) for now in (0.0, 0.0, 1_000.0, 999.0, 999.0)] == [0, 0, 0, 0, 1]


def test_memory_is_bounded() -> None:
    """The key that was unused for longest is dropped first, and starts full again."""
    rates = Rates(1.0, 1, max_keys=2)
    for key, now in (("a", 1.0), ("b", 1.0), ("a", 2.0), ("c", 2.0)):
        assert rates.take(key, now) == 0
    assert len(rates) == 2
    assert [rates.take(key, 2.0) for key in ("a", "b")] == [1, 0]


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60).map(sorted))
def test_the_wait_is_long_enough(moments: list[float]) -> None:
    """A request after the wait is admitted; no period admits more than the limit."""
    rates, passed = Rates(2.0, 5), list[float]()
    for now in moments:
        wait_s = rates.take("a", now)
        if wait_s:
            assert rates.take("a", now + wait_s) == 0
            return
        passed.append(now)
        for start in passed:
            assert sum(1 for one in passed if one >= start) <= 5 + 2.0 * (now - start) + 1e-6
