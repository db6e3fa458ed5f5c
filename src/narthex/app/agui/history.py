"""A thread in AG-UI's form: its stored messages, the agent's state and the open interrupts.

Not here: live events. Rules: ids are those that a stock client makes from the live events, so that a
page which was reloaded shows the same messages: a call of a tool stands in the assistant's message that its
`parentMessageId` names, else in one that has the call's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from narthex.app.thread_view import ActiveRun, EndedRun, OpenQuestion
from narthex.domain import events as ev
from narthex.domain.events import Event
from narthex.ports.threads import Message

MAX_MESSAGES: Final = 1_000
"""Of one snapshot, the newest ones; `GET …/threads/{id}?before=` has those before."""


EMPTY_THREAD: Final[dict[str, Any]] = {
    "messages": [],
    "state": None,
    "interrupts": [],
    "messageRuns": {},
    "runs": [],
    "endedRuns": [],
    "lastEventId": "0-",
    "next": None,
}
"""A thread that the user does not have yet: their first message in it makes it."""


def messages(rows: list[Message]) -> list[dict[str, Any]]:
    """The rows as AG-UI's messages, in their order."""
    found: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for row in rows:
        if row.role == "tool":
            _tool(found, places, row)
        elif row.role == "activity":
            places[row.message_id] = len(found)
            found.append({"id": row.message_id, "role": row.role, **msgspec.json.decode(row.detail)})
        elif (at := places.get(row.message_id)) is not None:  # a call made it before its text began
            found[at]["content"] = row.content
        elif row.role in _ROLES:
            places[row.message_id] = len(found)
            found.append({"id": row.message_id, "role": row.role, "content": row.content})
            if row.role == "user" and (name := msgspec.json.decode(row.detail).get("name")):
                found[-1]["name"] = name
    return found


_ROLES: Final = frozenset({"user", "assistant", "system", "developer", "reasoning"})


def _tool(found: list[dict[str, Any]], places: dict[str, int], row: Message) -> None:
    detail: dict[str, Any] = msgspec.json.decode(row.detail)
    call = {
        "id": row.message_id,
        "type": "function",
        "function": {"name": detail.get("toolCallName", ""), "arguments": detail.get("args", "")},
    }
    parent = str(detail.get("parentMessageId") or row.message_id)
    at = places.get(parent)
    if at is None:
        at = places[parent] = len(found)
        found.append({"id": parent, "role": "assistant"})
    found[at].setdefault("toolCalls", []).append(call)
    if not detail.get("answered", True):
        return
    result = {
        "id": detail.get("resultId") or f"{row.message_id}-result",
        "role": "tool",
        "toolCallId": row.message_id,
        "content": row.content,
    }
    if detail.get("error"):
        result["error"] = detail["error"]
    place = at + 1  # as AG-UI's client: right behind the call, after the results of the calls beside it
    while place < len(found) and found[place]["role"] == "tool":
        place += 1
    found.insert(place, result)
    for name, index in places.items():
        if index >= place:
            places[name] = index + 1


def message_runs(rows: list[Message]) -> dict[str, str]:
    """Message id → the run that made it, for those of `messages` that a run made."""
    found: dict[str, str] = {}
    for row in rows:
        parent = msgspec.json.decode(row.detail).get("parentMessageId") if row.role == "tool" else ""
        if row.run_id:
            found.setdefault(str(parent or row.message_id), row.run_id)
    return found


def active_run(run: ActiveRun) -> dict[str, str]:
    """A queued or running run."""
    return {**_names(run), "state": run.state}


def ended_run(run: EndedRun) -> dict[str, Any]:
    """How a run ended, with the questions that it ended with: `answeredBy` is empty while one is open."""
    asked = interrupts(run.questions)
    for event, question in zip(asked, run.questions, strict=True):
        event["answeredBy"] = question.answered_by
    found: dict[str, Any] = {**_names(run), "state": run.state}
    if run.error:
        found |= {"error": run.error, "errorMessage": run.error_message}
    if usage := msgspec.json.decode(run.usage):
        found["usage"] = usage
    if run.result not in ("", "null"):
        found["result"] = msgspec.json.decode(run.result)
    return found | ({"interrupts": asked} if asked else {})


def _names(run: ActiveRun | EndedRun) -> dict[str, str]:
    """`messageId`: the user message that it answers; `parentRunId`: the run whose questions were answered."""
    return {
        "runId": run.run_id,
        "agent": run.agent,
        "messageId": run.message_id,
        "parentRunId": run.parent_run_id,
    }


def interrupts(kept: Sequence[OpenQuestion]) -> list[Event]:
    """Open questions in the form of RUN_FINISHED's outcome."""
    found = []
    for one in kept:
        detail: dict[str, Any] = msgspec.json.decode(one.detail)
        found.append(
            ev.interrupt(
                one.interrupt_id,
                one.text,
                msgspec.json.decode(one.schema),
                one.expires_at,
                answerable_by=one.answerable_by,
                reason=detail.get("reason") or "input_required",
                tool_call_id=detail.get("toolCallId") or "",
                metadata=detail.get("metadata"),
            )
        )
    return found
