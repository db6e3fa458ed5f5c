"""Samples in the status database, at falling resolution: evidence of minutes, then hours, then days.

    samples ─▶ evidence (a row a minute, component and source; 3 h) ─▶ hours (10 days) ─▶ days (400 days)

Not here: the rules (`domain/availability.py`), the file (`database`). Rules: each function works within the
transaction that it is given; `now` is an argument; an hour is computed anew from its minutes while these are kept, so
that a sample that comes late, or a second process, changes nothing twice.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from functools import reduce
from typing import Annotated, Final, NamedTuple

import msgspec

from narthex.domain.availability import (
    HOUR_S,
    MINUTE_S,
    NO_MINUTES,
    Evidence,
    Kind,
    Minutes,
    ServiceState,
    counted,
    measured_state,
    minute_of,
)

EVIDENCE_S: Final = 3 * HOUR_S
HOURS_S: Final = 10 * 86_400
DAYS_S: Final = 400 * 86_400
LATE_S: Final = 600.0  # by which a sample may be late
EARLY_S: Final = 60.0  # by which a prober's clock may be ahead
MAX_INTERVAL_S: Final = 300.0  # one sample counts for at most so long
FRESH_FACTOR: Final = 2.5  # intervals after which a silent source is not counted any more
FRESH_MORE_S: Final = 10.0
MAX_SOURCES: Final = 64  # of one component and kind in a minute; more are counted together
OTHER: Final = "other"

Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An observation of a component by a source: one check or probe, or the requests of a few seconds.

    Attributes:
        component: its id; an unknown one is left out.
        kind: the origin.
        source: names the prober or the instance; it is never shown.
        good: checks or requests that went well. `degraded`, `failed`: likewise.
        latency_ms: of a check or probe that went well.
        every_s: the interval of the source: a sample counts for so long, up to 5 min.
        at: seconds since the epoch; 0: now.
    """

    component: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    kind: Kind
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    good: Count = 0
    degraded: Count = 0
    failed: Count = 0
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=3_600_000)] | None = None
    every_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 30.0
    at: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0


class Newest(NamedTuple):
    """The newest samples of a component that still count."""

    evidence: tuple[Evidence, ...]
    at: float
    latency_ms: float | None


def add(connection: sqlite3.Connection, samples: Iterable[Sample], now: float) -> int:
    """Keep samples; returns the number of those that are neither too old nor of the future."""
    kept = 0
    for sample in samples:
        at = sample.at or now
        if not now - LATE_S <= at <= now + EARLY_S:
            continue
        kept += 1
        first = int(at) // MINUTE_S
        last = (
            int(at + min(sample.every_s, MAX_INTERVAL_S) - 1) // MINUTE_S
            if sample.kind != "traffic"
            else first
        )
        source = _source(connection, sample, first)
        latency = sample.latency_ms
        measured = (0.0, 0, 0.0) if latency is None else (latency, 1, latency)
        for minute in range(first, max(first, last) + 1):
            connection.execute(
                """INSERT INTO evidence VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT DO UPDATE SET good = good + excluded.good, degraded = degraded + excluded.degraded,
                failed = failed + excluded.failed, latency_ms_sum = latency_ms_sum + excluded.latency_ms_sum,
                latency_count = latency_count + excluded.latency_count,
                latency_ms_max = max(latency_ms_max, excluded.latency_ms_max)""",
                (
                    *(sample.component, minute, sample.kind, source),
                    *(sample.good, sample.degraded, sample.failed),
                    *(measured if minute == first else (0.0, 0, 0.0)),
                ),
            )
        fresh_until = at + FRESH_FACTOR * sample.every_s + FRESH_MORE_S
        connection.execute(
            """INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET at = excluded.at, fresh_until = excluded.fresh_until, good = excluded.good,
            degraded = excluded.degraded, failed = excluded.failed, latency_ms = excluded.latency_ms
            WHERE excluded.at >= at""",
            (
                *(sample.component, sample.kind, source, at, fresh_until),
                *(sample.good, sample.degraded, sample.failed, latency),
            ),
        )
    return kept


