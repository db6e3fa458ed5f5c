"""Whether a channel is active, as seen by a node that executes none of its runs."""

from __future__ import annotations

from narthex.app.channel_activity import ChannelActivity


def test_a_channel_that_stands_still_is_told_after_one_step() -> None:
    """The first answer is "maybe" for all callers within the step; then it is known."""
    activity = ChannelActivity(5.0)
    assert activity.may_be_active("a", 7, 100.0)
    assert activity.may_be_active("a", 7, 101.0)
    assert not activity.may_be_active("a", 7, 105.0)
    assert not activity.may_be_active("a", 7, 106.0)


def test_a_channel_that_moves_is_told_as_long_as_it_does() -> None:
    """Each new end counts for another step; another channel's does not."""
    activity = ChannelActivity(5.0)
    for number in range(10):
        assert activity.may_be_active("a", number, 100.0 + 5 * number)
        activity.may_be_active("b", 1, 100.0 + 5 * number)
    assert not activity.may_be_active("b", 1, 145.0)
    assert not activity.may_be_active("a", 9, 150.0)


def test_old_looks_are_forgotten() -> None:
    """Old observations mean nothing and are not kept."""
    activity = ChannelActivity(5.0)
    for number in range(100):
        activity.may_be_active(str(number), 1, 100.0)
    later = 121.0  # four steps and one second
    assert activity.may_be_active("0", 1, later)
    assert len(activity._looks) == 1
