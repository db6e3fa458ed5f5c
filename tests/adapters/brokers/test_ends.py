"""What a broker knows of followed channels without asking."""

from __future__ import annotations

from narthex.adapters.brokers.ends import KnownEnds
from narthex.ports.broker import Position


def test_an_end_goes_forward_only_by_reading() -> None:
    """A page that was overtaken by what was told does not turn it back; another log does."""
    ends = KnownEnds()
    assert ends.find("c") is None
    ends.told("c", Position(5, "e"))
    ends.read("c", Position(4, "e"))
    assert ends.find("c") == Position(5, "e")
    ends.read("c", Position(6, "e"))
    assert ends.find("c") == Position(6, "e")
    ends.told("c", Position(1, "f"))
    assert ends.find("c") == Position(1, "f")


def test_what_was_lost_is_not_known() -> None:
    """One channel, or all."""
    ends = KnownEnds()
    for name in ("a", "b"):
        ends.read(name, Position(1, "e"))
    ends.forget("a")
    ends.forget("a")
    assert (ends.find("a"), ends.find("b")) == (None, Position(1, "e"))
    ends.clear()
    assert ends.find("b") is None
