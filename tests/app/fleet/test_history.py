"""History on a real store: rows of nodes, sums, ages, late rows, and what a range answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app.fleet.history import (
    FINE_S,
    HOUR_S,
    KEPT_S,
    MAX_UNWRITTEN,
    MINUTE_S,
    RANGES,
    HistoryReader,
    HistoryRecorder,
)
from narthex.domain.figures import Figures, Histogram
from narthex.errors import DependencyError
from narthex.ports.history import HistoryRow

HOUR = 1_700_000_000 // HOUR_S * HOUR_S


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    found = SqliteStore(tmp_path / "store.db")
    await found.start()
    yield found
    await found.stop()


class Node:
    """A process whose counters tests move; its clock is the fleet's."""

    def __init__(self, store: SqliteStore, clock: list[float], name: str) -> None:
        self.count = 0
        self.connections = 0
        self.clock = clock
        self.recorder = HistoryRecorder(name, store.history, self.figures, lambda: clock[0])

    def figures(self) -> Figures:
        """Since the start."""
        return Figures(
            {"handshakes|admitted|ok|user": self.count},
            {"connections_active|user": self.connections},
            {"breaker_state|auth|user": 0},
            {"handshake_seconds": Histogram([self.count, 0], self.count / 1000)},
        )

    async def close(self) -> None:
        """End the interval that is under way and write it."""
        self.recorder.tick(self.clock[0])
        await self.recorder._write()


async def read(store: SqliteStore, name: str, now: float) -> dict[str, Any]:
    """What a range answers."""
    return dict(msgspec.json.decode(await HistoryReader(store.history, lambda: now).read(name)))


