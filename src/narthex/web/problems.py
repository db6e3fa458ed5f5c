"""Refusals and the sign-in room's own problems as problem+json (RFC 9457) responses.

Not here: the admission table (`domain/refusals.py`). Rules: every answer says `no-store` and has a trace id.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import JSONResponse, Response

from narthex.app.provider import Denied
from narthex.domain.refusals import PROBLEM_TYPE_BASE, Refusal
from narthex.errors import ClientError

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

# What signing in can answer beyond the admission table: status, title, remedy.
_PROBLEMS: Final = {
    "login_failed": (401, "Sign-in failed", "Check the e-mail and the password."),
    "refresh_invalid": (401, "The refresh token is not valid", "Sign in again."),
    "account_blocked": (403, "The account is blocked", "Ask the operator."),
    "client_not_allowed": (
        401,
        "The caller may not ask this",
        "Send the admin key as Bearer or Basic password.",
    ),
}


def denied(outcome: Denied) -> Response:
    """Why there is no session, as problem+json."""
    if outcome.code == "rate_limited":
        return refusal(
            Refusal(code="rate_limited", detail=outcome.detail, retry_after_s=outcome.retry_after_s)
        )
    return problem(outcome.code, outcome.detail)


def refusal(found: Refusal, trace_id: str = "") -> Response:
    """A row of the admission table as problem+json (RFC 9457); without a `trace_id` it gets one of its own."""
    return JSONResponse(
        found.problem(trace_id or secrets.token_hex(16)),
        status_code=found.row.http or 400,
        headers=NO_STORE | dict(found.headers()),
        media_type="application/problem+json",
    )


def problem(code: str, detail: str) -> Response:
    """One of this room's own problems, or a row of the admission table."""
    if code not in _PROBLEMS:
        return refusal(Refusal(code=code, detail=detail))
    status, title, remedy = _PROBLEMS[code]
    return JSONResponse(
        {
            "type": PROBLEM_TYPE_BASE + code,
            "title": title,
            "status": status,
            "code": code,
            "detail": detail or title + ".",
            "remedy": remedy,
            "trace_id": secrets.token_hex(16),
        },
        status_code=status,
        headers=NO_STORE | ({"WWW-Authenticate": 'Bearer realm="narthex"'} if status == 401 else {}),
        media_type="application/problem+json",
    )


def client_error(fault: ClientError) -> Response:
    """An app's `ClientError` with its number as the status."""
    return JSONResponse(
        {
            "type": PROBLEM_TYPE_BASE + fault.code,
            "title": fault.message,
            "status": fault.number,
            "code": fault.code,
            "detail": fault.message,
            "remedy": fault.remedy,
            "trace_id": secrets.token_hex(16),
        },
        status_code=fault.number,
        headers=NO_STORE,
        media_type="application/problem+json",
    )
