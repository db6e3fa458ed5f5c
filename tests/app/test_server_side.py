"""Server-side subscriptions over a real socket: permissions, messages, and restoring."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex.app import membership_audit
from narthex.app.hub import channel as hub_channel
from narthex.app.hub.channel import Channel, Subscriber
from narthex.domain.identity import Identity
from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client, words
from tests.app.test_connection import Slow, eventually
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[words], admin_key=ADMIN, direct_membership=("*",)) as found:
        yield found


async def api(running: Running, path: str, token: str = ADMIN, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        return await http.post(f"/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {token}"})


async def shown(raw: Raw, channel: str) -> dict[str, Any]:
    """The next publication of a channel."""
    while (push := await raw.push("pub"))["channel"] != channel:
        pass
    pub: dict[str, Any] = push["pub"]
    return pub


async def thread(raw: Raw, title: str = "one") -> str:
    """A fresh thread's channel."""
    return f"thread:{(await raw.rpc('thread.create', title=title))['thread_id']}"


async def test_only_members_and_only_threads(running: Running) -> None:
    """Not another user's channel, not a non-member, not another tenant, not a token of another tenant."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    for body, status in (
        ({"user": "bob", "channel": channel}, 409),
        ({"user": "ada", "channel": "thread:none"}, 409),
        ({"user": "ada", "channel": channel, "tenant": "other"}, 409),
        ({"user": "ada", "channel": "user:bob"}, 422),
        ({"user": "ada", "channel": "nowhere"}, 422),
        ({"user": "ada"}, 422),
    ):
        answer = await api(running, "subscribe", **body)
        assert answer.status_code == status, (body, answer.text)
    service = running.token("service", tenant="other", permissions=("admin",))
    refused = await api(running, "subscribe", service, user="ada", channel=channel, tenant="default")
    assert refused.json()["code"] == "tenant_mismatch"
    assert (await api(running, "unsubscribe", user="ada", channel="user:ada")).status_code == 422
    assert (
        await api(running, "subscribe", running.token("ada"), user="ada", channel=channel)
    ).status_code == 403
    assert not [push for push in ada.pushes if "subscribe" in push]


async def test_one_client_of_a_user(running: Running) -> None:
    """`client` narrows both calls to one connection; presence and history come with the subscription."""
    first, second = await client(running, "ada"), await client(running, "ada")
    channel = await thread(first)
    whole = await first.call("presence", channel=channel)
    assert whole["error"]["code"] == 103
    name = second.replies[1]["connect"]["client"]
    await api(running, "subscribe", user="ada", channel=channel, client=name)
    push = await second.push("subscribe")
    assert push["channel"] == channel
    assert (push["subscribe"]["recoverable"], push["subscribe"]["positioned"]) == (True, True)
    assert (await second.call("presence", channel=channel))["presence"]["presence"].keys() == {name}
    assert (await second.call("unsubscribe", channel=channel))["error"]["code"] == 103, "the server's to end"
    assert (await second.call("subscribe", channel=channel))["error"]["code"] == 105
    assert (await first.call("history", channel=channel))["error"]["code"] == 103, "the other was not meant"
    await api(running, "unsubscribe", user="ada", channel=channel, client=name)
    assert (await second.push("unsubscribe"))["unsubscribe"]["code"] == 2000


async def test_what_was_missed_comes_before_what_follows(running: Running) -> None:
    """`recover_since` while publications flow: each once, in order, after the push that announces the channel."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    first = (await api(running, "publish", channel=channel, data=0)).json()
    for number in range(1, 30):
        await api(running, "publish", channel=channel, data=number)
    since = {"offset": first["offset"], "epoch": first["epoch"]}
    await api(running, "subscribe", user="ada", channel=channel, recover_since=since)
    for number in range(30, 40):
        await api(running, "publish", channel=channel, data=number)
    assert (await ada.push("subscribe"))["channel"] == channel
    seen = [await shown(ada, channel) for _ in range(39)]
    assert [pub["data"] for pub in seen] == list(range(1, 40))
    assert [pub["offset"] for pub in seen] == list(range(first["offset"] + 1, first["offset"] + 40))


async def test_what_a_connect_names_is_restored_only_to_members(running: Running) -> None:
    """A non-member's `connect.subs` reveals nothing; a member is joined and gets the missed publications."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    first = (await api(running, "publish", channel=channel, data=1)).json()
    await api(running, "publish", channel=channel, data=2)
    subs = {
        channel: {"recover": True, "offset": first["offset"], "epoch": first["epoch"]},
        "user:ada": {},
        "thread:none": {},
    }
    for subject, names in (("bob", {"user:bob"}), ("ada", {"user:ada", channel})):
        headers = {"Authorization": f"Bearer {running.token(subject)}"}
        async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps({"id": 1, "connect": {"subs": subs}}))
            raw = Raw(socket)
            reply = (await raw.reply(1))["connect"]["subs"]
            assert reply.keys() == names
            if channel in names:
                assert reply[channel]["recovered"] is True
                assert [pub["data"] for pub in reply[channel]["publications"]] == [2]
                await api(running, "publish", channel=channel, data=3)
                assert (await shown(raw, channel))["data"] == 3


async def test_a_member_who_is_removed_loses_it(running: Running) -> None:
    """Removal ends a server-side subscription like any other."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    channel = await thread(ada)
    await ada.rpc("thread.members.add", thread_id=channel[7:], user_id="bob")
    await api(running, "subscribe", user="bob", channel=channel)
    await bob.push("subscribe")
    await ada.rpc("thread.members.remove", thread_id=channel[7:], user_id="bob")
    assert (await bob.push("unsubscribe"))["channel"] == channel
    assert (await api(running, "subscribe", user="bob", channel=channel)).status_code == 409


