"""The presence table, with a clock that the test moves."""

from __future__ import annotations

from narthex.adapters.brokers.presence import PresenceTable
from narthex.ports.broker import Member

ANN = Member("c1", "ann")
BOB = Member("c2", "bob")


def test_expiry_and_refresh() -> None:
    """A refresh extends, silence ends it, `expire` returns the members and removes them."""
    table = PresenceTable(60.0)
    assert table.join("x", ANN, 0.0)
    assert table.join("x", BOB, 10.0)
    assert not table.join("x", ANN, 50.0)
    assert table.members("x", 69.9) == {"c1": ANN, "c2": BOB}
    assert table.members("x", 70.0) == {"c1": ANN}
    assert table.expire(70.0) == [("x", BOB)]
    assert table.expire(110.0) == [("x", ANN)]
    assert table._channels == {}


def test_who_expired_joins_anew() -> None:
    """Returning after the end is a join, even before `expire` ran."""
    table = PresenceTable(60.0)
    table.join("x", ANN, 0.0)
    assert table.join("x", ANN, 60.0)


def test_leave() -> None:
    """Leaving gives the member back once; empty channels take no room."""
    table = PresenceTable(60.0)
    table.join("x", ANN, 0.0)
    assert table.leave("x", "c1") == ANN
    assert table.leave("x", "c1") is None
    assert table.leave("y", "c1") is None
    assert table._channels == {}
