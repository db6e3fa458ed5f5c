"""Checks the order of events in a run: a state machine per message, reasoning, tool call and step.

The transitions are the literal table `TABLE`, the run's own life is `RUN_TABLE`; nothing else decides.

    text, reasoning, span    absent ─START→ open ─CONTENT…→ open ─END→ absent     (an id may be used again)
    step                     absent ─STARTED→ open ─FINISHED→ absent
    tool call                absent ─START→ open ─ARGS…→ open ─END→ ended ─RESULT→ answered
                             absent ─RESULT→ answered         (the result of a call made by an earlier run)
    run                      new ─RUN_STARTED→ running ─RUN_FINISHED | RUN_ERROR→ over

Not here: the shape of one event (`events.shape_fault`). Rules: a fault is a sentence that names event, id and
state; a refused event changes nothing; RUN_FINISHED is legal only when nothing is open.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.domain.events import GATEWAY_ONLY, Event

ABSENT: Final = "absent"
OPEN: Final = "open"
ENDED: Final = "ended"
ANSWERED: Final = "answered"


class Rule(NamedTuple):
    """The effect of an event type on the entity named by its member `id_member`: state → next state."""

    kind: str
    id_member: str
    moves: dict[str, str]


TABLE: Final[dict[str, Rule]] = {
    "TEXT_MESSAGE_START": Rule("text message", "messageId", {ABSENT: OPEN}),
    "TEXT_MESSAGE_CONTENT": Rule("text message", "messageId", {OPEN: OPEN}),
    "TEXT_MESSAGE_END": Rule("text message", "messageId", {OPEN: ABSENT}),
    "REASONING_START": Rule("reasoning span", "messageId", {ABSENT: OPEN}),
    "REASONING_END": Rule("reasoning span", "messageId", {OPEN: ABSENT}),
    "REASONING_MESSAGE_START": Rule("reasoning message", "messageId", {ABSENT: OPEN}),
    "REASONING_MESSAGE_CONTENT": Rule("reasoning message", "messageId", {OPEN: OPEN}),
    "REASONING_MESSAGE_END": Rule("reasoning message", "messageId", {OPEN: ABSENT}),
    "TOOL_CALL_START": Rule("tool call", "toolCallId", {ABSENT: OPEN}),
    "TOOL_CALL_ARGS": Rule("tool call", "toolCallId", {OPEN: OPEN}),
    "TOOL_CALL_END": Rule("tool call", "toolCallId", {OPEN: ENDED}),
    "TOOL_CALL_RESULT": Rule("tool call", "toolCallId", {ABSENT: ANSWERED, ENDED: ANSWERED}),
    "STEP_STARTED": Rule("step", "stepName", {ABSENT: OPEN}),
    "STEP_FINISHED": Rule("step", "stepName", {OPEN: ABSENT}),
}
"""Types that are not here (STATE_*, CUSTOM, RAW …) are legal at any time in a running run."""

RUN_TABLE: Final[dict[tuple[str, str], str]] = {
    ("new", "RUN_STARTED"): "running",
    ("new", "RUN_ERROR"): "over",
    ("running", "RUN_FINISHED"): "over",
    ("running", "RUN_ERROR"): "over",
}

CLOSING: Final[dict[str, str]] = {
    "text message": "TEXT_MESSAGE_END",
    "reasoning message": "REASONING_MESSAGE_END",
    "reasoning span": "REASONING_END",
    "tool call": "TOOL_CALL_END",
    "step": "STEP_FINISHED",
}
"""The event that closes an open entity of each kind."""


class EventOrder:
    """Checks one run's events, one after the other, and knows what is open."""

    __slots__ = ("_entities", "run_state")

    def __init__(self) -> None:
        self.run_state = "new"
        self._entities: dict[tuple[str, str], str] = {}

    def check(self, event: Event, *, from_agent: bool = False) -> str | None:
        """Take the next event.

        Args:
            event: with a shape that `events.shape_fault` found good.
            from_agent: whether an agent yielded it; then RUN_* is refused.

        Returns:
            None and the new state is kept, or a sentence that says what was wrong and nothing changed.
        """
        kind: str = event["type"]
        rule = TABLE.get(kind)
        if rule is None:
            return self._check_run(kind, from_agent=from_agent)
        if self.run_state != "running":
            return f"{kind} came while the run was {self.run_state}."
        name: str = event[rule.id_member]
        state = self._entities.get((rule.kind, name), ABSENT)
        following = rule.moves.get(state)
        if following is None:
            wanted = " or ".join(rule.moves)
            return f"{kind} came for {rule.kind} {name[:80]!r}, which is {state}; it must be {wanted}."
        if following == ABSENT:
            del self._entities[(rule.kind, name)]
        elif following != state:
            self._entities[(rule.kind, name)] = following
        return None

    def _check_run(self, kind: str, *, from_agent: bool) -> str | None:
        if kind not in GATEWAY_ONLY:
            return None if self.run_state == "running" else f"{kind} came while the run was {self.run_state}."
        if from_agent:
            return f"{kind} is sent by the gateway; an agent ends by returning and fails by raising."
        following = RUN_TABLE.get((self.run_state, kind))
        if following is None:
            return f"{kind} came while the run was {self.run_state}."
        if kind == "RUN_FINISHED" and (left := self.still_open()):
            return f"RUN_FINISHED came while {left} was open."
        self.run_state = following
        return None

    def begin(self) -> None:
        """Take the run for running although its RUN_STARTED was not seen: the log's beginning is gone."""
        self.run_state = "running"

    def open_entities(self) -> list[tuple[str, str]]:
        """Kind and id of everything that is open, oldest first."""
        return [place for place, state in self._entities.items() if state == OPEN]

    def still_open(self) -> str:
        """The open entities, in words (`text message 'm1', step 'plan'`); empty when none is open."""
        return ", ".join(f"{kind} {name[:80]!r}" for kind, name in self.open_entities())

    def closing_events(self) -> list[Event]:
        """The events that close whatever is open, newest first. The caller passes each to `check`."""
        return [
            {"type": CLOSING[kind], TABLE[CLOSING[kind]].id_member: name}
            for kind, name in reversed(self.open_entities())
        ]

    def forget(self) -> None:
        """Start over after `CUSTOM narthex.restarted`: ids of the void attempt may be used again."""
        self._entities.clear()
