"""The table of a run's states."""

from __future__ import annotations

from narthex.domain import events as ev
from narthex.domain.runs import ACTIVE, TERMINAL, TRANSITIONS, RunState, after, before, fairest, state_after


def test_terminal_states_have_no_way_out() -> None:
    """Every state is active or terminal, and only active ones move."""
    assert frozenset(RunState) == ACTIVE | TERMINAL
    assert {state for state, _ in TRANSITIONS} == ACTIVE
    assert {RunState.FINISHED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED} == TERMINAL


def test_every_state_can_be_reached() -> None:
    """From queued, by the table alone."""
    reached = {RunState.QUEUED}
    for _ in TRANSITIONS:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == frozenset(RunState)


def test_each_step_leads_to_one_state() -> None:
    """So that a statement can be made from its name alone."""
    assert (before("claimed"), after("claimed")) == ([RunState.QUEUED], RunState.RUNNING)
    assert (before("cancelled"), after("cancelled")) == (
        [RunState.QUEUED, RunState.RUNNING],
        RunState.CANCELLED,
    )
    for _, what in TRANSITIONS:
        assert all(TRANSITIONS[state, what] == after(what) for state in before(what))


def test_tenants_share_what_may_run() -> None:
    """The tenant with the fewest running runs is next, those picked counted in; among equals the oldest."""
    waiting = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("b", "b2"), ("c", "c1")]
    assert fairest(waiting, {}, 4) == ["a1", "b1", "c1", "a2"]
    assert fairest(waiting, {"a": 2, "b": 1}, 10) == ["c1", "b1", "a1", "b2", "a2", "a3"]
    assert fairest(waiting, {"a": 2}, 1) == ["b1"]
    assert fairest([], {}, 1) == fairest(waiting, {}, 0) == []


def test_the_log_tells_the_state() -> None:
    """Each terminal event stands for exactly one terminal state."""
    interrupt = ev.interrupted([ev.interrupt("i", "?", {"type": "object"}, 1_795_435_200.0)])
    assert state_after(ev.run_finished("t", "r", ev.success())) == RunState.FINISHED
    assert state_after({"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}) == RunState.FINISHED
    assert state_after(ev.run_finished("t", "r", ev.cancelled())) == RunState.CANCELLED
    assert state_after(ev.run_finished("t", "r", interrupt)) == RunState.INTERRUPTED
    assert state_after(ev.run_error("x", "owner_lost")) == RunState.FAILED
