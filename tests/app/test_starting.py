"""`narthex.app.starting`: one message, one run, and no rest of a thread that is deleted meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.sql.operation import Operation
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.ports.agents import Agent, RunInput
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S
from narthex.ports.threads import ThreadMember
from narthex.testing import Running, gateway
from tests.app.test_commands import client, spoken, words
from tests.app.test_connection import Slow, eventually, parts_of


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[Agent(name="words", function=words)]) as found:
        yield found


async def test_two_devices_that_send_the_same_message_begin_one_run(running: Running) -> None:
    """At once, over two connections: one thread, one message, one run."""
    phone, laptop = await client(running, "ada"), await client(running, "ada")
    answers = await asyncio.gather(
        *(device.rpc("run.start", text="hi", client_message_id="same") for device in (phone, laptop))
    )
    assert answers[0] | {"queued": False} == answers[1] | {"queued": False}
    log = await parts_of(running).broker.history(channel_key("default", answers[0]["channel"]))
    starts = [item for item in log.publications if b'"role":"user"' in item.data]
    assert len(starts) == 1


async def test_a_store_that_hangs_between_message_and_run(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gives up and repeats after the log has long forgotten its keys: one message, and the run."""
    parts = parts_of(running)
    ada = await client(running, "ada")
    answer = {"text": "hi", "client_message_id": "same"}

    async def hangs(*_: Any, **__: Any) -> None:
        raise DependencyError("store", "It hangs.", "Wait.")

    monkeypatch.setattr(parts.store.runs, "start", hangs)
    failed = await ada.call("rpc", method="run.start", data=answer)
    assert failed["error"]["code"] == 503
    monkeypatch.undo()
    inner: object = parts.broker
    while not isinstance(inner, SqliteBroker):  # the control log and the measurements are around it
        inner = next(value for name, value in vars(inner).items() if name.endswith("_inner"))
    monkeypatch.setattr(inner._work, "_clock", lambda: time.time() + 2 * IDEMPOTENCY_WINDOW_S)
    started = await ada.rpc("run.start", **answer)
    assert len(await said(running, started["thread_id"])) == 1
    again = await ada.rpc("run.start", **answer)
    assert again["run_id"] == started["run_id"]


