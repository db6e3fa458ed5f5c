"""The positions of followed channels that a broker knows without a request."""

from __future__ import annotations

from narthex.adapters.brokers.known_positions import KnownPositions
from narthex.ports.broker import Position


def test_an_end_goes_forward_only_by_reading() -> None:
    """A page that is older than a received publication does not move it back; another log does."""
    known = KnownPositions()
    assert known.find("c") is None
    known.delivered("c", Position(5, "e"))
    known.read("c", Position(4, "e"))
    assert known.find("c") == Position(5, "e")
    known.read("c", Position(6, "e"))
    assert known.find("c") == Position(6, "e")
    known.delivered("c", Position(1, "f"))
    assert known.find("c") == Position(1, "f")


def test_what_was_lost_is_not_known() -> None:
    """One channel, or all."""
    known = KnownPositions()
    for name in ("a", "b"):
        known.read(name, Position(1, "e"))
    known.forget("a")
    known.forget("a")
    assert (known.find("a"), known.find("b")) == (None, Position(1, "e"))
    known.clear()
    assert known.find("b") is None
