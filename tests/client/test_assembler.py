"""The assembler: the shared vectors; no order, repeat or merging of events changes the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.client import RunAssembler
from narthex.domain.digest import digest_of
from narthex.domain.merging import merge

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "digest.json").read_text()
)["cases"]


def sealed(*bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """A run of these events, numbered, with its terminal event."""
    events = [{"type": "RUN_STARTED"}, *bodies, {"type": "RUN_FINISHED", "outcome": {"type": "success"}}]
    numbered = [{**event, "threadId": "t", "runId": "r", "seq": i + 1} for i, event in enumerate(events)]
    numbered[-1] |= {"count": len(numbered), "digest": digest_of(numbered)}
    return numbered


def text(delta: str, message: str = "m") -> dict[str, Any]:
    """A text delta."""
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": delta}


START = {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
END = {"type": "TEXT_MESSAGE_END", "messageId": "m"}


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["name"]))
def test_vectors_are_proven_in_order_and_backwards(case: dict[str, Any]) -> None:
    """Each vector of the repository is complete, in whatever order it arrives."""
    run_id = case["events"][0]["runId"]
    for events in (case["events"], case["events"][::-1]):
        assembler = RunAssembler(run_id)
        for event in events:
            assembler.push(event)
        proof = assembler.verify()
        assert (proof.complete, proof.reason, proof.digest) == (True, "", case["digest"])
        assert proof.count == case["count"]


def test_a_missing_event_is_named() -> None:
    """A gap stays a gap: the proof names the missing event."""
    events = sealed(START, text("a"), END)
    assembler = RunAssembler("r")
    for event in events[:2] + events[3:]:
        assembler.push(event)
    proof = assembler.verify()
    assert not proof.complete
    assert proof.reason == "event 3 has not arrived"
    assert assembler.terminal is None
    assert assembler.push(events[2]).events == events[2:]
    assert assembler.verify().complete


def test_an_altered_event_is_found() -> None:
    """One letter changed on the way: the digest differs."""
    events = sealed(START, text("a"), END)
    assembler = RunAssembler("r")
    for event in events:
        assembler.push({**event, "delta": "b"} if "delta" in event else event)
    assert assembler.verify().reason == "the digest differs: an event was altered"


def test_a_seal_of_more_events_is_found() -> None:
    """The terminal event counts more events than arrived."""
    events = sealed(START, END)
    events[-1]["count"] += 1
    assembler = RunAssembler("r")
    for event in events:
        assembler.push(event)
    assert assembler.verify().reason == "4 events arrived, the run has 5"


def test_repeats_are_dropped_and_strangers_refused() -> None:
    """The same event twice is a repeat; another run's, or one without seq, does not belong to this run."""
    events = sealed(START, END)
    assembler = RunAssembler("r")
    assert assembler.push(events[0]).kind == "new"
    assert assembler.push(events[0]).kind == "repeat"
    assert assembler.push(events[2]).kind == "early"
    assert assembler.push(events[2]).kind == "repeat"
    assert assembler.push({**events[1], "runId": "other"}).kind == "conflict"
    assert assembler.push({"type": "TEXT_MESSAGE_CHUNK", "runId": "r"}).kind == "conflict"
    assert assembler.push({**events[1], "seq": True}).kind == "conflict"


def test_a_merged_delta_that_reaches_further_gives_only_what_is_new() -> None:
    """After a reconnect a merged delta may overlap received text: that text is not returned again."""
    events = sealed(START, text("ab"), text("cd"), text("ef"), END)
    merged = merge(merge(events[2], events[3]) or {}, events[4])
    assert merged is not None
    assembler = RunAssembler("r")
    for event in events[:4]:
        assembler.push(event)
    pushed = assembler.push(merged)
    assert pushed.kind == "replaced"
    assert [(event.get("delta"), event.get("seq")) for event in pushed.events] == [("ef", 5)]
    for event in events[5:]:
        assembler.push(event)
    assert assembler.verify().complete
    assert assembler.text() == "abcdef"


def test_a_merged_delta_that_says_something_else_is_a_conflict() -> None:
    """An overlap with a different text is a conflict."""
    events = sealed(START, text("ab"), text("cd"), END)
    assembler = RunAssembler("r")
    for event in events[:3]:
        assembler.push(event)
    assert assembler.push({**events[3], "delta": "xxcd", "seq_from": 3}).kind == "conflict"
    assert assembler.push({**events[3], "messageId": "n", "delta": "abcd", "seq_from": 3}).kind == "conflict"


def test_a_restart_voids_the_text_before_it_but_not_the_proof() -> None:
    """`narthex.restarted`: the text starts again, the digest covers everything."""
    restarted = {"type": "CUSTOM", "name": "narthex.restarted", "value": {"attempt": 2}}
    assembler = RunAssembler("r")
    for event in sealed(START, text("old"), END, restarted, START, text("new"), END):
        assembler.push(event)
    assert assembler.text() == "new"
    assert assembler.verify().complete


def test_people_are_not_quoted_as_the_assistant() -> None:
    """Text of a message with another role is no part of the answer."""
    person = {"type": "TEXT_MESSAGE_START", "messageId": "p", "role": "user"}
    assembler = RunAssembler("r")
    for event in sealed(person, text("question", "p"), START, text("answer"), END):
        assembler.push(event)
    assert assembler.text() == "answer"


@given(st.data())
def test_any_order_repeat_and_merging_gives_the_same_run(data: st.DataObject) -> None:
    """Shuffled, repeated, and with neighbouring deltas merged at random, a run is complete with the same text."""
    deltas = data.draw(st.lists(st.text(alphabet="añ🙂", max_size=3), min_size=1, max_size=8))
    events = sealed(START, *[text(delta) for delta in deltas], END)
    copies = list(events)
    for i in range(len(events) - 1):
        joined = merge(events[i], events[i + 1])
        if joined is not None and data.draw(st.booleans()):
            copies.append(joined)
    assembler = RunAssembler("r")
    shown: list[str] = []
    for event in data.draw(st.permutations(copies)):
        pushed = assembler.push(event)
        assert pushed.kind != "conflict" or "seq_from" in event
        shown += [str(seen.get("delta", "")) for seen in pushed.events]
    assert assembler.verify().complete
    assert assembler.text() == "".join(deltas) == "".join(shown)
