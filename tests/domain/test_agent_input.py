"""`narthex.domain.agent_input`: what a client sends beside the message."""

from __future__ import annotations

import pytest

from narthex.domain.agent_input import MAX_BYTES, AgentInput, ToolResult, decoded
from narthex.errors import ClientError


def test_it_is_stored_and_read_back() -> None:
    """Every member; nothing is stored where the client sent nothing."""
    given = AgentInput(
        thread_id="t",
        run_id="r",
        state={"a": None},
        tools=[{"name": "x"}],
        context=[{"value": "y"}],
        forwarded={"z": 1},
        protocol_version="1.0.0",
        parent_run_id="p",
        results=[ToolResult(tool_call_id="c", content="1", message_id="m", error="e")],
        show_input=True,
    )
    assert decoded(given.encoded()) == given
    assert AgentInput().encoded() == ""
    assert decoded("") == AgentInput()


def test_it_is_bounded() -> None:
    """It is stored with the run."""
    with pytest.raises(ClientError) as caught:
        AgentInput(state="x" * MAX_BYTES).encoded()
    assert (caught.value.code, caught.value.number) == ("input_too_large", 413)


def test_it_is_shown_only_where_the_client_asked() -> None:
    """The properties may hold secrets, and RUN_STARTED goes to all members of the thread."""
    assert AgentInput(forwarded={"key": "secret"}).shown("t", "r") is None
    shown = AgentInput(run_id="mine", forwarded={"a": 1}, show_input=True).shown("t", "r")
    assert shown is not None
    assert (shown["threadId"], shown["runId"], shown["forwardedProps"]) == ("t", "mine", {"a": 1})
