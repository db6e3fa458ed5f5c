"""Snapshots on their way: to the other processes, to the operators connected here, and without a broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from narthex.app.fleet import FleetView, publishing
from narthex.app.fleet.publishing import ANNOUNCE_EVERY_S, WATCH_S, SnapshotPublisher
from narthex.app.fleet.snapshots import SnapshotBuilder
from narthex.domain.figures import Figures
from narthex.errors import DependencyError
from narthex.ports.broker import Control
from tests.timing import within


class Process:
    """A process whose control messages reach others, with operators and a broker that tests take away."""

    def __init__(self, node: str, now: float = 1_000.0) -> None:
        self.now = now
        self.others: list[Process] = []
        self.sent: list[Control] = []
        self.shown: list[dict[str, Any]] = []
        self.ticks: list[float] = []
        self.watched_by: list[object] = []
        self.fault: Exception | None = None
        self._changed = asyncio.Event()
        self.view = FleetView(lambda: self.now)
        builder = SnapshotBuilder(
            node=node,
            kind="gateway",
            version="1",
            environment="testing",
            read=lambda: Figures(counters={}, gauges={}),
            state=lambda: "ready",
            clock=lambda: self.now,
        )
        self.publisher = SnapshotPublisher(
            builder, self.view, self, Operators(self), on_tick=self._ticked, clock=lambda: self.now
        )

    async def control(self, message: Control) -> None:
        """As `ControlBus.control`."""
        if self.fault is not None:
            raise self.fault
        self.sent.append(message)
        for other in self.others:
            other.publisher.control(message)

    def _ticked(self, now: float) -> None:
        self.ticks.append(now)
        self._changed.set()

    async def tick(self) -> None:
        """Make it send a snapshot now."""
        before = len(self.ticks)
        self.publisher.wake()
        await self.until(lambda: len(self.ticks) > before)
        await asyncio.sleep(0)  # the messages behind the tick

    async def first_tick(self) -> None:
        """Wait until it has begun."""
        await self.until(lambda: bool(self.ticks))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for ticks until it holds."""
        async with asyncio.timeout(within(5)):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def kinds(self) -> list[str]:
        """The kinds of the messages that were sent since the last call."""
        found = [message.kind for message in self.sent]
        self.sent.clear()
        return found


class Operators:
    """The operators that are connected to a process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def subscribers(self, key: str) -> list[object]:
        """As `Hub.subscribers`."""
        return self._process.watched_by if key.endswith("operator:live") else []

    def control(self, message: Control) -> None:
        """As `Hub.control`."""
        self._process.shown.append(json.loads(str(message.data["data"])))


@pytest.fixture(autouse=True)
def no_tick_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests say when, by `tick`."""
    monkeypatch.setattr(publishing, "WATCHED_EVERY_S", 600.0)
    monkeypatch.setattr(publishing, "SPARSE_EVERY_S", 900.0)


@pytest.fixture
async def fleet() -> AsyncIterator[tuple[Process, Process]]:
    """Two started processes."""
    one, two = Process("a"), Process("b")
    one.others, two.others = [two], [one]
    async with AsyncExitStack() as stack:
        for process in (one, two):
            await process.publisher.start()
            stack.push_async_callback(process.publisher.stop)
            await process.first_tick()
        yield one, two


def nodes(process: Process) -> dict[str, str]:
    """The processes that one process knows, with their states."""
    return {member.snapshot.node: member.status for member in process.view.members()}


async def test_each_process_knows_itself_and_the_others(fleet: tuple[Process, Process]) -> None:
    """Also when its own messages come back to it; one that stops says so and does not count as dead."""
    one, two = fleet
    one.others.append(one)  # as a bus does
    await one.tick()
    await two.tick()
    assert nodes(one) == nodes(two) == {"a": "up", "b": "up"}
    gauges = [member.snapshot.figures.gauges for member in one.view.members()]
    assert [(found["version|1"], found["state|ready"]) for found in gauges] == [(1.0, 1.0)] * 2  # they add up
    await two.publisher.stop()
    assert nodes(one) == {"a": "up", "b": "left"}
    two.kinds()
    await two.publisher.stop()  # a process that does not run says nothing
    assert two.kinds() == []


async def test_operators_of_one_process_are_shown_every_process(fleet: tuple[Process, Process]) -> None:
    """By snapshots on their channel; where no operator is connected nothing is encoded for one."""
    one, two = fleet
    one.watched_by.append(object())
    one.shown.clear()
    await one.tick()
    await two.tick()
    assert {(event["type"], event["snapshot"]["node"]) for event in one.shown} == {
        ("snapshot", "a"),
        ("snapshot", "b"),
    }
    assert two.shown == []


async def test_watching_operators_speed_every_process_up_for_a_while(fleet: tuple[Process, Process]) -> None:
    """They are announced every few seconds; without them a process returns to its slow pace."""
    one, two = fleet
    await one.tick()
    assert one.kinds()[-1] == "snapshot"
    one.watched_by.append(object())
    await one.tick()
    assert one.kinds() == ["watch", "snapshot"]
    await two.until(lambda: len(two.ticks) > 1)  # the announcement alone makes it send one at once
    assert (one.view.watched, two.view.watched) == (True, True)
    assert {member.snapshot.every_s for member in one.view.members()} == {publishing.WATCHED_EVERY_S}
    one.now += ANNOUNCE_EVERY_S - 0.1
    await one.tick()
    assert one.kinds() == ["snapshot"]
    one.now += 0.1
    await one.tick()
    assert one.kinds() == ["watch", "snapshot"]
    one.watched_by.clear()
    for process in fleet:
        process.now += WATCH_S + 1
        await process.tick()
    assert (one.kinds(), one.view.watched, two.view.watched) == (["snapshot"], False, False)


async def test_a_question_of_an_operator_counts_as_watching(fleet: tuple[Process, Process]) -> None:
    """For example a dashboard that polls: the next snapshots come at once and each second."""
    one, _ = fleet
    before = len(one.ticks)
    one.publisher.watch()
    await one.until(lambda: len(one.ticks) > before)
    assert one.view.watched
    assert "watch" in one.kinds()


async def test_a_broker_that_is_away_costs_the_news_of_the_others_only() -> None:
    """It is logged once for an outage, and its own operators go on seeing this process."""
    one = Process("a")
    one.watched_by.append(object())
    away = DependencyError("broker", "away")
    one.fault = away
    with capture_logs() as logs:
        await one.publisher.start()
        try:
            await one.first_tick()
            for fault in (away, None, away):
                one.fault = fault
                await one.tick()
                await one.tick()
        finally:
            one.fault = None
            await one.publisher.stop()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["snapshot_not_sent"] * 2
    assert {event["snapshot"]["node"] for event in one.shown} == {"a"}
    assert len(one.shown) == len(one.ticks)


@pytest.mark.parametrize("data", [{}, {"snapshot": {"node": 7}}, {"snapshot": "x"}])
async def test_a_snapshot_of_another_version_is_passed_over(
    fleet: tuple[Process, Process], data: dict[str, object]
) -> None:
    """It neither fails the bus nor changes what is known."""
    one, _ = fleet
    known = nodes(one)
    one.publisher.control(Control("snapshot", data))
    assert nodes(one) == known
