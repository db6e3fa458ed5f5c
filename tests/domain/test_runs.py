"""The table of a run's states."""

from __future__ import annotations

import pytest

from narthex.domain import events as ev
from narthex.domain.runs import ACTIVE, TERMINAL, TRANSITIONS, RunState, advance, state_after
from narthex.errors import Bug


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


def test_an_unknown_transition_is_a_bug() -> None:
    """A finished run cannot be cancelled."""
    assert advance("running", "returned") == RunState.FINISHED
    with pytest.raises(Bug, match="finished cannot be cancelled"):
        advance("finished", "cancelled")


def test_the_log_tells_the_state() -> None:
    """Each terminal event stands for exactly one terminal state."""
    interrupt = ev.interrupted("i", "?", {"type": "object"}, "2026-11-23T12:00:00Z")
    assert state_after(ev.run_finished("t", "r", ev.success())) == RunState.FINISHED
    assert state_after({"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}) == RunState.FINISHED
    assert state_after(ev.run_finished("t", "r", ev.cancelled())) == RunState.CANCELLED
    assert state_after(ev.run_finished("t", "r", interrupt)) == RunState.INTERRUPTED
    assert state_after(ev.run_error("x", "owner_lost")) == RunState.FAILED
