"""The status service: takes samples and incidents, gives the document, and announces changes.

Not here: the database's statements (`measurements`, `records`), drawing (`page`), routes (`routes`). Rules: a
database that cannot be used stops nothing: the page shows the last document that it had, samples of that time are
missing, and each is logged once; every change of an incident names its actor.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from narthex.app.periodic import BackgroundTask
from narthex.domain.availability import ServiceState
from narthex.domain.incidents import (
    MAX_TEXT,
    MAX_TITLE,
    Impact,
    Incident,
    IncidentKind,
    IncidentUpdate,
    check_components,
    check_start,
    check_text,
    check_title,
    check_window,
    updated,
)
from narthex.domain.webhooks import WebhookReceiver
from narthex.errors import ConfigError, DependencyError
from narthex.status import measurements, records
from narthex.status.database import StatusDatabase
from narthex.status.document import (
    DAYS,
    IncidentStatus,
    Readings,
    StatusComponent,
    StatusDocument,
    build,
    incident_status,
    moment,
    states_now,
)
from narthex.status.measurements import Sample
from narthex.status.webhooks import WebhookSender

TICK_S: Final = 2.0  # a changed state is seen within 5 s, with the age of a document and a gateway's interval
ROLL_UP_S: Final = 30.0
PRUNE_S: Final = 3_600.0
SETTLE_S: Final = 60.0  # a component's state is announced once it has lasted so long: a flapping one is not
CACHE_S: Final = 1.0  # a flood of visitors costs one reading of the database a second
OUTDATED_S: Final = 0.25  # the same where samples contradict the document: a change is seen sooner

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TITLE)]
Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=40)]], msgspec.Meta(max_length=24)]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
At = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class OpenIncident(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Open an incident. `components` empty: all. `request_id`: a repeated call with it changes nothing."""

    title: Title
    text: Text
    impact: Impact = "degraded"
    components: Names = msgspec.field(default_factory=list)
    started_at: At | None = None
    request_id: RequestId | None = None


