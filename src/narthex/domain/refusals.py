"""The one table of refusals: outcome → HTTP status, close code, title, remedy. Rendering lives at the edge.

Rules: a refusal is a value, not an exception. `detail` is safe to show to any client; facts that would help an
attacker go into `log_detail`, which never leaves the log. Every code that narthex can answer is a row here.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

PROBLEM_TYPE_BASE: Final = (
    "/problems/"  # of the server that answers (RFC 9457 section 3.1.1): it serves the pages itself
)
MAX_CLOSE_REASON_BYTES: Final = 123  # RFC 6455 section 5.5: 125 less the two bytes of the code


class RefusalRow(NamedTuple):
    """One outcome. `http` or `close` is None where that surface cannot say it."""

    http: int | None
    close: int | None
    title: str
    remedy: str


TABLE: Final[dict[str, RefusalRow]] = {
    "auth_required": RefusalRow(401, 3500, "Authentication required",
        "Send a token in the Authorization header or as subprotocol `jwt.<token>` beside `jwt-auth`, a ticket, or the "
        "cookie of a signed-in session."),
    "token_malformed": RefusalRow(401, 3500, "The token is not a JWT",
        "Send the token as the issuer gave it."),
    "token_invalid": RefusalRow(401, 3500, "The token did not verify",
        "Get a fresh token from the configured issuer."),
    "token_expired": RefusalRow(401, 3500, "The token has expired", "Refresh the token and connect again."),
    "token_not_yet_valid": RefusalRow(401, 3500, "The token is not valid yet",
        "Check the clocks of the issuer and this client."),
    "wrong_issuer": RefusalRow(401, 3500, "The token's issuer is not accepted",
        "Get a token from the configured issuer."),
    "wrong_audience": RefusalRow(401, 3500, "The token is for another audience",
        "Ask the issuer for a token for this gateway's audience."),
    "algorithm_not_allowed": RefusalRow(401, 3500, "The token's algorithm is not allowed",
        "Have the issuer sign with an algorithm allowed here."),
    "unknown_key": RefusalRow(
        401,
        3500,
        "The token's key is not known",
        "Check that token and gateway use the same issuer and key set; `narthex token` needs the gateway's --data-dir.",
    ),
    "token_revoked": RefusalRow(401, 3500, "The token was revoked", "Sign in again."),
    "ticket_invalid": RefusalRow(401, 3500, "The ticket is unknown, used or expired",
        "Ask POST /ws/ticket for a new one; it lives 30 s."),
    "e2e_key_wrong": RefusalRow(401, 3500, "The end-to-end key is wrong",
        "Send the key that the server was started with."),
    "credential_in_url": RefusalRow(400, 3501, "The URL contains a credential",
        "Move it to a header, because URLs end up in logs. Tickets are allowed."),
    "credential_conflict": RefusalRow(400, 3501, "Two credentials name different subjects",
        "Send one, or two of one subject."),
    "bad_request": RefusalRow(400, 3501, "The request is malformed",
        "Send it as docs/protocol.md describes it."),
    "silence": RefusalRow(None, 3502, "No `connect` came in time",
        "Send a `connect` command within 10 s of the upgrade, with a token if the handshake had none."),
    "inappropriate_protocol": RefusalRow(None, 3506, "The message is not in the connection's format",
        "Send JSON in text messages, or offer the subprotocol `centrifuge-protobuf` and send protobuf in binary ones."),
    "origin_not_allowed": RefusalRow(403, 3507, "The page's origin is not allowed",
        "Add the origin to NARTHEX_ALLOWED_ORIGINS."),
    "permission_denied": RefusalRow(403, 3507, "Permission denied",
        "Ask the operator for the permission named in `detail`."),
    "tenant_mismatch": RefusalRow(403, 3507, "The tenant does not match",
        "Use a credential of the right tenant."),
    "e2e_not_allowed_here": RefusalRow(403, 3507, "Test identities are not admitted here",
        "Test against staging, or set E2E_OAUTH_SIMULATION_KEY on the server."),
    "connection_limit": RefusalRow(429, 4004, "Too many connections",
        "Close a connection of this user or address first."),
    "rate_limited": RefusalRow(429, 3013, "Too many requests",
        "Slow down and retry after the time in Retry-After."),
    "starting": RefusalRow(503, 4001, "The gateway is starting", "Retry after the time in Retry-After."),
    "auth_unavailable": RefusalRow(503, 4002, "The credential cannot be checked right now",
        "Retry after the time in Retry-After."),
    "overloaded": RefusalRow(503, 4003, "The gateway is at capacity", "Retry after the time in Retry-After."),
    "draining": RefusalRow(503, 3001, "The gateway is shutting down",
        "Connect again; another instance will answer."),
    "upstream_refused": RefusalRow(502, 4005, "The server behind the guard takes no connection",
        "Start the server that `narthex guard --upstream` names, or correct the address."),
    "upstream_invalid": RefusalRow(502, 4005, "The server behind the guard gave no valid answer",
        "Check that `narthex guard --upstream` names a WebSocket server; `detail` says what is wrong."),
    "upstream_gone": RefusalRow(503, 4006, "The server behind the guard closed the connection",
        "Come back after Retry-After seconds; see the log of the server behind."),
    "upstream_timeout": RefusalRow(504, 4007, "The server behind the guard did not answer in time",
        "Come back after Retry-After seconds; see the load of the server behind."),
    "upstream_denied": RefusalRow(None, 3507, "The server behind the guard refused the handshake",
        "See the log of the server behind; without `narthex.explain` its own answer reaches the client."),
    "upstream_failed": RefusalRow(None, 4005, "The server behind the guard failed to answer the handshake",
        "See the log of the server behind; without `narthex.explain` its own answer reaches the client."),
    "no_route": RefusalRow(404, None, "Nothing is served at this path", "WebSockets are at /ws."),
    "handshake_timeout": RefusalRow(408, None, "The handshake took too long",
        "Send the whole request within 10 s."),
    "upgrade_required": RefusalRow(426, None, "This path accepts only WebSocket upgrades",
        "Send a WebSocket upgrade (GET, version 13), or use a client library."),
    "body_invalid": RefusalRow(422, None, "The body is not valid for this path",
        "Send the members named in `detail`, as JSON."),
    "head_too_large": RefusalRow(431, None, "The request head is too large",
        "Keep it below 16 KB and 100 headers; check for oversized cookies."),
    "expired": RefusalRow(None, 3005, "The token expired on the live connection",
        "Refresh in-band before `ttl` ends."),
    "slow": RefusalRow(None, 3008, "The client reads too slowly", "Reconnect; missed events are recovered."),
    "insufficient_state": RefusalRow(None, 3010, "The position in a channel was lost",
        "Reconnect to recover."),
    "no_pong": RefusalRow(None, 3012, "No pong came in time",
        "Answer each ping; reconnect to recover what was missed. Check the network on the path."),
    "internal": RefusalRow(500, 1011, "A bug in narthex", "Report it with the trace_id."),
}  # fmt: skip
"""Every refusal and disconnect. Tests check each row against docs/design.md#admission."""

