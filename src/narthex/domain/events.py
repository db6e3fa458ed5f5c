"""AG-UI events as plain dicts in their JSON form (camelCase members), and the kind of each event type.

Not here: which order is legal (`event_order`), joining (`merging`), the digest (`digest`). Names and members
are those of AG-UI 1.0 (https://docs.ag-ui.com); tests check every constructor against the `ag-ui-protocol`
package. Rules: a member without a value is left out, never null; a *delta* appends to something that is open
and may be joined with its neighbour, everything else is a lifecycle event and never is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

Event = dict[str, Any]
"""One event. Any: its members depend on `type`."""

TEXT_START: Final = "TEXT_MESSAGE_START"
TEXT_CONTENT: Final = "TEXT_MESSAGE_CONTENT"
TEXT_END: Final = "TEXT_MESSAGE_END"
REASONING_CONTENT: Final = "REASONING_MESSAGE_CONTENT"
TOOL_ARGS: Final = "TOOL_CALL_ARGS"
RUN_STARTED: Final = "RUN_STARTED"
RUN_FINISHED: Final = "RUN_FINISHED"
RUN_ERROR: Final = "RUN_ERROR"
CUSTOM: Final = "CUSTOM"

DELTA_ID: Final[dict[str, str]] = {
    TEXT_CONTENT: "messageId",
    REASONING_CONTENT: "messageId",
    TOOL_ARGS: "toolCallId",
}
"""Delta types, each with the member that names what the delta appends to."""

TERMINAL: Final = frozenset({RUN_FINISHED, RUN_ERROR})
GATEWAY_ONLY: Final = frozenset({RUN_STARTED, RUN_FINISHED, RUN_ERROR})
"""Types that the gateway publishes itself; an agent that yields one is refused."""

REQUIRED: Final[dict[str, dict[str, type | tuple[type, ...]]]] = {
    "TEXT_MESSAGE_START": {"messageId": str},
    "TEXT_MESSAGE_CONTENT": {"messageId": str, "delta": str},
    "TEXT_MESSAGE_END": {"messageId": str},
    "TOOL_CALL_START": {"toolCallId": str, "toolCallName": str},
    "TOOL_CALL_ARGS": {"toolCallId": str, "delta": str},
    "TOOL_CALL_END": {"toolCallId": str},
    "TOOL_CALL_RESULT": {"messageId": str, "toolCallId": str, "content": (str, list)},
    "REASONING_START": {"messageId": str},
    "REASONING_MESSAGE_START": {"messageId": str},
    "REASONING_MESSAGE_CONTENT": {"messageId": str, "delta": str},
    "REASONING_MESSAGE_END": {"messageId": str},
    "REASONING_END": {"messageId": str},
    "REASONING_ENCRYPTED_VALUE": {"subtype": str, "entityId": str, "encryptedValue": str},
    "STEP_STARTED": {"stepName": str},
    "STEP_FINISHED": {"stepName": str},
    "STATE_SNAPSHOT": {},
    "STATE_DELTA": {"delta": list},
    "MESSAGES_SNAPSHOT": {"messages": list},
    "ACTIVITY_SNAPSHOT": {"messageId": str, "activityType": str, "content": dict},
    "ACTIVITY_DELTA": {"messageId": str, "activityType": str, "patch": list},
    "SUBAGENT_STARTED": {"subagentRunId": str, "name": str},
    "SUBAGENT_FINISHED": {"subagentRunId": str},
    "SUBAGENT_ERROR": {"subagentRunId": str, "message": str},
    "RAW": {},
    "CUSTOM": {"name": str},
    "RUN_STARTED": {"threadId": str, "runId": str},
    "RUN_FINISHED": {"threadId": str, "runId": str},
    "RUN_ERROR": {"message": str},
}
"""The types of AG-UI 1.0 with their required members. Chunks are expanded before. Other types pass unchecked."""

_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,99}")


def is_delta(event: Event) -> bool:
    """Whether the event may be joined with an adjacent delta of the same thing."""
    return event.get("type") in DELTA_ID


def is_terminal(event: Event) -> bool:
    """Whether the event ends its run."""
    return event.get("type") in TERMINAL


def shape_fault(event: Event) -> str | None:
    """The first fault of an event's shape, as a sentence; None when there is none.

    Only what AG-UI requires is checked; more members are allowed and kept, and so are types that it does not have.
    """
    kind = event.get("type")
    if not isinstance(kind, str):
        return "An event must have a `type` that is a string."
    if kind not in REQUIRED and _TYPE.fullmatch(kind) is None:
        return f"{kind[:60]!r} is not the name of an event type: capital letters, digits and _."
    for member, wanted in REQUIRED.get(kind, {}).items():
        value = event.get(member)
        if not isinstance(value, wanted):
            names = wanted.__name__ if isinstance(wanted, type) else " or ".join(t.__name__ for t in wanted)
            return f"{kind} needs `{member}` ({names}), got {type(value).__name__}."
        if value == "" and member.endswith(("Id", "Name", "name")):
            return f"{kind} has an empty `{member}`."
    return None


def run_started(
    thread_id: str, run_id: str, *, parent_run_id: str = "", run_input: Event | None = None
) -> Event:
    """RUN_STARTED; `parent_run_id` for a run that goes on after an approval."""
    event: Event = {"type": RUN_STARTED, "threadId": thread_id, "runId": run_id}
    if parent_run_id:
        event["parentRunId"] = parent_run_id
    if run_input is not None:
        event["input"] = run_input
    return event


def run_finished(thread_id: str, run_id: str, outcome: Event, *, result: Any = None) -> Event:
    """RUN_FINISHED with one of the outcomes below."""
    event: Event = {"type": RUN_FINISHED, "threadId": thread_id, "runId": run_id, "outcome": outcome}
    if result is not None:
        event["result"] = result
    return event


def voids_attempt(event: Event) -> bool:
    """Whether it says that the agent begins anew: everything that its run has shown before is void."""
    return event["type"] == "CUSTOM" and event.get("name") == "narthex.restarted"


def success() -> Event:
    """Outcome: the agent returned."""
    return {"type": "success"}


def cancelled() -> Event:
    """Outcome: a person cancelled the run."""
    return {"type": "cancelled"}


def interrupt(
    interrupt_id: str,
    message: str,
    response_schema: Event,
    expires_at: float,
    *,
    answerable_by: str = "",
    reason: str = "input_required",
    tool_call_id: str = "",
    metadata: Event | None = None,
) -> Event:
    """A question in the outcome `interrupted`; `expires_at` is seconds since the epoch, `answerable_by` of
    `domain.answer_permission`.
    """
    found: Event = {
        "id": interrupt_id,
        "reason": reason,
        "message": message,
        "responseSchema": response_schema,
        "expiresAt": datetime.fromtimestamp(expires_at, UTC).isoformat().replace("+00:00", "Z"),
    }
    if tool_call_id:
        found["toolCallId"] = tool_call_id
    metadata = {**(metadata or {}), **({"answerableBy": answerable_by} if answerable_by else {})}
    if metadata:
        found["metadata"] = metadata
    return found


def interrupted(interrupts: list[Event]) -> Event:
    """Outcome: the run waits for people's answers."""
    return {"type": "interrupt", "interrupts": interrupts}


