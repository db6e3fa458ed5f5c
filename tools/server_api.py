"""The server API for the OpenAPI document: its paths, parameters and bodies. The bodies are the code's own Structs.

Not here: the bodies (`narthex.web.api.bodies`, `narthex.status`), the answers (`http_routes`), the document
(`openapi`).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from narthex.status.routes import Samples
from narthex.status.service import OpenIncident, ScheduleMaintenance, UpdateIncident
from narthex.web.api import bodies

POSTS: Final[dict[str, tuple[type[msgspec.Struct], str]]] = {
    "/api/v1/publish": (bodies.Publish, "Append to a channel"),
    "/api/v1/subscribe": (bodies.Subscribe, "Subscribe a user's connections to a thread"),
    "/api/v1/unsubscribe": (bodies.Unsubscribe, "End a user's subscriptions to a thread"),
    "/api/v1/disconnect": (bodies.Disconnect, "Close a user's connections"),
    "/api/v1/revoke": (bodies.Revoke, "Revoke tokens"),
    "/api/v1/users/block": (bodies.BlockUser, "Block a user everywhere, or lift the block"),
    "/api/v1/drain": (bodies.Drain, "Drain and stop an instance"),
    "/api/v1/e2e/results": (bodies.Results, "Report an end-to-end run"),
    "/api/v1/operator/baselines": (bodies.PostBaseline, "Record a performance measurement, for operators"),
    "/api/v1/operator/traces": (bodies.StartTrace, "Trace a user live, for operators"),
    "/api/v1/operator/traces/end": (bodies.EndTrace, "End a trace, for operators"),
    "/api/v1/incidents": (OpenIncident, "Open an incident on the status page, for operators"),
    "/api/v1/incidents/{incident_id}/updates": (UpdateIncident, "Update or resolve it, for operators"),
    "/api/v1/maintenance": (ScheduleMaintenance, "Announce maintenance, for operators"),
    "/api/v1/status/samples": (Samples, "Report samples, for probers with the status token"),
}
"""By path: the body that a POST takes, and a summary."""
GETS: Final[dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "/api/v1/threads": ("Threads of the signed-in user", ("before", "before_id", "limit"), ()),
    "/api/v1/threads/{thread_id}": ("One thread with its newest messages", (), ("thread_id",)),
    "/api/v1/threads/{thread_id}/export": ("A thread as a download", ("format",), ("thread_id",)),
    "/api/v1/runs/{run_id}": ("One run", (), ("run_id",)),
    "/api/v1/e2e/results": ("Newest end-to-end results", (), ()),
    "/api/v1/operator/fleet": ("Latest snapshot of every process, for operators", (), ()),
    "/api/v1/operator/refusals": ("Newest refused handshakes of all processes, for operators", (), ()),
    "/api/v1/operator/connections": (
        "Live connections of all processes, newest first, for operators",
        ("user", "tenant", "class", "plan", "node", "client", "slow", "before", "limit"),
        (),
    ),
    "/api/v1/operator/baselines": ("Newest performance measurements, for operators", (), ()),
    "/api/v1/operator/audits": ("Newest audit records, for operators", ("kind", "limit"), ()),
    "/api/v1/operator/traces": ("Running traces, for operators", (), ()),
    "/api/v1/operator/traces/{trace_id}": ("Entries of a trace, for operators", ("after",), ("trace_id",)),
    "/api/v1/operator/history": ("Figures over a range of 15m to 90d, for operators", ("range",), ()),
    "/api/v1/incidents": ("Incidents and maintenance of 90 days, for operators", (), ()),
    "/api/v1/incidents/changes": ("Who changed which incident, for operators", (), ()),
}
"""By path: a summary, the parameters of the query, and those of the path."""


def paths_and_schemas() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Operations by path and method, without their answers, and the schemas of the bodies by name."""
    structs = [body for body, _ in POSTS.values()]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for path, (body, summary) in POSTS.items():
        paths.setdefault(path, {})["post"] = {
            "summary": f"{summary}.",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
                },
            },
        }
        if names := re.findall(r"{(\w+)}", path):
            paths[path]["post"]["parameters"] = [_in_path(name) for name in names]
    for path, (summary, query, inside) in GETS.items():
        paths.setdefault(path, {})["get"] = {
            "summary": f"{summary}.",
            "parameters": [
                *({"name": name, "in": "query", "schema": {"type": "string"}} for name in query),
                *map(_in_path, inside),
            ],
        }
    return paths, schemas


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