def _source(connection: sqlite3.Connection, sample: Sample, minute: int) -> str:
    """The source under which a sample is kept: instances come and go, and rows must stay bounded."""
    known: list[str] = [
        row[0]
        for row in connection.execute(
            "SELECT source FROM evidence WHERE component = ? AND minute = ? AND kind = ?",
            (sample.component, minute, sample.kind),
        )
    ]
    return sample.source if sample.source in known or len(known) < MAX_SOURCES else OTHER


def latest(connection: sqlite3.Connection, now: float) -> dict[str, Newest]:
    """By component what its sources say now. Traffic counts as the sum of this minute and the one before."""
    found: defaultdict[str, list[Evidence]] = defaultdict(list)
    at: defaultdict[str, float] = defaultdict(float)
    latencies: defaultdict[str, list[float]] = defaultdict(list)
    rows = connection.execute(
        """SELECT component, at, latency_ms, kind, source, good, degraded, failed FROM latest
        WHERE fresh_until > ? AND kind != ?""",
        (now, "traffic"),
    )
    for component, sampled_at, latency, *evidence in rows:
        found[component].append(Evidence(*evidence))
        at[component] = max(at[component], sampled_at)
        if latency is not None:
            latencies[component].append(latency)
    traffic = connection.execute(
        """SELECT component, kind, kind, sum(good), sum(degraded), sum(failed), max(minute) FROM evidence
        WHERE kind = ? AND minute >= ? GROUP BY component""",
        ("traffic", int(now) // MINUTE_S - 1),
    )
    for component, *evidence, minute in traffic:
        found[component].append(Evidence(*evidence))
        at[component] = max(at[component], float(minute * MINUTE_S))
    return {
        component: Newest(
            tuple(evidence),
            at[component],
            sum(latencies[component]) / len(latencies[component]) if latencies[component] else None,
        )
        for component, evidence in found.items()
    }


Maintenance = Callable[[str, float, float], bool]
"""Whether a component is in maintenance at any time from one moment to another."""


def roll_up(
    connection: sqlite3.Connection,
    now: float,
    zone: tzinfo,
    maintenance: Maintenance,
    components: Sequence[str],
) -> None:
    """Compute the hours whose minutes may still change, and the days of these hours."""
    current = int(now) // HOUR_S
    days = set()
    for hour in (current - 1, current):
        days.add(local_date(hour * HOUR_S, zone))
        for component, minutes in _hour(connection, hour, now, maintenance, components).items():
            _put(connection, "hour", component, hour_name(hour), minutes)
    for date in days:
        _roll_up_day(connection, date, zone)


def _hour(
    connection: sqlite3.Connection, hour: int, now: float, maintenance: Maintenance, components: Sequence[str]
) -> dict[str, Minutes]:
    """By component the minutes of an hour up to the one before the current."""
    first, last = hour * 60, min((hour + 1) * 60, int(now) // MINUTE_S)
    evidence: defaultdict[tuple[str, int], list[Evidence]] = defaultdict(list)
    latency: defaultdict[str, Minutes] = defaultdict(Minutes)
    rows = connection.execute(
        """SELECT component, minute, latency_ms_sum, latency_count, latency_ms_max, kind, source, good, degraded, failed
        FROM evidence WHERE minute >= ? AND minute < ?""",
        (first, last),
    )
    for component, minute, total, count, most, *counts in rows:
        evidence[component, minute].append(Evidence(*counts))
        latency[component] = latency[component].plus(
            Minutes(latency_ms_sum=total, latency_count=count, latency_ms_max=most)
        )
    result = {}
    for component in components:
        found = latency[component]
        for minute in range(first, last):
            start = float(minute * MINUTE_S)
            state = minute_of(
                measured_state(evidence.get((component, minute), ())),
                maintenance=maintenance(component, start, start + MINUTE_S),
            )
            found = found.plus(counted(state))
        result[component] = found
    return result


def _roll_up_day(connection: sqlite3.Connection, date: str, zone: tzinfo) -> None:
    sums: defaultdict[str, Minutes] = defaultdict(Minutes)
    # A local day lies within three days of UTC: its own date and its neighbours'.
    noon = datetime.fromisoformat(f"{date}T12:00:00").replace(tzinfo=zone).timestamp()
    first, last = (hour_name(int(noon + shift) // HOUR_S) for shift in (-86_400, 86_400))
    rows = connection.execute(
        """SELECT component, start, operational, degraded, outage, maintenance,
        latency_ms_sum, latency_count, latency_ms_max FROM periods
        WHERE resolution = 'hour' AND start >= ? AND start <= ?""",
        (first, last),
    )
    for component, start, *numbers in rows:
        if local_date(datetime.fromisoformat(start).timestamp(), zone) == date:
            sums[component] = sums[component].plus(Minutes(*numbers))
    for component, minutes in sums.items():
        _put(connection, "day", component, date, minutes)


def _put(
    connection: sqlite3.Connection, resolution: str, component: str, start: str, minutes: Minutes
) -> None:
    if minutes != NO_MINUTES:
        connection.execute(
            "INSERT OR REPLACE INTO periods VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (resolution, component, start, *minutes),
        )


def days(connection: sqlite3.Connection, since: str) -> dict[str, dict[str, Minutes]]:
    """By component its days from the date `since` on, in the page's time zone."""
    return _periods(connection, "day", since)


def hours(connection: sqlite3.Connection, since: float) -> dict[str, dict[str, Minutes]]:
    """By component its hours from the moment `since` on, by their start in UTC."""
    return _periods(connection, "hour", hour_name(int(since) // HOUR_S))


def _periods(connection: sqlite3.Connection, resolution: str, since: str) -> dict[str, dict[str, Minutes]]:
    found: defaultdict[str, dict[str, Minutes]] = defaultdict(dict)
    rows = connection.execute(
        """SELECT component, start, operational, degraded, outage, maintenance,
        latency_ms_sum, latency_count, latency_ms_max FROM periods WHERE resolution = ? AND start >= ?""",
        (resolution, since),
    )
    for component, start, *numbers in rows:
        found[component][start] = Minutes(*numbers)
    return dict(found)


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Delete what is older than its resolution is kept."""
    connection.execute("DELETE FROM evidence WHERE minute < ?", (int(now - EVIDENCE_S) // MINUTE_S,))
    connection.execute("DELETE FROM latest WHERE fresh_until < ?", (now - EVIDENCE_S,))
    for resolution, kept_s in (("hour", HOURS_S), ("day", DAYS_S)):
        oldest = hour_name(int(now - kept_s) // HOUR_S)
        connection.execute(
            "DELETE FROM periods WHERE resolution = ? AND start < ?",
            (resolution, oldest if resolution == "hour" else oldest[:10]),
        )


def take_turn(connection: sqlite3.Connection, name: str, now: float, every_s: float) -> bool:
    """Whether it is time for work that one process of the machine does every so often; then the time is noted."""
    row = connection.execute("SELECT at FROM marks WHERE name = ?", (name,)).fetchone()
    if row is not None and 0 <= now - row[0] < every_s:
        return False
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, now))
    return True


def total(periods: Iterable[Minutes]) -> Minutes:
    """The sum of periods."""
    return reduce(Minutes.plus, periods, NO_MINUTES)


def state_of(latest_of: Newest | None) -> ServiceState:
    """The state that the newest samples of a component show."""
    return measured_state(latest_of.evidence) if latest_of is not None else ServiceState.UNKNOWN


def hour_name(hour: int) -> str:
    """The start of an hour, counted since the epoch, in UTC."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("%Y-%m-%dT%H:00+00:00")


def local_date(moment: float, zone: tzinfo) -> str:
    """The date of a moment in the page's time zone."""
    return datetime.fromtimestamp(moment, zone).date().isoformat()
