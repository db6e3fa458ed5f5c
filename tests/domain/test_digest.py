"""The digest: the vectors, and that no way of splitting or merging deltas changes it."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain import events as ev
from narthex.domain.digest import Digest, canonical, digest_of
from narthex.domain.events import Event
from narthex.domain.merging import merge

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "digest.json").read_text()
)["cases"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["name"]))
def test_vectors(case: dict[str, Any]) -> None:
    """Digest, count and normal form are what the independent implementation wrote."""
    assert hashlib.sha256("\n".join(case["normal_form"]).encode()).hexdigest() == case["digest"]
    assert digest_of(case["events"]) == case["digest"]
    last = case["events"][-1]
    assert (last["count"], last["digest"]) == (case["count"], case["digest"])
    assert last["seq"] == case["count"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["name"]))
def test_the_terminal_event_can_be_counted_in_before_it_is_taken(case: dict[str, Any]) -> None:
    """`value(terminal)` is the digest that the terminal event will have, and changes nothing."""
    digest = Digest()
    for event in case["events"][:-1]:
        digest.feed(event)
    assert digest.value(case["events"][-1]) == case["digest"]
    assert digest.value() == digest_of(case["events"][:-1])


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
DELTAS = st.lists(
    st.one_of(
        st.builds(lambda d, m: {**ev.text_content(m, d), "runId": "r"}, TEXTS, st.sampled_from("ab")),
        st.builds(lambda d: {**ev.tool_call_args("c", d), "runId": "r"}, TEXTS),
        st.builds(lambda d: {**ev.reasoning_content("a", d), "runId": "r"}, TEXTS),
        st.just({**ev.custom("x", 1), "runId": "r"}),
    ),
    max_size=20,
)


def numbered(events: list[Event]) -> list[Event]:
    """The same events with `seq`."""
    return [{**event, "seq": at} for at, event in enumerate(events, 1)]


def merged_where(events: list[Event], wish: list[bool]) -> list[Event]:
    """Merge each neighbour that may be merged, where `wish` requests it."""
    out: list[Event] = []
    for event, wanted in zip(events, wish, strict=True):
        joined = merge(out[-1], event) if out and wanted else None
        if joined is None:
            out.append(event)
        else:
            out[-1] = joined
    return out


@given(st.data(), DELTAS)
def test_any_merge_gives_the_same_digest(data: st.DataObject, events: list[Event]) -> None:
    """A slow client that got fewer, longer deltas computes the same digest."""
    wire = numbered(events)
    wish = data.draw(st.lists(st.booleans(), min_size=len(wire), max_size=len(wire)))
    assert digest_of(merged_where(wire, wish)) == digest_of(wire)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_any_split_gives_the_same_digest(text: str, data: st.DataObject) -> None:
    """However an agent cuts its text into deltas, the digest is that of the whole."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    around = (ev.text_start("m"), ev.text_end("m"))
    split = [around[0], *(ev.text_content("m", piece) for piece in pieces), around[1]]
    assert digest_of(split) == digest_of([around[0], ev.text_content("m", text), around[1]])


@given(DELTAS)
def test_order_and_content_matter(events: list[Event]) -> None:
    """Losing the last event, or getting one twice, changes the digest (an empty delta aside)."""
    wire = numbered([*events, ev.text_end("a"), ev.run_finished("t", "r", ev.success())])
    assert digest_of(wire[:-1]) != digest_of(wire)
    assert digest_of([*wire, wire[-1]]) != digest_of(wire)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud83d", {1: 2}, object(), b"x"],
    ids=["nan", "inf", "lone", "key", "object", "bytes"],
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    """No event enters a log whose digest a client could not compute."""
    with pytest.raises(ValueError, match=r"."):
        canonical(ev.custom("x", value))


def test_deep_nesting_is_refused() -> None:
    """A value nested beyond the interpreter's depth is an error of the caller, not a crash."""
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        canonical(ev.custom("x", value))


def test_a_refused_event_takes_nothing() -> None:
    """After a refusal the digest is as if the event had never arrived."""
    digest = Digest()
    digest.feed(ev.text_content("m", "a"))
    with pytest.raises(ValueError, match=r"."):
        digest.feed(ev.custom("x", float("nan")))
    digest.feed(ev.text_content("m", "b"))
    assert digest.value() == digest_of([ev.text_content("m", "ab")])


def test_a_number_beyond_all_doubles_is_refused() -> None:
    """JSON can write it, no client could read it: an error of the caller, like any other that has no normal form."""
    with pytest.raises(ValueError, match="outside the range of a double"):
        canonical({"type": "CUSTOM", "value": [10**400]})
