"""Applies an RFC 6902 JSON Patch: AG-UI's STATE_DELTA to an agent's state, ACTIVITY_DELTA to an activity.

Rules: the caller's document is never changed; a patch that does not fit raises, and the caller decides; a document that
many patches change has a largest size, because patches of a kilobyte can double it each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from narthex.domain.digest import same_members
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds

MAX_DEPTH: Final = (
    MAX_EVENT_DEPTH - 2
)  # of a document: RUN_STARTED's `input.state` and a request's `state` hold it
MAX_COPIED_BYTES: Final = 1_048_576  # of one patch's `copy` operations together, as JSON


class PatchFault(ValueError):
    """The patch does not fit the document."""


def applied(document: Any, patch: list[Any]) -> Any:
    """The document after the patch. Raises PatchFault."""
    change = _Change(_copied(document))
    change.apply(patch)
    return change.document


class PatchedDocument:
    """A document that patches change one after the other, up to a size.

    Args:
        value: as it is before.
        limit: bytes as JSON.

    Attributes:
        value: as it is now; None once it was too large. Later patches change it in place.
        too_large: it had more bytes, or levels than `MAX_DEPTH`, once; later patches change nothing.
    """

    __slots__ = ("_limit", "_owned", "_room", "too_large", "value")

    def __init__(self, value: Any, limit: int) -> None:
        self.value = value
        self.too_large = False
        self._limit = limit
        self._owned = False  # the caller's until the first patch
        self._room = -1  # unknown: it is measured after the first patch

    def apply(self, patch: list[Any]) -> None:
        """Apply one patch whole. Raises PatchFault, and changes nothing then."""
        if self.too_large:
            return
        if not self._owned:
            self.value, self._owned = _copied(self.value), True
        change = _Change(self.value)
        try:
            change.apply(patch)
        except PatchFault:
            change.undo()
            raise
        self.value = change.document
        self._room -= change.growth
        if self._room < 0 or change.may_be_deep:
            self._measure()

    def _measure(self) -> None:
        try:
            text = msgspec.json.encode(self.value)
        except RecursionError:
            text = b""
        self._room = self._limit - len(text)
        if self._room < 0 or not text or json_depth_exceeds(text, MAX_DEPTH):
            self.value, self.too_large = None, True


class _Change:
    """One patch on a document, in place: a copy of the whole for each patch held the loop for 25 ms at 200 KB.

    Attributes:
        document: as it is after the operations so far.
        growth: bytes that the document has gained at most.
        may_be_deep: a value may be deeper than `MAX_DEPTH` now.
    """

    __slots__ = ("_copied_bytes", "_undo", "document", "growth", "may_be_deep")

    def __init__(self, document: Any) -> None:
        self.document = document
        self.growth = 0
        self.may_be_deep = False
        self._copied_bytes = 0
        self._undo: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def apply(self, patch: list[Any]) -> None:
        """Apply the operations. Raises PatchFault; those before the one that does not fit are done then."""
        try:
            text = msgspec.json.encode(patch)
        except (ValueError, TypeError, RecursionError) as fault:
            raise PatchFault("the patch is not JSON") from fault
        if not isinstance(patch, list):
            raise PatchFault("the patch is not an array")
        levels = 0
        for step in patch:
            if not isinstance(step, dict):
                raise PatchFault("an operation is not an object")
            try:
                levels = max(levels, self._step(step))
            except (KeyError, IndexError, ValueError, TypeError, RecursionError) as fault:
                words = f"{step.get('op')!r} at {str(step.get('path'))[:200]!r}: {fault}"
                raise PatchFault(words) from fault
        self.growth = len(text) + self._copied_bytes
        # A value stands two levels deep in the patch.
        self.may_be_deep = self.may_be_deep or json_depth_exceeds(text, MAX_DEPTH + 2 - levels)

    def undo(self) -> None:
        """Take back what the operations did to the document that the change began with."""
        for function, arguments in reversed(self._undo):
            function(*arguments)

    def _step(self, step: dict[str, Any]) -> int:
        """Apply an operation; returns the levels above its place."""
        path = _tokens(step["path"])
        match step["op"]:
            case "add":
                self._add(path, _copied(step["value"]))
            case "replace":
                self._replace(path, _copied(step["value"]))
            case "remove":
                self._remove(path)
            case "move":
                origin = _tokens(step["from"])
                moved = _value(self.document, origin)
                self._remove(origin)
                self._add(path, moved)
                self.may_be_deep = (
                    True  # to encode it costs as much as the whole: once for the patch is enough
                )
            case "copy":
                found = _value(self.document, _tokens(step["from"]))
                text = msgspec.json.encode(found)
                self._copied_bytes += len(text)  # thirty copies make a gigabyte of a kilobyte
                if self._copied_bytes > MAX_COPIED_BYTES:
                    raise ValueError("the copies of one patch are too large together")
                self._add(path, _copied(found))
                self.may_be_deep = self.may_be_deep or json_depth_exceeds(text, MAX_DEPTH - len(path))
            case "test":
                if not _same(_value(self.document, path), step["value"]):
                    raise ValueError("the value is another one")
            case _:
                raise ValueError("unknown operation")
        return len(path)

    def _add(self, path: list[str], value: Any) -> None:
        if path and isinstance(parent := _value(self.document, path[:-1]), list):
            at = _index(parent, path[-1], end=True)
            parent.insert(at, value)
            self._undo.append((parent.pop, (at,)))
        else:
            self._put(path, value)

    def _replace(self, path: list[str], value: Any) -> None:
        _value(self.document, path)
        self._put(path, value)

    def _put(self, path: list[str], value: Any) -> None:
        if not path:
            self.document = value
            return
        parent = _value(self.document, path[:-1])
        place = _place(parent, path[-1])
        if isinstance(parent, dict) and place not in parent:
            self._undo.append((parent.pop, (place,)))
        else:
            self._undo.append((parent.__setitem__, (place, parent[place])))
        parent[place] = value

    def _remove(self, path: list[str]) -> None:
        if not path:
            self.document = None
            return
        parent = _value(self.document, path[:-1])
        place = _place(parent, path[-1])
        removed = parent.pop(place)
        again = parent.__setitem__ if isinstance(parent, dict) else parent.insert
        self._undo.append((again, (place, removed)))


def _copied(value: Any) -> Any:
    """A JSON value of its own."""
    try:
        return _copy(value)
    except RecursionError as fault:
        raise PatchFault("the document nests too deep") from fault


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON; costs no more than the smaller one."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(item, other[name]) for name, item in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict | list | tuple) or isinstance(other, dict | list | tuple):
        return False
    return same_members({"value": one}, {"value": other})


def _tokens(pointer: Any) -> list[str]:
    """RFC 6901."""
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
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


def _place(parent: Any, step: str) -> Any:
    """The index or the member of `parent` that a step names."""
    if isinstance(parent, list):
        return _index(parent, step, end=False)
    if not isinstance(parent, dict):
        raise TypeError("it is within a value that has no members")
    return step


def _value(document: Any, path: list[str]) -> Any:
    for step in path:
        document = document[_place(document, step)]
    return document
