"""A node that misses publications finds out by comparing, within its bound, and re-reads the channels concerned."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from narthex.app import staleness
from narthex.app.staleness import BOUND_S, StalenessCheck
from narthex.errors import DependencyError
from narthex.ports.broker import Position
from tests.app.lossy import LossyBroker, SharedLog
from tests.timing import within


class Followed:
    """A node's channels: positions that the test sets; `behind` follows the hub's rule."""

    def __init__(self) -> None:
        self.now: dict[str, Position] = {}
        self.reread: list[str] = []
        self.happened = asyncio.Event()

    def positions(self) -> Mapping[str, Position]:
        return dict(self.now)

    def behind(self, known: Mapping[str, Position], ends: Mapping[str, Position]) -> list[str]:
        assert set(ends) <= set(known)
        return [channel for channel, end in ends.items() if self.now[channel] != end]

    def resync(self, channels: list[str] | None) -> None:
        assert channels is not None
        self.reread += channels
        self.happened.set()


async def test_what_is_behind_is_read_again_and_counted() -> None:
    """Of two channels one advanced without a message: that one."""
    log, followed, counted = SharedLog(), Followed(), list[int]()
    broker = LossyBroker(log)
    followed.now = {"a": Position(0, "e1"), "b": Position(0, "e1")}
    await broker.publish("a", b"1")
    check = StalenessCheck(followed, broker, counted.append, grace_s=0.0)
    assert await check.compare() == 1
    assert (followed.reread, counted) == (["a"], [1])
    followed.now["a"] = Position(1, "e1")
    assert await check.compare() == 0
    assert (followed.reread, counted) == (["a"], [1])


async def test_a_channel_that_moves_is_given_a_moment() -> None:
    """A publication that arrives within the grace period was in flight: nothing is read for it."""
    log, followed = SharedLog(), Followed()
    broker = LossyBroker(log)
    followed.now = {"a": Position(0, "e1")}
    await broker.publish("a", b"1")
    check = StalenessCheck(followed, broker, grace_s=0.05)
    comparing = asyncio.create_task(check.compare())
    await asyncio.sleep(0)
    followed.now["a"] = Position(1, "e1")
    assert await comparing == 0
    assert followed.reread == []


async def test_positions_are_fresh_for_as_long_as_they_were_compared() -> None:
    """A node that can no longer compare reports it after the bound, and is fresh again after the next comparison."""
    now = [100.0]
    broker = LossyBroker(SharedLog())
    check = StalenessCheck(Followed(), broker, clock=lambda: now[0])
    assert not check.fresh()
    await check.compare()
    now[0] += BOUND_S
    assert check.fresh()
    now[0] += 0.001
    assert not check.fresh()
    broker.away = True
    with pytest.raises(DependencyError):
        await check.compare()
    assert not check.fresh()
    broker.away = False
    await check.compare()
    assert check.fresh()


async def test_it_compares_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is down, and a bug, cost one turn; later changes are found; a second start has no effect."""
    monkeypatch.setattr(staleness, "RETRY_S", 0.001)
    log, followed = SharedLog(), Followed()
    broker = LossyBroker(log)
    check = StalenessCheck(followed, broker, every_s=0.001, grace_s=0.0)
    await check.start()
    await check.start()
    broker.away = True
    await asyncio.sleep(0.02)
    followed.now = {"a": Position(5, "e1")}
    monkeypatch.setattr(followed, "positions", lambda: 1 / 0)
    broker.away = False
    await asyncio.sleep(0.02)
    monkeypatch.undo()
    async with asyncio.timeout(within(5)):
        await followed.happened.wait()
    await check.stop()
    compared = len(broker.compared)
    await asyncio.sleep(0.01)
    assert len(broker.compared) == compared
    assert followed.reread[0] == "a"
    assert check.fresh()


async def test_an_answer_that_is_lost_does_not_hold_up_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison whose answer never arrives is given up long before the engine's own time-out."""
    monkeypatch.setattr(staleness, "ASK_S", 0.05)
    log, followed = SharedLog(), Followed()
    broker = LossyBroker(log)
    real = broker.behind

    async def never(known: Mapping[str, Position]) -> Mapping[str, Position]:
        await asyncio.Event().wait()
        return known

    monkeypatch.setattr(broker, "behind", never)
    check = StalenessCheck(followed, broker)
    async with asyncio.timeout(within(5)):
        with pytest.raises(DependencyError):
            await check.compare()
    monkeypatch.setattr(broker, "behind", real)
    assert await check.compare() == 0
