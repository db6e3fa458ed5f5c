"""Every command of the Centrifuge protocol over a real socket against a real gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from narthex.ports.agents import Agent, RunInput
from narthex.ports.broker import Control, Page
from narthex.testing import Running, gateway


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message, word by word."""
    for word in run.messages[-1].content.split():
        yield word + " "


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    agent = Agent(name="words", function=words)
    async with gateway(
        tmp_path, agents=[agent], direct_membership=("*",), ping_interval_s=1.5, pong_timeout_s=1.0
    ) as found:
        yield found


class Raw:
    """A raw protocol client: sends commands, separates replies from pushes, answers pings."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []
        self.replies: dict[int, dict[str, Any]] = {}
        self.pings = 0
        self.number = 0
        self.pong = True

    async def step(self) -> None:
        """Read one frame."""
        for line in str(await asyncio.wait_for(self.socket.recv(), 10)).split("\n"):
            message = json.loads(line)
            if not message:
                self.pings += 1
                if self.pong:
                    await self.socket.send("{}")
            elif "push" in message:
                self.pushes.append(message["push"])
            else:
                self.replies[message["id"]] = message

    async def call(self, member: str, **body: Any) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, member: body}))
        return await self.reply(self.number)

    async def reply(self, number: int) -> dict[str, Any]:
        while number not in self.replies:
            await self.step()
        return self.replies[number]

    async def rpc(self, method: str, **params: Any) -> Any:
        reply = await self.call("rpc", method=method, data=params)
        assert "error" not in reply, reply
        return reply["rpc"]["data"]

    async def push(self, member: str) -> dict[str, Any]:
        """The first push of a kind that was not yet taken."""
        while True:
            for push in self.pushes:
                if member in push:
                    self.pushes.remove(push)
                    return push
            await self.step()


async def client(running: Running, subject: str, **identity: Any) -> Raw:
    """Connected and live."""
    headers = {"Authorization": f"Bearer {running.token(subject, **identity)}"}
    raw = Raw(await connect(running.ws, additional_headers=headers, proxy=None))
    reply = await raw.call("connect")
    assert reply["connect"]["subs"][f"user:{subject}"]["positioned"]
    return raw


async def spoken(raw: Raw, text: str, thread_id: str | None = None) -> dict[str, Any]:
    """A finished run."""
    number = raw.number
    params = {"text": text, "client_message_id": f"m{number}"} | (
        {"thread_id": thread_id} if thread_id else {}
    )
    started: dict[str, Any] = await raw.rpc("run.start", **params)
    while (await raw.rpc("run.get", run_id=started["run_id"]))["state"] != "finished":  # noqa: ASYNC110 - asks the server
        await asyncio.sleep(0.01)
    return started


async def test_commands_batched_behind_connect_are_answered_after_it(running: Running) -> None:
    """One frame, three commands, replies in order."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"time"}}\n{"id":3,"ping":{}}')
        raw = Raw(socket)
        await raw.reply(3)
        assert list(raw.replies) == [1, 2, 3]


async def test_history_pages_forwards_and_backwards(running: Running) -> None:
    """`limit`, `since`, `reverse`, position only, and a foreign epoch is unrecoverable."""
    raw = await client(running, "ada")
    thread = (await spoken(raw, "one two three four"))["thread_id"]
    channel = f"thread:{thread}"
    assert (await raw.call("history", channel=channel, limit=1))["error"]["code"] == 103
    await raw.call("subscribe", channel=channel)
    top = (await raw.call("history", channel=channel))["history"]
    assert top["publications"] == []
    everything = (await raw.call("history", channel=channel, limit=-1))["history"]["publications"]
    assert [p["offset"] for p in everything] == list(range(1, top["offset"] + 1))
    page = await raw.call("history", channel=channel, limit=2, since={"offset": 1, "epoch": top["epoch"]})
    assert [p["offset"] for p in page["history"]["publications"]] == [2, 3]
    begin = await raw.call("history", channel=channel, limit=2, since={"epoch": top["epoch"]})
    assert [p["offset"] for p in begin["history"]["publications"]] == [1, 2]  # some SDKs omit zeros
    back = await raw.call("history", channel=channel, limit=2, reverse=True)
    assert [p["offset"] for p in back["history"]["publications"]] == [top["offset"], top["offset"] - 1]
    lost = await raw.call("history", channel=channel, limit=2, since={"offset": 1, "epoch": "other"})
    assert lost["error"]["code"] == 112


