"""Joining deltas: what may be joined, and that the text stays the same to the byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain import events as ev
from narthex.domain.events import Event
from narthex.domain.merging import MAX_JOINED_CHARS, joins, merge, split_text, well_formed


def at(event: Event, seq: int, **more: object) -> Event:
    """The event as published."""
    return {**event, "threadId": "t", "runId": "r", "seq": seq, **more}


def test_neighbours_of_one_message_are_merged() -> None:
    """The merged delta spans both, and a third joins it."""
    first = merge(at(ev.text_content("m", "a"), 3), at(ev.text_content("m", "b"), 4))
    assert first == at(ev.text_content("m", "ab"), 4, seq_from=3)
    third = merge(first, at(ev.text_content("m", "c"), 5))
    assert third == at(ev.text_content("m", "abc"), 5, seq_from=3)
    two = merge(at(ev.text_content("m", "c"), 5), at(ev.text_content("m", "de"), 7, seq_from=6))
    assert merge(first, two or {}) == at(ev.text_content("m", "abcde"), 7, seq_from=3)


def test_what_must_stay_apart_stays_apart() -> None:
    """Another message, type, run or member, a gap, a lifecycle event or a missing seq prevents it."""
    first = at(ev.text_content("m", "a"), 3)
    assert merge(first, at(ev.text_content("n", "b"), 4)) is None
    assert merge(first, at(ev.reasoning_content("m", "b"), 4)) is None
    assert merge(first, {**at(ev.text_content("m", "b"), 4), "runId": "other"}) is None
    assert merge(first, at(ev.text_content("m", "b"), 4, metadata={"x": 1})) is None
    assert merge(first, at(ev.text_content("m", "b"), 5)) is None
    assert merge(first, first) is None
    assert merge(first, at(ev.text_end("m"), 4)) is None
    assert merge(at(ev.text_start("m"), 2), first) is None
    assert merge(at(ev.tool_call_start("c", "f"), 1), at(ev.tool_call_args("c", "{}"), 2)) is None
    assert merge(ev.text_content("m", "a"), ev.text_content("m", "b")) is None


def test_tool_arguments_of_one_call_are_deltas() -> None:
    """TOOL_CALL_ARGS of one call merge, those of two calls do not."""
    first = at(ev.tool_call_args("c", "{"), 2)
    assert merge(first, at(ev.tool_call_args("c", "}"), 3)) == at(ev.tool_call_args("c", "{}"), 3, seq_from=2)
    assert merge(first, at(ev.tool_call_args("d", "}"), 3)) is None


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ({}, {}, True),
        ({"n": 1}, {"n": 1.0}, True),
        ({"n": 1}, {"n": True}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"role": "user"}, {"role": "agent"}, False),
        ({"role": "user"}, {"role": "user"}, True),
        ({"seq": 1, "timestamp": 1}, {"seq": 2, "timestamp": 9}, True),
        ({"delta": None}, {}, False),
        ({}, {"delta": None}, False),
        ({"n": float("nan")}, {"n": float("nan")}, False),
        ({"runId": "r"}, {"runId": "s"}, False),
        ({"messageId": "other"}, {}, False),
        ({"type": "TEXT_MESSAGE_END"}, {"type": "TEXT_MESSAGE_END"}, False),
    ],
)
def test_deltas_join_when_nothing_else_differs(first: Event, second: Event, joined: bool) -> None:
    """By the values that a JavaScript client reads; what has no normal form never joins."""
    delta = ev.text_content("m", "a")
    assert joins({**delta, **first}, {**delta, **second}) is joined


def test_a_merged_delta_of_exactly_the_bound_is_whole() -> None:
    """Neither a character more nor one less."""
    half = "x" * (MAX_JOINED_CHARS // 2)
    merged = merge(at(ev.text_content("m", half), 1), at(ev.text_content("m", half), 2))
    assert merged is not None
    assert len(merged["delta"]) == MAX_JOINED_CHARS
    assert merge(merged, at(ev.text_content("m", "x"), 3)) is None


def test_a_merged_delta_is_bounded() -> None:
    """Merging stops at MAX_JOINED_CHARS; splitting cuts there and loses nothing."""
    half = "x" * (MAX_JOINED_CHARS // 2 + 1)
    assert merge(at(ev.text_content("m", half), 1), at(ev.text_content("m", half), 2)) is None
    text = half * 5
    assert "".join(split_text(text)) == text
    assert max(map(len, split_text(text))) == MAX_JOINED_CHARS
    assert split_text("") == [""]


def test_timestamps_do_not_keep_deltas_apart() -> None:
    """The later timestamp is kept; without one there is none."""
    first, second = (
        at(ev.text_content("m", "a"), 1, timestamp=5),
        at(ev.text_content("m", "b"), 2, timestamp=9),
    )
    assert (merge(first, second) or {})["timestamp"] == 9
    assert "timestamp" not in (merge(first, at(ev.text_content("m", "b"), 2)) or {})
    assert joins(first, second)


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\ud83d\ude00")), max_size=30), st.data())
def test_a_pair_that_a_source_cut_apart_is_whole_again(text: str, data: st.DataObject) -> None:
    """Cutting the JSON form's UTF-16 units anywhere and passing them on gives the same text."""
    units = [json.loads(f'"{u}"') for u in _escapes(text)]
    out, held = "", ""
    while units:
        size = data.draw(st.integers(1, len(units)))
        piece, held = well_formed("".join(units[:size]), held)
        piece.encode()
        out += piece
        units = units[size:]
    out += "\ufffd" if held else ""
    assert out == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _escapes(text: str) -> list[str]:
    raw = text.encode("utf-16-be", "surrogatepass")
    return [f"\\u{raw[i]:02x}{raw[i + 1]:02x}" for i in range(0, len(raw), 2)]


def test_a_half_that_stays_alone_becomes_the_replacement_character() -> None:
    """Nothing that is no Unicode ever reaches a log."""
    assert well_formed("a\ude00b") == ("a\ufffdb", "")
    assert well_formed("a\ud83d") == ("a", "\ud83d")
    assert well_formed("\ude00", "\ud83d") == ("\U0001f600", "")
    assert well_formed("x", "\ud83d") == ("\ufffdx", "")
