"""The HTTP API as an OpenAPI 3.1 document: every path and method of a gateway, with what it takes and answers.

Not here: the tables of routes (`http_routes`, `server_api`), the page (`http_page`). `./check --write-docs` writes it
to src/narthex/web/api/openapi.json, which a gateway serves at /api/v1/openapi.json and the documentation site beside
the page.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, Final

from narthex._version import __version__
from narthex.domain.carriers import SESSION_COOKIE
from tools.http_routes import ANSWERS, OF_USERS, OPERATIONS, PROBLEM, Operation
from tools.schemas import STRING, Components
from tools.server_api import paths_and_schemas
from tools.wire_tables import explained

SECURITY: Final[dict[str, list[dict[str, list[str]]]]] = {
    "none": [],
    "user": [{"bearer": []}, {"cookie": []}, {"ticket": []}],
    "operator": [{"admin": []}],
    "status": [{"status": []}, {"admin": []}],
}
_REFUSED: Final = {"$ref": "#/components/responses/Problem"}


def document() -> dict[str, Any]:
    """The whole document."""
    components = Components()
    server_api, schemas = paths_and_schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        _add(paths, operation, components)
    for path, methods in server_api.items():
        for method, found in methods.items():
            answer = components.of(ANSWERS[method, path])
            found["responses"] = {"200": _json("Done.", answer), "default": _REFUSED}
            found["tags"] = [_tag(path)]
            proof = "user" if path.startswith(OF_USERS) else "operator"
            found["security"] = SECURITY["status" if path.endswith("/samples") else proof]
            paths.setdefault(path, {})[method] = found
    for methods in paths.values():
        if "get" in methods:
            methods["head"] = _without_body(methods["get"])
    if both := schemas.keys() & components.found.keys():
        raise ValueError(f"two schemas are named {', '.join(both)}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "narthex: the HTTP API",
            "version": __version__,
            "description": "Every route of a gateway. Explained in protocol.md, authentication.md and health.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "https://{host}", "variables": {"host": {"default": "chat.example.com"}}}],
        "paths": paths,
        "components": {
            "schemas": explained(schemas | components.found | {"Problem": PROBLEM}),
            "responses": {
                "Problem": {
                    "description": "Refused.",
                    "content": {
                        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                    },
                }
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the user."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE},
                "ticket": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "ticket",
                    "description": "For one handshake.",
                },
                "admin": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The admin key, or a token with the permission `admin` (its tenant) or `operator`.",
                },
                "status": {"type": "http", "scheme": "bearer", "description": "A status token of a prober."},
            },
        },
    }


def _add(paths: dict[str, dict[str, Any]], operation: Operation, components: Components) -> None:
    answers = {operation.status: operation.answer, **operation.more}
    responses = {str(status): _answer(status, answer, components) for status, answer in answers.items()}
    found: dict[str, Any] = {
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": SECURITY[operation.proof],
        "responses": {**responses, "default": _REFUSED},
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "schema": STRING} for name in operation.query
    ]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": STRING}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": components.of(operation.body)}}}
    methods = paths.setdefault(operation.path, {})
    methods[operation.method] = found
    if operation.pages:
        methods["options"] = {
            "summary": "What a page of an allowed origin may send.",
            "tags": [operation.tag],
            "security": [],
            "parameters": [one for one in parameters if one["in"] == "path"],
            "responses": {"204": {"description": "Headers only."}, "default": _REFUSED},
        }


def _answer(status: int, answer: Any, components: Components) -> dict[str, Any]:
    about = "Done." if status < 300 else f"{HTTPStatus(status).phrase}."
    if answer is None:
        return {"description": "Done, without a body." if status < 300 else about}
    if isinstance(answer, str):
        return {"description": about, "content": {answer: {}}}
    return _json(about, components.of(answer))


def _json(about: str, schema: Any) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _without_body(get: dict[str, Any]) -> dict[str, Any]:
    """HEAD as GET, without bodies."""
    return get | {
        "summary": "As GET, without a body.",
        "responses": {
            status: {"description": "As of GET."} if "$ref" not in answer else answer
            for status, answer in get["responses"].items()
        },
    }


def _tag(path: str) -> str:
    if path.startswith("/api/v1/operator/"):
        return "Operators"
    return (
        "Status page"
        if path.startswith(("/api/v1/incidents", "/api/v1/maintenance", "/api/v1/status"))
        else "Server API"
    )


def text() -> str:
    """The document as JSON text, as src/narthex/web/api/openapi.json has it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
