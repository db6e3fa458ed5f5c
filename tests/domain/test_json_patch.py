"""`narthex.domain.json_patch`: RFC 6902."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from narthex.domain.json_patch import PatchFault, applied

DOCUMENT = {"a": {"b": [1, 2]}, "c/d": "e", "~": 0}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"op": "add", "path": "/x", "value": None}, {**DOCUMENT, "x": None}),
        ({"op": "add", "path": "/a/b/1", "value": 9}, {**DOCUMENT, "a": {"b": [1, 9, 2]}}),
        ({"op": "add", "path": "/a/b/-", "value": 9}, {**DOCUMENT, "a": {"b": [1, 2, 9]}}),
        ({"op": "add", "path": "", "value": [1]}, [1]),
        ({"op": "replace", "path": "/c~1d", "value": 1}, {**DOCUMENT, "c/d": 1}),
        ({"op": "replace", "path": "/a/b/0", "value": 7}, {**DOCUMENT, "a": {"b": [7, 2]}}),
        ({"op": "remove", "path": "/~0"}, {"a": {"b": [1, 2]}, "c/d": "e"}),
        ({"op": "remove", "path": "/a/b/0"}, {**DOCUMENT, "a": {"b": [2]}}),
        ({"op": "move", "from": "/a/b/0", "path": "/a/b/1"}, {**DOCUMENT, "a": {"b": [2, 1]}}),
        ({"op": "copy", "from": "/a", "path": "/z"}, {**DOCUMENT, "z": {"b": [1, 2]}}),
        ({"op": "test", "path": "/a/b", "value": [1, 2.0]}, DOCUMENT),
    ],
)
def test_each_operation(patch: dict[str, Any], expected: object) -> None:
    """Each operation gives the RFC's result and leaves the document as it was."""
    before = copy.deepcopy(DOCUMENT)
    assert applied(DOCUMENT, [patch]) == expected
    assert before == DOCUMENT


@pytest.mark.parametrize(
    "patch",
    [
        {"op": "replace", "path": "/absent", "value": 1},
        {"op": "remove", "path": "/a/b/2"},
        {"op": "remove", "path": "/a/b/-"},
        {"op": "add", "path": "/a/b/3", "value": 1},
        {"op": "add", "path": "/a/b/01", "value": 1},
        {"op": "add", "path": "/no/parent", "value": 1},
        {"op": "add", "path": "x", "value": 1},
        {"op": "add", "path": "/x"},
        {"op": "test", "path": "/~0", "value": False},
        {"op": "spin", "path": "/a"},
        {"path": "/a"},
        "add",
    ],
)
def test_a_patch_that_does_not_fit_is_refused(patch: Any) -> None:
    """The whole patch, so that no half of it counts."""
    with pytest.raises(PatchFault):
        applied(DOCUMENT, [{"op": "add", "path": "/first", "value": 1}, patch])


def test_copies_that_would_fill_memory_are_refused() -> None:
    """Each doubles the document: thirty of them make a gigabyte of a kilobyte."""
    patch = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(30)]
    with pytest.raises(PatchFault, match="too large together"):
        applied({"text": "x" * 100}, patch)


def test_a_document_that_nests_too_deep_is_refused() -> None:
    """It is a fault of the patch's sender and no crash."""
    document: Any = {}
    for _ in range(5_000):
        document = {"inside": document}
    with pytest.raises(PatchFault, match="nests too deep"):
        applied(document, [])