async def test_a_connect_that_names_threads_is_answered_however_many_are_removed_elsewhere(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large deletion notifies of every deleted thread: that must not cause endless store queries."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    parts = running.gateway.parts
    assert parts is not None
    monkeypatch.setattr(parts.core.subscriptions, "_doubts", math.nan)  # never equal to what it was
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"subs": {channel: {}}}}))
        async with asyncio.timeout(within(3)):
            reply = await Raw(socket).reply(1)
        assert reply["connect"]["subs"].keys() == {"user:ada", channel}


@pytest.mark.parametrize("told", [True, False])
async def test_who_is_removed_while_a_connect_is_answered_is_not_let_in(
    running: Running, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """From a thread that was already joined, while the next one is looked up; also when the broker lost the message."""
    monkeypatch.setattr(membership_audit, "SPREAD_S", 0.0)
    ada = await client(running, "ada")
    first, second = await thread(ada), await thread(ada)
    for channel in (first, second):
        await ada.rpc("thread.members.add", thread_id=channel[7:], user_id="bob")
    parts = running.gateway.parts
    assert parts is not None
    role, detach = parts.core.chat.role, parts.core.hub.detach
    gone, lost = asyncio.Event(), asyncio.Event()

    def detached(channel: Channel, subscriber: Subscriber) -> None:
        detach(channel, subscriber)
        if channel.name == first:
            lost.set()

    monkeypatch.setattr(parts.core.hub, "detach", detached)

    async def slow(identity: Identity, thread_id: str) -> Any:
        if thread_id == second[7:] and not gone.is_set():
            gone.set()
            if told:
                await ada.rpc("thread.members.remove", thread_id=first[7:], user_id="bob")
            else:
                await parts.store.threads.remove_member("default", first[7:], "bob")
                parts.core.hub.resync(None)
            async with asyncio.timeout(within(3)):
                await lost.wait()
        return await role(identity, thread_id)

    monkeypatch.setattr(parts.core.chat, "role", slow)
    headers = {"Authorization": f"Bearer {running.token('bob')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"subs": {first: {}, second: {}}}}))
        raw = Raw(socket)
        assert (await raw.reply(1))["connect"]["subs"].keys() == {"user:bob", second}
        assert not raw.pushes, "of a channel that its client was never told of"


async def test_a_grant_for_a_channel_that_was_joined_meanwhile_changes_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client subscribes while the membership is looked up for an operator's grant: its own subscription stays."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    parts = running.gateway.parts
    assert parts is not None
    slow = Slow(parts.core.chat.role)
    monkeypatch.setattr(parts.core.chat, "role", slow)
    granting = asyncio.create_task(api(running, "subscribe", user="ada", channel=channel))
    await slow.asked.wait()
    monkeypatch.undo()
    assert (await ada.call("subscribe", channel=channel))["subscribe"]["positioned"]
    slow.may.set()
    await granting
    await api(running, "publish", channel=channel, data=1)
    assert (await shown(ada, channel))["data"] == 1
    assert not [push for push in ada.pushes if "subscribe" in push]
    assert "unsubscribe" in await ada.call("unsubscribe", channel=channel), "the client may leave it"


async def test_a_grant_for_a_client_that_left_meanwhile_leaves_nothing_behind(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket closes while the membership is looked up for an operator's grant."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    parts = running.gateway.parts
    assert parts is not None
    slow = Slow(parts.core.chat.role)
    monkeypatch.setattr(parts.core.chat, "role", slow)
    granting = asyncio.create_task(api(running, "subscribe", user="ada", channel=channel))
    await slow.asked.wait()
    await ada.socket.close()
    await eventually(lambda: len(parts.core.registry) == 0)
    slow.may.set()
    await granting
    assert parts.core.hub.subscribers(f"default/{channel}") == []


async def test_a_flood_while_a_connect_is_answered_is_a_gap_that_the_client_learns_of(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More arrives than is kept for a joining client: the connection is closed with 3010, and recovers on reconnect."""
    ada = await client(running, "ada")
    channel = await thread(ada)
    parts = running.gateway.parts
    assert parts is not None
    monkeypatch.setattr(hub_channel, "JOIN_BUFFER", 1)
    slow, history = Slow(parts.broker.history), parts.broker.history
    monkeypatch.setattr(
        parts.broker,
        "history",
        lambda key, **more: (slow if key.endswith(channel) else history)(key, **more),
    )
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"subs": {channel: {}}}}))
        await slow.asked.wait()
        for number in range(2):
            await api(running, "publish", channel=channel, data=number)
        slow.may.set()
        with pytest.raises(ConnectionClosed) as caught:
            async with asyncio.timeout(within(5)):
                while True:
                    await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 3010
