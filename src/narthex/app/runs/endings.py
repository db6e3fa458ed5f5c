"""The endings of a run, as values, with the terminal event of each. Not here: ending a run (`execution`)."""

from __future__ import annotations

from typing import Any

import msgspec

from narthex.domain import events as ev
from narthex.domain.events import Event
from narthex.ports.runs import Interrupt


class Completed(msgspec.Struct, frozen=True):
    """The agent returned."""


class Interrupted(msgspec.Struct, frozen=True):
    """The agent waits for users; `event_outcome` is RUN_FINISHED's."""

    interrupts: tuple[Interrupt, ...]
    event_outcome: Event


class Cancelled(msgspec.Struct, frozen=True):
    """A user cancelled it."""

    by: str


class Failed(msgspec.Struct, frozen=True):
    """It failed; `code` is a row of `domain.runs.RUN_ERRORS`, or an agent's own."""

    code: str
    message: str


class Lost(msgspec.Struct, frozen=True):
    """This node does not own it any more: nothing is published."""


class Abandoned(msgspec.Struct, frozen=True):
    """This node owns it but could not publish, or hands it over: the next owner ends it."""


class GivenBack(msgspec.Struct, frozen=True):
    """This node drains, and the agent has not begun: the run is queued again."""


Ending = Completed | Interrupted | Cancelled | Failed | Lost | Abandoned | GivenBack


class AgentFault(Exception):
    """A fault of an agent: becomes `Failed(code, message)`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Report(msgspec.Struct):
    """What an agent said about its run (`RunInput.report`)."""

    usage: list[Event] = []
    result: Any = None


def terminal(ending: Ending, thread_id: str, run_id: str, report: Report | None = None) -> Event:
    """The terminal event of an ending that is published, with what the agent reported."""
    event = _terminal(ending, thread_id, run_id, report.result if report is not None else None)
    if report is not None and report.usage:
        event["usage"] = report.usage
    return event


def _terminal(ending: Ending, thread_id: str, run_id: str, result: Any) -> Event:
    match ending:
        case Completed():
            return ev.run_finished(thread_id, run_id, ev.success(), result=result)
        case Interrupted():
            return ev.run_finished(thread_id, run_id, ending.event_outcome)
        case Cancelled():
            return ev.run_finished(thread_id, run_id, ev.cancelled(), result={"cancelledBy": ending.by})
        case Failed():
            return ev.run_error(ending.message, ending.code)
        case Lost() | Abandoned() | GivenBack():
            raise AssertionError("nothing is published for this ending")