def run_error(message: str, code: str) -> Event:
    """RUN_ERROR; `code` is a row of `narthex.domain.runs.RUN_ERRORS`."""
    return {"type": RUN_ERROR, "message": message, "code": code}


def step_started(name: str) -> Event:
    """STEP_STARTED."""
    return {"type": "STEP_STARTED", "stepName": name}


def step_finished(name: str) -> Event:
    """STEP_FINISHED."""
    return {"type": "STEP_FINISHED", "stepName": name}


def text_start(message_id: str, role: str = "assistant") -> Event:
    """TEXT_MESSAGE_START."""
    return {"type": TEXT_START, "messageId": message_id, "role": role}


def text_content(message_id: str, delta: str) -> Event:
    """TEXT_MESSAGE_CONTENT."""
    return {"type": TEXT_CONTENT, "messageId": message_id, "delta": delta}


def text_end(message_id: str) -> Event:
    """TEXT_MESSAGE_END."""
    return {"type": TEXT_END, "messageId": message_id}


def reasoning_start(span_id: str) -> Event:
    """REASONING_START: a span that may hold several reasoning messages."""
    return {"type": "REASONING_START", "messageId": span_id}


def reasoning_message_start(message_id: str) -> Event:
    """REASONING_MESSAGE_START."""
    return {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"}


def reasoning_content(message_id: str, delta: str) -> Event:
    """REASONING_MESSAGE_CONTENT."""
    return {"type": REASONING_CONTENT, "messageId": message_id, "delta": delta}


def reasoning_message_end(message_id: str) -> Event:
    """REASONING_MESSAGE_END."""
    return {"type": "REASONING_MESSAGE_END", "messageId": message_id}


def reasoning_end(span_id: str) -> Event:
    """REASONING_END."""
    return {"type": "REASONING_END", "messageId": span_id}


def tool_call_start(tool_call_id: str, name: str, *, parent_message_id: str = "") -> Event:
    """TOOL_CALL_START."""
    event: Event = {"type": "TOOL_CALL_START", "toolCallId": tool_call_id, "toolCallName": name}
    if parent_message_id:
        event["parentMessageId"] = parent_message_id
    return event


def tool_call_args(tool_call_id: str, delta: str) -> Event:
    """TOOL_CALL_ARGS: a piece of the arguments' JSON text."""
    return {"type": TOOL_ARGS, "toolCallId": tool_call_id, "delta": delta}


def tool_call_end(tool_call_id: str) -> Event:
    """TOOL_CALL_END: the arguments are complete."""
    return {"type": "TOOL_CALL_END", "toolCallId": tool_call_id}


def tool_call_result(message_id: str, tool_call_id: str, content: str) -> Event:
    """TOOL_CALL_RESULT; mints a tool message of its own, hence `message_id`."""
    return {
        "type": "TOOL_CALL_RESULT",
        "messageId": message_id,
        "toolCallId": tool_call_id,
        "content": content,
        "role": "tool",
    }


def state_snapshot(snapshot: Any) -> Event:
    """STATE_SNAPSHOT."""
    return {"type": "STATE_SNAPSHOT", "snapshot": snapshot}


def state_delta(patch: list[Event]) -> Event:
    """STATE_DELTA: an RFC 6902 patch."""
    return {"type": "STATE_DELTA", "delta": patch}


def custom(name: str, value: Any) -> Event:
    """CUSTOM; names of the gateway's own begin with `narthex.`."""
    return {"type": CUSTOM, "name": name, "value": value}


def restarted(attempt: int) -> Event:
    """CUSTOM narthex.restarted: the run's earlier events are void; it starts again with `seq`."""
    return custom("narthex.restarted", {"attempt": attempt})
