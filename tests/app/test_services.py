"""What all connections of a node share: how their pings and their ends are spread, and their places in presence."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.app.services import ConnectionServices
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.protocol.session import NEVER, SessionLimits
from tests.app.runs.fakes import FakeMeter


class Fixed:
    """A `random.Random` that draws one number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        """Between 0 and 1."""
        return self.number


class Lists:
    """The presence of a broker: what it was asked, and whether it is away."""

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
    """As much of a connection as presence needs."""

    client = "c1"
    identity = Identity(subject="ann", name="Ann")

    def __init__(self, *names: str) -> None:
        self.subscriptions = dict.fromkeys(names)


def services(*, max_life_s: float = 0.0, draws: float = 0.0, broker: Any = None) -> ConnectionServices[Any]:
    """With what these tests need; the rest is never asked for."""
    absent: Any = None
    return ConnectionServices(
        node="n1",
        version="v",
        broker=broker,
        hub=absent,
        in_band=absent,
        meter=FakeMeter(),
        timers=absent,
        tasks=absent,
        session_limits=SessionLimits(ping_every_s=25.0),
        backlog_limits=absent,
        now=lambda: 0.0,
        report_bug=lambda fault, _: None,
        max_life_s=max_life_s,
        spread=Fixed(draws),  # type: ignore[arg-type]  # as much of it as is used
    )


@pytest.mark.parametrize(("draws", "first_ping_s", "life_s"), [(0.0, 5.0, 950.0), (1.0, 25.0, 1_050.0)])
def test_what_connections_do_at_once_is_spread(draws: float, first_ping_s: float, life_s: float) -> None:
    """The first ping over the period, but not at once; the life by a twentieth either way."""
    found = services(max_life_s=1_000.0, draws=draws)
    assert found.first_ping_in_s() == pytest.approx(first_ping_s)
    assert found.life_s() == pytest.approx(life_s)


def test_a_connection_without_a_longest_life_is_never_rotated() -> None:
    """0 turns the rotation off."""
    assert services(max_life_s=0.0).life_s() == NEVER


async def test_a_client_that_left_meanwhile_is_taken_out_of_presence_again() -> None:
    """The broker may have executed the join after the leave."""
    lists = Lists()
    await services(broker=lists).join_presence(Place("thread:a"), "t/thread:a")
    await services(broker=lists).join_presence(Place("thread:a"), "t/thread:b")
    assert lists.asked == [("join", "t/thread:a"), ("join", "t/thread:b"), ("leave", "t/thread:b")]


async def test_a_client_that_came_back_meanwhile_is_put_into_presence_again() -> None:
    """The broker may have executed the leave after the join."""
    lists = Lists()
    await services(broker=lists)._left(Place("thread:a"), "t/thread:a")
    await services(broker=lists)._left(Place(), "t/thread:b")
    assert lists.asked == [("leave", "t/thread:a"), ("join", "t/thread:a"), ("leave", "t/thread:b")]


async def test_presence_that_the_broker_does_not_take_is_counted() -> None:
    """Presence is best effort: no command fails for it."""
    found = services(broker=Lists(away=True))
    await found.join_presence(Place("thread:a"), "t/thread:a")
    await found._left(Place(), "t/thread:a")
    assert isinstance(found.meter, FakeMeter)
    assert found.meter.counts == {"presence_failures": 2}
