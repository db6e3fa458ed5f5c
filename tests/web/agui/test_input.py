"""What a client sends beside the message reaches the agent: tools and their results, state, context."""

from __future__ import annotations

import httpx2

from narthex.testing import Running
from tests.web.agui.agents import SEEN
from tests.web.agui.client import ask, bearer, proven, real, said


async def test_what_a_client_sends_reaches_the_agent(running: Running, http: httpx2.AsyncClient) -> None:
    """Tools, context, state, forwardedProps, version and parent; its message id is the thread's."""
    mine = bearer(running)
    sent = said(
        "later",
        message="from-the-client",
        tools=[{"name": "colour", "description": "Paints.", "parameters": {"type": "object"}}],
        context=[{"description": "page", "value": "home"}],
        state={"theme": "dark"},
        forwarded_props={"a": 1, "narthex": {"input": True}},
        protocol_version="1.0.0",
        parent_run_id="earlier",
    )
    told = (await ask(http, "/agui/curious", sent, mine)).events
    seen = SEEN[-1]
    assert seen["tools"][0]["name"] == "colour"
    assert seen["context"] == [{"description": "page", "value": "home"}]
    assert (seen["state"], seen["forwarded"], seen["version"], seen["parent"]) == (
        {"theme": "dark"},
        {"a": 1},
        "1.0.0",
        "earlier",
    )
    assert seen["messages"][-1]["id"] == "from-the-client"
    assert told[0]["parentRunId"] == "earlier"
    assert told[0]["input"]["state"] == {"theme": "dark"}
    assert told[0]["input"]["runId"] == sent["runId"]
    # A type that AG-UI does not have passes as it is, and counts in the digest.
    assert {"type": "SOMETHING_NEW", "value": None, "messageId": "x"} in told
    assert proven(told)
    assert (told[-1]["usage"], told[-1]["result"]) == (
        [{"model": "m", "inputTokens": 3, "outputTokens": 5}],
        {"sum": 8},
    )
    run_id = told[0]["metadata"]["narthex"]["runId"]
    found = (await http.get(f"/api/v1/runs/{run_id}", headers=mine)).json()
    assert (found["usage"], found["result"]) == (told[-1]["usage"], told[-1]["result"])


async def test_the_state_comes_back_in_the_next_run(running: Running, http: httpx2.AsyncClient) -> None:
    """A snapshot and a delta are what the next run has, of a client without one; a client's own state counts."""
    mine = bearer(running)
    await ask(http, "/agui/curious", said("first"), mine)
    await ask(http, "/agui/curious", said("next"), mine)
    assert SEEN[-1]["state"] == {"count": 1, "list": ["a", "b"]}
    await ask(http, "/agui/curious", said("mine", state={"count": 2}), mine)
    assert SEEN[-1]["state"] == {"count": 2}
    await ask(http, "/agui/curious", said("last"), mine)
    assert SEEN[-1]["state"] == {"count": 2}


async def test_a_client_s_tool_ends_the_run_and_its_result_goes_on(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """The call ends the run; the result in the next request begins one whose agent has call and result."""
    mine = bearer(running)
    asked = said("tool", message="m-tool")
    called = await ask(http, "/agui/curious", asked, mine)
    assert called.kinds[-2:] == ["TOOL_CALL_END", "RUN_FINISHED"]
    call = {"id": "call-of-the-client", "type": "function", "function": {"name": "colour", "arguments": "{}"}}
    result = {"id": "result-1", "role": "tool", "toolCallId": "call-of-the-client", "content": "painted"}
    answer = said("x") | {
        "messages": [*asked["messages"], {"id": "a", "role": "assistant", "toolCalls": [call]}, result]
    }
    went_on = await ask(http, "/agui/curious", answer, mine)
    assert went_on.text == "heard painted"
    assert went_on.is_whole()
    made, returned = SEEN[-1]["messages"][-2:]
    assert made["calls"] == [("call-of-the-client", "colour", '{"to": "red"}')]
    assert (returned["role"], returned["of"], returned["id"]) == ("tool", "call-of-the-client", "result-1")
    assert (await ask(http, "/agui/curious", answer, mine)).events == went_on.events
    thread = (await http.get(f"/api/v1/threads/{real(went_on, 'threadId')}", headers=mine)).json()
    [kept] = [one for one in thread["messages"] if one["role"] == "tool"]
    assert kept["content"] == "painted"
