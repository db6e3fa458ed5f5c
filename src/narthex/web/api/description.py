"""Generates the OpenAPI 3.1 description of the server API from the body Structs.

Not here: the bodies (`bodies`), the routes (`routes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

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
}
"""By path: the body that a POST takes, and a summary."""
GETS: Final[dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "/api/v1/threads": ("Threads of the signed-in user", ("before", "limit"), ()),
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
}


"""By path: a summary, the parameters of the query, and those of the path."""


class Described(NamedTuple):
    """Routes of another package, in the form of `POSTS` and `GETS`. A parameter of a POST's path is read off it."""

    posts: Mapping[str, tuple[type[msgspec.Struct], str]] = MappingProxyType({})
    gets: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = MappingProxyType({})


NOT_DESCRIBED: Final = Described()


def openapi(version: str, more: Described = NOT_DESCRIBED, root: str = "") -> dict[str, Any]:
    """The whole document. `more`: routes beside those of the server API; `root`: see `web.paths`."""
    posts = POSTS | dict(more.posts)
    structs = [body for body, _ in posts.values()]
    _, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    problem = {"description": "Refused: application/problem+json (RFC 9457)"}
    paths: dict[str, Any] = {}
    for path, (body, summary) in posts.items():
        paths.setdefault(path, {})["post"] = {
            "summary": summary,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
                },
            },
            "responses": {"200": {"description": "Done"}, "default": problem},
        }
        if names := re.findall(r"{(\w+)}", path):
            paths[path]["post"]["parameters"] = [_in_path(name) for name in names]
    for path, (summary, query, inside) in (GETS | dict(more.gets)).items():
        paths.setdefault(path, {})["get"] = {
            "summary": summary,
            "parameters": [
                *({"name": name, "in": "query", "schema": {"type": "string"}} for name in query),
                *map(_in_path, inside),
            ],
            "responses": {"200": {"description": "Found"}, "default": problem},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "narthex server API", "version": version},
        **({"servers": [{"url": root}]} if root else {}),
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The admin key, or a token with the permission `admin`.",
                }
            },
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