WWW_AUTHENTICATE_ERRORS: Final[dict[str, str]] = {
    # RFC 6750 section 3.1: a request without a credential gets no error attribute.
    code: "" if code == "auth_required" else "invalid_token"
    for code, row in TABLE.items()
    if row.http == 401
}


HTTP_ONLY_CLOSES: Final = {"no_route": 3508, "upgrade_required": 3508, "head_too_large": 3501}
"""The close code that a client gives an attempt which was refused before a WebSocket could say why."""

CLOSES_BY_STATUS: Final = {400: 3501, 401: 3500, 403: 3507, 429: 3013, 503: 4003}
"""The same for a code that the client does not know, because the gateway is newer."""


def client_closes() -> dict[str, int]:
    """Close codes by the codes of refused handshakes."""
    said = {code: row.close for code, row in TABLE.items() if row.http is not None and row.close is not None}
    return {code: close for code, close in (said | HTTP_ONLY_CLOSES).items() if close >= 3000}


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reason why a client is refused.

    Attributes:
        code: a key of `TABLE`.
        detail: one sentence for the client; safe to show to any client.
        carriers_checked: names of the carriers that were looked at, in order.
        retry_after_s: whole seconds for `Retry-After`; None where coming back changes nothing.
        log_detail: for the log only.
    """

    code: str
    detail: str = ""
    carriers_checked: tuple[str, ...] = ()
    retry_after_s: int | None = None
    log_detail: str = ""

    @property
    def row(self) -> RefusalRow:
        """The outcome's row of `TABLE`."""
        return TABLE[self.code]

    def problem(self, trace_id: str, root: str = "") -> dict[str, object]:
        """The RFC 9457 body: `type, title, status, code, detail, remedy, trace_id, carriers_checked`.

        Args:
            trace_id: of the request.
            root: the path under which clients reach this server; empty: the root of its host.
        """
        row = self.row
        return {
            "type": root + PROBLEM_TYPE_BASE + self.code,
            "title": row.title,
            "status": row.http or 400,
            "code": self.code,
            "detail": self.detail or row.title + ".",
            "remedy": row.remedy,
            "trace_id": trace_id,
            "carriers_checked": list(self.carriers_checked),
        }

    def headers(self) -> list[tuple[str, str]]:
        """`WWW-Authenticate` (RFC 6750) and `Retry-After` (RFC 9110) where they belong."""
        found: list[tuple[str, str]] = []
        error = WWW_AUTHENTICATE_ERRORS.get(self.code)
        if error is not None:
            challenge = 'Bearer realm="narthex"'
            if error:
                challenge += f', error="{error}", error_description="{self.row.title}"'
            found.append(("WWW-Authenticate", challenge))
        if self.retry_after_s is not None:
            found.append(("Retry-After", str(self.retry_after_s)))
        if self.code == "upgrade_required":
            found.append(("Upgrade", "websocket"))
            found.append(("Sec-WebSocket-Version", "13"))
        return found

    def close(self) -> tuple[int, str]:
        """Close code and reason `code: text`, plain text of at most 123 bytes (SDKs parse JSON reasons)."""
        row = self.row
        return row.close or 1008, close_reason(self.code, self.detail or row.title)


def rate_limited(wait_s: float, detail: str = "") -> Refusal:
    """A refusal for as long as `wait_s`, at least a second."""
    return Refusal(code="rate_limited", detail=detail, retry_after_s=max(1, math.ceil(wait_s)))


def is_final(close: int) -> bool:
    """Whether a close code tells SDKs not to come back (Centrifuge client protocol)."""
    return 3500 <= close < 4000 or 4500 <= close < 5000


def close_reason(code: str, text: str) -> str:
    """`code: text`, cut at a character boundary so that its UTF-8 form is at most 123 bytes."""
    raw = f"{code}: {text}".encode()
    return raw[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