async def test_figures_of_two_nodes_become_minutes_and_hours_whose_sums_are_equal(store: SqliteStore) -> None:
    """Every handshake is in each resolution exactly once, whoever sums, and however often."""
    clock = [float(HOUR)]
    nodes = [Node(store, clock, "a"), Node(store, clock, "b")]
    for node in nodes:
        node.recorder._interval = int(clock[0]) // FINE_S
    for _ in range(HOUR_S // FINE_S):
        for weight, node in enumerate(nodes, 1):
            node.count += weight
            node.connections = 10 * weight
        clock[0] += FINE_S
        for node in nodes:
            await node.close()
        if clock[0] % 600 == 0:
            await nodes[int(clock[0]) % 2].recorder.sum_up()
    clock[0] += 2 * MINUTE_S
    await nodes[0].recorder.sum_up()
    await nodes[1].recorder.sum_up()
    for resolution in (FINE_S, MINUTE_S, HOUR_S):
        rows = await store.history.history(resolution, HOUR, HOUR + HOUR_S, 100_000)
        figures = [msgspec.json.decode(row.data, type=Figures) for row in rows]
        assert sum(one.counters["handshakes|admitted|ok|user"] for one in figures) == 3 * 360, resolution
        assert sum(sum(one.histograms["handshake_seconds"].counts) for one in figures) == 3 * 360
    (hour,) = await store.history.history(HOUR_S, HOUR, HOUR + HOUR_S, 10)
    found = msgspec.json.decode(hour.data, type=Figures)
    assert found.gauges["connections_active|user"] == pytest.approx(30)
    assert found.gauges["node|b"] == pytest.approx(20)
    answer = await read(store, "6h", clock[0])
    known = [value for value in answer["counters"]["handshakes|admitted|ok|user"] if value is not None]
    assert sum(known) == 3 * 360
    assert (
        answer["counters"]["handshakes|admitted|ok|user"][0] is None
    )  # before the first node: unknown, not zero
    assert len(answer["at"]) == 360


async def test_the_interval_under_way_is_in_a_long_range_before_it_is_summed(store: SqliteStore) -> None:
    """The right edge of 24 hours shows the last minutes too."""
    clock = [float(HOUR)]
    node = Node(store, clock, "a")
    node.recorder._interval = HOUR // FINE_S
    for _ in range(3):
        node.count += 7
        clock[0] += FINE_S
        await node.close()
    for name, step_s in ("15m", FINE_S), ("6h", MINUTE_S), ("24h", 2 * MINUTE_S):
        answer = await read(store, name, clock[0] + 3)
        known = [value for value in answer["counters"]["handshakes|admitted|ok|user"] if value]
        assert known[-1] / step_s == pytest.approx(0.7), name  # a rate, and no fall at the right edge
    answer = await read(store, "90d", clock[0] + 3)
    assert answer["counters"] == {}  # 30 s say nothing about three hours


async def test_figures_of_an_outage_of_the_store_are_written_later_and_summed_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node has summed the minute meanwhile; the late row is added to it all the same."""
    clock = [float(HOUR)]
    node, other = Node(store, clock, "a"), Node(store, clock, "b")
    for one in (node, other):
        one.recorder._interval = HOUR // FINE_S
        one.count = 1
    put = store.history.put_history

    async def away(_: list[HistoryRow]) -> None:
        raise DependencyError("store", "It is away.", "Wait.")

    clock[0] += FINE_S
    await other.close()
    monkeypatch.setattr(store.history, "put_history", away)
    with pytest.raises(DependencyError):
        await node.close()
    monkeypatch.setattr(store.history, "put_history", put)
    clock[0] += 3 * MINUTE_S
    await other.recorder.sum_up()
    await node.recorder._write()
    await node.recorder.sum_up()
    (minute,) = await store.history.history(MINUTE_S, HOUR, HOUR + MINUTE_S, 10)
    assert msgspec.json.decode(minute.data, type=Figures).counters["handshakes|admitted|ok|user"] == 2


async def test_unwritten_figures_are_bounded(store: SqliteStore) -> None:
    """A store that is away for a day costs no memory."""
    clock = [float(HOUR)]
    node = Node(store, clock, "a")
    for _ in range(MAX_UNWRITTEN + 20):
        clock[0] += FINE_S
        node.recorder.tick(clock[0])
    assert len(node.recorder._unwritten) == MAX_UNWRITTEN


async def test_old_rows_go(store: SqliteStore) -> None:
    """Each resolution keeps its own age."""
    rows = [
        HistoryRow(resolution=resolution, at=HOUR - kept_s + age, node="", data="{}")
        for resolution, kept_s in KEPT_S.items()
        for age in (-resolution, resolution)
    ]
    await store.history.put_history(rows)
    node = Node(store, [float(HOUR)], "a")
    await node.recorder.sum_up()
    for resolution, kept_s in KEPT_S.items():
        kept = await store.history.history(resolution, 0, HOUR - kept_s + 2 * resolution, 10)
        assert [row.at for row in kept] == [HOUR - kept_s + resolution]


async def test_ninety_days_of_twenty_nodes_are_read_in_a_moment(store: SqliteStore) -> None:
    """Every hour of 90 days with as many series as a busy fleet has: at most 720 points, within a second."""
    counters = {f"handshakes|refused|code{number}|user": 5.0 for number in range(40)}
    gauges = {f"node|node-{number}": 500.0 for number in range(20)}
    histograms = {name: Histogram([3] * 15, 1.0) for name in ("handshake_seconds", "run_start_seconds")}
    data = msgspec.json.encode(Figures(counters, gauges, {}, histograms)).decode()
    await store.history.put_history(
        [
            HistoryRow(resolution=HOUR_S, at=HOUR - hours * HOUR_S, node="", data=data)
            for hours in range(2_160)
        ]
    )
    began = time.perf_counter()
    answer = await read(store, "90d", HOUR)
    took_s = time.perf_counter() - began
    print(f"90 days in {took_s * 1000:.0f} ms")
    assert len(answer["at"]) == RANGES["90d"].length_s // RANGES["90d"].step_s == 720
    assert answer["gauges"]["node|node-3"][100] == pytest.approx(500)
    assert took_s < 1.0


async def test_interval_under_way_is_written_at_the_end(store: SqliteStore) -> None:
    """A process that stops in order leaves no gap, and its last handshakes count."""
    clock = [float(HOUR)]
    node = Node(store, clock, "a")
    await node.recorder.start()
    node.count = 4
    await node.recorder.stop()
    (row,) = await store.history.history(FINE_S, HOUR, HOUR + FINE_S, 10)
    assert msgspec.json.decode(row.data, type=Figures).counters == {"handshakes|admitted|ok|user": 4}
