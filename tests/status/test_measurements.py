"""Samples become minutes, hours and days, in a real file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from narthex.domain.availability import Minutes, ServiceState
from narthex.status import measurements
from narthex.status.database import _SCHEMA
from narthex.status.measurements import Sample

NOW = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC).timestamp()
NEVER = lambda _component, _start, _end: False  # noqa: E731


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file with the schema."""
    opened = sqlite3.connect(tmp_path / "status.db", isolation_level=None)
    opened.executescript(_SCHEMA)
    yield opened
    opened.close()


def health(node: str = "a", *, at: float = 0.0, **fields: object) -> Sample:
    values: dict[str, object] = {"good": 1} if not {"failed", "degraded", "good"} & set(fields) else {}
    return Sample(component="connect", kind="health", source=node, at=at, every_s=3.0, **(values | fields))  # type: ignore[arg-type]


def hour_of(connection: sqlite3.Connection, now: float, component: str = "connect") -> Minutes:
    name = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:00+00:00")
    return measurements.hours(connection, now - 7_200).get(component, {}).get(name, Minutes())


def roll(connection: sqlite3.Connection, now: float, maintenance: measurements.Maintenance = NEVER) -> None:
    measurements.roll_up(connection, now, UTC, maintenance, ("connect",))


def test_minutes_without_a_sample_are_unknown(connection: sqlite3.Connection) -> None:
    """They count neither as up nor as down."""
    for minute, fields in enumerate([{}, {"failed": 1}, {}, None, {"degraded": 1}]):
        at = NOW + 60 * minute
        if fields is not None:
            measurements.add(connection, [health(**fields)], at)  # type: ignore[arg-type]
    roll(connection, NOW + 300)
    found = hour_of(connection, NOW)
    assert (found.operational, found.outage, found.degraded, found.maintenance) == (2, 1, 1, 0)


def test_an_hour_is_computed_anew_and_never_twice(connection: sqlite3.Connection) -> None:
    """Each process of `--workers` does it, each minute."""
    measurements.add(connection, [health(latency_ms=4.0)], NOW)
    for later in (60, 61, 120):
        roll(connection, NOW + later)
    found = hour_of(connection, NOW)
    assert (found.operational, found.latency_count, found.latency_ms) == (1, 1, 4.0)
    measurements.add(connection, [health("b", failed=3, at=NOW)], NOW + 120)  # it came late
    roll(connection, NOW + 130)
    assert hour_of(connection, NOW).outage == 1


def test_the_minute_that_runs_is_not_counted_yet(connection: sqlite3.Connection) -> None:
    """It may still change."""
    measurements.add(connection, [health()], NOW)
    roll(connection, NOW + 5)
    assert hour_of(connection, NOW) == Minutes()


def test_a_slow_prober_speaks_for_its_interval_and_no_longer(connection: sqlite3.Connection) -> None:
    """Every four minutes is known time; of every hour only five minutes."""
    measurements.add(
        connection, [Sample(component="connect", kind="probe", source="eu", good=1, every_s=240)], NOW
    )
    roll(connection, NOW + 1_200)
    assert hour_of(connection, NOW).operational in (4, 5)
    later = NOW + 3_600
    measurements.add(
        connection, [Sample(component="connect", kind="probe", source="eu", good=1, every_s=3_600)], later
    )
    roll(connection, later + 1_200)
    assert hour_of(connection, later).operational in (5, 6)


def test_samples_of_the_past_and_of_the_future_are_left_out(connection: sqlite3.Connection) -> None:
    """A prober whose clock is wrong must not write history."""
    samples = [health(at=NOW - 3_600), health(at=NOW + 3_600), health(at=NOW - 60)]
    assert measurements.add(connection, samples, NOW) == 1


def test_maintenance_is_neither_up_nor_down(connection: sqlite3.Connection) -> None:
    """An outage within the window counts as maintenance, a good minute as good."""
    measurements.add(connection, [health()], NOW)
    measurements.add(connection, [health(failed=1)], NOW + 60)
    roll(connection, NOW + 120, lambda _c, start, _e: start >= NOW + 29)
    found = hour_of(connection, NOW)
    assert (found.operational, found.maintenance, found.outage) == (1, 1, 0)
    roll(connection, NOW + 121, NEVER)
    assert hour_of(connection, NOW).outage == 1


