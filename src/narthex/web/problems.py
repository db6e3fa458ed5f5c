"""Renders every refusal and error over HTTP, as an RFC 9457 problem+json response.

Not here: the table (`domain.refusals`), the edge's own answers to upgrades (adapters/edge), the problems of
sign-in (`sign_in_problems`). Rules: never a bare status; every answer says `no-store` and has a trace id; the answer
to an unexpected exception shows only the trace id under which the log has it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from narthex.domain.problem_table import ERRORS, problem_row
from narthex.domain.refusals import PROBLEM_TYPE_BASE, Refusal
from narthex.domain.traces import trace_id_of
from narthex.errors import ClientError, DependencyError
from narthex.web.paths import root_path

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
MEDIA_TYPE: Final = "application/problem+json"


class ProblemResponse(JSONResponse):
    """A problem whose `type` begins with the path under which the client reached us, which only its request tells.

    Args:
        body: its members.
        status_code: HTTP status.
        headers: of the answer.
    """

    media_type = MEDIA_TYPE

    def __init__(self, body: Mapping[str, object], status_code: int, headers: Mapping[str, str]) -> None:
        super().__init__(body, status_code, headers)
        self._problem = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if root := root_path(scope):
            self.body = self.render({**self._problem, "type": f"{root}{self._problem['type']}"})
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


ReportBug = Callable[[BaseException, str], None]
ExceptionHandler = Callable[[Request, Exception], Response | Awaitable[Response]]

# HTTP's own refusals, raised by the router: code, title, remedy.
_HTTP: Final[Mapping[int, tuple[str, str, str]]] = {
    404: (
        "no_route",
        "There is nothing at this path",
        "docs/protocol.md lists the routes; WebSockets are at /ws.",
    ),
    405: ("method_not_allowed", *ERRORS["method_not_allowed"][1:]),
    413: ("body_invalid", "The body is too large", "Send less."),
}


def trace_id_for(request: Request) -> str:
    """The trace id of an HTTP request: W3C `traceparent`'s, or random; the same for every call with the request."""
    kept: str | None = getattr(request.state, "trace_id", None)
    if kept is None:
        traceparent = request.headers.get("traceparent")
        kept = (trace_id_of(traceparent) if traceparent else None) or secrets.token_hex(16)
        request.state.trace_id = kept
    return kept


def problem(
    refusal: Refusal, trace_id: str = "", *, headers: Mapping[str, str] | None = None, message: bool = False
) -> Response:
    """A refusal as problem+json, with `WWW-Authenticate` and `Retry-After` where they belong.

    Args:
        refusal: the reason.
        trace_id: of the request; empty: a random one.
        headers: more headers, CORS for example.
        message: whether a member `message` repeats the reason and the remedy, for clients that show no other member.
    """
    body = refusal.problem(trace_id or secrets.token_hex(16))
    if message:
        body["message"] = f"{body.get('detail') or body['title']} {body['remedy']}".strip()
    return ProblemResponse(
        body,
        refusal.row.http or 400,
        {**NO_STORE, **dict(refusal.headers()), **(headers or {})},
    )


def client_error(fault: ClientError, trace_id: str = "") -> Response:
    """A caller's error as problem+json; its `number` is the status if it is an HTTP status, else 400."""
    status = fault.number if fault.number in _CLIENT_STATUSES else 400
    row = problem_row(fault.code)
    title = row.title if row else fault.message
    return plain_problem(status, fault.code, title, fault.message, fault.remedy, trace_id)


def plain_problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    remedy: str,
    trace_id: str = "",
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem whose code is no row of the refusals' table."""
    body = {
        "type": PROBLEM_TYPE_BASE + code,
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "remedy": remedy,
        "trace_id": trace_id or secrets.token_hex(16),
    }
    return ProblemResponse(body, status, {**NO_STORE, **(headers or {})})


def exception_handlers(
    report_bug: ReportBug, cors: Callable[[Request], Mapping[str, str]] = lambda _: {}
) -> dict[Any, ExceptionHandler]:
    """For `Starlette(exception_handlers=…)`: HTTP's own exceptions, ours, and all others, which are bugs (500).

    Args:
        report_bug: called with every unexpected exception and the trace id that the client sees.
        cors: returns the headers by which a page of an allowed origin may read the answer.
    """

    def bug(request: Request, fault: Exception) -> Response:
        trace_id = trace_id_for(request)
        report_bug(fault, trace_id)
        return problem(Refusal(code="internal"), trace_id)

    def readable(render: Callable[[Request, Exception], Response]) -> ExceptionHandler:
        def handler(request: Request, fault: Exception) -> Response:
            answer = render(request, fault)
            answer.headers.update(cors(request))
            return answer

        return handler

    return {
        HTTPException: _http_exception,
        ClientDisconnect: _gone,
        ClientError: readable(_client_error),
        DependencyError: readable(_dependency_error),
        Exception: readable(bug),
    }


_CLIENT_STATUSES: Final = frozenset(status.value for status in HTTPStatus if 400 <= status.value < 500)


def _http_exception(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    phrase = HTTPStatus(fault.status_code).phrase
    code, title, remedy = _HTTP.get(
        fault.status_code, (phrase.lower().replace(" ", "_"), phrase, "See docs/protocol.md.")
    )
    return plain_problem(
        fault.status_code,
        code,
        title,
        f"{title}.",
        remedy,
        trace_id_for(request),
        headers=fault.headers,
    )


def _gone(request: Request, fault: Exception) -> Response:
    """The client left within its body: no client reads this answer, and it is no fault of ours."""
    del request, fault
    return Response(status_code=400)


def _client_error(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, ClientError)
    return client_error(fault, trace_id_for(request))


def _dependency_error(request: Request, fault: Exception) -> Response:
    """An engine that is away: 503 with `Retry-After`."""
    assert isinstance(fault, DependencyError)
    retry_after_s = max(1, math.ceil(fault.retry_after_s))
    return plain_problem(
        503,
        fault.code,
        "A dependency of the gateway does not respond",
        f"The {fault.dependency} does not respond right now.",
        "Retry after the seconds given in Retry-After.",
        trace_id_for(request),
        headers={"Retry-After": str(retry_after_s)},
    )
