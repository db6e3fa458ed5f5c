"""Applies an RFC 6902 JSON Patch: AG-UI's STATE_DELTA to an agent's state, ACTIVITY_DELTA to an activity.

Rules: the caller's document is never changed; a patch that does not fit raises, and the caller decides; a document that
many patches change has a largest size, because patches of a kilobyte can double it each.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import msgspec

from narthex.domain.digest import same_members
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds

MAX_DEPTH: Final = 2 * MAX_EVENT_DEPTH  # of a document: a value of an event, at the deepest place of another
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
        if step.get("op") == "copy":  # thirty of them make a gigabyte of a kilobyte
            left -= _size_of_copied(document, step)
            if left < 0:
                raise PatchFault("the copies of one patch are too large together")
        document = _stepped(document, step)
    return document


def _stepped(document: Any, step: dict[str, Any]) -> Any:
    try:
        return _step(document, step)
    except _MISFITS as fault:
        raise _misfit(step, fault) from fault


def _size_of_copied(document: Any, step: dict[str, Any]) -> int:
    try:
        return len(msgspec.json.encode(_value(document, _tokens(step["from"]))))
    except _MISFITS as fault:
        raise _misfit(step, fault) from fault


_MISFITS: Final = (KeyError, IndexError, ValueError, TypeError, RecursionError)


def _misfit(step: dict[str, Any], fault: Exception) -> PatchFault:
    return PatchFault(f"{step.get('op')!r} at {str(step.get('path'))[:200]!r}: {fault}")


class PatchedDocument:
    """A document that patches change one after the other, up to a size.

    Args:
        value: as it is before.
        limit: bytes as JSON.

    Attributes:
        value: as it is now; None once it was too large.
        too_large: it had more bytes, or levels than `MAX_DEPTH`, once; later patches change nothing.
    """

    __slots__ = ("_limit", "_room", "too_large", "value")

    def __init__(self, value: Any, limit: int) -> None:
        self.value = value
        self.too_large = False
        self._limit = limit
        self._room = -1  # unknown: it is measured after the first patch

    def apply(self, patch: list[Any]) -> None:
        """Apply one patch whole. Raises PatchFault, and changes nothing then."""
        if self.too_large:
            return
        if self._room >= 0 and _is_one_step(patch):
            self.value = _stepped(self.value, patch[0])  # its own copy since the first patch
        else:
            self.value = applied(self.value, patch)
        self._room -= len(
            msgspec.json.encode(patch)
        )  # a patch adds no more than its own bytes, unless it copies
        if self._room < 0 or any(step["op"] in ("copy", "move") for step in patch):
            self._measure()

    def _measure(self) -> None:
        try:
            text = msgspec.json.encode(self.value)
        except RecursionError:
            text = b""
        self._room = self._limit - len(text)
        if self._room < 0 or not text or json_depth_exceeds(text, MAX_DEPTH):
            self.value, self.too_large = None, True


def _is_one_step(patch: list[Any]) -> bool:
    """Whether it is one operation that changes nothing where it fails."""
    return len(patch) == 1 and isinstance(patch[0], dict) and patch[0].get("op") not in ("move", "copy")


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
    if pointer.count("/") > MAX_EVENT_DEPTH:
        raise ValueError("too deep")
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
