"""`narthex.domain.json_patch`: RFC 6902."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from narthex.domain.json_depth import MAX_EVENT_DEPTH
from narthex.domain.json_patch import PatchedDocument, PatchFault, applied

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


def test_a_document_under_many_patches_stops_at_its_limit() -> None:
    """Each patch doubles it; the last good one is not kept either, and what follows changes nothing."""
    document = PatchedDocument({"a": "x" * 1_000}, 10_000)
    for number in range(40):
        document.apply([{"op": "copy", "from": "", "path": f"/{number}"}])
    assert (document.too_large, document.value) == (True, None)
    document.apply([{"op": "add", "path": "", "value": 1}])
    assert document.value is None


def test_a_patch_that_does_not_fit_leaves_a_document_under_patches_as_it_is() -> None:
    """Also the second operation of several, and after other patches; the caller's value is never changed."""
    before = {"n": [0]}
    document = PatchedDocument(before, 1_000)
    for number in range(3):
        document.apply([{"op": "add", "path": "/n/-", "value": number}])
    for patch in (
        [{"op": "remove", "path": "/absent"}],
        [{"op": "add", "path": "/n/-", "value": 9}, {"op": "remove", "path": "/absent"}],
        [{"op": "move", "from": "/n", "path": "/absent/x"}],
        [{"path": "/n"}],
        ["add"],
    ):
        with pytest.raises(PatchFault):
            document.apply(patch)
        assert document.value == {"n": [0, 0, 1, 2]}
    assert before == {"n": [0]}


def test_a_document_that_shrinks_and_grows_within_its_limit_is_kept() -> None:
    """The bytes of the patches alone are more than the limit."""
    document = PatchedDocument({}, 200)
    for number in range(100):
        document.apply([{"op": "add", "path": "/a", "value": "x" * (number % 50)}])
    assert document.value == {"a": "x" * 49}


def test_patches_cannot_nest_a_document_deeper_than_readers_parse() -> None:
    """Each patch is shallow: a copy of the whole into itself, and a path of many steps."""
    document = PatchedDocument({"a": 1}, 1_000_000)
    for _ in range(2_000):
        document.apply([{"op": "move", "from": "/a", "path": "/b"}, {"op": "add", "path": "/a", "value": {}}])
        document.apply([{"op": "move", "from": "/b", "path": "/a/c"}])
    assert document.too_large
    document = PatchedDocument({}, 1_000_000)
    path = ""
    for _ in range(MAX_EVENT_DEPTH):
        path += "/a"
        document.apply([{"op": "add", "path": path, "value": {}}])
    with pytest.raises(PatchFault, match="too deep"):
        document.apply([{"op": "add", "path": f"{path}/a", "value": {}}])
    assert not document.too_large
