"""The transcript of a run, folded from its events."""

from __future__ import annotations

from narthex.domain import events as ev
from narthex.domain.events import Event
from narthex.domain.transcript import Transcript


def folded(*events: Event) -> Transcript:
    """The transcript of events at offsets 1, 2, 3 … and times 1.0, 2.0 …"""
    transcript = Transcript()
    for at, event in enumerate(events, 1):
        transcript.feed(event, offset=at, at=float(at))
    return transcript


def test_messages_reasoning_and_tools_become_entries() -> None:
    """One entry each, in the order they began, with text, result, offset and time."""
    got = folded(
        ev.reasoning_message_start("q"),
        ev.reasoning_content("q", "hm"),
        ev.reasoning_message_end("q"),
        ev.tool_call_start("c", "health", parent_message_id="m0"),
        ev.tool_call_args("c", "{"),
        ev.tool_call_args("c", "}"),
        ev.tool_call_end("c"),
        ev.tool_call_result("c-r", "c", "fine"),
        ev.text_start("m"),
        ev.text_content("m", "All "),
        ev.text_content("m", "fine."),
        ev.text_end("m"),
    )
    rows = [(e.role, e.message_id, e.text, e.name, e.result, e.began_at, e.offset) for e in got.entries]
    assert rows == [
        ("reasoning", "q", "hm", "", None, 1.0, 3),
        ("tool", "c", "{}", "health", "fine", 4.0, 8),
        ("assistant", "m", "All fine.", "", None, 9.0, 12),
    ]
    assert got.text == "All fine."
    assert got.entries[1].parent_message_id == "m0"


def test_a_restart_voids_what_came_before() -> None:
    """Only the last attempt's text counts."""
    got = folded(
        ev.text_start("m"),
        ev.text_content("m", "old"),
        ev.text_end("m"),
        ev.restarted(2),
        ev.text_start("m"),
        ev.text_content("m", "new"),
    )
    assert got.text == "new"
    assert [entry.text for entry in got.entries] == ["new"]


def test_the_answer_is_the_assistants_text_only() -> None:
    """A message with another role is an entry but no answer; a message may go on under its id."""
    got = folded(
        ev.text_start("s", "system"),
        ev.text_content("s", "note"),
        ev.text_end("s"),
        ev.text_start("m"),
        ev.text_content("m", "a"),
        ev.text_end("m"),
        ev.text_start("m"),
        ev.text_content("m", "b"),
    )
    assert got.text == "ab"
    assert [(entry.role, entry.text) for entry in got.entries] == [("system", "note"), ("assistant", "ab")]


def test_a_result_of_an_earlier_runs_call_is_kept() -> None:
    """TOOL_CALL_RESULT without a start (AG-UI: deferred tools), and multimodal content as its text."""
    parts = [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]
    got = folded({**ev.tool_call_result("x", "c", ""), "content": parts})
    assert [(entry.role, entry.result) for entry in got.entries] == [("tool", "one\ntwo")]


def test_what_nothing_opened_is_left_out() -> None:
    """A delta whose start was trimmed away folds to nothing and does not raise."""
    got = folded(ev.text_content("m", "x"), ev.tool_call_args("c", "x"), ev.text_end("m"), ev.custom("y", 1))
    assert not got.entries
    assert got.text == ""


def test_an_activity_is_one_entry_that_its_events_change() -> None:
    """A patch that does not fit, or comes before its snapshot, is left out; a restart voids all."""
    first: Event = {
        "type": "ACTIVITY_SNAPSHOT",
        "messageId": "a",
        "activityType": "PLAN",
        "content": {"steps": []},
    }
    patch: Event = {"type": "ACTIVITY_DELTA", "messageId": "a", "activityType": "PLAN"}
    add = patch | {"patch": [{"op": "add", "path": "/steps/-", "value": "go"}]}
    got = folded(add, first, add, patch | {"patch": [{"op": "remove", "path": "/no"}]})
    [entry] = got.entries
    assert entry.activity is not None
    assert (entry.role, entry.activity_type, entry.activity.value) == ("activity", "PLAN", {"steps": ["go"]})
    assert (entry.began_offset, entry.offset, got.text) == (2, 3, "")
    assert first["content"] == {"steps": []}  # the event itself is not changed
    kept = folded(first, first | {"content": {}, "replace": False})
    assert (plan := kept.entries[0].activity) is not None
    assert plan.value == {"steps": []}
    assert folded(first, ev.restarted(2)).entries == []


def test_a_snapshot_of_messages_has_the_results_of_calls() -> None:
    """Results that came nowhere else, and the agent's own ids of results; other messages change nothing."""
    shown: list[object] = [
        {"id": "u", "role": "user", "content": "hi"},
        {"id": "own-1", "role": "tool", "toolCallId": "a", "content": "other"},
        {"id": "own-2", "role": "tool", "toolCallId": "b", "content": [{"type": "text", "text": "snow"}]},
        {"id": "own-3", "role": "tool", "toolCallId": "of an earlier run", "content": "x"},
        {"role": "tool", "toolCallId": "c", "content": None},
        "not a message",
    ]
    got = folded(
        ev.tool_call_start("a", "f"),
        ev.tool_call_result("a-r", "a", "fine"),
        ev.tool_call_start("r.b", "g"),  # `b`, behind the run's id
        ev.tool_call_start("c", "h"),
        {"type": "MESSAGES_SNAPSHOT", "runId": "r", "messages": shown},
    )
    assert [(entry.message_id, entry.result, entry.result_id) for entry in got.entries] == [
        ("a", "fine", "own-1"),
        ("r.b", "snow", "own-2"),
        ("c", "", ""),
    ]
    assert got.text == ""
