"""Puts the status page into a gateway: its routes, its components for the lifecycle, the gateway's own samples.

Not here: the page apart (`process`). Rules: a gateway with NARTHEX_STATUS_URL keeps no page: its `/status` leads to
that service, and so do its samples; the page opens before the engines, so that it says what keeps the gateway from
starting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from narthex.app.buffers import buffer_readings
from narthex.app.lifecycle import Component
from narthex.domain.availability import JOURNEYS
from narthex.ports.store import AuditRecord
from narthex.ports.telemetry import Source
from narthex.settings import Settings
from narthex.settings.status_rules import branding
from narthex.status.document import StatusComponent
from narthex.status.page import SERVED, Look
from narthex.status.records import Change
from narthex.status.reporting import MAX_WAITING, SampleReporter
from narthex.status.routes import Logo, StatusRoutes
from narthex.status.sampling import Counters, HealthReport, Sampler
from narthex.status.service import Audit, StatusPage, StatusService
from narthex.status.words import LANGUAGES
from narthex.web.access import Access
from narthex.web.paths import route_path
from narthex.web.request_rules import RequestRules

DATABASE: Final = "status.db"


class StatusMeter(Counters, Protocol):
    """The meter of the process: its counters are samples, and it shows the samples that wait."""

    def read_from(self, source: Source) -> None:
        """See `ports.telemetry.Meter`."""


def look_of(settings: Settings) -> Look:
    """The look of the page that the settings ask for."""
    found = branding(settings)
    return Look(LANGUAGES[settings.status_language], found.zone, found.links, found.logo is not None)


def make_service(settings: Settings, log: Any, audit: Audit | None = None) -> StatusService:
    """The service over `DATABASE` in the data directory."""
    found = branding(settings)
    names = LANGUAGES[settings.status_language].journeys | found.names
    order = [*JOURNEYS, *(key for key in found.names if key not in JOURNEYS)]
    page = StatusPage(
        settings.status_name,
        [StatusComponent(key, names[key]) for key in order],
        found.zone,
        settings.status_timezone,
    )
    return StatusService(settings.data_dir / DATABASE, page, found.receivers, log, audit=audit)


def make_routes(
    settings: Settings, service: StatusService, access: Access, rules: RequestRules
) -> StatusRoutes:
    """The routes of a service."""
    logo = branding(settings).logo
    return StatusRoutes(
        service,
        look_of(settings),
        Logo(*logo) if logo else None,
        access,
        rules,
        tokens=settings.status_tokens(),
    )


def reporting(
    settings: Settings,
    health: HealthReport,
    fault: Callable[[], object | None],
    meter: StatusMeter,
    node: str,
    log: Any,
) -> list[Component]:
    """The components that report this process to NARTHEX_STATUS_URL; none where it is not set."""
    if not settings.status_url:
        return []
    reporter = SampleReporter(settings.status_url, settings.status_tokens())
    samples = ("status_samples_table", lambda: reporter.waiting, MAX_WAITING)
    meter.read_from(partial(buffer_readings, [samples]))
    sampler = Sampler(health, fault, meter, node, reporter.record, log)
    return [
        Component("status", close=reporter.stop),
        Component("status samples", sampler.start, sampler.stop),
    ]


class EmbeddedStatus:
    """The page of a gateway, or what stands in its place; see the module.

    Args:
        settings: validated.
        access: authorises operators.
        rules: see `StatusRoutes`.
        keep: keeps audit records in the store.
        log: a structlog logger.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        rules: RequestRules,
        keep: Callable[[AuditRecord], Awaitable[None]],
        log: Any,
    ) -> None:
        self._keep = keep
        self._settings = settings
        self._log = log
        self._service = make_service(settings, log, self._audit) if settings.status_embedded else None
        self._routes = make_routes(settings, self._service, access, rules) if self._service else None

    def routes(self) -> list[BaseRoute]:
        """For the Starlette application."""
        if self._routes is not None:
            return self._routes.routes()
        if not self._settings.status_url:
            return []
        paths = (SERVED.page, SERVED.json, SERVED.atom, SERVED.badge, SERVED.incident.format("{incident_id}"))
        return [Route(path, self._elsewhere, methods=["GET", "HEAD"]) for path in paths]

    def components(
        self, health: HealthReport, fault: Callable[[], object | None], meter: StatusMeter, node: str
    ) -> list[Component]:
        """The components that the lifecycle opens first: the page, and what samples this gateway for it."""
        if self._service is not None:
            sampler = Sampler(health, fault, meter, node, self._service.record, self._log)
            return [
                Component("status", self._service.start, self._service.stop),
                Component("status samples", sampler.start, sampler.stop),
            ]
        return reporting(self._settings, health, fault, meter, node, self._log)

    async def _audit(self, change: Change) -> None:
        detail = msgspec.json.encode(
            {
                "incident": change.incident_id,
                "action": change.action,
                "change": msgspec.Raw(change.detail.encode()),
            }
        )
        await self._keep(
            AuditRecord(
                at=change.at, kind="incident", tenant="", subject=change.actor, detail=detail.decode()
            )
        )

    async def _elsewhere(self, request: Request) -> Response:
        return RedirectResponse(
            self._settings.status_url.rstrip("/") + route_path(request.scope),
            status_code=307,
            headers={"Cache-Control": "public, max-age=60", "Access-Control-Allow-Origin": "*"},
        )
