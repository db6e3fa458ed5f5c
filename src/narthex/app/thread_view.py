"""Views of a thread for pages and programs. Not here: the right to read it, and reading it (`app/chat`).

Rules: members see those parts of a run that they may act on: not its starter's plan and permissions, nor the node that
has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

import msgspec

from narthex.domain.events import is_terminal
from narthex.ports.broker import Publication
from narthex.ports.runs import Interrupt, Run, RunOutcome
from narthex.ports.threads import Message, Thread, ThreadMember


class ActiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """A queued or running run. Members as in `ports.runs.Run`; `run.get` has the rest."""

    run_id: str
    state: str
    agent: str
    user_id: str
    message_id: str
    parent_run_id: str
    created_at: float
    started_at: float
    cancel_requested_by: str

    @classmethod
    def of(cls, run: Run) -> ActiveRun:
        """The visible part of a run."""
        return cls(**{name: getattr(run, name) for name in cls.__struct_fields__})


class ListedThread(Thread, frozen=True, kw_only=True):
    """A thread in `thread.list`. `active_runs`: ids of its queued and running runs."""

    active_runs: list[str]


class OpenQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An approval that waits for its answer. `schema` is JSON text, `answerable_by` as in the agent's `ask`,
    `detail` JSON text of AG-UI's other members of an interrupt.
    """

    interrupt_id: str
    run_id: str
    text: str
    schema: str
    created_at: float
    expires_at: float
    answerable_by: str
    detail: str

    @classmethod
    def of(cls, interrupt: Interrupt) -> Self:
        """The visible part of an approval."""
        return cls(**{name: getattr(interrupt, name) for name in cls.__struct_fields__})


class InvitedUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user who was invited to the thread and has not answered."""

    user_id: str
    invited_by: str
    created_at: float


class Question(OpenQuestion, frozen=True, kw_only=True):
    """An approval that a run ended with, answered or not.

    Attributes:
        answered_by: user id; empty while it is open, and after it expired.
        resume_run_id: the run that the answer opened.
    """

    answered_by: str
    resume_run_id: str


class EndedRun(RunOutcome, frozen=True, kw_only=True):
    """How a run ended, for as long as the thread is kept, with the questions that it ended with. `usage` is the JSON
    text of a list of AG-UI's TokenUsage, `[]` where it is larger than `MAX_REPORT`; `result` is the JSON text of what
    the agent returned, empty where it is larger, because a page has hundreds of runs. `run.get` has both.
    """

    questions: list[Question]

    @classmethod
    def of(cls, run: RunOutcome, asked: Iterable[Interrupt]) -> EndedRun:
        """The visible part of an ended run."""
        questions = [Question.of(interrupt) for interrupt in asked if interrupt.run_id == run.run_id]
        shown = {name: getattr(run, name) for name in RunOutcome.__struct_fields__}
        shown["usage"] = run.usage or "[]"
        return cls(**shown, questions=questions)


EndedBetween = Callable[[float, float | None], Awaitable[list[EndedRun]]]
"""Reads the endings of runs that began at or after the first moment and before the second (None: no end)."""


class OutcomesPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The place of the next page of outcomes: runs since a moment, before a run (its moment and id), newest first."""

    since: float
    before: float | None = None
    before_id: str = ""


class OutcomesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Ended runs, oldest first. `next`: the params for those before them; None: there are none in the range."""

    outcomes: list[EndedRun]
    next: OutcomesPlace | None


class ThreadView(msgspec.Struct, kw_only=True):
    """Everything that a page needs to show a thread and then continue live without a gap.

    Attributes:
        runs: those that are queued or running.
        outcomes: ended runs: of the messages here, and begun between them. A run without a message is here too.
        outcomes_next: params of `thread.outcomes` for the runs that did not fit; None: `outcomes` has all.
        states: the state of each agent, as its last run left it.
        offset: subscribe to the thread's channel with `since {offset, epoch}`: every event that is not in
            `messages` comes after it (some that are may come again: match by message id).
    """

    thread: Thread
    role: str
    messages: list[Message]
    members: list[ThreadMember]
    invited: list[InvitedUser]
    runs: list[ActiveRun]
    outcomes: list[EndedRun]
    outcomes_next: OutcomesPlace | None = None
    interrupts: list[OpenQuestion]
    channel: str
    offset: int
    epoch: str
    states: dict[str, Any] = msgspec.field(default_factory=dict)


def ended_in(publications: Iterable[Publication]) -> set[str]:
    """The runs whose terminal event is among these publications of a thread's log."""
    ended: set[str] = set()
    for publication in publications:
        if b'"RUN_' not in publication.data:
            continue
        event = msgspec.json.decode(publication.data)
        if isinstance(event, dict) and is_terminal(event):
            ended.add(str(event.get("runId", "")))
    return ended
