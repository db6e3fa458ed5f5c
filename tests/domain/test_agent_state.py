"""`narthex.domain.agent_state`: what a run's events leave of an agent's state."""

from __future__ import annotations

import json

from narthex.domain import events as ev
from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.agent_state import AgentState


def folded(*events: ev.Event) -> AgentState:
    """The state after these events."""
    state = AgentState()
    for event in events:
        state.feed(event)
    return state


def test_deltas_go_on_from_the_last_snapshot_or_from_the_state_before() -> None:
    """A snapshot replaces everything; a delta that does not fit is left out."""
    add = ev.state_delta([{"op": "add", "path": "/b", "value": 2}])
    wrong = ev.state_delta([{"op": "remove", "path": "/absent"}])
    assert folded(add, wrong).value({"a": 1}) == {"a": 1, "b": 2}
    assert folded(add).value(None) == {"b": 2}
    assert folded(add, ev.state_snapshot({"s": 0}), add).value({"a": 1}) == {"s": 0, "b": 2}
    assert folded(ev.state_snapshot({"void": 1}), ev.restarted(2)).value({"a": 1}) == {"a": 1}


def test_what_is_stored() -> None:
    """Nothing where there is no state; the client's where no event changed it; `null` for one that is too large."""
    assert folded().after(None) is None
    assert folded().after({"a": 1}) == '{"a":1}'
    assert json.loads(folded(ev.state_snapshot(None)).after({"a": 1}) or "") is None
    assert folded(ev.state_snapshot("x" * MAX_BYTES)).after(None) == "null"


def test_a_state_that_deltas_grow_over_the_limit_is_not_kept() -> None:
    """Folding stops there: each of 200 deltas would copy the largest state that is allowed."""
    filled = ev.state_snapshot({"a": "x" * (MAX_BYTES // 2)})
    doubled = [ev.state_delta([{"op": "copy", "from": "/a", "path": f"/{n}"}]) for n in range(200)]
    assert folded(filled, *doubled).after(None) == "null"
    assert folded(filled, *doubled, ev.state_snapshot({"n": 1})).after(None) == '{"n":1}'
