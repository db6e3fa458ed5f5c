"""The routes of the status page: public ones, and those at which operators and probers write.

    GET  /status  /status.json  /status.atom  /status/badge.svg  /status/incidents/{id}     public, cacheable
    GET  /api/v1/incidents  /api/v1/incidents/changes                                       operator
    POST /api/v1/incidents  /api/v1/incidents/{id}/updates  /api/v1/maintenance             operator
    POST /api/v1/status/samples                                                             operator, status token

Not here: the content (`service`, `document`), drawing (`page`, `feed`, `badge`). Rules: public answers carry an ETag
and may be kept by caches for seconds, and for a day where this service does not answer; they depend on nothing in
the request but its path and, where no public URL is set, its host; every other answer is kept by no cache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.domain.refusals import Refusal
from narthex.domain.secrets import any_equal
from narthex.errors import ClientError
from narthex.status.badge import badge, icon
from narthex.status.document import IncidentStatus, StatusDocument
from narthex.status.feed import MEDIA_TYPE as ATOM
from narthex.status.feed import feed
from narthex.status.measurements import Sample
from narthex.status.page import CONTENT_SECURITY_POLICY, SERVED, Look, incident_page, status_page
from narthex.status.service import OpenIncident, ScheduleMaintenance, StatusService, UpdateIncident
from narthex.web.access import Access, Operator
from narthex.web.api.operations import Handler, body_of, endpoint, json_answer
from narthex.web.fields import bearer
from narthex.web.paths import root_path
from narthex.web.problems import client_error, problem, trace_id_for
from narthex.web.request_rules import RequestRules
from narthex.web.served_bodies import ServedBody

MAX_AGE_S: Final = 2
CACHE_CONTROL: Final = f"public, max-age={MAX_AGE_S}, stale-while-revalidate=30, stale-if-error=86400"
HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
OPEN: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
"""JSON, feed and badge are for every site: they hold nothing that the public page does not show."""
# An image that is opened as a page runs nothing.
IMAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
MAX_SAMPLES: Final = 1_000
MAX_BASES: Final = 8


class Samples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples of a prober or a gateway."""

    samples: Annotated[list[Sample], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]


class Logo(NamedTuple):
    """The operator's logo."""

    body: bytes
    media_type: str


