"""Renders the refusals of sign-in that are not in the admission table, as problem+json.

Not here: rendering (`problems`). Rules: a wrong password and an unknown account are one answer.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from narthex.app.provider import Denied
from narthex.domain.problem_table import ERRORS
from narthex.domain.refusals import Refusal
from narthex.web import problems
from narthex.web.problems import NO_STORE

__all__ = ["NO_STORE", "denied", "problem", "refusal"]

_PROBLEMS: Final = ("login_failed", "refresh_invalid", "account_blocked", "client_not_allowed")


def denied(outcome: Denied) -> Response:
    """The reason why there is no session, as problem+json."""
    if outcome.code == "rate_limited":
        return refusal(
            Refusal(code="rate_limited", detail=outcome.detail, retry_after_s=outcome.retry_after_s)
        )
    return problem(outcome.code, outcome.detail)


def refusal(found: Refusal) -> Response:
    """A row of the admission table as problem+json (RFC 9457)."""
    return problems.problem(found)


def problem(code: str, detail: str) -> Response:
    """One of sign-in's own problems, or a row of the admission table."""
    if code not in _PROBLEMS:
        return refusal(Refusal(code=code, detail=detail))
    status, title, remedy = ERRORS[code]
    assert status is not None
    challenge = {"WWW-Authenticate": 'Bearer realm="narthex"'} if status == 401 else {}
    return problems.plain_problem(status, code, title, detail or title + ".", remedy, headers=challenge)
