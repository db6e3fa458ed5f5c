"""Applies an RFC 6902 JSON Patch: AG-UI's STATE_DELTA to an agent's state, ACTIVITY_DELTA to an activity.

Rules: the document is never changed in place; a patch that does not fit raises, and the caller decides.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import msgspec

from narthex.domain.digest import same_members

MAX_COPIED_BYTES: Final = 1_048_576  # of one patch's `copy` operations together, as JSON


class PatchFault(ValueError):
    """The patch does not fit the document."""


def applied(document: Any, patch: list[Any]) -> Any:
    """The document after the patch. Raises PatchFault."""
    document = _copied(document)
    left = MAX_COPIED_BYTES
    for step in patch:
        if not isinstance(step, dict):
            raise PatchFault("an operation is not an object")
        try:
            if step["op"] == "copy":  # thirty of them make a gigabyte of a kilobyte
                left -= len(msgspec.json.encode(_value(document, _tokens(step["from"]))))
                if left < 0:
                    raise ValueError("the copies of one patch are too large together")
            document = _step(document, step)
        except (KeyError, IndexError, ValueError, TypeError, RecursionError) as fault:
            raise PatchFault(f"{step.get('op')!r} at {str(step.get('path'))[:200]!r}: {fault}") from fault
    return document


def _copied(document: Any) -> Any:
    try:
        return copy.deepcopy(document)
    except RecursionError as fault:
        raise PatchFault("the document nests too deep") from fault


def _step(document: Any, step: dict[str, Any]) -> Any:
    path = _tokens(step["path"])
    match step["op"]:
        case "add":
            return _add(document, path, copy.deepcopy(step["value"]))
        case "replace":
            _value(document, path)
            return _put(document, path, copy.deepcopy(step["value"]))
        case "remove":
            return _remove(document, path)
        case "move":
            origin = _tokens(step["from"])
            moved = _value(document, origin)
            return _add(_remove(document, origin), path, moved)
        case "copy":
            return _add(document, path, copy.deepcopy(_value(document, _tokens(step["from"]))))
        case "test":
            if not same_members({"value": _value(document, path)}, {"value": step["value"]}):
                raise ValueError("the value is another one")
            return document
    raise ValueError("unknown operation")


def _tokens(pointer: str) -> list[str]:
    """RFC 6901."""
    if pointer and not pointer.startswith("/"):
        raise ValueError("not a JSON Pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _index(items: list[Any], step: str, *, end: bool) -> int:
    """The position that a step names; `end`: one past the last item is allowed."""
    if end and step == "-":  # the end of a list (RFC 6902)
        return len(items)
    if not (step.isascii() and step.isdigit()) or (len(step) > 1 and step[0] == "0"):
        raise ValueError("not an index")
    if int(step) >= len(items) + end:
        raise IndexError("no such item")
    return int(step)


def _value(document: Any, path: list[str]) -> Any:
    for step in path:
        document = document[_index(document, step, end=False) if isinstance(document, list) else step]
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if path and isinstance(parent := _value(document, path[:-1]), list):
        parent.insert(_index(parent, path[-1], end=True), value)
        return document
    return _put(document, path, value)


def _put(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _value(document, path[:-1])
    parent[_index(parent, path[-1], end=False) if isinstance(parent, list) else path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _value(document, path[:-1])
    del parent[_index(parent, path[-1], end=False) if isinstance(parent, list) else path[-1]]
    return document