class UpdateIncident(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Add an update. `state` empty: it stays; of maintenance only `resolved`. `impact` and `components`: if changed."""

    text: Text
    state: Annotated[str, msgspec.Meta(max_length=20)] = ""
    impact: Impact | None = None
    components: Names | None = None


class ScheduleMaintenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Announce a window of maintenance, before it begins."""

    title: Title
    text: Text
    starts_at: At
    ends_at: At
    components: Names = msgspec.field(default_factory=list)
    request_id: RequestId | None = None


class StatusPage(NamedTuple):
    """The operator's settings of the page that its content depends on."""

    name: str
    components: Sequence[StatusComponent]
    zone: tzinfo
    zone_name: str


Audit = Callable[[records.Change], Awaitable[None]]
"""Raises DependencyError when its engine is away."""


class StatusService:
    """See the module.

    Args:
        path: of the database.
        page: the operator's settings.
        receivers: of webhooks.
        log: a structlog logger.
        audit: keeps a record of each change elsewhere too. One that fails is logged, and the change stands.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        page: StatusPage,
        receivers: Sequence[WebhookReceiver],
        log: Any,
        *,
        audit: Audit | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = StatusDatabase(path)
        self.page = page
        self._known = {one.component_id: one.name for one in page.components}
        self._webhooks = WebhookSender(self._database, receivers, now, log)
        self._log = log
        self._audit = audit
        self._now = now
        # Two tasks: a receiver that hangs must not hold up the hours and the states.
        self._tasks = (
            BackgroundTask(partial(self._repeat, self._keep_house), "narthex status"),
            BackgroundTask(partial(self._repeat, self._webhooks.send_due), "narthex status webhooks"),
        )
        self._reading: asyncio.Task[StatusDocument] | None = None
        self._document: StatusDocument | None = None
        self._read_at = float("-inf")
        self._outdated = False
        self._fault = ""

    async def start(self) -> None:
        """Begin housekeeping. A database that cannot be opened is tried again and again, and stops nothing else."""
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """End housekeeping and close the database."""
        for task in self._tasks:
            await task.stop()
        await self._webhooks.stop()
        await self._database.close()

    # -- samples -------------------------------------------------------------------------------------------

    async def record(self, samples: Sequence[Sample]) -> int:
        """Keep samples of known components; returns how many were kept. Raises DependencyError."""
        found = [one for one in samples if one.component in self._known]
        kept = await self._database.run(lambda connection: measurements.add(connection, found, self._now()))
        if any(self._differs(one) for one in found):
            self._outdated = True
        return kept

    def _differs(self, sample: Sample) -> bool:
        """Whether a sample contradicts the document that is kept."""
        if self._document is None:
            return False
        shown = {one.id: one.state for one in self._document.components}
        well = sample.good > 0 and not sample.failed and not sample.degraded
        return well is not (shown.get(sample.component) is ServiceState.OPERATIONAL)

    # -- the page ------------------------------------------------------------------------------------------

    async def document(self) -> StatusDocument:
        """The page's content, at most `CACHE_S` old; an older one where the database cannot be read.

        Raises:
            DependencyError, ConfigError: it cannot be read, and never was.
        """
        loop = asyncio.get_running_loop()
        age_s = loop.time() - self._read_at
        if self._document is not None and age_s < (OUTDATED_S if self._outdated else CACHE_S):
            return self._document
        if self._reading is None:
            self._reading = loop.create_task(self._read(), name="narthex status document")
        return await asyncio.shield(self._reading)

    async def _read(self) -> StatusDocument:
        self._outdated = False
        try:
            self._document = await self._database.run(self._build)
            self._said("")
        except (DependencyError, ConfigError) as fault:
            self._said(fault.message)
            if self._document is None:
                raise
        finally:
            self._reading = None
            self._read_at = asyncio.get_running_loop().time()
        return self._document

    def _build(self, connection: sqlite3.Connection) -> StatusDocument:
        now, page = self._now(), self.page
        since = now - DAYS * 86_400
        readings = Readings(
            latest=measurements.latest(connection, now),
            days=measurements.days(connection, measurements.local_date(since, page.zone)),
            hours=measurements.hours(connection, now - 86_400),
            since=records.states(connection),
            incidents=records.incidents(connection, since),
        )
        return build(page.name, page.components, readings, now, page.zone, page.zone_name)

    async def incident(self, incident_id: str) -> IncidentStatus:
        """One incident or window. Raises ClientError: there is none; DependencyError."""
        found = await self._database.run(lambda connection: records.incident(connection, incident_id))
        return incident_status(found, self._now())

    # -- incidents -----------------------------------------------------------------------------------------

    async def open(self, body: OpenIncident, actor: str) -> IncidentStatus:
        """Open an incident. Raises ClientError, DependencyError."""
        starts_at = check_start(body.started_at, self._now())
        return await self._keep_new(
            body, actor, "incident", "investigating", starts_at, None, impact=body.impact
        )

    async def schedule(self, body: ScheduleMaintenance, actor: str) -> IncidentStatus:
        """Announce maintenance. Raises ClientError, DependencyError."""
        starts_at, ends_at = check_window(body.starts_at, body.ends_at, self._now())
        return await self._keep_new(body, actor, "maintenance", "scheduled", starts_at, ends_at)

    async def update(self, incident_id: str, body: UpdateIncident, actor: str) -> IncidentStatus:
        """Add an update. Raises ClientError, DependencyError."""
        now = self._now()
        text = check_text(body.text, "text", MAX_TEXT)

        def work(connection: sqlite3.Connection) -> tuple[Incident, records.Change | None]:
            before = records.incident(connection, incident_id)
            changed = updated(before, body.state, text, now)
            if body.impact is not None and before.kind == "incident":
                changed = msgspec.structs.replace(changed, impact=body.impact)
            if body.components is not None:
                found = check_components(body.components, self._known)
                changed = msgspec.structs.replace(changed, components=found)
            over = not changed.is_open(now) and before.is_open(now)
            action = "resolve" if over else "update"
            kept = records.put(connection, changed, now, actor=actor, action=action)
            what = (
                ("cancelled" if changed.cancelled else "ended")
                if changed.kind == "maintenance"
                else "resolved"
            )
            self._queue(connection, changed, what if over else "updated", now)
            return kept

        return await self._changed(work, now)

    async def changes(self, limit: int = 200) -> list[records.Change]:
        """The record of changes, newest first. Raises DependencyError."""
        return await self._database.run(lambda connection: records.changes(connection, limit))

    async def _keep_new(
        self,
        body: OpenIncident | ScheduleMaintenance,
        actor: str,
        kind: IncidentKind,
        state: str,
        starts_at: float,
        ends_at: float | None,
        *,
        impact: Impact = "none",
    ) -> IncidentStatus:
        now = self._now()
        update = IncidentUpdate(at=now, state=state, text=check_text(body.text, "text", MAX_TEXT))
        new = Incident(
            incident_id=secrets.token_hex(6),
            kind=kind,
            title=check_title(body.title),
            impact=impact,
            components=check_components(body.components, self._known),
            starts_at=starts_at,
            ends_at=ends_at,
            updates=(update,),
        )
        action = "open" if kind == "incident" else "schedule"

        def work(connection: sqlite3.Connection) -> tuple[Incident, records.Change | None]:
            kept = records.put(connection, new, now, actor=actor, action=action, request_id=body.request_id)
            if kept[1] is not None:
                self._queue(connection, new, "opened" if kind == "incident" else "scheduled", now)
            return kept

        return await self._changed(work, now)

    async def _changed(
        self, work: Callable[[sqlite3.Connection], tuple[Incident, records.Change | None]], now: float
    ) -> IncidentStatus:
        kept, change = await self._database.run(work)
        self._read_at = float("-inf")  # the author of a change sees it at once
        if self._audit is not None and change is not None:
            try:
                await self._audit(change)
            except DependencyError as fault:  # incidents are opened when engines are away
                self._log.warning("audit", incident=change.incident_id, detail=fault.message)
        return incident_status(kept, now)

    def _queue(self, connection: sqlite3.Connection, found: Incident, what: str, now: float) -> None:
        event = {
            "type": f"{found.kind}.{what}",
            "timestamp": moment(now),
            "data": msgspec.to_builtins(incident_status(found, now)),
        }
        records.queue(connection, self._webhooks.urls, event, now)

    # -- housekeeping --------------------------------------------------------------------------------------

    async def _repeat(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
                self._said("")
            except (DependencyError, ConfigError) as fault:
                self._said(fault.message)
            except Exception as fault:  # a bug in one round must not end all later ones
                self._log.error("bug", exc_info=fault)
            await asyncio.sleep(TICK_S)

    async def _keep_house(self) -> None:
        await self._database.run(self._housekeep)

    def _housekeep(self, connection: sqlite3.Connection) -> None:
        now = self._now()
        if not measurements.take_turn(connection, "tick", now, TICK_S / 2):
            return
        found = records.incidents(connection, now - 86_400)
        latest = measurements.latest(connection, now)
        shown = states_now(self.page.components, latest, found, now)
        for component, before, after in records.note_states(connection, shown, now, SETTLE_S):
            self._queue_state(connection, component, before, after, now)
        for window in records.windows_that_turned(connection, now):
            self._queue(connection, window, "started" if window.is_open(now) else "ended", now)
        if measurements.take_turn(connection, "roll-up", now, ROLL_UP_S):
            self._roll_up(connection, found, now)
        if measurements.take_turn(connection, "prune", now, PRUNE_S):
            measurements.prune(connection, now)
            records.prune(connection, now)

    def _roll_up(self, connection: sqlite3.Connection, found: Sequence[Incident], now: float) -> None:
        windows = [one for one in found if one.kind == "maintenance"]
        measurements.roll_up(
            connection,
            now,
            self.page.zone,
            lambda component, start, end: any(one.covers(component, start, end) for one in windows),
            tuple(self._known),
        )

    def _queue_state(
        self,
        connection: sqlite3.Connection,
        component: str,
        before: ServiceState,
        after: ServiceState,
        now: float,
    ) -> None:
        data = {
            "component": component,
            "name": self._known[component],
            "state": after.value,
            "previous_state": before.value,
        }
        event = {"type": "component.changed", "timestamp": moment(now), "data": data}
        records.queue(connection, self._webhooks.urls, event, now)

    def _said(self, fault: str) -> None:
        """Log a fault of the database once, and its end."""
        if fault != self._fault:
            self._fault = fault
            if fault:
                self._log.warning("status", detail=fault)
            else:
                self._log.info("status", detail="the database of the status page can be used again")
