"""`narthex.app.starting`: one message, one run, and nothing left of a thread that is deleted meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.agents import Agent
from narthex.testing import Running, gateway
from tests.app.test_commands import client, words
from tests.app.test_connection import Slow, parts_of


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


async def test_a_thread_that_is_deleted_meanwhile_keeps_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right was checked before, the message is said after."""
    ada = await client(running, "ada")
    thread_id = (await ada.rpc("thread.create"))["thread_id"]
    parts = parts_of(running)
    slow = Slow(parts.chat.require)
    monkeypatch.setattr(parts.chat, "require", slow)
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
    assert parts.engine.active == 0
