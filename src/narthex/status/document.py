"""The content of the status page as one value, which is also the body of `/status.json`.

Not here: reading the database (`service`), drawing (`page`, `feed`, `badge`). Rules: a document holds only
public facts: no source of a sample, no detail of a check, no tenant, address or name of a person; moments are
RFC 3339 in UTC, states are those of `domain/availability.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

import msgspec

from narthex.domain.availability import NO_MINUTES, Minutes, ServiceState, overall, shown_state
from narthex.domain.incidents import Incident, impact_on
from narthex.status.measurements import Newest, hour_name, local_date, state_of, total

DAYS: Final = 90
LATENCY_HOURS: Final = 24


class StatusComponent(NamedTuple):
    """A component of the page: a journey, or one that the operator named."""

    component_id: str
    name: str


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One day of a component. `uptime` is the share of the known time without an outage, null without any."""

    date: str
    state: ServiceState
    uptime: float | None
    known: float
    outage_minutes: int
    degraded_minutes: int
    maintenance_minutes: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of checks and probes in ms: now, mean and highest of 24 hours, and the mean of each of these hours."""

    now: float | None
    mean: float | None
    max: float | None
    hours: tuple[float | None, ...]


class ComponentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One component. `known` is the share of the time since the first sample that was measured."""

    id: str
    name: str
    state: ServiceState
    since: str | None
    measured_at: str | None
    uptime: float | None
    known: float
    latency_ms: Latency
    days: tuple[Day, ...]


class UpdateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One update of an incident."""

    at: str
    state: str
    text: str


class IncidentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An incident or a window of maintenance; updates are newest first."""

    id: str
    kind: str
    title: str
    state: str
    open: bool
    impact: str
    components: tuple[str, ...]
    starts_at: str
    ends_at: str | None
    updated_at: str
    updates: tuple[UpdateStatus, ...]


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The page. Fields may be added; `version` changes when one changes its meaning."""

    version: int = 1
    name: str
    generated_at: str
    state: ServiceState
    time_zone: str
    components: tuple[ComponentStatus, ...]
    incidents: tuple[IncidentStatus, ...]
    maintenance: tuple[IncidentStatus, ...]


class Readings(NamedTuple):
    """What the database says; see `measurements` and `records`."""

    latest: Mapping[str, Newest]
    days: Mapping[str, Mapping[str, Minutes]]
    hours: Mapping[str, Mapping[str, Minutes]]
    since: Mapping[str, tuple[ServiceState, float]]
    incidents: Sequence[Incident]


def moment(at: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def states_now(
    components: Sequence[StatusComponent],
    latest: Mapping[str, Newest],
    incidents: Sequence[Incident],
    now: float,
) -> dict[str, ServiceState]:
    """By component the state that a visitor sees."""
    return {
        one.component_id: shown_state(
            state_of(latest.get(one.component_id)),
            maintenance=any(found.covers(one.component_id, now, now + 1) for found in incidents),
            impact=impact_on(one.component_id, incidents, now),
        )
        for one in components
    }


def build(
    name: str,
    components: Sequence[StatusComponent],
    readings: Readings,
    now: float,
    zone: tzinfo,
    zone_name: str,
) -> StatusDocument:
    """The document of the moment `now`."""
    shown = states_now(components, readings.latest, readings.incidents, now)
    incidents = tuple(incident_status(one, now) for one in readings.incidents)
    return StatusDocument(
        name=name,
        generated_at=moment(now),
        state=overall(shown.values()),
        time_zone=zone_name,
        components=tuple(_component(one, shown[one.component_id], readings, now, zone) for one in components),
        incidents=tuple(one for one in incidents if one.kind == "incident"),
        maintenance=tuple(one for one in incidents if one.kind == "maintenance"),
    )


def _component(
    component: StatusComponent, state: ServiceState, readings: Readings, now: float, zone: tzinfo
) -> ComponentStatus:
    key = component.component_id
    latest = readings.latest.get(key)
    by_date = readings.days.get(key, {})
    today = date.fromisoformat(local_date(now, zone))
    dates = [(today - timedelta(days=ago)).isoformat() for ago in range(DAYS - 1, -1, -1)]
    found = [by_date.get(name, NO_MINUTES) for name in dates]
    lengths = [_length(name, now, zone) for name in dates]
    measured = [at for at, minutes in enumerate(found) if minutes.known or minutes.maintenance]
    whole = total(found)
    since = readings.since.get(key)
    return ComponentStatus(
        id=key,
        name=component.name,
        state=state,
        since=moment(since[1]) if since is not None and since[0] is state else None,
        measured_at=moment(latest.at) if latest is not None else None,
        uptime=_rounded(whole.uptime),
        # before the first sample there was no service to measure; the days show that in grey all the same
        known=round(whole.coverage(sum(lengths[measured[0] :])), 4) if measured else 0.0,
        latency_ms=_latency(latest, readings.hours.get(key, {}), now),
        days=tuple(map(_day, dates, found, lengths)),
    )


def _day(name: str, minutes: Minutes, length: float) -> Day:
    return Day(
        date=name,
        state=minutes.state(),
        uptime=_rounded(minutes.uptime),
        known=round(minutes.coverage(length), 4),
        outage_minutes=minutes.outage,
        degraded_minutes=minutes.degraded,
        maintenance_minutes=minutes.maintenance,
    )


def _length(name: str, now: float, zone: tzinfo) -> float:
    """Minutes of a local day that are over: 1,440, 1,380 or 1,500 of a past one, fewer of today."""
    day = date.fromisoformat(name)
    start, end = (
        datetime(one.year, one.month, one.day, tzinfo=zone).timestamp()
        for one in (day, day + timedelta(days=1))
    )
    return max(0.0, min(end, now // 60 * 60) - start) / 60


def _latency(latest: Newest | None, hours: Mapping[str, Minutes], now: float) -> Latency:
    first = int(now) // 3_600 - LATENCY_HOURS + 1
    found = [hours.get(hour_name(hour), NO_MINUTES) for hour in range(first, first + LATENCY_HOURS)]
    whole = total(found)
    return Latency(
        now=_ms(latest.latency_ms if latest is not None else None),
        mean=_ms(whole.latency_ms),
        max=_ms(whole.latency_ms_max if whole.latency_count else None),
        hours=tuple(_ms(one.latency_ms) for one in found),
    )


def incident_status(found: Incident, now: float) -> IncidentStatus:
    """An incident as the public page shows it."""
    return IncidentStatus(
        id=found.incident_id,
        kind=found.kind,
        title=found.title,
        state=found.state(now),
        open=found.is_open(now),
        impact=found.impact,
        components=found.components,
        starts_at=moment(found.starts_at),
        ends_at=moment(found.ends_at) if found.ends_at is not None else None,
        updated_at=moment(found.updates[-1].at),
        updates=tuple(
            UpdateStatus(at=moment(one.at), state=one.state, text=one.text) for one in reversed(found.updates)
        ),
    )


def _rounded(share: float | None) -> float | None:
    """Six decimals, cut off: an outage of a minute in 90 days must not become 1."""
    return None if share is None else int(share * 1_000_000 + 1e-6) / 1_000_000


def _ms(latency: float | None) -> float | None:
    return None if latency is None else round(latency, 1)
