"""A run's states, the literal table of its transitions, and the codes of RUN_ERROR.

Not here: moving a run from state to state (app/runs), storing it (ports/runs).

    queued ──claimed──→ running ──returned──→ finished
       │                  │ ├─────asked─────→ interrupted     (its answer is a new run)
       │                  │ ├─────failed────→ failed
       └──cancelled──→ cancelled ←─cancelled─┘
                          running ─taken_over→ running        (the owner was lost; attempt + 1)
                          running ─given_back→ queued         (the owner drains, and the agent has not begun)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from narthex.domain.events import Event
from narthex.errors import ClientError


class RunState(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    FAILED = "failed"


# The statements of the store are made from it (adapters/stores/sql/runs.py).
TRANSITIONS: Final[dict[tuple[RunState, str], RunState]] = {
    (RunState.QUEUED, "claimed"): RunState.RUNNING,
    (RunState.QUEUED, "cancelled"): RunState.CANCELLED,
    (RunState.RUNNING, "taken_over"): RunState.RUNNING,
    (RunState.RUNNING, "given_back"): RunState.QUEUED,
    (RunState.RUNNING, "returned"): RunState.FINISHED,
    (RunState.RUNNING, "asked"): RunState.INTERRUPTED,
    (RunState.RUNNING, "cancelled"): RunState.CANCELLED,
    (RunState.RUNNING, "failed"): RunState.FAILED,
}

ACTIVE: Final = frozenset({RunState.QUEUED, RunState.RUNNING})
TERMINAL: Final = frozenset(RunState) - ACTIVE

BUSY: Final = ("enqueue", "reject", "interrupt", "steer")
"""What a message does in a thread with an active run: wait behind it, be refused (`thread_busy`), cancel it and go on,
or be given to its agent (`run.steer`), and wait where the agent cannot take it."""

RUN_ERRORS: Final[dict[str, str]] = {
    "agent_failed": "The agent raised an error.",
    "agent_timeout": "The agent did not finish within the run's time.",
    "agent_flood": "The agent produced more than a run may hold.",
    "agent_silent": "The agent returned without producing anything.",
    "agent_event_order": "The agent produced events in an illegal order.",
    "agent_event_invalid": "The agent produced something that is not an AG-UI event.",
    "agent_unknown": "No node has this agent any more.",
    "agent_unavailable": "The agent's back end could not be reached.",
    "owner_lost": "The instance that ran the agent went away.",
    "log_lost": "The log of the run was lost, so the agent's progress is unknown.",
    "log_unavailable": "The gateway could not store the run's events for too long.",
    "draining": "The gateway was shut down while the agent ran.",
    "internal": "The gateway failed; the log has the reason.",
}
"""Code of a RUN_ERROR → what happened, for people. A message may say more, never less."""


def queue_full(limit: int) -> ClientError:
    """The error for one run too many."""
    return ClientError(
        "queue_full",
        f"The thread has {limit} runs waiting already.",
        "Wait for a run to finish, or cancel one.",
        number=429,
    )


def run_active() -> ClientError:
    """The error for results of tools that come before their run has ended."""
    return ClientError(
        "run_active", "The run has not ended yet.", "Send the results after RUN_FINISHED.", number=409
    )


def run_not_found() -> ClientError:
    """The error for a run that does not exist, or that the user may not see."""
    return ClientError(
        "run_not_found", "No such run is visible to you.", "`thread.get` lists the runs.", number=404
    )


def thread_busy() -> ClientError:
    """The error for a message that must not wait (`busy: reject`)."""
    return ClientError(
        "thread_busy",
        "The thread has a queued or running run.",
        "Wait for its end, cancel it, or send the message with another `busy`.",
        number=409,
    )


def before(what: str) -> list[RunState]:
    """The states in which `what` can happen, in the order of the enum."""
    return [state for state in RunState if (state, what) in TRANSITIONS]


def after(what: str) -> RunState:
    """The state after `what` happened."""
    (following,) = {to for (_, happened), to in TRANSITIONS.items() if happened == what}
    return following


def fairest(waiting: Sequence[tuple[str, str]], running: Mapping[str, int], limit: int) -> list[str]:
    """Up to `limit` of the runs that may be claimed: always the next of the tenant with the fewest running runs, those
    picked here counted in; among equals the oldest.

    Args:
        waiting: tenant and run id, oldest first.
        running: running runs by tenant.
        limit: how many at most.
    """
    queues: dict[str, deque[tuple[int, str]]] = {}
    for age, (tenant, run_id) in enumerate(waiting):
        queues.setdefault(tenant, deque()).append((age, run_id))
    counts = Counter(running)
    picked: list[str] = []
    while queues and len(picked) < limit:
        tenant = min(queues, key=lambda name: (counts[name], queues[name][0]))
        picked.append(queues[tenant].popleft()[1])
        counts[tenant] += 1
        if not queues[tenant]:
            del queues[tenant]
    return picked


def state_after(terminal: Event) -> RunState:
    """The state that a terminal event in the log stands for (used when its owner died after publishing it)."""
    if terminal["type"] == "RUN_ERROR":
        return RunState.FAILED
    outcome = terminal.get("outcome")
    kind = outcome.get("type") if isinstance(outcome, dict) else None
    if kind == "interrupt":
        return RunState.INTERRUPTED
    return RunState.CANCELLED if kind == "cancelled" else RunState.FINISHED