async def test_subscribe_recovers_all_or_says_so(running: Running) -> None:
    """`recover` from a position returns everything after it; from a foreign epoch nothing, and reports that."""
    raw = await client(running, "ada")
    thread = (await spoken(raw, "one two three"))["thread_id"]
    channel = f"thread:{thread}"
    whole = (await raw.call("subscribe", channel=channel, recover=True, offset=0, epoch=""))["subscribe"]
    assert whole["recovered"]
    assert whole["was_recovering"]
    assert [p["offset"] for p in whole["publications"]] == list(range(1, whole["offset"] + 1))
    assert (await raw.call("subscribe", channel=channel))["error"]["code"] == 105
    await raw.call("unsubscribe", channel=channel)
    unnamed = (await raw.call("subscribe", channel=channel, recover=True))[
        "subscribe"
    ]  # as SDKs that omit zeros
    assert (unnamed["recovered"], unnamed["publications"]) == (True, whole["publications"])
    await raw.call("unsubscribe", channel=channel)
    some = (await raw.call("subscribe", channel=channel, recover=True, offset=4, epoch=whole["epoch"]))[
        "subscribe"
    ]
    assert [p["offset"] for p in some["publications"]] == list(range(5, whole["offset"] + 1))
    await raw.call("unsubscribe", channel=channel)
    lost = (await raw.call("subscribe", channel=channel, recover=True, offset=4, epoch="other"))["subscribe"]
    assert not lost.get("recovered", False)
    assert "publications" not in lost or lost["publications"] == []


