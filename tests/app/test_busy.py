"""What a message does in a thread with a run (`busy`), where it steers: taken once, or answered by a run of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client
from tests.app.test_connection import Slow, parts_of


async def listening(run: RunInput) -> AsyncIterator[str]:
    """Reads what users add, until they stop it; answers at once where it is called with a single word."""
    text = run.messages[-1].content
    yield f"({text})"
    if " " not in text:
        return
    async for added in run.steer:
        yield f"[{added}]"
        if added == "stop":
            return


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    agents = [Agent(name="listening", function=listening), Agent(name="other", function=listening)]
    async with gateway(tmp_path, agents=agents) as found:
        yield found


async def follow(raw: Raw, channel: str) -> None:
    """Subscribe from the channel's beginning on; what it has already comes as pushes too."""
    reply = await raw.call("subscribe", channel=channel, recover=True, offset=0, epoch="")
    assert reply["subscribe"]["recovered"], reply
    raw.pushes = [{"pub": one} for one in reply["subscribe"].get("publications", [])] + raw.pushes


async def event(raw: Raw, **members: Any) -> dict[str, Any]:
    """The next publication of the thread with these members."""
    while True:
        data: dict[str, Any] = (await raw.push("pub"))["pub"]["data"]
        if all(data.get(name) == value for name, value in members.items()):
            return data


async def begun(raw: Raw, text: str = "listen to me") -> dict[str, Any]:
    """A run whose agent reads what users add: an unread text tells that."""
    started: dict[str, Any] = await raw.rpc(
        "run.start", text=text, client_message_id="first", agent="listening"
    )
    await follow(raw, started["channel"])
    await event(raw, type="TEXT_MESSAGE_CONTENT", delta=f"({text})")
    await raw.rpc("run.steer", run_id=started["run_id"], text="ready")
    await event(raw, type="TEXT_MESSAGE_CONTENT", delta="[ready]")
    return started


async def ended(raw: Raw, run_id: str) -> dict[str, Any]:
    """The run's durable state after its end."""
    await event(raw, type="RUN_FINISHED", runId=run_id)
    found: dict[str, Any] = await raw.rpc("run.get", run_id=run_id)
    return found


async def test_a_message_steers_the_agent_at_work_and_a_repeat_finds_its_run(running: Running) -> None:
    """One message, no run of its own; the repeat after the run's end is not answered a second time."""
    raw = await client(running, "ada")
    started = await begun(raw)
    sent = {
        "text": "left",
        "client_message_id": "second",
        "agent": "listening",
        "busy": "steer",
        "thread_id": started["thread_id"],
    }
    answer = await raw.rpc("run.start", **sent)
    assert (answer["run_id"], answer["steered"], answer["queued"]) == (started["run_id"], True, False)
    steered = await event(raw, name="narthex.steered")
    assert steered["value"]["messageId"]
    assert (await raw.rpc("run.start", **sent)) == answer
    await raw.rpc("run.steer", run_id=started["run_id"], text="stop")
    found = await ended(raw, started["run_id"])
    assert found["text"] == "(listen to me)[ready][left][stop]"
    assert (await raw.rpc("run.start", **sent)) == answer
    thread = await raw.rpc("thread.get", thread_id=started["thread_id"])
    assert [(one["role"], one["content"]) for one in thread["messages"]] == [
        ("user", "listen to me"),
        ("assistant", found["text"]),
        ("user", "left"),
    ]
    assert thread["messages"][2]["message_id"] == answer["message_id"] == steered["value"]["messageId"]
    assert thread["runs"] == []


async def test_a_message_that_cannot_steer_waits_for_its_own_run(running: Running) -> None:
    """Another agent is at work, or none: the message is answered by a run of its own."""
    raw = await client(running, "ada")
    started = await begun(raw)
    sent = {"busy": "steer", "thread_id": started["thread_id"]}
    other = await raw.rpc("run.start", text="hi", client_message_id="2", agent="other", **sent)
    assert (other["queued"], other.get("steered")) == (True, None)
    await raw.rpc("run.steer", run_id=started["run_id"], text="stop")
    assert (await ended(raw, other["run_id"]))["text"] == "(hi)"
    idle = await raw.rpc("run.start", text="idle", client_message_id="3", agent="listening", **sent)
    assert (await ended(raw, idle["run_id"]))["text"] == "(idle)"