class StatusRoutes:
    """See the module.

    Args:
        service: the status service.
        look: of the page.
        logo: the operator's, or None.
        access: authorises operators.
        rules: the address under which a request reached us.
        tokens: of probers and gateways that report samples; they may be renewed (`LiveSecrets`).
    """

    def __init__(
        self,
        service: StatusService,
        look: Look,
        logo: Logo | None,
        access: Access,
        rules: RequestRules,
        *,
        tokens: Sequence[str] = (),
    ) -> None:
        self._service = service
        self._look = look
        self._logo = logo
        self._access = access
        self._rules = rules
        self._tokens = tokens
        self._drawn: dict[str, ServedBody] = {}
        self._drawn_of: StatusDocument | None = None

    def routes(self) -> list[BaseRoute]:
        """For the Starlette application."""
        pages = {
            SERVED.page: self._page,
            SERVED.json: self._json,
            SERVED.atom: self._atom,
            SERVED.badge: self._badge,
            SERVED.icon: self._icon,
            SERVED.incident.format("{incident_id}"): self._incident,
            **({SERVED.logo: self._logo_file} if self._logo is not None else {}),
        }
        for_operators: list[tuple[str, str, Handler[Operator]]] = [
            ("GET", "/api/v1/incidents", self._list),
            ("GET", "/api/v1/incidents/changes", self._changes),
            ("POST", "/api/v1/incidents", self._open),
            ("POST", "/api/v1/incidents/{incident_id}/updates", self._update),
            ("POST", "/api/v1/maintenance", self._schedule),
        ]
        return [
            *(Route(path, self._public(page), methods=["GET", "HEAD"]) for path, page in pages.items()),
            *(
                Route(path, endpoint(self._access.operator, run), methods=[method])
                for method, path, run in for_operators
            ),
            Route("/api/v1/status/samples", self._samples, methods=["POST"]),
        ]

    # -- the public ----------------------------------------------------------------------------------------

    def _public(
        self, page: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await page(request)
            except ClientError as fault:
                return client_error(fault, trace_id_for(request))

        return answer

    async def _page(self, request: Request) -> Response:
        document = await self._service.document()
        root = root_path(request.scope)
        body = self._draw(
            document,
            f"html {root}",
            "text/html; charset=utf-8",
            lambda: status_page(document, self._look, SERVED.below(root)),
        )
        return self._send(request, body)

    async def _json(self, request: Request) -> Response:
        document = await self._service.document()
        body = self._draw(document, "json", "application/json", lambda: msgspec.json.encode(document))
        return self._send(request, body, OPEN)

    async def _atom(self, request: Request) -> Response:
        document = await self._service.document()
        base = self._rules.facts(request).base_url
        if len(self._drawn) > MAX_BASES:  # hosts are the client's choice where none is prescribed
            self._drawn.clear()
        body = self._draw(
            document,
            f"atom {base}",
            f"{ATOM}; charset=utf-8",
            lambda: feed(document, self._look, SERVED, base),
        )
        return self._send(request, body, OPEN)

    async def _badge(self, request: Request) -> Response:
        document = await self._service.document()
        body = self._draw(
            document,
            "badge",
            "image/svg+xml",
            lambda: badge(document.name, document.state, self._look.words),
        )
        return self._send(request, body, OPEN | {"Content-Security-Policy": IMAGE_POLICY})

    async def _icon(self, request: Request) -> Response:
        document = await self._service.document()
        body = self._draw(document, "icon", "image/svg+xml", lambda: icon(document.state))
        return self._send(request, body, {"Content-Security-Policy": IMAGE_POLICY})

    async def _logo_file(self, request: Request) -> Response:
        assert self._logo is not None
        body = _body(self._logo.body, self._logo.media_type)
        return self._send(request, body, {"Content-Security-Policy": IMAGE_POLICY})

    async def _incident(self, request: Request) -> Response:
        incident_id = request.path_params["incident_id"]
        document = await self._service.document()
        known = {one.id: one for one in (*document.incidents, *document.maintenance)}
        found = known.get(incident_id) or await self._service.incident(incident_id)
        page = incident_page(document, found, self._look, SERVED.below(root_path(request.scope)))
        return self._send(request, _body(page.encode(), "text/html; charset=utf-8"))

    def _draw(
        self, document: StatusDocument, name: str, media_type: str, draw: Callable[[], str | bytes]
    ) -> ServedBody:
        """The drawing of this document, made once."""
        if self._drawn_of is not document:
            self._drawn, self._drawn_of = {}, document
        found = self._drawn.get(name)
        if found is None:
            drawn = draw()
            found = self._drawn[name] = _body(
                drawn if isinstance(drawn, bytes) else drawn.encode(), media_type
            )
        return found

    @staticmethod
    def _send(request: Request, body: ServedBody, more: Mapping[str, str] | None = None) -> Response:
        return body.answer(request, {**HEADERS, **(more or {})})

    # -- operators and probers -----------------------------------------------------------------------------

    async def _list(self, _: Operator, __: Request) -> object:
        document = await self._service.document()
        return {
            "components": [{"id": one.id, "name": one.name} for one in document.components],
            "incidents": document.incidents,
            "maintenance": document.maintenance,
        }

    async def _changes(self, _: Operator, __: Request) -> object:
        return {"changes": [change._asdict() for change in await self._service.changes()]}

    async def _open(self, operator: Operator, request: Request) -> IncidentStatus:
        return await self._service.open(await body_of(request, OpenIncident), operator.name)

    async def _schedule(self, operator: Operator, request: Request) -> IncidentStatus:
        return await self._service.schedule(await body_of(request, ScheduleMaintenance), operator.name)

    async def _update(self, operator: Operator, request: Request) -> IncidentStatus:
        body = await body_of(request, UpdateIncident)
        return await self._service.update(request.path_params["incident_id"], body, operator.name)

    async def _samples(self, request: Request) -> Response:
        """Samples, with a status token or an operator's credential; a wrong token counts as a wrong admin key."""
        sent = bearer(request)
        if not (sent and any_equal(sent.encode("latin-1", "replace"), self._tokens)):
            operator = await self._access.operator(request)
            if isinstance(operator, Refusal):
                return problem(operator, trace_id_for(request))
        try:
            body = await body_of(request, Samples)
            kept = await self._service.record(body.samples)
        except ClientError as fault:
            return client_error(fault, trace_id_for(request))
        return json_answer({"kept": kept})


def _body(raw: bytes, media_type: str) -> ServedBody:
    return ServedBody.of(raw, media_type, CACHE_CONTROL)
