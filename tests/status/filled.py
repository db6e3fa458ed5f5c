"""A status page with 90 days of history, without waiting for it: days, hours, a maintenance window and incidents."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from narthex.adapters.telemetry.logging import get_logger
from narthex.domain.availability import JOURNEYS, Minutes
from narthex.domain.incidents import Incident, IncidentUpdate
from narthex.domain.webhooks import WebhookReceiver
from narthex.status import records
from narthex.status.database import StatusDatabase
from narthex.status.document import StatusComponent
from narthex.status.service import StatusPage, StatusService
from narthex.status.words import LANGUAGES

COMPONENTS = tuple(StatusComponent(key, LANGUAGES["en"].journeys[key]) for key in JOURNEYS)
DAY_S = 86_400.0


def service(
    directory: Path,
    *,
    components: Sequence[StatusComponent] = COMPONENTS,
    receivers: Sequence[WebhookReceiver] = (),
    now: object = None,
) -> StatusService:
    """A service over a file of its own, in UTC."""
    clock = {"now": now} if now is not None else {}
    page = StatusPage("Acme Chat", components, UTC, "UTC")
    return StatusService(directory / "status.db", page, receivers, get_logger("test"), **clock)  # type: ignore[arg-type]


async def fill(
    path: Path, now: float, components: Sequence[StatusComponent] = COMPONENTS, *, incidents: bool = True
) -> None:
    """Write 90 days: most are good, the last three weeks hold an outage, a bad day, maintenance and a gap."""
    database = StatusDatabase(path)
    try:
        await database.run(lambda connection: _fill(connection, now, components, incidents=incidents))
    finally:
        await database.close()


def _fill(
    connection: sqlite3.Connection, now: float, components: Sequence[StatusComponent], *, incidents: bool
) -> None:
    today = datetime.fromtimestamp(now, UTC)
    for number, component in enumerate(components):
        for ago in range(1, 90):
            date = (today - timedelta(days=ago)).date().isoformat()
            minutes = _day_of(ago, number)
            if minutes is not None:
                _put(connection, "day", component.component_id, date, minutes)
        for ago in range(1, 24):
            hour = (today - timedelta(hours=ago)).strftime("%Y-%m-%dT%H:00+00:00")
            mean = 4.0 + number * 9 + (ago * 7 % 11)
            _put(
                connection,
                "hour",
                component.component_id,
                hour,
                Minutes(60, 0, 0, 0, mean * 60, 60, mean * 3),
            )
    for one in _incidents(now) if incidents else ():
        records.put(connection, one, now, actor="test", action="open", request_id=one.incident_id)


def _day_of(ago: int, number: int) -> Minutes | None:
    if ago > 80:
        return None  # before the service began
    if ago == 30:
        return Minutes(operational=900, latency_ms_sum=9_000, latency_count=900, latency_ms_max=40)  # a gap
    if ago == 20 and number < 2:
        return Minutes(operational=1_320, outage=120)
    if ago == 11 and number == 2:
        return Minutes(operational=1_300, degraded=140)
    if ago == 6:
        return Minutes(operational=1_360, maintenance=80)
    return Minutes(operational=1_440, latency_ms_sum=1_440 * 12.0, latency_count=1_440, latency_ms_max=90)


def _put(
    connection: sqlite3.Connection, resolution: str, component: str, start: str, minutes: Minutes
) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO periods VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (resolution, component, start, *minutes),
    )


def _incidents(now: float) -> list[Incident]:
    def update(at: float, state: str, text: str) -> IncidentUpdate:
        return IncidentUpdate(at=at, state=state, text=text)

    outage = now - 20 * DAY_S
    opened = now - 2_400
    return [
        Incident(
            incident_id="aa0000000001",
            kind="incident",
            title="Connections were refused in Europe",
            impact="outage",
            components=("connect", "send"),
            starts_at=outage,
            ends_at=outage + 7_200,
            updates=(
                update(outage, "investigating", "New connections are refused. We are looking into it."),
                update(outage + 1_800, "identified", "A certificate of the load balancer had expired."),
                update(
                    outage + 7_200,
                    "resolved",
                    "The certificate is renewed.\nIts expiry is monitored from now on.",
                ),
            ),
        ),
        Incident(
            incident_id="aa0000000002",
            kind="incident",
            title="Answers begin late",
            impact="degraded",
            components=("stream",),
            starts_at=opened,
            ends_at=None,
            updates=(
                update(opened, "investigating", "Answers begin some seconds late."),
                update(
                    opened + 900,
                    "identified",
                    "The model provider is slow. We move traffic to another region.",
                ),
            ),
        ),
        Incident(
            incident_id="aa0000000003",
            kind="maintenance",
            title="Upgrade of the database",
            impact="none",
            components=(),
            starts_at=now + 2 * DAY_S,
            ends_at=now + 2 * DAY_S + 3_600,
            updates=(update(now - 3_600, "scheduled", "Chat may be interrupted for a minute."),),
        ),
    ]


def stored(connection: sqlite3.Connection) -> list[Incident]:
    """All incidents in the file."""
    return [
        msgspec.json.decode(row[0], type=Incident) for row in connection.execute("SELECT body FROM incidents")
    ]
