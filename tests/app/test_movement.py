"""Whether a channel moves, as a node can tell that executes none of its runs."""

from __future__ import annotations

from narthex.app.movement import STEPS_KEPT, Movement


def test_a_channel_that_stands_still_is_told_after_one_step() -> None:
    """The first answer is "maybe", for everybody who asks within the step; then it is known."""
    movement = Movement(5.0)
    assert movement.moves("a", 7, 100.0)
    assert movement.moves("a", 7, 101.0)
    assert not movement.moves("a", 7, 105.0)
    assert not movement.moves("a", 7, 106.0)


def test_a_channel_that_moves_is_told_as_long_as_it_does() -> None:
    """Each new end is another step; another channel's is not its."""
    movement = Movement(5.0)
    for number in range(10):
        assert movement.moves("a", number, 100.0 + 5 * number)
        movement.moves("b", 1, 100.0 + 5 * number)
    assert not movement.moves("b", 1, 145.0)
    assert not movement.moves("a", 9, 150.0)


def test_old_looks_are_forgotten() -> None:
    """What was seen long ago says nothing, and is not kept."""
    movement = Movement(5.0)
    for number in range(100):
        movement.moves(str(number), 1, 100.0)
    later = 100.0 + 5 * STEPS_KEPT + 1
    assert movement.moves("0", 1, later)
    assert len(movement._looks) == 1
