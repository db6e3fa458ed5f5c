"""Tools that the client runs, over the WebSocket: the call ends the run, `run.tool_result` goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.ports.agents import Agent, Event, RunInput
from narthex.testing import Running, gateway
from tests.app.test_busy import ended, event, follow
from tests.app.test_commands import Raw, client

COLOUR = {"name": "colour", "description": "Paints the page.", "parameters": {"type": "object"}}


async def painter(run: RunInput) -> AsyncIterator[Event | str]:
    """Calls two tools of the client; says what came back."""
    results = [one for one in run.messages if one.role == "tool"]
    if run.messages[-1].content == "long":
        yield "long"
        async for _ in run.steer:
            return
    if results:
        names = ", ".join(str(tool["name"]) for tool in run.tools)
        yield f"{[(one.content, one.error) for one in results]} with {names} and {run.state}"
        return
    yield "Painting. "
    for name in ("call-of-the-tool-1", "call-of-the-tool-2"):
        yield {"type": "TOOL_CALL_START", "toolCallId": name, "toolCallName": "colour"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": name, "delta": "{}"}
        yield {"type": "TOOL_CALL_END", "toolCallId": name}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    agents = [Agent(name="painter", function=painter)]
    async with gateway(tmp_path, agents=agents, direct_membership=("*",)) as found:
        yield found


async def called(raw: Raw, **more: Any) -> dict[str, Any]:
    """A run that ended for the client's tools."""
    started: dict[str, Any] = await raw.rpc(
        "run.start", text="paint", client_message_id="1", tools=[COLOUR], **more
    )
    await follow(raw, started["channel"])
    assert (await ended(raw, started["run_id"]))["text"] == "Painting. "
    return started


def results(run_id: str, **more: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "results": [
            {"tool_call_id": "call-of-the-tool-1", "content": "red now"},
            {"tool_call_id": "call-of-the-tool-2", "content": "", "error": "No paint."},
        ],
        **more,
    }


