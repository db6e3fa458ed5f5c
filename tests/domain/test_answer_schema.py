"""Which answers fit a question's schema, and which schemas may be asked with."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.domain.answer_schema import answer_fault, schema_fault

FORM: dict[str, Any] = {
    "title": "Order",
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "price": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        "size": {"enum": ["S", "M", 1]},
        "note": {"type": ["string", "null"], "minLength": 2, "maxLength": 4},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
        "sure": {"const": True},
        "either": {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
    },
    "required": ["count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [
        {"count": 1},
        {"count": 9.0, "price": 0.5, "size": "M", "note": None, "tags": ["a"], "sure": True, "either": False},
        {"count": 2, "note": "abcd", "size": 1},
        {"count": 1, "note": "ab", "tags": ["a", "b"]},
    ],
)
def test_what_fits(value: Any) -> None:
    """Every keyword satisfied; 9.0 is an integer in JSON Schema."""
    assert schema_fault(FORM) is None
    assert answer_fault(FORM, value) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "The answer must be of type object"),
        ({}, "lacks `count`"),
        ({"count": 0}, "`count` must be at least 1"),
        ({"count": 10}, "`count` must be at most 9"),
        ({"count": 1.5}, "`count` must be of type integer"),
        ({"count": True}, "`count` must be of type integer"),
        ({"count": 1, "price": 0}, "`price` must be more than 0"),
        ({"count": 1, "price": 10}, "`price` must be less than 10"),
        ({"count": 1, "size": "XL"}, "`size` must be one of"),
        ({"count": 1, "size": True}, "`size` must be one of"),
        ({"count": 1, "note": 3}, "`note` must be of type string or null"),
        ({"count": 1, "note": "x"}, "`note` must be at least this long: 2"),
        ({"count": 1, "note": "xxxxx"}, "`note` must be at most this long: 4"),
        ({"count": 1, "tags": []}, "`tags` must be at least this many: 1"),
        ({"count": 1, "tags": ["a", "b", "c"]}, "`tags` must be at most this many: 2"),
        ({"count": 1, "tags": [1]}, "item 0 must be of type string"),
        ({"count": 1, "sure": 1}, "`sure` must be True"),
        ({"count": 1, "either": 1}, "`either` does not match any"),
        ({"count": 1, "more": 1}, "unknown member `more`"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, words: str) -> None:
    """The sentence names the place and the fault."""
    assert words in (answer_fault(FORM, value) or "")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (7, "The schema must be an object"),
        ({"pattern": "a*"}, "`pattern` is not supported"),
        ({"properties": {"x": {"$ref": "#"}}}, "`$ref` is not supported"),
        ({"items": {"format": "date", "not": {}}}, "`not` is not supported"),
        ({"anyOf": [{"if": {}}]}, "`if` is not supported"),
        ({"type": "text"}, "'text' is none"),
        ({"additionalProperties": {"type": "string"}}, "true or false"),
    ],
)
def test_a_schema_that_is_not_checked_is_refused(schema: Any, words: str) -> None:
    """Nothing is ever called valid without having been checked."""
    assert words in (schema_fault(schema) or "")


def test_depth_is_bounded() -> None:
    """A schema nested without end is refused, not recursed into."""
    schema: dict[str, Any] = {}
    for _ in range(50):
        schema = {"items": schema}
    assert "deeper" in (schema_fault(schema) or "")
