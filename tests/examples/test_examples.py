"""Every example does what its README says: its commands run as they stand, and the reader sees what is announced."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook
from websockets.asyncio.client import connect

from narthex import client
from tests.docs.blocks import ROOT
from tests.examples.following import answered, connected, example, rows
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(within(240))]


def test_every_example_is_listed() -> None:
    """examples/README.md has a row for each directory, and none for another."""
    listed = set(re.findall(r"\]\((\w[\w-]*)/README\.md\)", (ROOT / "examples" / "README.md").read_text()))
    assert listed == {path.parent.name for path in (ROOT / "examples").glob("*/README.md")}


async def test_fastapi(tmp_path: Path) -> None:
    """The order that curl placed is in the agent's answer, and FastAPI's documentation page is served."""
    async with example("fastapi", tmp_path) as walk:
        async with connected(walk, "fastapi", "ada") as ada:
            for message, answer in rows(walk).items():
                assert (await answered(ada, message)).text == answer
        async with httpx2.AsyncClient(base_url=walk.http, trust_env=False) as web:
            assert (await web.get("/shop/docs")).status_code == 200
            assert (await web.put("/shop/orders/9", json={"status": "lost"})).status_code == 404


async def test_guard(tmp_path: Path) -> None:
    """Two users see each other's messages under their verified names."""
    async with example("guard", tmp_path) as walk:
        async with httpx2.AsyncClient(base_url=walk.http, trust_env=False) as web:
            assert "narthexSocket" in (await web.get("/")).text
            assert "narthexSocket" in (await web.get("/ws/client.js")).text
            tokens = [
                (await web.post("/login", json={"name": name})).json()["token"] for name in ("ann", "ben")
            ]
        headers = [{"Authorization": f"Bearer {one}"} for one in tokens]
        url = f"{walk.ws}/lobby"
        async with (
            connect(url, additional_headers=headers[0], proxy=None) as ann,
            connect(url, additional_headers=headers[1], proxy=None) as ben,
        ):
            async with asyncio.timeout(within(20)):
                await ann.send("first")
                assert json.loads(await ann.recv()) == {"from": "ann", "text": "first"}  # she is in the room
                await ben.send("hello")
                for socket in (ann, ben):
                    said = {"from": ""}
                    while said["from"] != "ben":  # ben may have been there for ann's message too
                        said = json.loads(await socket.recv())
                    assert said == {"from": "ben", "text": "hello"}


async def test_pydantic_ai(tmp_path: Path) -> None:
    """A tool answers, a question comes before the refund, and the approval carries it out."""
    async with example("pydantic-ai", tmp_path) as walk, connected(walk, "pydantic-ai", "ada") as ada:
        told = rows(walk)
        assert len(told) == 3
        *plain, refund = told
        for message in plain:
            assert (await answered(ada, message)).text.strip() == told[message]
        asked = await answered(ada, refund)
        assert asked.outcome == "interrupt"
        approved = await asked.resume(asked.interrupts[0]["id"], {"approved": True})
        await approved.wait(within(20))
        begin = told[refund].partition("*: ")[2].removesuffix(" …")
        assert approved.text.startswith(begin)


async def test_bot(tmp_path: Path) -> None:
    """The bot joins when it is invited, answers small refunds, and leaves large ones to people."""
    async with example("bot", tmp_path) as walk, connected(walk, "bot", "ada") as ada:
        small, next_one, large = rows(walk)
        asked = await answered(ada, small)
        assert asked.outcome == "interrupt"
        thread = asked.thread_id
        await ada.threads.add_member(thread, "refund-bot")
        await outcome_in(ada, thread, "Refunded 12 euros.")
        await answered(ada, next_one, thread)
        await outcome_in(ada, thread, "Refunded 20 euros.")
        left = await answered(ada, large, thread)
        open_questions = (await ada.rpc("thread.get", {"thread_id": thread}))["interrupts"]
        assert [one["text"] for one in open_questions] == ["Refund 900 euros?"]
        decided = await left.resume(left.interrupts[0]["id"], {"approved": False})
        await decided.wait(within(20))
        assert decided.text == "I have not refunded 900 euros."


async def test_mentions(tmp_path: Path) -> None:
    """People write to each other, the bot answers where it is mentioned, and an unknown name is refused."""
    async with (
        example("mentions", tmp_path) as walk,
        connected(walk, "mentions", "ann") as ann,
        connected(walk, "mentions", "ben") as ben,
    ):
        morning, hello, question, unknown = rows(walk)
        first = await answered(ann, morning)
        assert first.text == ""
        await ann.threads.add_member(first.thread_id, "ben")
        await ben.threads.accept(first.thread_id)
        assert (await answered(ben, hello, first.thread_id)).text == ""
        asked = await answered(ann, question, first.thread_id)
        assert f"*{asked.text}*" in rows(walk)[question]
        assert (await ben.follow_run(asked.run_id)).thread_id == first.thread_id
        with pytest.raises(client.ClientError) as refused:
            await ben.start_run(unknown, thread_id=first.thread_id)
        assert refused.value.code == "agent_not_found"
        view = await ben.rpc("thread.get", {"thread_id": first.thread_id})
        assert [one["content"] for one in view["messages"] if one["role"] == "user"] == [
            morning,
            hello,
            question,
        ]


async def outcome_in(gateway: client.Gateway, thread: str, text: str) -> None:
    """Wait until the thread has this answer."""
    async with asyncio.timeout(within(20)):
        while True:
            messages = (await gateway.rpc("thread.get", {"thread_id": thread}))["messages"]
            if any(message["content"] == text for message in messages):
                return
            await asyncio.sleep(0.1)


async def test_bridge(tmp_path: Path) -> None:
    """Messages go in and answers come out; a repeated webhook is answered once, a forged one not at all."""
    async with example("bridge", tmp_path) as walk:
        bridge = f"http://127.0.0.1:{walk.ports['9000']}/incoming"
        secrets = (walk.folder / "examples/bridge/secrets.env").read_text()
        found = re.search(r"INCOMING_SECRET=(\S+)", secrets)
        assert found is not None
        now = datetime.now(UTC)
        body = json.dumps({"channel": "general", "author": "cleo", "text": "twice"})
        headers = {"webhook-id": "msg_once", "webhook-timestamp": str(int(now.timestamp()))}
        headers["webhook-signature"] = Webhook(found[1]).sign("msg_once", now, body)
        async with httpx2.AsyncClient(trust_env=False) as web:
            first, again = [(await web.post(bridge, content=body, headers=headers)) for _ in range(2)]
            assert (first.status_code, first.json(), again.json()) == (202, {"new": True}, {"new": False})
            forged = headers | {"webhook-signature": "v1," + "A" * 43 + "="}
            assert (await web.post(bridge, content=body, headers=forged)).status_code == 401
            broken = headers | {"webhook-signature": "nonsense"}
            assert (await web.post(bridge, content=body, headers=broken)).status_code == 401
            assert (await web.post(bridge, content="x" * 70_000, headers=headers)).status_code == 413
        async with connected(walk, "bridge", "team-chat") as reader:
            async with asyncio.timeout(within(20)):
                while True:
                    (thread,) = (await reader.rpc("thread.list"))["threads"]
                    view = await reader.rpc("thread.get", {"thread_id": thread["thread_id"]})
                    texts = [message["content"] for message in view["messages"]]
                    if "Hello cleo, you wrote 5 characters. This is message 3 here." in texts:
                        break
                    await asyncio.sleep(0.1)
            assert texts.count("cleo: twice") == 1
