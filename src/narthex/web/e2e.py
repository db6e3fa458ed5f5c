"""Serves `POST /auth/e2e/test-auth`, the simulation exchange over HTTP.

Not here: the decision (app/exchange). Rules: the body is bounded before it is read whole; pages get no CORS
permission, because a key does not belong in a browser.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from narthex.app.exchange import ExchangeRequest, TokenExchange
from narthex.domain.carriers import E2E_KEY_HEADER
from narthex.domain.refusals import Refusal
from narthex.web.fields import bounded_body
from narthex.web.problems import NO_STORE, problem, trace_id_for
from narthex.web.request_rules import RequestAuthenticator

PATH: Final = "/auth/e2e/test-auth"
MAX_BODY: Final = 4 * 1024  # three short members


def routes(exchange: TokenExchange, http: RequestAuthenticator) -> list[BaseRoute]:
    """Starlette routes."""

    async def test_auth(request: Request) -> Response:
        trace_id = trace_id_for(request)
        refused = http.origin_refusal(request)
        if refused is not None:
            return problem(refused, trace_id)
        body = await bounded_body(request, MAX_BODY)
        if body is None:
            return problem(
                Refusal(code="body_invalid", detail=f"The body is over {MAX_BODY} bytes."), trace_id
            )
        outcome = await exchange.exchange(
            ExchangeRequest(
                keys=tuple(request.headers.getlist(E2E_KEY_HEADER)),
                authorization=tuple(request.headers.getlist("authorization")),
                body=body,
                address=http.address(request),
                trace_id=trace_id,
                fresh_id=secrets.token_hex(16),
            )
        )
        if isinstance(outcome, Refusal):
            return problem(outcome, trace_id)
        return JSONResponse(msgspec.to_builtins(outcome), headers=NO_STORE)

    return [Route(PATH, test_auth, methods=["POST"])]
