"""The routes of a gateway for the OpenAPI description: what each takes, and what it answers.

Not here: the document (`openapi`), what the server API takes (`server_api`). Rules: `tests/docs/test_openapi.py`
compares the paths and methods with the gateway's routes, and its answers with these schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from narthex.app.exchange import ExchangeAnswer, ExchangeBody
from narthex.app.fleet.connection_list import ConnectionPage
from narthex.app.fleet.history import HistoryAnswer
from narthex.app.fleet.refusals import RecentRefusal
from narthex.app.fleet.tracing import Trace, TraceEntry
from narthex.app.thread_view import ListedThread, ThreadView
from narthex.domain import endpoints
from narthex.ports.store import AuditRecord, TestRunResult
from narthex.status.document import IncidentStatus, StatusDocument
from tools.schemas import ANY, BOOLEAN, INTEGER, NUMBER, OBJECT, STRING, STRINGS, Schema, members
from tools.wire_tables import METHODS

HTML: Final = "text/html"
PROBLEM: Final = members(
    {
        "type": STRING,
        "title": STRING,
        "status": INTEGER,
        "code": STRING,
        "detail": STRING,
        "remedy": STRING,
        "trace_id": STRING,
    },
    {"carriers_checked": STRINGS},
    "RFC 9457. refusals.md lists the codes.",
)
TOKEN: Final[dict[str, Any]] = {"access_token": STRING, "token_type": STRING, "expires_in": INTEGER}
_NULLABLE: Final[Schema] = {"anyOf": [STRING, {"type": "null"}]}


def _list(name: str, of: Any) -> Schema:
    return members({name: {"type": "array", "items": of}})


class Operation(NamedTuple):
    """A method of a path.

    Attributes:
        method: in small letters.
        path: as OpenAPI writes it.
        tag: the group that it is shown in.
        summary: one line.
        answer: the schema of a good answer, a type, a media type, or None where it has no body.
        status: of a good answer.
        query: parameters in the query.
        body: a schema or a type.
        proof: `none`, `user` (any credential), `operator` (the admin key or the permission).
        more: further answers with a body: status → schema.
        pages: pages of allowed origins may use it: OPTIONS answers too.
    """

    method: str
    path: str
    tag: str
    summary: str
    answer: Any = None
    status: int = 200
    query: tuple[str, ...] = ()
    body: Any = None
    proof: str = "none"
    more: Mapping[int, Any] = MappingProxyType({})
    pages: bool = False


_CHECK: Final = members(
    {"status": {"enum": ["healthy", "degraded", "unhealthy"]}, "latency_ms": NUMBER, "detail": STRING}
)
HEALTH: Final = members(
    {
        "status": {"enum": ["healthy", "degraded", "unhealthy"]},
        "service": STRING,
        "version": STRING,
        "timestamp": STRING,
        "environment": STRING,
        "config": OBJECT,
        "e2e_testing": members(
            {"enabled": BOOLEAN, "variables": OBJECT, "auth_bypass_active": BOOLEAN}, {"reason": STRING}
        ),
        "checks": {"type": "object", "additionalProperties": _CHECK},
        "metrics": OBJECT,
        "errors": STRINGS,
    }
)
CONFIG: Final = members(
    {
        **dict.fromkeys(("service", "version", "environment", "protocol", "url"), STRING),
        "paths": {"type": "object", "additionalProperties": STRING},
        "subprotocols": STRINGS,
        "carriers": STRINGS,
        **dict.fromkeys(("pre_connection_auth_required", "guests", "embedded_provider"), BOOLEAN),
        "oidc_start": _NULLABLE,
        "limits": OBJECT,
        "plans": {"type": "object", "additionalProperties": OBJECT},
    }
)
PREFLIGHT: Final = members(
    {
        "verdict": {"const": "admit"},
        "inert": _NULLABLE,
        "carriers": STRINGS,
        "carriers_checked": STRINGS,
        "trace_id": STRING,
    },
    {
        "user": members({"id": STRING, "tenant": STRING, "plan": STRING, "class": STRING}),
        "expires_at": {"anyOf": [NUMBER, {"type": "null"}]},
    },
)
_USER: Final = members(dict.fromkeys(("id", "email", "name", "tenant", "plan"), STRING))
_SESSION: Final = members({**TOKEN, "user": _USER}, {"refresh_token": STRING})
_AGENT: Final = members(
    {"name": STRING, "description": STRING, "suggestions": STRINGS, "url": STRING, "capabilities": OBJECT}
)
_RUN_INPUT: Final[Schema] = OBJECT | {"description": "AG-UI's RunAgentInput: see ag-ui.md."}
_HISTORY: Final = members(
    {
        "threadId": STRING,
        "messages": {"type": "array", "items": OBJECT},
        "state": ANY,
        "interrupts": {"type": "array", "items": OBJECT},
        "messageRuns": OBJECT,
        "runs": {"type": "array", "items": OBJECT},
        "endedRuns": {"type": "array", "items": OBJECT},
        "lastEventId": STRING,
        "next": {"anyOf": [members({"before": NUMBER, "beforeId": STRING}), {"type": "null"}]},
    }
)
_STREAM: Final = "text/event-stream"

_AUTH: Final = "Sign in"
_WIRE: Final = "Connections"
OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("get", "/livez", "Health", "Whether the process is alive.", members({"status": STRING})),
    Operation(
        "get",
        "/readyz",
        "Health",
        "Whether the process takes traffic.",
        members({"status": STRING}, {"workers": ANY}),
        more={503: members({"status": STRING, "reasons": STRINGS})},
    ),
    Operation(
        "get",
        "/ws/health",
        "Health",
        "The state of the gateway and of each check; unhealthy is 503.",
        HEALTH,
        more={503: HEALTH},
        pages=True,
    ),
    Operation("get", "/ws/config", "Health", "What a client needs in order to connect.", CONFIG, pages=True),
    Operation(
        "get",
        "/ws/beacon",
        "Health",
        "The same bytes from every gateway.",
        members({"beacon": STRING, "wire": STRING}),
        pages=True,
    ),
    Operation("get", "/ws/stats", "Health", "Numbers of this process.", OBJECT, proof="operator"),
    Operation(
        "get",
        "/metrics",
        "Health",
        "Prometheus text, or OpenMetrics where the scraper accepts it.",
        "text/plain",
        proof="operator",
    ),
    *(
        Operation("get", path, _WIRE, "Upgrade to a WebSocket: asyncapi.md.", status=101, proof="user")
        for path in endpoints.WEBSOCKETS
    ),
    Operation(
        "get",
        "/ws/preflight",
        _WIRE,
        "The verdict of a handshake without an upgrade.",
        PREFLIGHT,
        proof="user",
        pages=True,
    ),
    Operation(
        "post",
        "/ws/ticket",
        _WIRE,
        "A ticket for one handshake, for 30 s.",
        members({"ticket": STRING, "expires_in": INTEGER}),
        proof="user",
        pages=True,
    ),
    Operation(
        "post",
        endpoints.HTTP_STREAM,
        _WIRE,
        "The wire as a stream of JSON lines; the body is the first frame.",
        "application/json",
        body=OBJECT,
        proof="user",
        pages=True,
    ),
    Operation(
        "get",
        endpoints.SSE,
        _WIRE,
        "The wire as server-sent events.",
        _STREAM,
        query=("cf_connect",),
        proof="user",
    ),
    Operation(
        "post",
        endpoints.EMULATION,
        _WIRE,
        "A frame for a stream of the two routes above.",
        status=204,
        body=members({"session": STRING, "node": STRING, "data": STRING}),
        pages=True,
    ),
    Operation(
        "post",
        "/auth/login",
        _AUTH,
        "Sign in; sets the session's cookies.",
        _SESSION,
        body=members({"email": STRING}, {"password": STRING, "name": STRING, "next": STRING}),
        pages=True,
    ),
    Operation(
        "post",
        "/auth/refresh",
        _AUTH,
        "A new session for a refresh token, or for its cookie.",
        _SESSION,
        body=members({}, {"refresh_token": STRING}),
        pages=True,
    ),
    Operation(
        "post",
        "/auth/logout",
        _AUTH,
        "End the session.",
        status=204,
        body=members({}, {"refresh_token": STRING}),
        proof="user",
        pages=True,
    ),
    Operation(
        "post",
        "/auth/introspect",
        _AUTH,
        "RFC 7662: whether a token is active; for services.",
        members(
            {"active": BOOLEAN},
            {
                **dict.fromkeys(
                    ("sub", "iss", "token_type", "tenant", "plan", "scope", "name", "jti", "test_run"), STRING
                ),
                "exp": INTEGER,
                "iat": INTEGER,
                "e2e": BOOLEAN,
            },
        ),
        body=members({"token": STRING}),
        proof="operator",
        pages=True,
    ),
    Operation(
        "post",
        "/auth/revoke",
        _AUTH,
        "RFC 7009: end a token that one holds.",
        members({}),
        body=members({"token": STRING}),
        pages=True,
    ),
    Operation(
        "get",
        "/auth/me",
        _AUTH,
        "The signed-in user.",
        members(
            {
                **dict.fromkeys(("id", "name", "tenant", "plan", "issuer"), STRING),
                "permissions": STRINGS,
                "e2e": BOOLEAN,
                "expires_at": {"anyOf": [NUMBER, {"type": "null"}]},
            }
        ),
        proof="user",
        pages=True,
    ),
    Operation(
        "get", "/auth/oidc/start", _AUTH, "Go to the configured OIDC provider.", status=303, query=("next",)
    ),
    Operation(
        "get",
        "/auth/oidc/callback",
        _AUTH,
        "The way back from the OIDC provider.",
        status=303,
        query=("code", "state", "iss", "error"),
    ),
    Operation("get", "/.well-known/openid-configuration", _AUTH, "OpenID Connect Discovery.", OBJECT),
    Operation(
        "get",
        "/.well-known/jwks.json",
        _AUTH,
        "The public keys of the embedded provider.",
        _list("keys", OBJECT),
    ),
    Operation(
        "post",
        "/auth/e2e/test-auth",
        "Test identities",
        "A token of a test identity, by the end-to-end key.",
        ExchangeAnswer,
        body=ExchangeBody,
    ),
    Operation(
        "get",
        "/agui",
        "AG-UI",
        "The agents and their capabilities.",
        _list("agents", _AGENT),
        proof="user",
        pages=True,
    ),
    Operation(
        "post",
        "/agui",
        "AG-UI",
        "CopilotKit's single endpoint: one of the routes below, as `method` says.",
        ANY,
        body=members({"method": STRING}, {"params": OBJECT, "body": ANY}),
        proof="user",
    ),
    Operation(
        "get",
        "/agui/info",
        "AG-UI",
        "The agents as CopilotKit describes them.",
        members(
            {"version": STRING, "agents": OBJECT, "audioFileTranscriptionEnabled": BOOLEAN, "mode": STRING}
        ),
        proof="user",
        pages=True,
    ),
    *(
        Operation("post", path, "AG-UI", summary, _STREAM, body=_RUN_INPUT, proof="user", pages=pages)
        for path, summary, pages in (
            ("/agui/{agent}", "Start a run and stream its events.", False),
            ("/agui/agent/{agent}/run", "The same, by CopilotKit's name.", True),
            ("/agui/{agent}/connect", "Replay a thread, and follow its runs.", True),
            ("/agui/agent/{agent}/connect", "The same, by CopilotKit's name.", True),
        )
    ),
    Operation("get", "/agui/{agent}", "AG-UI", "One agent's capabilities.", _AGENT, proof="user", pages=True),
    Operation(
        "post",
        "/agui/agent/{agent}/stop/{thread_id}",
        "AG-UI",
        "Cancel the run that the body names (`{runId}`), else every run of a thread.",
        members({"stopped": BOOLEAN}),
        proof="user",
        pages=True,
    ),
    Operation(
        "get",
        "/agui/{agent}/threads/{thread_id}",
        "AG-UI",
        "A thread's messages, state and runs.",
        _HISTORY,
        query=("before", "beforeId"),
        proof="user",
        pages=True,
    ),
    Operation(
        "get",
        "/agui/{agent}/runs/{run_id}",
        "AG-UI",
        "Stream the events of a run.",
        _STREAM,
        query=("threadId",),
        proof="user",
        pages=True,
    ),
    Operation(
        "post",
        "/agui/{agent}/runs/{run_id}/cancel",
        "AG-UI",
        "Cancel a run.",
        METHODS["run.cancel"].result,
        proof="user",
        pages=True,
    ),
    Operation("get", "/status", "Status page", "The public status page.", HTML),
    Operation("get", "/status.json", "Status page", "The same as JSON.", StatusDocument),
    Operation("get", "/status.atom", "Status page", "Incidents as a feed.", "application/atom+xml"),
    Operation("get", "/status/badge.svg", "Status page", "A badge.", "image/svg+xml"),
    Operation("get", "/status/icon.svg", "Status page", "The page's icon.", "image/svg+xml"),
    Operation("get", "/status/incidents/{incident_id}", "Status page", "One incident.", HTML),
    Operation("get", "/", "Pages", "The chat page.", HTML),
    Operation("get", "/dashboard", "Pages", "The operators' dashboard.", HTML),
    Operation("get", "/static/{name}", "Pages", "A file of the pages.", "*/*"),
    Operation("get", "/problems", "Pages", "Every code of a problem.", HTML),
    Operation("get", "/problems/{code}", "Pages", "What one code means.", HTML),
    Operation("get", "/runbooks", "Pages", "Every alert's runbook.", HTML),
    Operation("get", "/runbooks/{name}", "Pages", "What an alert means, what to look at, what to do.", HTML),
    Operation(
        "get",
        "/api/v1/openapi.json",
        "Server API",
        "This document, without the routes that the gateway lacks.",
        OBJECT,
    ),
)
"""Routes outside the server API."""

ANSWERS: Final[dict[tuple[str, str], Any]] = {
    ("post", "/api/v1/publish"): members({"offset": INTEGER, "epoch": STRING, "duplicate": BOOLEAN}),
    **{
        ("post", f"/api/v1/{name}"): members({})
        for name in (
            "subscribe",
            "unsubscribe",
            "disconnect",
            "revoke",
            "operator/baselines",
            "operator/traces/end",
        )
    },
    ("post", "/api/v1/users/block"): members({"known": BOOLEAN}),
    ("post", "/api/v1/drain"): members({"draining": STRING}),
    ("post", "/api/v1/e2e/results"): members({"test_run": STRING}),
    ("get", "/api/v1/e2e/results"): _list("results", TestRunResult),
    ("get", "/api/v1/threads"): _list("threads", ListedThread),
    ("get", "/api/v1/threads/{thread_id}"): ThreadView,
    ("get", "/api/v1/threads/{thread_id}/export"): ANY,
    ("get", "/api/v1/runs/{run_id}"): METHODS["run.get"].result,
    ("get", "/api/v1/operator/fleet"): members(
        {"at": NUMBER, "members": {"type": "array", "items": OBJECT}, "buckets": OBJECT}
    ),
    ("get", "/api/v1/operator/refusals"): _list("refusals", RecentRefusal),
    ("get", "/api/v1/operator/connections"): ConnectionPage,
    ("get", "/api/v1/operator/audits"): _list("audits", AuditRecord),
    ("get", "/api/v1/operator/baselines"): _list(
        "baselines",
        members({"at": NUMBER, "kind": STRING, "version": STRING, "machine": STRING, "figures": OBJECT}),
    ),
    ("get", "/api/v1/operator/traces"): _list("traces", Trace),
    ("post", "/api/v1/operator/traces"): Trace,
    ("get", "/api/v1/operator/traces/{trace_id}"): members(
        {"entries": {"type": "array", "items": TraceEntry}, "running": BOOLEAN}
    ),
    ("get", "/api/v1/operator/history"): HistoryAnswer,
    ("get", "/api/v1/incidents"): members(
        {
            "components": {"type": "array", "items": members({"id": STRING, "name": STRING})},
            "incidents": {"type": "array", "items": IncidentStatus},
            "maintenance": {"type": "array", "items": IncidentStatus},
        }
    ),
    ("get", "/api/v1/incidents/changes"): _list(
        "changes",
        members({"at": NUMBER, "actor": STRING, "action": STRING, "incident_id": STRING, "detail": STRING}),
    ),
    ("post", "/api/v1/incidents"): IncidentStatus,
    ("post", "/api/v1/incidents/{incident_id}/updates"): IncidentStatus,
    ("post", "/api/v1/maintenance"): IncidentStatus,
    ("post", "/api/v1/status/samples"): members({"kept": INTEGER}),
}
"""What the routes of the gateway's own description answer."""
OF_USERS: Final = ("/api/v1/threads", "/api/v1/runs")
"""Routes of the server API that any signed-in user may call about their own data."""
