"""Results of tools that clients run, and the stored calls that they answer.

Not here: storing and publishing them (`app/chat`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from narthex.domain.agent_ids import in_thread
from narthex.domain.agent_input import ToolResult
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


def answered(call: Message, result: ToolResult, user_id: str) -> Message:
    """The call with its result."""
    detail = msgspec.json.decode(call.detail, type=dict[str, Any])
    detail |= {"answered": True, "resultId": result.message_id, "by": user_id}
    if result.error:
        detail["error"] = result.error
    return msgspec.structs.replace(call, content=result.content, detail=msgspec.json.encode(detail).decode())