async def test_a_store_that_goes_back_while_a_message_is_published(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fail-over to a standby that lacks the message: a later reader of the thread gets it all the same."""
    parts = parts_of(running)
    ada = await client(running, "ada")
    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    real = parts.broker.publish

    async def loses(*values: Any, **named: Any) -> Any:
        await parts.store.threads._engine.write(_forgets(thread_id))  # type: ignore[attr-defined]  # below the port
        return await real(*values, **named)

    monkeypatch.setattr(parts.broker, "publish", loses)
    started = await ada.rpc("run.start", text="hi", client_message_id="m", thread_id=thread_id)
    monkeypatch.undo()
    shown = (await ada.rpc("thread.get", thread_id=thread_id))["messages"]
    assert [(one["message_id"], one["content"]) for one in shown][:1] == [(started["message_id"], "hi")]
    assert len(await said(running, thread_id)) == 1


def _forgets(thread_id: str) -> Operation[None]:
    yield "DELETE FROM messages WHERE thread_id = ? AND role = 'user'", (thread_id,)


async def test_a_thread_that_is_deleted_meanwhile_keeps_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permission was checked before the deletion, the message is stored after it."""
    ada = await client(running, "ada")
    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    parts = parts_of(running)
    slow = Slow(parts.core.chat.require)
    monkeypatch.setattr(parts.core.chat, "require", slow)
    asking = asyncio.create_task(
        ada.call(
            "rpc", method="run.start", data={"text": "x", "client_message_id": "m", "thread_id": thread_id}
        )
    )
    await slow.asked.wait()
    monkeypatch.undo()
    other = await client(running, "ada")
    await other.rpc("thread.delete", thread_id=thread_id)
    slow.may.set()
    assert (await asking)["error"]["code"] == 404
    log = await parts.broker.history(channel_key("default", thread_channel(thread_id)))
    assert log.publications == []
    assert parts.core.engine.active == 0


async def said(running: Running, thread_id: str) -> list[bytes]:
    """The first events of users' messages in a thread's log."""
    log = await parts_of(running).broker.history(channel_key("default", thread_channel(thread_id)))
    return [item.data for item in log.publications if b'"role":"user"' in item.data]


async def test_what_a_full_queue_refuses_was_not_said(tmp_path: Path) -> None:
    """429 means that nothing happened: the thread has no message without a run."""
    gate = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[str]:
        yield run.thread_id
        await gate.wait()

    async with gateway(tmp_path, agents=[Agent(name="waits", function=waits)], run_queue_limit=1) as running:
        ada = await client(running, "ada")
        thread_id = (await ada.rpc("run.start", text="0", client_message_id="m0"))["thread_id"]
        await eventually(lambda: bool(parts_of(running).core.engine.running_channels()))
        await ada.rpc("run.start", text="1", client_message_id="m1", thread_id=thread_id)
        data = {"text": "2", "client_message_id": "m2", "thread_id": thread_id}
        refused = await ada.call("rpc", method="run.start", data=data)
        assert refused["error"]["code"] == 429
        assert len(await said(running, thread_id)) == 2
        assert len((await ada.rpc("thread.get", thread_id=thread_id))["messages"]) == 2
        gate.set()


async def test_an_id_that_was_used_in_another_thread_is_refused(running: Running) -> None:
    """An answer with the other thread's run would look as if the message had been sent here."""
    ada = await client(running, "ada")
    first = await spoken(ada, "hi")
    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    again = {"text": "hi", "client_message_id": "m1"}
    assert (await ada.rpc("run.start", **again))["run_id"] == first["run_id"]
    assert (await ada.rpc("run.start", **again, thread_id=first["thread_id"]))["run_id"] == first["run_id"]
    refused = await ada.call("rpc", method="run.start", data=again | {"thread_id": thread_id})
    assert refused["error"]["code"] == 409
    assert "client_message_id_used" in refused["error"]["message"]
    assert await said(running, thread_id) == []


async def test_a_message_is_published_as_it_is_stored(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat with another text, after a failure between message and run, is another message."""
    ada = await client(running, "ada")
    parts = parts_of(running)

    async def fails(*_: object, **__: object) -> None:
        raise DependencyError("store", "The store is away.")

    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    data = {"client_message_id": "m", "thread_id": thread_id}
    monkeypatch.setattr(parts.core.engine, "start", fails)
    assert "error" in await ada.call("rpc", method="run.start", data=data | {"text": "one"})
    monkeypatch.undo()
    await ada.rpc("run.start", **data, text="two")
    stored = (await ada.rpc("thread.get", thread_id=thread_id))["messages"]
    shown = [message["content"] for message in stored if message["role"] == "user"]
    assert shown == ["one", "two"]
    log = await parts.broker.history(channel_key("default", thread_channel(thread_id)))
    live = [json.loads(item.data) for item in log.publications]
    assert shown == [
        event["delta"] for event in live if event["type"] == "TEXT_MESSAGE_CONTENT" and "runId" not in event
    ]


async def test_a_run_whose_end_was_seen_keeps_its_thread_busy_no_longer(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUN_FINISHED is visible before the run's row: thread.get and thread.delete follow the visible event."""
    ada = await client(running, "ada")
    parts = parts_of(running)
    finish, gate, begun = parts.store.runs.finish, asyncio.Event(), asyncio.Event()

    async def late(*args: Any, **kwargs: Any) -> bool:
        begun.set()
        await gate.wait()
        return await finish(*args, **kwargs)

    monkeypatch.setattr(parts.store.runs, "finish", late)
    started = await ada.rpc("run.start", text="hi", client_message_id="m")
    await begun.wait()
    view = await ada.rpc("thread.get", thread_id=started["thread_id"])
    assert view["runs"] == []
    log = await parts.broker.history(channel_key("default", started["channel"]))
    first = next(item.offset for item in log.publications if b"RUN_STARTED" in item.data)
    assert view["offset"] < first, "what may not be in the messages yet comes live"
    deleting = asyncio.create_task(
        ada.call("rpc", method="thread.delete", data={"thread_id": started["thread_id"]})
    )
    await asyncio.sleep(0)
    gate.set()
    assert (await deleting)["rpc"]["data"] == {}


async def test_a_thread_with_a_run_at_work_is_not_deleted(tmp_path: Path) -> None:
    """409 at once; members see the run, but not the gateway's data about its starter."""
    gate = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[str]:
        yield run.thread_id
        await gate.wait()

    async with gateway(tmp_path, agents=[Agent(name="waits", function=waits)]) as running:
        ada = await client(running, "ada")
        started = await ada.rpc("run.start", text="0", client_message_id="m0")
        await eventually(lambda: bool(parts_of(running).core.engine.running_channels()))
        (run,) = (await ada.rpc("thread.get", thread_id=started["thread_id"]))["runs"]
        assert (run["run_id"], run["user_id"]) == (started["run_id"], "ada")
        assert not run.keys() & {"identity", "owner", "tenant", "lease_until"}
        refused = await ada.call("rpc", method="thread.delete", data={"thread_id": started["thread_id"]})
        assert refused["error"]["code"] == 409
        gate.set()


async def test_a_name_that_is_no_agents_is_answered(running: Running) -> None:
    """`@nosuch hi` is refused with the available names, and no other agent answers instead."""
    ada = await client(running, "ada")
    answer = await ada.call("rpc", method="run.start", data={"text": "@nosuch hi", "client_message_id": "a"})
    assert answer["error"]["code"] == 404
    assert "There is no agent 'nosuch'. Available agents: @words" in answer["error"]["message"]
    assert (await ada.rpc("thread.list"))["threads"] == []


async def test_a_member_may_be_addressed(running: Running) -> None:
    """In a shared thread `@bob` is a user; in any other it is a mistyped agent."""
    ada = await client(running, "ada", plan="mid")
    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    said = {"text": "@bob look", "thread_id": thread_id}
    refused = await ada.call("rpc", method="run.start", data={**said, "client_message_id": "a"})
    assert refused["error"]["code"] == 404
    assert await parts_of(running).core.chat.has_member(Identity(subject="ada"), thread_id, "ada")
    bob = ThreadMember(user_id="bob", role="member", joined_at=1.0)
    await parts_of(running).store.threads.add_member("default", thread_id, bob, limit=None)
    assert (await ada.rpc("run.start", **said, client_message_id="b"))["thread_id"] == thread_id


async def test_a_client_can_list_the_agents(tmp_path: Path) -> None:
    """Name, description and first messages, the default one first: the data of a picker."""
    mine = Agent(name="mine", function=words, description="Mine.", suggestions=("Say x",))
    async with gateway(tmp_path, agents=[mine, "concierge"]) as running:
        ada = await client(running, "ada")
        found = (await ada.rpc("agents"))["agents"]
        assert found[0] == {"name": "mine", "description": "Mine.", "suggestions": ["Say x"]}
        assert [agent["name"] for agent in found] == ["mine", "concierge"]
        assert "help" in found[1]["suggestions"]
        begun = await ada.rpc("run.start", text="@concierge health", client_message_id="m")
        done = await ended(ada, begun["run_id"])
        assert "broker" in done["text"]


async def ended(who: Any, run_id: str) -> dict[str, Any]:
    """A run in its final state."""
    while True:
        found: dict[str, Any] = await who.rpc("run.get", run_id=run_id)
        if found["state"] not in ("queued", "running"):
            return found
        await asyncio.sleep(0.02)


async def test_how_each_run_ended_is_told_with_the_thread_for_ever(tmp_path: Path) -> None:
    """`thread.get` long afterwards: the error and its message, the stopping user, the duration, and the answers
    given.
    """

    async def moody(run: RunInput) -> AsyncIterator[str]:
        text = run.messages[-1].content
        if text == "fail":
            raise RuntimeError("the oven is cold")
        if text == "silent":
            return
        if text == "ask":
            await run.ask({"type": "boolean"}, "Shall I?")
            yield "Done."
            return
        yield "I begin."
        await asyncio.Event().wait()

    async with gateway(tmp_path, agents=[Agent(name="moody", function=moody)]) as running:
        ada = await client(running, "ada")
        thread_id = (await ada.rpc("thread.create"))["thread_id"]

        async def say(text: str) -> str:
            key = text.replace(" ", "-")
            started = await ada.rpc("run.start", text=text, client_message_id=key, thread_id=thread_id)
            return str(started["run_id"])

        async def ended(run_id: str) -> dict[str, Any]:
            while True:
                view = await ada.rpc("thread.get", thread_id=thread_id)
                found = {run["run_id"]: run for run in view["outcomes"]}
                if run_id in found:
                    return dict(found[run_id])
                await asyncio.sleep(0.02)

        failed = await ended(await say("fail"))
        assert (failed["state"], failed["error"]) == ("failed", "agent_failed")
        assert "RuntimeError" in failed["error_message"]
        silent = await ended(await say("silent"))
        assert (silent["state"], silent["error"]) == ("failed", "agent_silent")
        assert silent["error_message"] != ""

        run_id = await say("go on")
        await eventually(lambda: bool(parts_of(running).core.engine.running_channels()))
        bob = await client(running, "bob")
        await ada.rpc("thread.members.add", thread_id=thread_id, user_id="bob")
        await bob.rpc("thread.invitation.accept", thread_id=thread_id)
        await bob.rpc("run.cancel", run_id=run_id)
        stopped = await ended(run_id)
        assert (stopped["state"], stopped["cancel_requested_by"]) == ("cancelled", "bob")
        assert stopped["finished_at"] >= stopped["started_at"] > 0

        asked = await ended(await say("ask"))
        (question,) = asked["questions"]
        assert (question["text"], question["answered_by"]) == ("Shall I?", "")
        answered = await ada.rpc(
            "run.resume", run_id=asked["run_id"], interrupt_id=question["interrupt_id"], payload=True
        )
        assert (await ended(answered["run_id"]))["state"] == "finished"
        view = await ada.rpc("thread.get", thread_id=thread_id)
        (question,) = next(run for run in view["outcomes"] if run["run_id"] == asked["run_id"])["questions"]
        assert (question["answered_by"], question["resume_run_id"]) == ("ada", answered["run_id"])
        assert not view["outcomes"][0].keys() & {"identity", "owner", "tenant", "lease_until"}
        assert [run["state"] for run in view["outcomes"]] == [
            "failed",
            "failed",
            "cancelled",
            "interrupted",
            "finished",
        ]

        # An older page has the outcomes of its own runs, with a message or without.
        newest = await ada.rpc("thread.get", thread_id=thread_id, limit=1)
        assert [run["state"] for run in newest["outcomes"]] == ["finished"]
        first = newest["messages"][0]
        older = await ada.rpc(
            "thread.get",
            thread_id=thread_id,
            before=first["created_at"],
            before_id=first["message_id"],
        )
        assert {run["state"] for run in older["outcomes"]} >= {"failed", "cancelled", "interrupted"}


async def test_a_thread_is_named_by_its_first_exchange(tmp_path: Path) -> None:
    """By the question; by question and answer if the question is short, unless a user named it meanwhile."""

    async def helper(run: RunInput) -> AsyncIterator[str]:
        yield "## What I can do\n\n- This and that."

    async with gateway(tmp_path, agents=[Agent(name="helper", function=helper)]) as running:
        ada = await client(running, "ada")

        async def title_after(text: str, thread_id: str = "") -> str:
            where = {"thread_id": thread_id} if thread_id else {}
            started = await ada.rpc("run.start", text=text, client_message_id=text.replace(" ", "-"), **where)
            await ended(ada, started["run_id"])
            view = await ada.rpc("thread.get", thread_id=started["thread_id"])
            return str(view["thread"]["title"])

        assert await title_after("Please tell me what you can do") == "Please tell me what you can do"
        assert await title_after("@helper help") in ("help", "help: What I can do")
        listed = {}
        for _ in range(200):  # the title follows the run's end
            listed = {one["title"]: one["thread_id"] for one in (await ada.rpc("thread.list"))["threads"]}
            if "help: What I can do" in listed:
                break
            await asyncio.sleep(0.02)
        thread_id = listed["help: What I can do"]
        await ada.rpc("thread.rename", thread_id=thread_id, title="Mine")
        assert await title_after("more", thread_id) == "Mine"
        named = (await ada.rpc("thread.create", title="Kept"))["thread_id"]
        assert await title_after("hello", named) == "Kept"
