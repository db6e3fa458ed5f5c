"""`narthex.app.presence`: joins and leaves that overlap, and a broker that is down."""

from __future__ import annotations

from typing import Any

from narthex.app.presence import LocalPresence
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from tests.app.runs.fakes import FakeMeter


class Lists:
    """The presence of a broker: its calls, and whether it is down."""

    def __init__(self, *, away: bool = False) -> None:
        self.asked: list[tuple[str, str]] = []
        self.away = away

    async def join(self, key: str, member: Any) -> None:
        """See the port."""
        self._record("join", key)

    async def leave(self, key: str, client: str) -> None:
        """See the port."""
        self._record("leave", key)

    def _record(self, call: str, key: str) -> None:
        self.asked.append((call, key))
        if self.away:
            raise DependencyError("broker", "It is away.", "Start it.")


class Place:
    """The parts of a connection that presence needs."""

    client = "c1"
    identity = Identity(subject="ann", name="Ann")

    def __init__(self, *names: str) -> None:
        self.subscriptions = dict.fromkeys(names)


def place(*names: str) -> Any:
    """A connection in these channels."""
    return Place(*names)


def presence(broker: Any, meter: FakeMeter | None = None) -> LocalPresence:
    """Without background tasks."""
    absent: Any = None
    return LocalPresence(broker, absent, meter or FakeMeter())


async def test_a_client_that_left_meanwhile_is_taken_out_of_presence_again() -> None:
    """The broker may have executed the join after the leave."""
    lists = Lists()
    await presence(lists).join(place("thread:a"), "t/thread:a")
    await presence(lists).join(place("thread:a"), "t/thread:b")
    assert lists.asked == [("join", "t/thread:a"), ("join", "t/thread:b"), ("leave", "t/thread:b")]


async def test_a_client_that_came_back_meanwhile_is_put_into_presence_again() -> None:
    """The broker may have executed the leave after the join."""
    lists = Lists()
    await presence(lists)._left(place("thread:a"), "t/thread:a")
    await presence(lists)._left(place(), "t/thread:b")
    assert lists.asked == [("leave", "t/thread:a"), ("join", "t/thread:a"), ("leave", "t/thread:b")]


async def test_presence_that_the_broker_does_not_take_is_counted() -> None:
    """Presence is best effort: no command fails for it."""
    meter = FakeMeter()
    found = presence(Lists(away=True), meter)
    await found.join(place("thread:a"), "t/thread:a")
    await found._left(place(), "t/thread:a")
    assert meter.counts == {"presence_failures": 2}
