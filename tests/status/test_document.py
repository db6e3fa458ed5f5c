"""The document: days of a time zone, the share that is known, and latency."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest

from narthex.domain.availability import Evidence, Minutes, ServiceState
from narthex.status.document import ComponentStatus, Readings, StatusComponent, build
from narthex.status.measurements import Newest

BERLIN = ZoneInfo("Europe/Berlin")


def component(
    now: datetime, days: dict[str, Minutes], *, zone: tzinfo = UTC, hours: dict[str, Minutes] | None = None
) -> ComponentStatus:
    """One component of a page at `now`."""
    latest = {"connect": Newest((Evidence("probe", "eu", good=1),), now.timestamp(), 5.0)}
    readings = Readings(latest, {"connect": days}, {"connect": hours or {}}, {}, [])
    document = build("x", [StatusComponent("connect", "Connect")], readings, now.timestamp(), zone, str(zone))
    return document.components[0]


@pytest.mark.parametrize(
    ("date", "minutes"), [("2026-03-29", 1_380), ("2026-10-25", 1_500), ("2026-06-01", 1_440)]
)
def test_a_day_is_as_long_as_the_clock_makes_it(date: str, minutes: int) -> None:
    """On the days of the change an hour less or more is the whole day."""
    now = datetime.fromisoformat(f"{date}T12:00:00").replace(tzinfo=BERLIN)
    found = component(now.replace(day=now.day + 1), {date: Minutes(operational=minutes)}, zone=BERLIN)
    assert [(day.date, day.known) for day in found.days[-2:-1]] == [(date, 1.0)]


def test_today_is_as_long_as_it_has_been() -> None:
    """At noon half a day is all that can be known."""
    now = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC)
    found = component(now, {"2026-11-30": Minutes(operational=719, outage=1)})
    assert found.days[-1].known == 1.0
    assert found.known == 1.0
    assert found.uptime == pytest.approx(719 / 720, abs=1e-6)
    assert len(found.days) == 90


def test_known_is_the_share_since_the_first_sample() -> None:
    """A service of two days with a gap of one is not measured for 2 % of 90 days, but for half of its time."""
    now = datetime(2026, 11, 30, 0, 0, tzinfo=UTC)
    found = component(now, {"2026-11-28": Minutes(operational=1_440)})
    assert found.known == 0.5
    assert found.days[0].state is ServiceState.UNKNOWN


def test_a_minute_of_outage_is_never_rounded_away() -> None:
    """Of 90 days it is 0.0008 %."""
    now = datetime(2026, 11, 30, 0, 0, tzinfo=UTC)
    days = {f"2026-11-{day:02}": Minutes(operational=1_440) for day in range(1, 30)}
    found = component(now, days | {"2026-11-03": Minutes(operational=1_439, outage=1)})
    assert found.uptime is not None
    assert found.uptime < 1.0
    assert found.days[-28].state is ServiceState.DEGRADED


def test_latency_of_a_day_by_the_hour() -> None:
    """The mean counts every measurement, not every hour; hours without any are null."""
    now = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)
    hours = {
        "2026-11-30T12:00+00:00": Minutes(latency_ms_sum=100.0, latency_count=10, latency_ms_max=30.0),
        "2026-11-30T10:00+00:00": Minutes(latency_ms_sum=20.0, latency_count=1, latency_ms_max=20.0),
        "2026-11-29T12:00+00:00": Minutes(latency_ms_sum=9_000.0, latency_count=1, latency_ms_max=9_000.0),
    }
    latency = component(now, {}, hours=hours).latency_ms
    assert (latency.now, latency.mean, latency.max) == (5.0, 10.9, 30.0)
    assert latency.hours[-3:] == (20.0, None, 10.0)
    assert len(latency.hours) == 24
