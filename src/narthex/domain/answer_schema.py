"""Checks an answer against the schema of an agent's question: a checked part of JSON Schema 2020-12.

Checked keywords: type (one or a list), properties, required, additionalProperties (true or false), items,
enum, const, minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, minItems, maxItems,
anyOf; title, description, default, examples, format and $schema are taken as notes. Not here: `pattern` (an
agent's expression over a person's text can stall the process), references, conditionals. Rule: a schema with
any other keyword is refused when the question is *asked*, so that nothing is ever called valid unchecked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

MAX_DEPTH: Final = 16

_NOTES: Final = frozenset({"title", "description", "default", "examples", "format", "$schema"})
_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
    ),
}
_BOUNDS: Final[dict[str, tuple[str, Callable[[Any, Any], bool], str]]] = {
    "minimum": ("number", lambda value, bound: value >= bound, "at least"),
    "maximum": ("number", lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound, "more than"),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound, "less than"),
    "minLength": ("string", lambda value, bound: len(value) >= bound, "at least this long:"),
    "maxLength": ("string", lambda value, bound: len(value) <= bound, "at most this long:"),
    "minItems": ("array", lambda value, bound: len(value) >= bound, "at least this many:"),
    "maxItems": ("array", lambda value, bound: len(value) <= bound, "at most this many:"),
}
_CHECKED: Final = frozenset(_BOUNDS) | {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"),
}


def schema_fault(schema: Any, depth: int = 0) -> str | None:
    """Why a schema cannot be used to ask, as a sentence; None when it can."""
    if not isinstance(schema, Mapping):
        return "The schema must be an object."
    if depth > MAX_DEPTH:
        return f"The schema is nested deeper than {MAX_DEPTH}."
    for keyword in schema:
        if keyword not in _CHECKED and keyword not in _NOTES:
            return f"The schema keyword `{keyword}` is not supported; remove it."
    wanted = schema.get("type", [])
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in _TYPES:
            return f"The schema's type {name!r} is none of JSON's."
    if not isinstance(schema.get("additionalProperties", True), bool):
        return "`additionalProperties` must be true or false here."
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    if "items" in schema:
        inner.append(schema["items"])
    for part in inner:
        fault = schema_fault(part, depth + 1)
        if fault:
            return fault
    return None


def answer_fault(schema: Mapping[str, Any], value: Any, where: str = "The answer") -> str | None:
    """Why `value` does not fit `schema`, as a sentence naming the place; None when it does.

    The schema must have passed `schema_fault`.
    """
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted
    if names and not any(_TYPES[name](value) for name in names):
        return f"{where} must be of type {' or '.join(names)}."
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        return f"{where} must be one of {schema['enum']!r}."
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} must be {schema['const']!r}."
    for keyword, (kind, holds, words) in _BOUNDS.items():
        if keyword in schema and _TYPES[kind](value) and not holds(value, schema[keyword]):
            return f"{where} must be {words} {schema[keyword]}."
    if "anyOf" in schema and all(answer_fault(part, value) for part in schema["anyOf"]):
        return f"{where} does not match any of the allowed forms."
    return _inside(schema, value, where)


def _inside(schema: Mapping[str, Any], value: Any, where: str) -> str | None:
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                return f"{where} lacks `{name}`."
        for name, item in value.items():
            if name in properties:
                fault = answer_fault(properties[name], item, f"`{name}`")
                if fault:
                    return fault
            elif schema.get("additionalProperties", True) is False:
                return f"{where} has an unknown member `{str(name)[:60]}`."
    if isinstance(value, list) and "items" in schema:
        for at, item in enumerate(value):
            fault = answer_fault(schema["items"], item, f"item {at}")
            if fault:
                return fault
    return None


def _same(left: Any, right: Any) -> bool:
    """JSON equality: true is not 1, and 1.0 is 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
