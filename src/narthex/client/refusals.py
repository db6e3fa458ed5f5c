"""Turns a gateway's refusals into exceptions with code, detail and remedy.

Not here: when to ask for one (`handshake`). A refusal comes as problem+json (RFC 9457) in the answer to the refused
upgrade or from `/ws/preflight`, or as a close code with the reason `code: text`. The close codes are those of
the gateway's own table, `domain.refusals`.
"""

from __future__ import annotations

import json
import re
from typing import Final

from narthex.domain.refusals import CLOSES_BY_STATUS, client_closes, is_final
from narthex.errors import ClientError, DependencyError

_CLOSES: Final = client_closes()
_CODE: Final = re.compile(r"^([a-z][a-z0-9_]{1,40}): (.*)$", re.DOTALL)
_REMEDIES: Final = {
    "auth_required": "Pass `connect` a get_token, or headers with a credential.",
    "token_expired": "Let get_token fetch a fresh token on every call.",
    "disconnected": "Connect again.",
}
"""For closes that preflight does not explain (it admits, or cannot be reached)."""

_REASONABLE_S: Final = 60.0  # a longer Retry-After is a mistake or an attack; the SDK's own back-off is 20 s


class SignedOut(Exception):
    """Raise this from `get_token` when no user is signed in: the client then stops instead of retrying."""


class Refused(ClientError):
    """The gateway refused; see `final` for whether a retry with the same credential can help.

    Attributes:
        code: such as `token_expired` (docs/protocol.md); `handshake_blocked` and `disconnected` are our own.
        detail: the fault, in one sentence.
        remedy: the action that helps.
        status: HTTP status, 0 where there was none.
        close: the WebSocket close code.
        trace_id: finds the gateway's own record; may be empty.
        retry_after_s: seconds after which a retry makes sense; None when a retry cannot help.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        remedy: str = "",
        *,
        status: int = 0,
        close: int = 0,
        trace_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        remedy = remedy or _REMEDIES.get(code, "Look up this code in docs/refusals.md.")
        super().__init__(code, detail, remedy, number=status or 400)
        self.detail = detail
        self.status = status
        self.close = close
        self.trace_id = trace_id
        self.retry_after_s = retry_after_s

    @property
    def final(self) -> bool:
        """Whether a retry cannot help."""
        return is_final(self.close)


class Unreachable(DependencyError):
    """The gateway could not be reached in time, or answered that it is not ready; a retry may help.

    Attributes:
        last: the last refusal during the attempts; None when there was no answer at all.
    """

    def __init__(self, message: str, remedy: str, last: Refused | None = None) -> None:
        super().__init__("gateway", message, remedy, retry_after_s=(last and last.retry_after_s) or 1.0)
        self.last = last


def from_problem(status: int, body: bytes, retry_after: str | None) -> Refused | None:
    """Read an answer's problem+json; None when it is no refusal of a narthex gateway (a proxy's page, a bug)."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str) or not problem["code"]:
        return None
    code: str = problem["code"]
    close = _CLOSES.get(code) or CLOSES_BY_STATUS.get(status)
    if not close:
        return None

    def text(name: str) -> str:
        value = problem.get(name)
        return value if isinstance(value, str) else ""

    return Refused(
        code,
        text("detail") or text("title"),
        text("remedy"),
        status=status,
        close=close,
        trace_id=text("trace_id"),
        retry_after_s=_seconds(retry_after),
    )


def from_close(close: int, reason: str) -> Refused | None:
    """Read a close that carries `code: text`; None when it carries no such reason."""
    match = _CODE.match(reason)
    if match is None or close < 3000:
        return None
    return Refused(match[1], match[2], close=close)


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in its form of whole seconds (gateways send no dates), bounded."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return None
    return min(float(retry_after.strip()), _REASONABLE_S)
