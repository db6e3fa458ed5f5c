"""The service: housekeeping by the clock, changes that are announced, faults of its database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from narthex.domain.availability import ServiceState
from narthex.domain.webhooks import WebhookReceiver
from narthex.errors import ClientError, DependencyError
from narthex.status.measurements import Sample
from narthex.status.records import Change
from narthex.status.service import (
    OUTDATED_S,
    OpenIncident,
    ScheduleMaintenance,
    StatusService,
    UpdateIncident,
)
from tests.status.filled import service
from tests.timing import within

NOW = 1_796_000_010.0
HOOK = WebhookReceiver("http://127.0.0.1:9/hook", (b"k" * 24,))


class Clock:
    """A moment that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """The moment."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At `NOW`."""
    return Clock()


@pytest.fixture
async def page(tmp_path: Path, clock: Clock) -> AsyncIterator[StatusService]:
    """A service whose housekeeping the tests call."""
    found = service(tmp_path, receivers=[HOOK], now=clock)
    yield found
    await found.stop()


async def tick(page: StatusService) -> None:
    await page._database.run(page._housekeep)


async def events(page: StatusService) -> list[dict[str, Any]]:
    """The events that were queued, oldest first."""

    def read(connection: sqlite3.Connection) -> list[dict[str, Any]]:
        return [json.loads(row[0]) for row in connection.execute("SELECT body FROM deliveries ORDER BY seq")]

    return await page._database.run(read)


async def sampled(page: StatusService, **counts: int) -> None:
    await page.record([Sample(component="connect", kind="probe", source="eu", every_s=10, **counts)])


async def state(page: StatusService) -> ServiceState:
    page._read_at = float("-inf")
    return (await page.document()).components[0].state


async def test_a_change_that_lasts_a_minute_is_announced_once(page: StatusService, clock: Clock) -> None:
    """A failure that is over after some seconds is not; the first state that is known is no change."""
    await tick(page)
    for failed, times in ((0, 4), (1, 2), (0, 4), (1, 12), (0, 12)):
        for _ in range(times):
            clock.now += 10
            await sampled(page, good=1 - failed, failed=failed)
            await tick(page)
    found = [event["data"] for event in await events(page) if event["type"] == "component.changed"]
    assert [(one["component"], one["previous_state"], one["state"]) for one in found] == [
        ("connect", "operational", "outage"),
        ("connect", "outage", "operational"),
    ]


async def test_silence_becomes_unknown_and_not_an_outage(page: StatusService, clock: Clock) -> None:
    """Grey is honest."""
    await sampled(page, good=1)
    assert await state(page) is ServiceState.OPERATIONAL
    clock.now += 60
    assert await state(page) is ServiceState.UNKNOWN


async def test_maintenance_begins_and_ends_with_an_event(page: StatusService, clock: Clock) -> None:
    """By the clock, and once; an outage within it lowers no uptime."""
    body = ScheduleMaintenance(title="Database", text="x", starts_at=NOW + 110, ends_at=NOW + 290)
    await page.schedule(body, "ada")
    for _ in range(40):
        clock.now += 10
        down = NOW + 120 <= clock.now < NOW + 280
        await sampled(page, good=int(not down), failed=int(down))
        await tick(page)
    kinds = [event["type"] for event in await events(page)]
    assert [kind for kind in kinds if kind.startswith("maintenance")] == [
        "maintenance.scheduled",
        "maintenance.started",
        "maintenance.ended",
    ]
    page._read_at = float("-inf")
    found = (await page.document()).components[0]
    assert found.uptime == 1.0
    assert found.days[-1].maintenance_minutes >= 2
    assert found.days[-1].outage_minutes == 0


