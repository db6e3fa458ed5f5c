"""JSON Schemas as Markdown, for the generated references.

A table of members, and a type in one cell.
"""

from __future__ import annotations

from typing import Any, Final

from tools.schemas import Schema

_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {}"),
    ("maxItems", "at most {}"),
)


def member_table(schema: Schema, when: str = "always") -> list[str]:
    """A row for each member; no lines for an object without members. `when` heads the column of required ones."""
    rows = [
        f"| `{name}` | {type_text(one)} | {'yes' if name in schema.get('required', ()) else 'no'} | {about(one)} |"
        for name, one in schema.get("properties", {}).items()
    ]
    return [f"| member | type | {when} | |", "| --- | --- | --- | --- |", *rows] if rows else []


def type_text(schema: Schema) -> str:
    """A schema in a few words: a link for a component, `a, b` for members of an object."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{value(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{value(one)}`" for one in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(type_text(one) for one in schema["anyOf"])
    kind = schema.get("type", "any JSON")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"array of {type_text(schema.get('items', {}))}"
    if kind == "object" and schema.get("properties"):
        inside = schema["properties"]
        return "object: " + ", ".join(
            f"`{name}`{'' if name in schema.get('required', ()) else '?'} ({type_text(one)})"
            for name, one in inside.items()
        )
    if (
        kind == "object"
        and isinstance(schema.get("additionalProperties"), dict)
        and schema["additionalProperties"]
    ):
        return f"object of {type_text(schema['additionalProperties'])}"
    return str(kind)


def about(schema: Schema) -> str:
    """The description, the bounds and the default."""
    parts = [schema["description"]] if "description" in schema and "$ref" not in schema else []
    bounds = [text.format(schema[name]) for name, text in _BOUNDS if name in schema]
    if bounds:
        parts.append(f"{', '.join(bounds).capitalize()}.")
    if schema.get("default") not in (None, "", [], {}):
        parts.append(f"By default `{value(schema['default'])}`.")
    return " ".join(parts).replace("|", "\\|").replace("\n", " ")


def value(one: Any) -> str:
    """A literal as JSON shows it, without quotes."""
    if one is True or one is False or one is None:
        return {True: "true", False: "false", None: "null"}[one]
    return str(one) or "(empty)"


def component_sections(components: dict[str, Schema], level: str = "###") -> list[str]:
    """A section for each component that has members."""
    lines: list[str] = []
    for name, schema in sorted(components.items()):
        lines += [f"{level} {name}", ""]
        if schema.get("description"):
            lines += [schema["description"], ""]
        lines += [*member_table(schema), ""]
    return lines
