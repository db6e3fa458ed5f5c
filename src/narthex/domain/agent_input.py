"""The input that a client gives an agent beside the message: AG-UI's state, tools, context and forwarded properties.

Not here: reading it from a request (`web/agui`, `app/rpc`), storing it (`ports/runs.py`). Rules: the gateway does not
interpret these values, except the member `narthex` of `forwardedProps`, which holds the client's wishes to the gateway
itself and is not passed on; together they are bounded, because they are stored with the run.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from narthex.errors import ClientError

MAX_BYTES: Final = 256 * 1024  # as one event: a state comes back in a STATE_SNAPSHOT


class ToolResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of a tool that the client itself ran: AG-UI's message of role `tool`."""

    tool_call_id: str
    content: str
    message_id: str = ""
    error: str = ""


class AgentInput(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """See the module. `thread_id` and `run_id` are the client's own names, empty where it gave none.

    Attributes:
        state: the client's state of the agent; None: it has none, and the stored one counts.
        tools: tools that the client runs (AG-UI's Tool).
        context: AG-UI's Context entries.
        forwarded: `forwardedProps` without the member `narthex`.
        protocol_version: of AG-UI, as the client says.
        parent_run_id: the run that this one branches from, as the client says.
        results: results of tools that the client ran.
        show_input: whether RUN_STARTED carries this input, for every member of the thread to see.
    """

    thread_id: str = ""
    run_id: str = ""
    state: Any = None
    tools: list[dict[str, Any]] = []
    context: list[dict[str, Any]] = []
    forwarded: dict[str, Any] = {}
    protocol_version: str = ""
    parent_run_id: str = ""
    results: list[ToolResult] = []
    show_input: bool = False

    def shown(self, thread_id: str, run_id: str) -> dict[str, Any] | None:
        """RUN_STARTED's `input`, a RunAgentInput without the thread's messages; None unless the client asked for it."""
        if not self.show_input:
            return None
        return {
            "threadId": self.thread_id or thread_id,
            "runId": self.run_id or run_id,
            "state": self.state if self.state is not None else {},
            "messages": [],
            "tools": self.tools,
            "context": self.context,
            "forwardedProps": self.forwarded,
        }

    def encoded(self) -> str:
        """For the store; empty where the client sent nothing. Raises ClientError `input_too_large` (413)."""
        text = msgspec.json.encode(self)
        if text == b"{}":
            return ""
        if len(text) > MAX_BYTES:
            raise ClientError(
                "input_too_large",
                f"State, tools, context and forwardedProps together are over {MAX_BYTES // 1024} KB.",
                "Send less with each run.",
                number=413,
            )
        return text.decode()


def is_same_result(stored: str, new: str) -> bool | None:
    """Whether the result in the stored detail of a call is the one in the new detail: the same message of the same
    sender. None: the call has no result.
    """
    known, given = (msgspec.json.decode(detail, type=dict[str, Any]) for detail in (stored, new))
    if not known.get("answered", True):
        return None
    return all(known.get(name, "") == given.get(name, "") for name in ("resultId", "by"))


def decoded(text: str) -> AgentInput:
    """The inverse of `AgentInput.encoded`."""
    return msgspec.json.decode(text, type=AgentInput) if text else AgentInput()