@pytest.mark.parametrize("offset", [-1, -(2**70), 2**53, 2**63, 2**64, 2**70])
async def test_an_offset_that_no_engine_can_hold_is_beyond_the_end(
    running: Running, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """Redis and NATS refuse such numbers: the command failed after their time-out, and an SDK repeats it for ever."""
    raw = await client(running, "ada")
    channel = f"thread:{(await spoken(raw, 'one two'))['thread_id']}"
    top = (await raw.call("subscribe", channel=channel))["subscribe"]
    parts, asked = running.gateway.parts, list[int]()
    assert parts is not None
    history = parts.broker.history

    async def noted(*args: Any, **more: Any) -> Page:
        if (since := more.get("since")) is not None:
            asked.append(since.offset)
        return await history(*args, **more)

    monkeypatch.setattr(parts.broker, "history", noted)
    since = {"offset": offset, "epoch": top["epoch"]}
    after = await raw.call("history", channel=channel, limit=5, since=since)
    assert after["history"]["publications"] == []
    await raw.call("unsubscribe", channel=channel)
    lost = (await raw.call("subscribe", channel=channel, recover=True, **since))["subscribe"]
    assert not lost.get("recovered", False)
    assert asked == [2**53 - 1] * 2


async def test_presence_join_and_leave(running: Running) -> None:
    """The members of a thread, their joins and leaves."""
    ada, bob = await client(running, "ada", name="Ada"), await client(running, "bob")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    channel = f"thread:{thread}"
    await ada.call("subscribe", channel=channel)
    assert (await ada.push("join"))["join"]["info"]["user"] == "ada"
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    await bob.call("subscribe", channel=channel)
    assert (await ada.push("join"))["join"]["info"]["user"] == "bob"
    presence = (await ada.call("presence", channel=channel))["presence"]["presence"]
    assert {info["user"] for info in presence.values()} == {"ada", "bob"}
    assert {"name": "Ada"} in [info.get("conn_info") for info in presence.values()]
    stats = (await bob.call("presence_stats", channel=channel))["presence_stats"]
    assert stats == {"num_clients": 2, "num_users": 2}
    await bob.socket.close()
    assert (await ada.push("leave"))["leave"]["info"]["user"] == "bob"
    assert (await ada.call("presence", channel="user:ada"))["error"]["code"] == 108


async def test_the_server_unsubscribes_and_disconnects(running: Running) -> None:
    """A removed member loses the channel at once; an operator's disconnect closes with its code."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    await bob.call("subscribe", channel=f"thread:{thread}")
    await ada.rpc("thread.members.remove", thread_id=thread, user_id="bob")
    assert (await bob.push("unsubscribe"))["channel"] == f"thread:{thread}"
    await spoken(ada, "secret words", thread)
    assert all("secret" not in json.dumps(push) for push in bob.pushes)
    parts = running.gateway.parts
    assert parts is not None
    await parts.broker.control(Control("disconnect", {"user": "default/bob", "code": 3503, "reason": "bye"}))
    with pytest.raises(ConnectionClosed):
        while True:
            await bob.step()
    assert (bob.socket.close_code, bob.socket.close_reason) == (3503, "bye")


async def test_typing_is_seen_and_is_in_no_history(running: Running) -> None:
    """An ephemeral push has no offset."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    await bob.call("subscribe", channel=f"thread:{thread}")
    await ada.rpc("typing", thread_id=thread)
    push = await bob.push("pub")
    while push["channel"] != f"thread:{thread}":
        push = await bob.push("pub")
    assert push["pub"]["data"]["name"] == "narthex.typing"
    assert "offset" not in push["pub"]
    assert (await bob.call("history", channel=f"thread:{thread}", limit=-1))["history"]["publications"] == []


async def test_a_missing_pong_is_closed(running: Running) -> None:
    """3012, which makes SDKs reconnect."""
    raw = await client(running, "ada")
    raw.pong = False
    with pytest.raises(ConnectionClosed):
        while True:
            await raw.step()
    assert raw.socket.close_code == 3012
    assert raw.pings == 1


async def test_a_refresh_takes_a_fresh_token_of_the_same_subject_only(running: Running) -> None:
    """Another user's token ends the connection; the user's own gives a new `ttl`."""
    raw = await client(running, "ada")
    refreshed = (await raw.call("refresh", token=running.token("ada", ttl_s=600)))["refresh"]
    assert 590 <= refreshed["ttl"] <= 600
    with pytest.raises(ConnectionClosed):
        await raw.call("refresh", token=running.token("bob"))
    assert raw.socket.close_code == 3501
    assert "credential_conflict" in str(raw.socket.close_reason)


async def test_revoking_a_subject_closes_its_sockets(running: Running) -> None:
    """Within a second, and the token is refused afterwards."""
    raw, other = await client(running, "ada"), await client(running, "bob")
    parts = running.gateway.parts
    assert parts is not None
    began = asyncio.get_running_loop().time()
    await parts.core.revocations.revoke_subject("default", "ada", until=parts.now() + 60, reason="test")
    with pytest.raises(ConnectionClosed):
        while True:
            await raw.step()
    assert asyncio.get_running_loop().time() - began < 1
    assert raw.socket.close_code == 3500
    assert "token_revoked" in str(raw.socket.close_reason)
    assert await other.rpc("echo", n=1) == {"n": 1}


async def test_http_streaming_and_emulation(running: Running) -> None:
    """The same protocol over a streamed POST, commands through /emulation."""
    token = running.token("ada")
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=10) as http:
        body = b'{"id":1,"connect":{}}'
        headers = {"Authorization": f"Bearer {token}"}
        async with http.stream("POST", "/connection/http_stream", content=body, headers=headers) as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            connected = json.loads(await anext(lines))["connect"]
            posted = {"session": connected["session"], "node": connected["node"]}
            command = json.dumps({"id": 2, "rpc": {"method": "echo", "data": {"x": 1}}})
            answer = await http.post("/emulation", json=posted | {"data": command})
            assert answer.status_code == 204
            assert json.loads(await anext(lines)) == {"id": 2, "rpc": {"data": {"x": 1}}}
            foreign = await http.post(
                "/emulation", json={"session": "guess", "node": connected["node"], "data": "{}"}
            )
            assert foreign.status_code == 404
            await http.post("/emulation", json=posted | {"data": "garbage"})
            assert json.loads(await anext(lines))["push"]["disconnect"]["code"] == 3501


