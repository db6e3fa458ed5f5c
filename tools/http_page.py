"""docs/openapi.md as text: the OpenAPI document for readers. `./check --write-docs` writes it."""

from __future__ import annotations

from typing import Any, Final

from tools.openapi import document
from tools.schema_tables import component_sections, member_table, type_text

_HEAD: Final = """# HTTP API reference

<!-- Made from src/narthex/web/api/bodies.py and the tables of tools/ by tools/http_page.py: `./check --write-docs` -->

Every path and method of a gateway. [openapi.json](../src/narthex/web/api/openapi.json) is the same as a document for
programs (OpenAPI 3.1). A gateway serves it at `/api/v1/openapi.json`, without the routes that it lacks: those of a
status page that it does not embed, for example. A test compares the paths with the gateway's routes, and its answers
with the schemas.

A refusal of any route is [a problem](#problem) with a code of [refusals.md](refusals.md). HEAD works wherever GET does.
`narthex guard` and `narthex auth serve` serve some of these routes: [guard-process.md](guard-process.md),
[authentication.md](authentication.md).
"""
_PROOF: Final = {
    "bearer": "a credential of a user",
    "admin": "the admin key, or a token with the permission `admin` or `operator`",
    "status": "a status token or the admin key",
}


def page() -> str:
    """The page."""
    made = document()
    tags: dict[str, list[str]] = {}
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            if method not in ("head", "options"):
                lines = _operation(method, path, operation, "options" in methods)
                tags.setdefault(operation["tags"][0], []).extend(lines)
    lines = [_HEAD]
    for tag, below in tags.items():
        lines += [f"## {tag}", "", *below]
    lines += ["## Objects", "", *component_sections(made["components"]["schemas"])]
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: dict[str, Any], options: bool) -> list[str]:
    lines = [f"### {method.upper()} {path}", "", operation["summary"]]
    proofs = [_PROOF[name] for one in operation["security"] for name in one if name in _PROOF]
    lines.append(f"Needs {proofs[0]}." if proofs else "Needs no credential.")
    if options:
        lines.append("Pages of allowed origins may use it.")
    if query := [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]:
        lines.append(f"Query: {', '.join(f'`{name}`' for name in query)}.")
    lines.append("")
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        table = member_table(schema, "required")
        lines += ["Body:", "", *table, ""] if table else [f"Body: {type_text(schema)}.", ""]
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if status != "default" and len(schema.get("properties", {})) > 3:
            lines += [f"{status}:", "", *member_table(schema), ""]
        elif status != "default":
            lines += [f"{status}: {_answered(answer)}.", ""]
    return lines


def _answered(answer: dict[str, Any]) -> str:
    for media, content in answer.get("content", {}).items():
        if "schema" not in content:
            return f"`{media}`"
        return (
            type_text(content["schema"]).removeprefix("object: ")
            if content["schema"] != {"type": "object"}
            else "an object"
        )
    return "no body"
