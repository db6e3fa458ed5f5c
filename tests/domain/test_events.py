"""The constructors and tables of `narthex.domain.events`, against the published AG-UI classes."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
from ag_ui.core import events as agui

from narthex.domain import events
from narthex.domain.events import Event

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"approved": {"type": "boolean"}}}
BUILT: list[Event] = [
    events.run_started("t", "r"),
    events.run_started("t", "r", parent_run_id="r0"),
    events.run_finished("t", "r", events.success()),
    events.run_finished("t", "r", events.cancelled(), result={"cancelledBy": "alice"}),
    events.run_finished(
        "t", "r", events.interrupted([events.interrupt("i", "Go on?", SCHEMA, 1_795_435_200)])
    ),
    events.run_error("It failed.", "agent_failed"),
    events.step_started("s"),
    events.step_finished("s"),
    events.text_start("m"),
    events.text_content("m", "x"),
    events.text_end("m"),
    events.reasoning_start("m"),
    events.reasoning_message_start("m"),
    events.reasoning_content("m", "x"),
    events.reasoning_message_end("m"),
    events.reasoning_end("m"),
    events.tool_call_start("c", "health", parent_message_id="m"),
    events.tool_call_args("c", "{}"),
    events.tool_call_end("c"),
    events.tool_call_result("m", "c", "ok"),
    events.state_snapshot({"a": 1}),
    events.state_delta([{"op": "add", "path": "/a", "value": 1}]),
    events.custom("x", None),
    events.restarted(2),
]
ADAPTER: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(agui.Event)


@pytest.mark.parametrize("event", BUILT, ids=lambda event: str(event["type"]))
def test_every_constructor_gives_what_the_agui_package_accepts(event: Event) -> None:
    """The published class accepts the dict, knows every member of it, and returns the same dict."""
    parsed = ADAPTER.validate_python(event)
    assert not parsed.model_extra
    assert parsed.model_dump(mode="json", by_alias=True) == event
    assert events.shape_fault(event) is None


def test_every_type_of_agui_is_known() -> None:
    """REQUIRED and the three chunk types are exactly AG-UI's event types."""
    chunks = {"TEXT_MESSAGE_CHUNK", "REASONING_MESSAGE_CHUNK", "TOOL_CALL_CHUNK"}
    assert {kind.value for kind in agui.EventType} == set(events.REQUIRED) | chunks


def test_required_members_are_those_that_the_package_requires() -> None:
    """For each type, AG-UI's required members with a plain type are the ones that are checked."""
    for model in (m for m in vars(agui).values() if isinstance(m, type) and issubclass(m, agui.BaseEvent)):
        if model is agui.BaseEvent or model.__name__.endswith("ChunkEvent"):
            continue
        kind = model.model_fields["type"].default.value
        required = {f.alias or n for n, f in model.model_fields.items() if f.is_required() and n != "type"}
        assert set(events.REQUIRED[kind]) <= required, kind
        assert required - set(events.REQUIRED[kind]) <= {"snapshot", "event", "value"}, kind


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({}, "`type`"),
        ({"type": 7}, "`type`"),
        ({"type": "a shout"}, "is not the name of an event type"),
        ({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m"}, "needs `delta` (str), got NoneType"),
        ({"type": "TEXT_MESSAGE_START", "messageId": ""}, "empty `messageId`"),
        ({"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c", "content": 1}, "str or list"),
    ],
)
def test_a_bad_shape_is_named(event: Event, words: str) -> None:
    """The sentence names the event and the wrong member."""
    assert words in (events.shape_fault(event) or "")


def test_deltas_and_terminals_are_told_from_the_rest() -> None:
    """Three delta types, two terminal ones, and nothing is both."""
    deltas = {event["type"] for event in BUILT if events.is_delta(event)}
    terminals = {event["type"] for event in BUILT if events.is_terminal(event)}
    assert deltas == {"TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS"}
    assert terminals == {"RUN_FINISHED", "RUN_ERROR"}
