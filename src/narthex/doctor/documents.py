"""Reads JSON and URLs from an untrusted endpoint; a value of the wrong kind is read as empty.

Not here: the meaning of their members. Rules: nothing raises on any input: a JSON bomb, an array, a number in the
place of an object, a Location that is no URL.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import SplitResult, urlsplit


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`; None when it is no object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def member(document: dict[str, Any], *path: str) -> dict[str, Any]:
    """The object at `path`; empty when there is none."""
    found: Any = document
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of an array; none when it is no array."""
    return [found for found in value if isinstance(found, dict)] if isinstance(value, list) else []


def url_parts(url: str) -> SplitResult:
    """A URL's parts; all empty when it is none."""
    try:
        return urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address
        return SplitResult("", "", "", "", "")
