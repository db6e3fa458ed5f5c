"""JSON that no event can hold: in a run's input, in what its agent reports, and in a question."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from narthex.domain.agent_input import AgentInput
from narthex.domain.json_depth import MAX_EVENT_DEPTH
from narthex.ports.agents import Event, Question, RunInput
from tests.app.runs.rig import ALICE, Rig, agent

Items = AsyncIterator[Event | str]


def nested(levels: int) -> Any:
    """A value of so many levels."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


async def greets(run: RunInput) -> Items:
    """Says hello."""
    yield "hello"


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (nested(MAX_EVENT_DEPTH - 2), True),
        (nested(MAX_EVENT_DEPTH - 1), False),
        ({"n": 10**400}, False),
    ],
    ids=["fits", "deep", "number"],
)
async def test_an_input_that_no_event_can_hold_is_not_shown(rig: Rig, state: Any, shown: bool) -> None:
    """The run begins and ends all the same: without RUN_STARTED it could do neither, on any node."""
    engine = await rig.node(agent(greets))
    given = AgentInput(state=state, show_input=True)
    thread = await rig.thread()
    run, _ = await engine.start(ALICE, thread, uuid.uuid4().hex, "hi", uuid.uuid4().hex, given=given)
    row, events = await rig.ended(run)
    assert (row.state, row.text, row.attempt) == ("finished", "hello", 1)
    assert ("input" in events[0]) is shown


async def reports_a_tower(run: RunInput) -> Items:
    """Its result is too deep for an event."""
    yield "x"
    run.report(result=nested(MAX_EVENT_DEPTH))


async def asks_with_a_tower(run: RunInput) -> Items:
    """Its question's metadata are."""
    yield "x"
    await run.ask_all([Question(schema={}, text="?", metadata=nested(MAX_EVENT_DEPTH - 3))])


async def asks_with_a_number(run: RunInput) -> Items:
    """A number in its question's metadata is no double."""
    yield "x"
    await run.ask_all([Question(schema={}, text="?", metadata={"n": 10**400})])


@pytest.mark.parametrize("function", [reports_a_tower, asks_with_a_tower, asks_with_a_number])
async def test_an_end_that_no_event_can_hold_fails_the_run(rig: Rig, function: Any) -> None:
    """As an event of the agent's does: a stream would be cut at an end that its reader cannot parse."""
    engine = await rig.node(agent(function))
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.error) == ("failed", "agent_event_invalid")
    assert [one["type"] for one in events][-1] == "RUN_ERROR"


async def test_a_result_and_a_question_may_be_as_deep_as_an_event(rig: Rig) -> None:
    """One level less, and they are published."""

    async def deep(run: RunInput) -> Items:
        yield "x"
        run.report(result=nested(MAX_EVENT_DEPTH - 1))

    async def asks(run: RunInput) -> Items:
        yield "x"
        await run.ask_all([Question(schema={}, text="?", metadata=nested(MAX_EVENT_DEPTH - 5))])

    engine = await rig.node(agent(deep), agent(asks, "asks"))
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, events[-1]["result"]) == ("finished", nested(MAX_EVENT_DEPTH - 1))
    row, events = await rig.ended(await rig.say(engine, await rig.thread(), "@asks"))
    assert events[-1]["outcome"]["interrupts"][0]["metadata"] == nested(MAX_EVENT_DEPTH - 5)


async def test_a_patch_whose_path_is_no_text_is_left_out(rig: Rig) -> None:
    """As one that does not fit. At the run's end it was a bug of the gateway, on every node, for ever."""

    async def patches(run: RunInput) -> Items:
        yield {"type": "STATE_DELTA", "delta": [{"op": "add", "path": 5, "value": 1}]}
        yield {"type": "ACTIVITY_SNAPSHOT", "messageId": "m", "activityType": "PLAN", "content": {"n": 1}}
        patch = [{"op": "move", "path": "/m", "from": ["n"]}]
        yield {"type": "ACTIVITY_DELTA", "messageId": "m", "activityType": "PLAN", "patch": patch}

    engine = await rig.node(agent(patches))
    row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.attempt) == ("finished", 1)