async def test_an_agent_that_reads_nothing_does_not_swallow_a_message(tmp_path: Path) -> None:
    """A text in a queue that is never read would stay without an answer."""
    gate = asyncio.Event()

    async def busy(run: RunInput) -> AsyncIterator[str]:
        yield "begun"
        await gate.wait()

    async with gateway(tmp_path, agents=[Agent(name="busy", function=busy, busy="steer")]) as running:
        raw = await client(running, "ada")
        first = await raw.rpc("run.start", text="one", client_message_id="1")
        await follow(raw, first["channel"])
        await event(raw, type="TEXT_MESSAGE_CONTENT", delta="begun")
        second = await raw.rpc("run.start", text="two", client_message_id="2", thread_id=first["thread_id"])
        assert (second["queued"], second.get("steered")) == (True, None)
        gate.set()
        assert (await ended(raw, second["run_id"]))["text"] == "begun"


async def test_a_message_that_the_agent_at_work_never_takes_is_answered_after_its_run(tmp_path: Path) -> None:
    """The agent reads one text and no further one; a repeat of the message finds the run that answers it."""
    gate = asyncio.Event()

    async def reader(run: RunInput) -> AsyncIterator[str]:
        text = run.messages[-1].content
        yield f"({text})"
        if text == "one":
            yield f"[{await anext(run.steer)}]"
            await gate.wait()

    async with gateway(tmp_path, agents=[Agent(name="reader", function=reader, busy="steer")]) as running:
        raw = await client(running, "ada")
        first = await raw.rpc("run.start", text="one", client_message_id="1")
        await follow(raw, first["channel"])
        await event(raw, type="TEXT_MESSAGE_CONTENT", delta="(one)")
        await raw.rpc("run.steer", run_id=first["run_id"], text="go on")
        await event(raw, type="TEXT_MESSAGE_CONTENT", delta="[go on]")
        sent = {"text": "two", "client_message_id": "2", "thread_id": first["thread_id"]}
        second = await raw.rpc("run.start", **sent)
        assert (second["run_id"], second["steered"]) == (first["run_id"], True)
        accepted = await event(raw, name="narthex.steering")
        assert accepted["value"]["messageId"] == second["message_id"]
        gate.set()
        await event(raw, type="RUN_FINISHED", runId=first["run_id"])
        started = await event(raw, type="RUN_STARTED")
        assert (await ended(raw, started["runId"]))["text"] == "(two)"
        again = await raw.rpc("run.start", **sent)
        assert (again["run_id"], again["message_id"], again.get("steered")) == (
            started["runId"],
            second["message_id"],
            None,
        )
        thread = await raw.rpc("thread.get", thread_id=first["thread_id"])
        assert [one["content"] for one in thread["messages"]] == ["one", "(one)[go on]", "two", "(two)"]


async def test_a_late_repeat_does_not_end_the_run_that_interrupted_its_own(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw no run of its message, and comes to its turn when a later message has ended that run."""
    raw, other = await client(running, "ada"), await client(running, "ada")
    thread = (await raw.rpc("thread.create"))["thread_id"]
    sent = {"busy": "interrupt", "thread_id": thread, "agent": "listening"}
    late = Slow(parts_of(running).core.chat.run_of_message)
    monkeypatch.setattr(parts_of(running).core.chat, "run_of_message", late)
    repeat = asyncio.create_task(other.rpc("run.start", text="to me", client_message_id="1", **sent))
    await late.asked.wait()
    monkeypatch.undo()
    first = await raw.rpc("run.start", text="to me", client_message_id="1", **sent)
    second = await raw.rpc("run.start", text="no, me", client_message_id="2", **sent)
    await follow(raw, first["channel"])
    await event(raw, type="TEXT_MESSAGE_CONTENT", delta="(no, me)")
    late.may.set()
    assert (await repeat)["run_id"] == first["run_id"]
    found = await raw.rpc("run.get", run_id=second["run_id"])
    assert (found["state"], found["cancel_requested_by"]) == ("running", "")
    await raw.rpc("run.cancel", run_id=second["run_id"])
