"""Results of tools that clients run, and the stored calls that they answer.

Not here: storing and publishing them (`app/chat`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from narthex.domain.agent_ids import in_thread
from narthex.domain.agent_input import ToolResult
from narthex.domain.threads import storable
from narthex.errors import ClientError
from narthex.ports.threads import Message


def call_of(rows: Sequence[Message], tool_call_id: str) -> Message | None:
    """The stored call with this id; a client may have the agent's own form of it, from a snapshot of the agent's: then
    it is the newest call with that.
    """
    calls = [row for row in rows if row.role == "tool"]
    exact = (row for row in calls if row.message_id == tool_call_id)
    made = (row for row in reversed(calls) if row.message_id == in_thread(row.run_id, tool_call_id))
    return next(exact, None) or next(made, None)


def is_of_agent(call: Message) -> bool:
    """Whether the agent itself gave the call's result."""
    detail = msgspec.json.decode(call.detail, type=dict[str, Any])
    return bool(detail.get("answered", True)) and not detail.get("by")


def from_user(
    calls: Sequence[Message], results: Sequence[ToolResult], user_id: str
) -> list[tuple[Message, ToolResult]]:
    """The user's own results, each with its call: the first one of a call, and neither the agent's nor one that
    another member gave before, which a client repeats because its conversation has it.

    Raises:
        ClientError: `tool_call_answered` (409): other members gave all of them.
    """
    own: dict[str, tuple[Message, ToolResult]] = {}
    repeated = False
    for call, sent in zip(calls, results, strict=True):
        result = msgspec.structs.replace(sent, content=storable(sent.content))
        if is_of_agent(call):
            continue
        if _is_of_another(call, result, user_id):
            repeated = True
        else:
            own.setdefault(call.message_id, (call, result))
    if repeated and not own:
        raise call_answered()
    return list(own.values())


def call_answered() -> ClientError:
    """The refusal of a result that came too late."""
    return ClientError(
        "tool_call_answered",
        "Another result of this call came first.",
        "Follow the thread: it goes on with that result.",
        number=409,
    )


def _is_of_another(call: Message, result: ToolResult, user_id: str) -> bool:
    """Whether another member has given this very result."""
    detail = msgspec.json.decode(call.detail, type=dict[str, Any])
    return (
        detail.get("by", user_id) != user_id
        and detail.get("resultId") == result.message_id
        and call.content == result.content
    )


def answered(call: Message, result: ToolResult, user_id: str) -> Message:
    """The call with its result."""
    detail = msgspec.json.decode(call.detail, type=dict[str, Any])
    detail |= {"answered": True, "resultId": result.message_id, "by": user_id}
    if result.error:
        detail["error"] = result.error
    return msgspec.structs.replace(call, content=result.content, detail=msgspec.json.encode(detail).decode())
