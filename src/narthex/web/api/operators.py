"""Serves the operators' routes, `/api/v1/operator/*`: the fleet, its history, refusals; what the dashboard shows.

Not here: gathering (`app/fleet`). Rules: every route is for operators of the process (`Access.operator`); an answer has
no secret, and is stored by no cache.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.fleet import FleetView
from narthex.app.fleet.connection_list import ConnectionFilter, ConnectionLists
from narthex.app.fleet.history import RANGES, HistoryReader
from narthex.app.fleet.publishing import SnapshotPublisher
from narthex.app.fleet.tracing import Tracing
from narthex.errors import ClientError
from narthex.ports.store import BaselineRecord, Records
from narthex.web.access import Access, Operator
from narthex.web.api import bodies
from narthex.web.api.operations import Handler, body_of, endpoint

MAX_AUDITS: Final = 500
GZIP_LEVEL: Final = 3  # 90 days: 370 KB become 115 KB in 10 ms


class FleetSource(Protocol):
    """The fleet's objects of this process (`wiring.fleet.Fleet`)."""

    view: FleetView
    publisher: SnapshotPublisher
    connections: ConnectionLists
    tracing: Tracing


class OperatorApi:
    """See the module.

    Args:
        access: authorises callers.
        fleet: answers for all processes.
        history: of figures.
        records: of audits.
        buckets: upper bounds of the histograms' buckets, by name.
    """

    def __init__(
        self,
        *,
        access: Access,
        fleet: FleetSource,
        history: HistoryReader,
        records: Records,
        buckets: Mapping[str, Sequence[float]],
    ) -> None:
        self._access = access
        self._fleet = fleet
        self._history = history
        self._records = records
        self._buckets = dict(buckets)

    def routes(self) -> list[BaseRoute]:
        """Starlette routes."""
        gets: dict[str, Handler[Operator]] = {
            "/api/v1/operator/fleet": self._members,
            "/api/v1/operator/refusals": self._refusals,
            "/api/v1/operator/history": self._figures,
            "/api/v1/operator/connections": self._connections,
            "/api/v1/operator/audits": self._audits,
            "/api/v1/operator/baselines": self._baselines,
            "/api/v1/operator/traces": self._traces,
            "/api/v1/operator/traces/{trace_id}": self._entries,
        }
        posts: dict[str, Handler[Operator]] = {
            "/api/v1/operator/baselines": self._add_baseline,
            "/api/v1/operator/traces": self._start_trace,
            "/api/v1/operator/traces/end": self._end_trace,
        }
        return [
            Route(path, endpoint(self._access.operator, run), methods=[method])
            for method, handlers in (("POST", posts), ("GET", gets))
            for path, run in handlers.items()
        ]

    async def _members(self, _: Operator, __: Request) -> object:
        """Every process's latest snapshot; while it is asked for, snapshots come every second."""
        self._fleet.publisher.watch()
        return {"at": time.time(), "members": self._fleet.view.members(), "buckets": self._buckets}

    async def _refusals(self, _: Operator, __: Request) -> object:
        self._fleet.publisher.watch()
        return {"refusals": list(reversed(self._fleet.view.refusals))}

    async def _figures(self, _: Operator, request: Request) -> object:
        name = request.query_params.get("range", "1h")
        if name not in RANGES:
            raise ClientError(
                "bad_params", "`range` is unknown.", f"Choose from {', '.join(RANGES)}.", number=422
            )
        body = await self._history.read(name)
        headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return Response(body, media_type="application/json", headers=headers)

    async def _connections(self, _: Operator, request: Request) -> object:
        """A page of the connection list. A slow answer of a process costs the others' nothing: it is `missing`."""
        self._fleet.publisher.watch()
        query = request.query_params
        wanted = ConnectionFilter(
            user=query.get("user", ""),
            tenant=query.get("tenant", ""),
            traffic=query.get("class", ""),
            plan=query.get("plan", ""),
            node=query.get("node", ""),
            client=query.get("client", ""),
            slow=query.get("slow") in ("1", "true"),
        )
        limit = _number(query.get("limit", "50"), "limit")
        return await self._fleet.connections.page(wanted, query.get("before", ""), int(limit))

    async def _audits(self, _: Operator, request: Request) -> object:
        kind = request.query_params.get("kind") or None
        limit = _number(request.query_params.get("limit", "50"), "limit")
        return {"audits": await self._records.audits(kind, max(1, min(int(limit), MAX_AUDITS)))}

    async def _baselines(self, _: Operator, __: Request) -> object:
        found = await self._records.baselines(MAX_AUDITS)
        return {
            "baselines": [
                {**msgspec.structs.asdict(one), "figures": msgspec.Raw(one.figures.encode())} for one in found
            ]
        }

    async def _add_baseline(self, _: Operator, request: Request) -> object:
        body = await body_of(request, bodies.PostBaseline)
        await self._records.add_baseline(
            BaselineRecord(
                at=time.time(),
                kind=body.kind,
                version=body.version,
                machine=body.machine,
                figures=msgspec.json.encode(body.figures).decode(),
            )
        )
        return {}

    async def _traces(self, _: Operator, __: Request) -> object:
        return {"traces": self._fleet.tracing.traces()}

    async def _start_trace(self, operator: Operator, request: Request) -> object:
        body = await body_of(request, bodies.StartTrace)
        return await self._fleet.tracing.start_trace(
            tenant=body.tenant,
            user=body.user,
            client=body.client,
            seconds=body.seconds,
            payloads=body.payloads,
            by=operator.name,
        )

    async def _end_trace(self, _: Operator, request: Request) -> object:
        body = await body_of(request, bodies.EndTrace)
        if not await self._fleet.tracing.end_trace(body.trace_id):
            raise _no_trace()
        return {}

    async def _entries(self, _: Operator, request: Request) -> object:
        """Entries after a moment, for clients without a WebSocket."""
        after = _number(request.query_params.get("after", "0"), "after")
        found = self._fleet.tracing.entries(request.path_params["trace_id"], after)
        if found is None:
            raise _no_trace()
        return {"entries": found[0], "running": found[1]}


def _number(text: str, name: str) -> float:
    """Raises ClientError."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ClientError("bad_params", f"`{name}` is not a number.", "Give a number.", number=422)
    return found


def _no_trace() -> ClientError:
    return ClientError("trace_not_found", "No trace has this id.", "Start one.", number=404)