async def test_results_begin_a_run_and_every_device_gets_them(running: Running) -> None:
    """The agent has calls and results; another device sees both as they come, and later in the thread."""
    raw = await client(running, "ada")
    started = await called(raw)
    phone = await client(running, "ada")
    await follow(phone, started["channel"])
    answer = await raw.rpc("run.tool_result", **results(started["run_id"], tools=[COLOUR], state={"n": 1}))
    assert (answer["thread_id"], answer["channel"]) == (started["thread_id"], started["channel"])
    assert answer["run_id"] != started["run_id"]
    seen = await event(phone, type="TOOL_CALL_RESULT")
    assert (seen["toolCallId"], seen["content"], seen["role"]) == ("call-of-the-tool-1", "red now", "tool")
    assert (await event(phone, type="TOOL_CALL_RESULT"))["error"] == "No paint."
    found = await ended(raw, answer["run_id"])
    assert found["text"] == "[('red now', ''), ('', 'No paint.')] with colour and {'n': 1}"
    assert await raw.rpc("run.tool_result", **results(started["run_id"])) == answer | {"queued": False}
    thread = await raw.rpc("thread.get", thread_id=started["thread_id"])
    kept = [one for one in thread["messages"] if one["role"] == "tool"]
    assert [(one["content"], json.loads(one["detail"]).get("error")) for one in kept] == [
        ("red now", None),
        ("", "No paint."),
    ]
    assert [one["role"] for one in thread["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]


async def test_results_that_cannot_be_taken_are_refused(running: Running) -> None:
    """A run that goes on, another user's run, no results, too much text."""
    raw = await client(running, "ada")
    started = await called(raw)
    stranger = await client(running, "eve")
    long = await raw.rpc(
        "run.start", text="long", client_message_id="2", thread_id=started["thread_id"], agent="painter"
    )
    await event(raw, type="TEXT_MESSAGE_CONTENT", delta="long", runId=long["run_id"])
    for caller, params, code in (
        (raw, results(long["run_id"]), 409),
        (stranger, results(started["run_id"]), 404),
        (raw, results(started["run_id"]) | {"results": []}, 400),
        (raw, results(started["run_id"]) | {"results": [{"tool_call_id": "", "content": ""}]}, 400),
        (
            raw,
            results(started["run_id"])
            | {"results": [{"tool_call_id": "call-of-the-tool-1", "content": "x" * 40_000}]},
            413,
        ),
    ):
        refused = await caller.call("rpc", method="run.tool_result", data=params)
        assert refused["error"]["code"] == code, refused


async def test_results_of_calls_that_do_not_exist_begin_no_run(running: Running) -> None:
    """They would be published and given to an agent that made no such call."""
    raw = await client(running, "ada")
    started = await called(raw)
    made_up = {"tool_call_id": "call-of-no-tool", "content": "x"}
    sent = results(started["run_id"]) | {"results": [*results(started["run_id"])["results"], made_up]}
    refused = await raw.call("rpc", method="run.tool_result", data=sent)
    assert (refused["error"]["code"], refused["error"]["message"][:22]) == (422, "tool_results_not_taken")
    thread = await raw.rpc("thread.get", thread_id=started["thread_id"])
    assert thread["runs"] == []
    assert [one["content"] for one in thread["messages"] if one["role"] == "tool"] == ["", ""]


async def test_one_of_two_members_answers_a_call(running: Running) -> None:
    """The other one is refused, at the same moment and later; the winner's repeat finds its run."""
    ada = await client(running, "ada")
    started = await called(ada)
    await ada.rpc("thread.members.add", thread_id=started["thread_id"], user_id="bob")
    bob = await client(running, "bob")
    sent = results(started["run_id"])
    answers = await asyncio.gather(
        *(raw.call("rpc", method="run.tool_result", data=sent) for raw in (ada, bob))
    )
    won, lost = sorted(answers, key=lambda one: "error" in one)
    assert (lost["error"]["code"], lost["error"]["message"][:18]) == (409, "tool_call_answered")
    run = won["rpc"]["data"]
    loser, winner = (bob, ada) if answers[0] is won else (ada, bob)
    assert (await ended(ada, run["run_id"]))["state"] == "finished"
    late = await loser.call("rpc", method="run.tool_result", data=sent)
    assert late["error"]["code"] == 409
    assert (await winner.rpc("run.tool_result", **sent))["run_id"] == run["run_id"]
    thread = await ada.rpc("thread.get", thread_id=started["thread_id"])
    assert [one["run_id"] for one in thread["outcomes"]] == [started["run_id"], run["run_id"]]


async def test_the_first_of_two_results_of_a_call_counts(running: Running) -> None:
    """In one request too, and its repeat finds its run."""
    raw = await client(running, "ada")
    started = await called(raw)
    sent = agui(started, "r-1", ("1", "first", "i-1"), ("1", "second", "i-2"), ("2", "other", "i-3"))
    run = await raw.rpc("agui.run", **sent)
    await ended(raw, run["run_id"])
    assert (await raw.rpc("agui.run", **sent))["run_id"] == run["run_id"]
    thread = await raw.rpc("thread.get", thread_id=started["thread_id"])
    assert [one["content"] for one in thread["messages"] if one["role"] == "tool"] == ["first", "other"]
    again = agui(started, "r-2", ("1", "first", "i-1"), ("1", "second", "i-2"), ("2", "other", "i-3"))
    assert (await raw.rpc("agui.run", **again))["run_id"] != run["run_id"]


async def test_a_second_member_answers_a_call_beside_the_first_one_s_result(running: Running) -> None:
    """Their client repeats the result of the other call, which its conversation has. Alone it is too late, and so is
    another one for that call.
    """
    ada = await client(running, "ada")
    started = await called(ada)
    await ada.rpc("thread.members.add", thread_id=started["thread_id"], user_id="bob")
    bob = await client(running, "bob")
    first = await ada.rpc("agui.run", **agui(started, "r-1", ("1", "by ada\0", "i-1")))
    await ended(ada, first["run_id"])
    for late in (("1", "by ada\0", "i-1"), ("1", "by bob", "i-1"), ("1", "by bob", "i-9")):
        refused = await bob.call("rpc", method="agui.run", data=agui(started, "r-2", late))
        assert refused["error"]["message"][:18] == "tool_call_answered"
    sent = agui(started, "r-3", ("1", "by ada\0", "i-1"), ("2", "by bob", "i-2"))
    second = await bob.rpc("agui.run", **sent)
    assert "by bob" in (await ended(ada, second["run_id"]))["text"]
    assert (await bob.rpc("agui.run", **sent))["run_id"] == second["run_id"]
    thread = await ada.rpc("thread.get", thread_id=started["thread_id"])
    assert [
        (one["content"], json.loads(one["detail"])["by"])
        for one in thread["messages"]
        if one["role"] == "tool"
    ] == [("by ada\ufffd", "ada"), ("by bob", "bob")]


def agui(started: dict[str, Any], run: str, *results: tuple[str, str, str]) -> dict[str, Any]:
    """Params of `agui.run` with results: a call, its result, and the id of that."""
    messages = [
        {"id": name, "role": "tool", "toolCallId": f"call-of-the-tool-{call}", "content": content}
        for call, content, name in results
    ]
    sent = {"threadId": started["thread_id"], "runId": run, "messages": messages, "tools": [COLOUR]}
    return {"agent": "painter", "input": sent | {"state": {}, "context": [], "forwardedProps": {}}}


async def test_an_agent_gets_its_own_short_ids_back(tmp_path: Path) -> None:
    """In the thread the run's id stands before them; the agent, which may keep the conversation too, knows none of it.
    An id that it used in two runs names two things, and stays as it is in the thread.
    """
    given: list[list[tuple[str, str, list[str]]]] = []

    async def caller(run: RunInput) -> AsyncIterator[Event | str]:
        given.append(
            [
                (one.message_id, one.tool_call_id, [call.call_id for call in one.tool_calls])
                for one in run.messages
            ]
        )
        if run.messages[-1].role == "tool":
            yield "done"
            return
        name = run.messages[-1].content
        yield {
            "type": "TOOL_CALL_START",
            "toolCallId": name,
            "toolCallName": "colour",
            "parentMessageId": "m",
        }
        yield {"type": "TOOL_CALL_END", "toolCallId": name}

    async with gateway(tmp_path, agents=[Agent(name="caller", function=caller)]) as running:
        raw = await client(running, "ada")
        first = await raw.rpc("run.start", text="call_0", client_message_id="1")
        await follow(raw, first["channel"])
        call = await event(raw, type="TOOL_CALL_START")
        assert call["toolCallId"] == f"{first['run_id']}.call_0"
        await ended(raw, first["run_id"])
        sent = {"tool_call_id": call["toolCallId"], "content": "red"}
        answer = await raw.rpc("run.tool_result", run_id=first["run_id"], results=[sent])
        await ended(raw, answer["run_id"])
        assert given[-1][1][2] == ["call_0"]
        assert given[-1][2][1] == "call_0"
        assert given[-1][1][0] == "m"
        again = await raw.rpc(
            "run.start", text="call_0", client_message_id="2", thread_id=first["thread_id"], agent="caller"
        )
        await ended(raw, again["run_id"])
        # A client may have the agent's own form of the id.
        sent = {"tool_call_id": "call_0", "content": "blue"}
        answer = await raw.rpc("run.tool_result", run_id=again["run_id"], results=[sent])
        await ended(raw, answer["run_id"])
        calls = [one[2][0] for one in given[-1] if one[2]]
        assert calls == [f"{first['run_id']}.call_0", f"{again['run_id']}.call_0"]
