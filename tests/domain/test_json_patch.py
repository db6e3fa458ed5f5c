"""`narthex.domain.json_patch`: RFC 6902."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from narthex.domain.json_depth import MAX_EVENT_DEPTH
from narthex.domain.json_patch import MAX_DEPTH, PatchedDocument, PatchFault, applied

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
        {"op": "add", "path": 5, "value": 1},
        {"op": "copy", "from": None, "path": "/x"},
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
    for levels in range(1, MAX_DEPTH):
        document.apply([{"op": "add", "path": "/a" * levels, "value": {}}])
    assert not document.too_large
    with pytest.raises(PatchFault, match="too deep"):
        document.apply([{"op": "add", "path": "/a" * (MAX_EVENT_DEPTH + 1), "value": {}}])
    document.apply([{"op": "add", "path": "/a" * MAX_DEPTH, "value": {}}])
    assert document.too_large


def test_patches_of_several_operations_change_a_document_in_place() -> None:
    """A copy of 200 KB for each of them held the event loop for 25 ms."""
    document = PatchedDocument({"large": [1], "n": 0}, 1_000)
    document.apply([{"op": "add", "path": "/m", "value": 0}])
    large = document.value["large"]
    for patch in (
        [{"op": "replace", "path": "/n", "value": 1}, {"op": "add", "path": "/large/-", "value": 2}],
        [{"op": "copy", "from": "/n", "path": "/c"}],
        [{"op": "move", "from": "/c", "path": "/d"}],
    ):
        document.apply(patch)
        assert document.value["large"] is large
    with pytest.raises(PatchFault):
        document.apply([{"op": "remove", "path": "/large/0"}, {"op": "remove", "path": "/absent"}])
    assert document.value["large"] is large == [1, 2]


def test_any_patch_is_applied_whole_or_not_at_all() -> None:
    """Random patches, each beside a copy that is thrown away where the patch does not fit."""
    chance = random.Random(20)
    places = ["", "/a", "/b", "/a/0", "/a/1", "/a/-", "/b/c", "/b/c/d", "/b/x", "/x/y"]
    values: list[Any] = [0, None, "s", [1, [2]], {"c": {"d": 1}}, []]
    fits = 0
    for _ in range(300):
        document = PatchedDocument({"a": [1, {"n": 2}], "b": {"c": {"d": [3]}}}, 10_000)
        for _ in range(8):
            patch = [
                {
                    "op": chance.choice(["add", "replace", "remove", "move", "copy", "test"]),
                    "path": chance.choice(places),
                    "from": chance.choice(places),
                    "value": chance.choice(values),
                }
                for _ in range(chance.randint(1, 4))
            ]
            before = copy.deepcopy(document.value)
            try:
                expected = applied(before, patch)
                fits += 1
            except PatchFault:
                expected = before
                with pytest.raises(PatchFault):
                    document.apply(patch)
            else:
                document.apply(patch)
            assert json.dumps(document.value, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert 100 < fits < 2_000
    assert values == [0, None, "s", [1, [2]], {"c": {"d": 1}}, []]


def test_a_value_that_is_tested_costs_no_more_than_the_smaller_one() -> None:
    """Types are told apart as in JSON."""
    document = {"t": True, "n": 1, "l": [1], "o": {"a": 1.0}}
    same: list[tuple[str, Any]] = [("/n", 1.0), ("/o", {"a": 1}), ("/l", [1.0])]
    for path, value in same:
        assert applied(document, [{"op": "test", "path": path, "value": value}]) == document
    others: list[tuple[str, Any]] = [("/t", 1), ("/n", True), ("/l", {}), ("/o", [1]), ("/o", 1), ("", {})]
    for path, value in [*others, ("/l", [1, 1])]:
        with pytest.raises(PatchFault, match="another one"):
            applied(document, [{"op": "test", "path": path, "value": value}])
