"""`narthex.domain.agent_state`: what a run's events leave of an agent's state."""

from __future__ import annotations

import json

from narthex.domain import events as ev
from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.agent_state import AgentState


async def no_turn() -> None:
    """Nothing else runs here."""


async def stored(state: AgentState, before: object) -> object:
    """What is stored, decoded; None too where nothing is."""
    text = await state.after(before, no_turn)
    return None if text is None else json.loads(text)


def folded(*events: ev.Event) -> AgentState:
    """The state after these events."""
    state = AgentState()
    for event in events:
        state.feed(event)
    return state


async def test_deltas_go_on_from_the_last_snapshot_or_from_the_state_before() -> None:
    """A snapshot replaces everything; a delta that does not fit is left out."""
    add = ev.state_delta([{"op": "add", "path": "/b", "value": 2}])
    wrong = ev.state_delta([{"op": "remove", "path": "/absent"}])
    assert await stored(folded(add, wrong), {"a": 1}) == {"a": 1, "b": 2}
    assert await stored(folded(add), None) == {"b": 2}
    assert await stored(folded(add, ev.state_snapshot({"s": 0}), add), {"a": 1}) == {"s": 0, "b": 2}
    assert await stored(folded(ev.state_snapshot({"void": 1}), ev.restarted(2)), {"a": 1}) == {"a": 1}


async def test_what_is_stored() -> None:
    """Nothing where there is no state; the client's where no event changed it; `null` for one that is too large."""
    assert await folded().after(None, no_turn) is None
    assert await folded().after({"a": 1}, no_turn) == '{"a":1}'
    assert await stored(folded(ev.state_snapshot(None)), {"a": 1}) is None
    anew = folded(ev.state_snapshot({"void": 1}), ev.restarted(2), ev.state_snapshot({}))
    assert await anew.after(None, no_turn) is None
    assert await anew.after({"a": 1}, no_turn) == "{}"
    assert await folded(ev.state_snapshot("x" * MAX_BYTES)).after(None, no_turn) == "null"


async def test_a_state_that_deltas_grow_over_the_limit_is_not_kept() -> None:
    """Folding stops there: each of 200 deltas would copy the largest state that is allowed."""
    filled = ev.state_snapshot({"a": "x" * (MAX_BYTES // 2)})
    doubled = [ev.state_delta([{"op": "copy", "from": "/a", "path": f"/{n}"}]) for n in range(200)]
    assert await folded(filled, *doubled).after(None, no_turn) == "null"
    assert await folded(filled, *doubled, ev.state_snapshot({"n": 1})).after(None, no_turn) == '{"n":1}'


async def test_many_deltas_let_other_work_go_on() -> None:
    """A run may have tens of thousands: its lease must be renewed meanwhile."""
    add = ev.state_delta([{"op": "add", "path": "/n", "value": 1}, {"op": "remove", "path": "/n"}])
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1

    assert await folded(*[add] * 2_000).after({}, turn) == "{}"
    assert turns > 10


async def test_a_state_that_could_not_be_sent_back_is_not_kept() -> None:
    """A request and RUN_STARTED hold a state of 126 levels; a shallow patch at a deep place may go beyond."""
    place = "/a" * 100
    tower = json.loads('{"a":' * 100 + "{}" + "}" * 100)
    for levels, kept in ((25, True), (26, False)):
        value = json.loads('{"b":' * (levels - 1) + "{}" + "}" * (levels - 1))
        patch = ev.state_delta([{"op": "add", "path": f"{place}/b", "value": value}])
        small = ev.state_delta([{"op": "add", "path": "/n", "value": 1}])
        assert (await stored(folded(small, patch), tower) is not None) is kept