async def test_a_receiver_that_hangs_holds_up_nothing(tmp_path: Path, clock: Clock) -> None:
    """Hours and states go on while it keeps a delivery waiting."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    page = service(tmp_path, receivers=[WebhookReceiver(url, HOOK.secrets)], now=clock)
    async with server:
        await page.open(OpenIncident(title="t", text="x"), "ada")
        body = ScheduleMaintenance(title="m", text="x", starts_at=NOW + 60, ends_at=NOW + 120)
        await page.schedule(body, "ada")
        await page.start()
        async with asyncio.timeout(within(20)):
            await asked.wait()
        clock.now += 90
        until = time.monotonic() + within(20)
        while "maintenance.started" not in [event["type"] for event in await events(page)]:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        tries = await page._database.run(
            lambda connection: connection.execute("SELECT sum(attempts) FROM deliveries").fetchone()[0]
        )
        assert tries == 0  # the first delivery waits still
        release.set()
        await page.stop()


async def test_uptime_counts_what_is_known(page: StatusService, clock: Clock) -> None:
    """Ten minutes: six good, two of outage, two without data."""
    for minute in range(10):
        if minute not in (4, 5):
            await sampled(page, good=int(minute < 8), failed=int(minute >= 8))
        clock.now += 60
    clock.now += 60
    await tick(page)
    page._read_at = float("-inf")
    found = (await page.document()).components[0]
    assert found.uptime == 0.75
    assert found.days[-1].outage_minutes == 2
    assert 0 < found.known < 1


async def test_who_changed_what_is_recorded(page: StatusService) -> None:
    """With the incident, in one transaction."""
    opened = await page.open(OpenIncident(title="Slow", text="We look."), "ada")
    await page.update(opened.id, UpdateIncident(text="Found.", state="identified", impact="outage"), "bob")
    with pytest.raises(ClientError):
        await page.update(opened.id, UpdateIncident(text="Back.", state="nonsense"), "eve")
    found = await page.changes()
    assert [(one.actor, one.action, one.incident_id) for one in found] == [
        ("bob", "update", opened.id),
        ("ada", "open", opened.id),
    ]
    assert json.loads(found[0].detail) == {"state": "identified", "title": "Slow", "text": "Found."}
    assert [event["type"] for event in await events(page)] == ["incident.opened", "incident.updated"]


async def test_a_page_has_a_bounded_number_of_open_incidents(page: StatusService) -> None:
    """A script that opens one a second is stopped, with what to do."""
    for number in range(100):
        await page.open(OpenIncident(title=str(number), text="x"), "script")
    with pytest.raises(ClientError, match="100 are open"):
        await page.open(OpenIncident(title="more", text="x"), "script")


async def test_a_sample_that_contradicts_the_page_outdates_it(page: StatusService, clock: Clock) -> None:
    """An outage is not hidden for the time for which a document is kept, and a flood of such samples costs little."""
    await sampled(page, good=1)
    before = await page.document()
    await sampled(page, good=1)
    assert await page.document() is before
    clock.now += 11
    await sampled(page, failed=1)
    page._read_at = asyncio.get_running_loop().time() - OUTDATED_S
    after = await page.document()
    assert after.components[0].state is ServiceState.OUTAGE
    await sampled(page, good=1)
    assert await page.document() is after, "not more often than each quarter of a second"


async def test_a_database_that_fails_leaves_the_last_page(
    page: StatusService, tmp_path: Path, clock: Clock
) -> None:
    """A full disk, for example; the log says so once, and once that it is over."""
    await sampled(page, good=1)
    before = await page.document()

    def broken(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    build, page._build = page._build, broken  # type: ignore[method-assign,assignment]
    with capture_logs() as logs:
        for _ in range(3):
            page._read_at = float("-inf")
            assert await page.document() is before
        page._build = build  # type: ignore[method-assign]
        page._read_at = float("-inf")
        clock.now += 1
        assert await page.document() is not before
    assert ["can be used again" in line["detail"] for line in logs] == [False, True]


async def test_a_change_stands_where_its_audit_record_cannot_be_kept(tmp_path: Path) -> None:
    """An incident is opened just when an engine is away."""
    tried = []

    async def audit(change: Change) -> None:
        tried.append(change.action)
        raise DependencyError("store", "It is away.", "Start it.")

    found = service(tmp_path)
    found._audit = audit
    with capture_logs() as logs:
        opened = await found.open(OpenIncident(title="Away", text="x"), "ada")
    assert (tried, opened.open) == (["open"], True)
    assert [line["event"] for line in logs] == ["audit"]
    await found.stop()


async def test_without_any_page_it_says_why(tmp_path: Path) -> None:
    """A directory that cannot be written: 503 with the remedy, and a later call tries again."""
    (tmp_path / "file").write_text("no directory")
    found = service(tmp_path / "file")
    with pytest.raises(DependencyError, match="cannot be made"):
        await found.document()
    await found.start()
    with contextlib.suppress(DependencyError):
        await found.record([])
    await found.stop()
