"""Serves `/api/v1/openapi.json`: the OpenAPI document of the HTTP API, as far as this process has its routes.

Not here: the document, which `tools/openapi.py` writes to openapi.json beside this module (`./check --write-docs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.domain import endpoints
from narthex.domain.refusals import PROBLEM_TYPE_BASE
from narthex.web.api.operations import json_answer
from narthex.web.paths import root_path

PROBLEM_PAGE = PROBLEM_TYPE_BASE + "{code}"


class Description:
    """The document of one process, read at the first request for it."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None

    def routes(self) -> list[Route]:
        """Starlette routes."""
        return [Route("/api/v1/openapi.json", self._serve, methods=["GET"])]

    async def _serve(self, request: Request) -> Response:
        if self._document is None:
            self._document = _described(request.app.routes)
        return json_answer(self._document | {"servers": [{"url": root_path(request.scope) or "/"}]})


def _described(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document without the paths that these routes lack; the edge serves WebSockets without a route."""
    text = (resources.files("narthex.web.api") / "openapi.json").read_bytes()
    document: dict[str, Any] = msgspec.json.decode(text)
    there = {route.path for route in routes if isinstance(route, Route)} | {*endpoints.WEBSOCKETS}
    if any(path.startswith(PROBLEM_TYPE_BASE) for path in there):
        there.add(PROBLEM_PAGE)
    document["paths"] = {path: item for path, item in document["paths"].items() if path in there}
    return document