async def test_sse_takes_the_cookie_and_no_token_in_the_url(running: Running) -> None:
    """`credential_in_url` for a token; with the cookie the first event is the connect reply."""
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=10) as http:
        bad = await http.get("/connection/sse", params={"cf_connect": '{"id":1,"connect":{"token":"a.b.c"}}'})
        assert bad.status_code == 400
        assert bad.json()["code"] == "credential_in_url"
        await http.post("/auth/login", json={"email": "ada@example.com"}, headers={"Origin": running.http})
        parameters = {"cf_connect": '{"id":1,"connect":{}}'}
        origin = {"Origin": running.http}
        async with http.stream("GET", "/connection/sse", params=parameters, headers=origin) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            line = await anext(stream.aiter_lines())
            assert json.loads(line.removeprefix("data: "))["connect"]["session"]


async def test_a_reconnect_recovers_the_users_channel(running: Running) -> None:
    """From the log's end nothing is read and it counts as recovered; from earlier the reply has the missed
    publications.
    """
    first = await client(running, "ada")
    sub = first.replies[1]["connect"]["subs"]["user:ada"]
    await first.rpc("thread.create")
    await first.push("pub")
    history = await first.call("history", channel="user:ada")
    top = history["history"]["offset"]
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    for offset, missed in ((top, 0), (sub.get("offset", 0), top - sub.get("offset", 0))):
        raw = Raw(await connect(running.ws, additional_headers=headers, proxy=None))
        wanted = {"user:ada": {"recover": True, "offset": offset, "epoch": sub["epoch"]}}
        reply = (await raw.call("connect", subs=wanted))["connect"]["subs"]["user:ada"]
        assert reply["recovered"] is True
        assert reply["was_recovering"] is True
        assert len(reply.get("publications", [])) == missed
        await raw.socket.close()


async def test_a_service_publishes_over_its_socket(running: Running) -> None:
    """With the permission `admin`, within its tenant; a publish by other clients is 103."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    service = await client(running, "service", permissions=frozenset({"admin"}))
    foreign = await client(running, "spy", tenant="other", permissions=frozenset({"admin"}))
    body: dict[str, Any] = {"channel": "user:ada", "data": {"type": "CUSTOM", "name": "hello"}}
    assert (await bob.call("publish", **body))["error"]["code"] == 103
    assert (await foreign.call("publish", **body))["publish"] == {}
    assert (await service.call("publish", **body))["publish"] == {}
    assert (await service.call("publish", channel="nowhere", data={}))["error"]["code"] == 102
    assert (await service.call("publish", channel="user:ada"))["error"]["code"] == 107
    push = await ada.push("pub")
    assert (push["channel"], push["pub"]["data"], push["pub"]["offset"]) == ("user:ada", body["data"], 1)
    assert not [push for push in ada.pushes if "pub" in push], "the other tenant's is another channel"
    info = push["pub"]["info"]
    assert info == {"user": "service", "client": service.replies[1]["connect"]["client"]}
    assert "tags" not in push["pub"]
    broker = running.gateway.parts.broker if running.gateway.parts else None
    assert broker is not None
    await broker.publish("default/user:ada", b'{"by":"the server"}', tags={"k": "v"})
    assert (await ada.push("pub"))["pub"] == {"data": {"by": "the server"}, "offset": 2, "tags": {"k": "v"}}
    history = (await ada.call("history", channel="user:ada", limit=10))["history"]["publications"]
    assert [item.get("info") for item in history] == [info, None]
