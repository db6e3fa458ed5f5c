"""JSON Schemas of a generated description, applied strictly."""

from __future__ import annotations

from typing import Any


def strict(schema: Any) -> Any:
    """A schema in which an object that lists its members has no others."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(one) for name, one in schema.items()}
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def references(part: Any) -> list[str]:
    """Every `$ref` in a document."""
    if isinstance(part, list):
        return [found for one in part for found in references(one)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for one in part.values() for found in references(one)]


def resolved(document: Any, reference: str) -> Any:
    """The part of the document to which a `$ref` leads. Raises KeyError."""
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document