def test_what_sources_say_now_ends_with_their_interval(connection: sqlite3.Connection) -> None:
    """A gateway that died says nothing any more; another speaks for the service."""
    measurements.add(connection, [health("dead", failed=1), health("alive", latency_ms=2.0)], NOW)
    now = measurements.latest(connection, NOW + 1)["connect"]
    assert measurements.state_of(now) is ServiceState.OUTAGE  # one of two
    assert now.latency_ms == 2.0
    measurements.add(connection, [health("alive")], NOW + 30)
    assert (
        measurements.state_of(measurements.latest(connection, NOW + 31)["connect"])
        is ServiceState.OPERATIONAL
    )
    assert measurements.latest(connection, NOW + 600) == {}


def test_traffic_of_now_is_that_of_two_minutes(connection: sqlite3.Connection) -> None:
    """So that a burst of failures shows at once, and a few seconds are enough to judge."""
    for at in range(4):
        sample = Sample(component="connect", kind="traffic", source=f"n{at % 2}", good=1, failed=9)
        measurements.add(connection, [sample], NOW + 3 * at)
    assert measurements.state_of(measurements.latest(connection, NOW + 12)["connect"]) is ServiceState.OUTAGE
    assert "connect" not in measurements.latest(connection, NOW + 300)


def test_a_day_is_that_of_the_time_zone(connection: sqlite3.Connection) -> None:
    """In Auckland it is tomorrow already."""
    zone = ZoneInfo("Pacific/Auckland")
    measurements.add(connection, [health()], NOW)
    measurements.roll_up(connection, NOW + 60, zone, NEVER, ("connect",))
    assert measurements.days(connection, "2026-11-29")["connect"].keys() == {"2026-12-01"}


def test_days_add_up_from_hours(connection: sqlite3.Connection) -> None:
    """Also over a midnight, and the day that is over stays as it was."""
    midnight = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    for at in (midnight - 90, midnight - 30, midnight + 30):
        measurements.add(connection, [health()], at)
    roll(connection, midnight + 90)
    roll(connection, midnight + 3_700)
    roll(connection, midnight + 90_000)
    days = measurements.days(connection, "2026-11-30")["connect"]
    assert {date: minutes.operational for date, minutes in days.items()} == {"2026-11-30": 2, "2026-12-01": 1}


def test_rows_are_bounded(connection: sqlite3.Connection) -> None:
    """A fleet whose names change with each start cannot fill the disk, and old rows go."""
    samples = [health(f"node-{n}") for n in range(200)]
    measurements.add(connection, samples, NOW)
    assert connection.execute("SELECT count(*) FROM evidence").fetchone()[0] <= 2 * (
        measurements.MAX_SOURCES + 1
    )
    assert connection.execute("SELECT sum(good) FROM evidence").fetchone()[0] >= 200
    roll(connection, NOW + 60)
    measurements.prune(connection, NOW + 11 * 86_400)
    counts = [
        connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("evidence", "latest")
    ]
    assert counts == [0, 0]
    assert measurements.hours(connection, NOW - 86_400) == {}
    assert measurements.days(connection, "2026-11-01") != {}
    measurements.prune(connection, NOW + 401 * 86_400)
    assert measurements.days(connection, "2026-11-01") == {}


def test_one_process_of_the_machine_does_the_work(connection: sqlite3.Connection) -> None:
    """The others find that it was done; a clock that was set back blocks nothing for longer than its step."""
    assert measurements.take_turn(connection, "roll-up", NOW, 30)
    assert not measurements.take_turn(connection, "roll-up", NOW + 29, 30)
    assert measurements.take_turn(connection, "roll-up", NOW + 30, 30)
    assert measurements.take_turn(connection, "roll-up", NOW - 1_000, 30)
