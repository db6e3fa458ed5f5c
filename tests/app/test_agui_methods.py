"""AG-UI's requests over the WebSocket: `agui.run`, `agui.connect`, `agui.cancel`, `agui.names`, `agui.before`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.ports.agents import Agent, Event, RunInput
from narthex.testing import Running, gateway
from tests.app.test_busy import event, follow
from tests.app.test_commands import Raw, client


async def counting(run: RunInput) -> AsyncIterator[Event | str]:
    """Counts in its state; waits for a steering text where it is told to; asks where it is told to."""
    text = run.messages[-1].content
    yield {"type": "STATE_SNAPSHOT", "snapshot": {"n": ((run.state or {}).get("n") or 0) + 1}}
    if text == "ask":
        answer = await run.ask({"type": "string"}, "Which?")
        yield f"chose {answer}"
        return
    yield f"heard {text}"
    if text == "wait":
        async for _ in run.steer:
            return


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    agents = [Agent(name="other", function=counting), Agent(name="counting", function=counting)]
    async with gateway(tmp_path, agents=agents) as found:
        yield found


def asked(text: str, run: str, message: str = "", **more: Any) -> dict[str, Any]:
    """Params with a RunAgentInput."""
    messages = [{"id": message or f"m-{run}", "role": "user", "content": text}] if text else []
    sent = {"threadId": "mine", "runId": run, "messages": messages, "state": {}, "tools": [], "context": []}
    return {"agent": "counting", "input": sent | {"forwardedProps": {}} | more}


async def ended(raw: Raw, params: dict[str, Any]) -> dict[str, Any]:
    """Start a run and follow it to its end."""
    begun: dict[str, Any] = await raw.rpc("agui.run", **params)
    await follow(raw, begun["channel"])
    await event(raw, type="RUN_FINISHED", runId=begun["run_id"])
    reply = await raw.call("unsubscribe", channel=begun["channel"])
    assert "error" not in reply
    return begun


async def test_a_thread_of_the_clients_own_name_is_run_and_replayed(running: Running) -> None:
    """The same request gives the same run; a connection gets messages and state under the client's names."""
    raw = await client(running, "ada")
    first = await ended(raw, asked("hello", "r-1"))
    again = await raw.rpc("agui.run", **asked("hello", "r-1"))
    assert (again["run_id"], again["thread_id"]) == (first["run_id"], first["thread_id"])
    second = await ended(raw, asked("more", "r-2"))
    assert second["thread_id"] == first["thread_id"]
    view = await raw.rpc("agui.connect", **asked("", "c-1"))
    started, snapshot, state, finished = view["events"]
    assert started == {
        "type": "RUN_STARTED",
        "threadId": "mine",
        "runId": "c-1",
        "metadata": {"narthex": {"connect": True}},
    }
    assert [(one["id"][:3], one["content"]) for one in snapshot["messages"] if one["role"] == "user"] == [
        ("m-r", "hello"),
        ("m-r", "more"),
    ]
    assert state["snapshot"] == {"n": 2}
    assert (finished["runId"], finished["outcome"]) == ("c-1", {"type": "success"})
    assert (view["thread_id"], view["channel"]) == (first["thread_id"], first["channel"])
    assert view["ended"] == sorted([first["run_id"], second["run_id"]])
    assert view["offset"] > 0


async def test_questions_names_and_cancelling(running: Running) -> None:
    """An open question is in the replay; its answer's run knows the parent's name; a run is cancelled by name."""
    raw = await client(running, "ada")
    question = await ended(raw, asked("ask", "r-1"))
    view = await raw.rpc("agui.connect", **asked("", "c-1"))
    (interrupt,) = view["events"][-1]["outcome"]["interrupts"]
    answer = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "b"}]
    resumed = await ended(raw, asked("", "r-2", resume=answer))
    assert resumed["parent_run_id"] == "r-1"
    names = {"run_id": "r-2", "parent_run_id": "r-1"}
    assert await raw.rpc("agui.names", run_id=resumed["run_id"]) == names
    assert await raw.rpc("agui.names", run_id=question["run_id"]) == {"run_id": "r-1", "parent_run_id": ""}
    waits = await raw.rpc("agui.run", **asked("wait", "r-3"))
    await follow(raw, waits["channel"])
    await event(raw, type="TEXT_MESSAGE_CONTENT", delta="heard wait")
    assert await raw.rpc("agui.cancel", run_id="r-3") == {"run_id": waits["run_id"], "state": "running"}
    assert (await event(raw, type="RUN_FINISHED", runId=waits["run_id"]))["outcome"] == {"type": "cancelled"}


async def test_the_thread_before_a_run_whose_messages_are_stored(running: Running) -> None:
    """For a client that learns late that the run's agent began anew: without the run's messages, as over HTTP, and
    without any message for a user who is no member.
    """
    raw = await client(running, "ada")
    await ended(raw, asked("hello", "r-1"))
    run_id = (await ended(raw, asked("more", "r-2")))["run_id"]
    assert run_id in (await raw.rpc("agui.connect", **asked("", "c-1")))["ended"]
    (snapshot,) = (await raw.rpc("agui.before", run_id=run_id))["events"]
    assert (snapshot["type"], snapshot["metadata"]) == ("MESSAGES_SNAPSHOT", {"narthex": {"between": True}})
    shown = [(one["role"], one["content"]) for one in snapshot["messages"]]
    assert shown == [("user", "hello"), ("assistant", "heard hello"), ("user", "more")]
    eve = await client(running, "eve")
    assert await eve.rpc("agui.before", run_id=run_id) == {"events": []}


async def test_what_cannot_be_done_is_refused(running: Running) -> None:
    """Another user's run and thread do not exist; a bad request names its place."""
    raw = await client(running, "ada")
    begun = await ended(raw, asked("hello", "r-1"))
    eve = await client(running, "eve")
    for caller, method, params, code in (
        (eve, "agui.cancel", {"run_id": begun["run_id"]}, 404),
        (eve, "agui.names", {"run_id": begun["run_id"]}, 404),
        (eve, "agui.connect", asked("", "c", threadId=begun["thread_id"]), 404),
        (eve, "agui.run", asked("x", "r", threadId=begun["thread_id"]), 404),
        (raw, "agui.run", asked("x", "r") | {"agent": "nobody"}, 404),
        (raw, "agui.run", asked("", "r"), 422),
        (raw, "agui.run", {"agent": "counting", "input": {"threadId": 7}}, 422),
        (raw, "agui.run", {"agent": "counting"}, 400),
    ):
        refused = await caller.call("rpc", method=method, data=params)
        assert refused["error"]["code"] == code, (method, refused)
    empty = await eve.rpc("agui.connect", **asked("", "c"))
    assert (empty["thread_id"], empty["channel"], empty["ended"]) == ("", "", [])
    assert empty["events"][1]["messages"] == []
