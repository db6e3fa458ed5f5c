"""Serves the operators' routes, `/api/v1/operator/*`: the fleet, its history, refusals; what the dashboard shows.

Not here: gathering (`app/fleet`). Rules: every route is for operators of the process (`Access.operator`); an answer has
no secret, and is stored by no cache.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.fleet import FleetView
from narthex.app.fleet.history import RANGES, HistoryReader
from narthex.app.fleet.publishing import SnapshotPublisher
from narthex.domain.refusals import Refusal
from narthex.errors import ClientError
from narthex.web.access import Access, Operator
from narthex.web.api.operations import json_answer
from narthex.web.problems import client_error, problem

Handler = Callable[[Operator, Request], Awaitable[object]]


class OperatorApi:
    """See the module.

    Args:
        access: authorises callers.
        view: of all processes.
        publisher: is told that operators watch.
        history: of figures.
        buckets: upper bounds of the histograms' buckets, by name.
    """

    def __init__(
        self,
        *,
        access: Access,
        view: FleetView,
        publisher: SnapshotPublisher,
        history: HistoryReader,
        buckets: Mapping[str, Sequence[float]],
    ) -> None:
        self._access = access
        self._view = view
        self._publisher = publisher
        self._history = history
        self._buckets = dict(buckets)

    def routes(self) -> list[BaseRoute]:
        """Starlette routes."""
        gets: dict[str, Handler] = {
            "/api/v1/operator/fleet": self._fleet,
            "/api/v1/operator/refusals": self._refusals,
            "/api/v1/operator/history": self._figures,
        }
        return [Route(path, self._for_operators(run), methods=["GET"]) for path, run in gets.items()]

    def _for_operators(self, run: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            operator = await self._access.operator(request)
            if isinstance(operator, Refusal):
                return problem(operator)
            try:
                found = await run(operator, request)
            except ClientError as fault:
                return client_error(fault)
            return found if isinstance(found, Response) else json_answer(found)

        return endpoint

    async def _fleet(self, _: Operator, __: Request) -> object:
        """Every process's latest snapshot; while it is asked for, snapshots come every second."""
        self._publisher.watch()
        return {"at": time.time(), "members": self._view.members(), "buckets": self._buckets}

    async def _refusals(self, _: Operator, __: Request) -> object:
        self._publisher.watch()
        return {"refusals": list(reversed(self._view.refusals))}

    async def _figures(self, _: Operator, request: Request) -> object:
        name = request.query_params.get("range", "1h")
        if name not in RANGES:
            raise ClientError(
                "bad_params", f"`range` is one of {', '.join(RANGES)}.", "Choose one.", number=422
            )
        headers = {"Cache-Control": "no-store"}
        return Response(await self._history.read(name), media_type="application/json", headers=headers)
