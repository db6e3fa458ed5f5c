"""The window of idempotency keys: a summary equals the window's content."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.brokers.nats.codec import StreamBatch, decode_batch, encode
from narthex.adapters.brokers.nats.keys import MOST_ROWS, KeyWindow, digest


@given(
    st.lists(st.tuples(st.text(min_size=1), st.floats(0, 130)), unique_by=lambda one: one[0], max_size=30),
    st.integers(0, 40),
)
def test_summaries_say_what_the_window_knew(uses: list[tuple[str, float]], since: int) -> None:
    """Offsets exactly, times to a tenth of a second and never too early, through the codec."""
    window, now = KeyWindow(), 1_000_000.0
    ages = sorted((age for _, age in uses), reverse=True)
    for offset, ((key, _), age) in enumerate(zip(uses, ages, strict=True), start=1):
        window.add(digest(key), offset, now - age)
    made = window.summary(since, len(uses), now)
    assert made is not None
    found = decode_batch(encode(StreamBatch(b"", "", len(uses) + 1, 0, 0, [], made))).keys
    assert found is not None
    copy = KeyWindow()
    copy.take(found)
    assert len(copy) == sum(offset >= since for offset in range(1, len(uses) + 1))
    for key, _ in uses:
        was, told = window.find(digest(key)), copy.find(digest(key))
        assert was is not None
        if was.offset >= since:
            assert told is not None
            assert told.offset == was.offset
            assert -1e-6 <= told.at - was.at < 0.1001


def test_too_many_keys_give_no_summary() -> None:
    """Keys that would not fit in a message are reported, not cut."""
    window = KeyWindow()
    for number in range(MOST_ROWS + 1):
        window.add(digest(str(number)), number + 1, 0.0)
    assert window.summary(0, MOST_ROWS + 1, 0.0) is None
    assert window.summary(2, MOST_ROWS + 1, 0.0) is not None


def test_expired_keys_are_forgotten() -> None:
    """Those used at the cut-off or before."""
    window = KeyWindow()
    for number in range(3):
        window.add(digest(str(number)), number + 1, float(number))
    window.expire(1.0)
    assert [digest(str(number)) in window for number in range(3)] == [False, False, True]


def test_a_key_that_is_used_again_stands_where_it_was_used_last() -> None:
    """Another node forgot it slightly earlier: the next summary has it, and no older key waits behind it."""
    window = KeyWindow()
    for number in range(3):
        window.add(digest(str(number)), number + 1, float(number))
    window.add(digest("0"), 4, 130.0)
    copy, made = KeyWindow(), window.summary(4, 4, 130.0)
    assert made is not None
    copy.take(made)
    assert digest("0") in copy
    window.expire(10.0)
    assert len(window) == 1


def test_a_summary_of_what_lies_before_what_is_known() -> None:
    """A reader that starts in the middle of a trimmed log meets older keys later: its summary is complete then."""
    whole, window, copy = KeyWindow(), KeyWindow(), KeyWindow()
    for number in range(10):
        whole.add(digest(str(number)), number + 1, float(number))
    for number in (7, 8, 9):
        window.add(digest(str(number)), number + 1, float(number))
    made = whole.summary(0, 10, 10.0)
    assert made is not None
    window.take(made)
    newest = window.summary(8, 10, 10.0)
    assert newest is not None
    copy.take(newest)
    assert [digest(str(number)) in copy for number in (6, 7, 8, 9)] == [False, True, True, True]
    window.expire(6.5)
    assert len(window) == 3
