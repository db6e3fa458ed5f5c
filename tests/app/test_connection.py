"""Edge cases of a connection: inert, closed too early, unsubscribed too early, woken too often, too many at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from narthex.app.connection import HELD_LIMIT
from narthex.app.timers import TICK_S
from narthex.domain.admission import Admit
from narthex.domain.refusals import Refusal
from narthex.ports.agents import Agent
from narthex.protocol.session import NEVER
from narthex.testing import Running, gateway
from narthex.wiring.parts import Parts
from tests.app.test_commands import Raw, client, spoken, words
from tests.timing import within


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(
        tmp_path, agents=[Agent(name="words", function=words)], direct_membership=("*",)
    ) as found:
        yield found
        assert bugs(found) == []


def parts_of(running: Running) -> Parts:
    parts = running.gateway.parts
    assert parts is not None
    return parts


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


def bugs(running: Running) -> list[bytes]:
    """The series of bugs that the gateway has reported."""
    lines = parts_of(running).meter.render().splitlines()
    return [one for one in lines if one.startswith(b"narthex_bugs_total") and not one.endswith(b" 0.0")]


class Slow:
    """Calls an async function once released; `asked` shows that a caller waits."""

    def __init__(self, real: Callable[..., Awaitable[Any]]) -> None:
        self.real = real
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = await self.real(*args, **kwargs)
        self.asked.set()
        await self.may.wait()
        return found


async def test_commands_behind_a_failed_connect_are_not_executed(running: Running) -> None:
    """An inert connection can send only `connect`; SDKs are told to retry the rest."""
    headers = {"Authorization": f"Bearer {running.token('ada', ttl_s=-60)}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(
            '{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"echo","data":1}}\n'
            '{"id":3,"subscribe":{"channel":"thread:x"}}\n{"id":4,"rpc":{"method":"whoami"}}\n{"send":{}}'
        )
        raw = Raw(socket)
        assert (await raw.reply(1))["error"]["code"] == 109
        for number in (2, 3, 4):
            assert (await raw.reply(number))["error"] == {
                "code": 101,
                "message": "unauthorized",
                "temporary": True,
            }
        fresh = json.dumps({"id": 5, "connect": {"token": running.token("ada")}})
        await socket.send(fresh + '\n{"id":6,"rpc":{"method":"echo","data":1}}')
        assert (await raw.reply(6))["rpc"]["data"] == 1


async def test_who_leaves_before_the_verdict_leaves_nothing_behind(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that must be verified remotely, and a client that does not wait for the answer."""
    parts = parts_of(running)
    token = running.token("ada")
    real = parts.in_band.admit
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def later(seed: Any, raw: str, header: str) -> Admit | Refusal:
        asked.set()
        await told
        outcome = real(seed, raw, header)
        return await outcome if isinstance(outcome, Awaitable) else outcome

    monkeypatch.setattr(parts.in_band, "admit", later)
    headers = {"Authorization": f"Bearer {running.token('ada', ttl_s=-60)}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
        await asked.wait()
    await eventually(lambda: len(parts.core.registry) == 0)
    told.set_result(None)
    await eventually(lambda: len(parts.core.tasks) == 0)
    assert parts.core.registry.users() == 0
    assert parts.core.hub.subscribers("default/user:ada") == []
    assert parts.core.limiter.of_user("default/ada") == 0


async def test_unsubscribing_while_joining_ends_that_subscription_only(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribe, unsubscribe, subscribe: every command is answered, and the last one counts."""
    ada = await client(running, "ada")
    started = await spoken(ada, "one two")
    channel = started["channel"]
    parts = parts_of(running)
    slow = Slow(parts.broker.history)
    monkeypatch.setattr(parts.broker, "history", slow)
    first, second = ada.number + 1, ada.number + 3
    await ada.socket.send(json.dumps({"id": first, "subscribe": {"channel": channel}}))
    await slow.asked.wait()
    again = [
        {"id": first + 1, "unsubscribe": {"channel": channel}},
        {"id": second, "subscribe": {"channel": channel}},
    ]
    await ada.socket.send("\n".join(map(json.dumps, again)))
    ada.number = second
    slow.may.set()
    assert (await ada.reply(first))["subscribe"]["positioned"]
    assert "unsubscribe" in await ada.reply(first + 1)
    assert (await ada.reply(second))["subscribe"]["positioned"]
    assert list(ada.replies)[-3:] == [first, first + 1, second]
    monkeypatch.undo()
    await spoken(ada, "three", started["thread_id"])
    offsets = [(await ada.push("pub"))["pub"]["offset"] for _ in range(3)]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


async def test_who_is_removed_while_subscribing_hears_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role was read before the removal, the channel would be joined after it."""
    ada, bob = await client(running, "ada", plan="mid"), await client(running, "bob")
    started = await spoken(ada, "hello")
    thread = started["thread_id"]
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    parts = parts_of(running)
    slow = Slow(parts.core.chat.role)
    monkeypatch.setattr(parts.core.chat, "role", slow)
    bob.number += 1
    await bob.socket.send(json.dumps({"id": bob.number, "subscribe": {"channel": started["channel"]}}))
    await slow.asked.wait()
    monkeypatch.undo()
    await ada.rpc("thread.members.remove", thread_id=thread, user_id="bob")
    slow.may.set()
    assert "error" in await bob.reply(bob.number)
    assert (await bob.call("subscribe", channel=started["channel"]))["error"]["code"] == 103
    assert parts.core.hub.subscribers(f"default/{started['channel']}") == []


async def test_a_connect_that_finds_no_room_may_be_tried_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overload is temporary: the second attempt is not a protocol error."""
    parts = parts_of(running)
    headers = {"Authorization": f"Bearer {running.token('ada')}"}

    body: dict[str, Any] = {"subs": {"user:ada": {"recover": True, "offset": 0, "epoch": ""}}}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        monkeypatch.setattr(parts.core.tasks, "_limit", 0)
        assert (await raw.call("connect", **body))["error"]["code"] == 111
        monkeypatch.undo()
        assert (await raw.call("connect", **body))["connect"]["client"]


@pytest.mark.parametrize("more", [0, 1])
async def test_so_many_commands_may_be_batched_behind_a_connect(
    running: Running, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """While it waits for an engine they are kept, and executed after it; one more is a flood (3013)."""
    parts = parts_of(running)
    slow = Slow(parts.broker.history)
    monkeypatch.setattr(parts.broker, "history", slow)
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    subs = {"user:ada": {"recover": True, "offset": 0, "epoch": ""}}
    commands: list[dict[str, Any]] = [{"id": 1, "connect": {"subs": subs}}]
    commands += [{"id": 2 + n, "rpc": {"method": "echo", "data": n}} for n in range(HELD_LIMIT + more)]
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send("\n".join(map(json.dumps, commands)))
        await slow.asked.wait()
        slow.may.set()
        raw = Raw(socket)
        if not more:
            assert (await raw.reply(1 + HELD_LIMIT))["rpc"]["data"] == HELD_LIMIT - 1
            assert list(raw.replies) == list(range(1, 2 + HELD_LIMIT))
            return
        with pytest.raises(ConnectionClosed) as caught:
            await raw.reply(1 + HELD_LIMIT)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 3013


async def test_each_connection_waits_in_the_wheel_once(running: Running) -> None:
    """However often it lags or refreshes: the earliest wake-up replaces the others. A closed one waits for nothing."""
    ada = await client(running, "ada")
    parts = parts_of(running)
    (connection,) = parts.core.registry
    session, began = connection.session, parts.core.timers.now()
    for left_s in (4.0, 3.0, 2.0):  # each requests an earlier wake-up than the one before
        session._next_ping_at = began + left_s
        connection._schedule()
    assert len(parts.core.timers) == 1
    assert connection.due * TICK_S <= began + 2.0 + TICK_S
    for now in range(3, 60):
        session._pong_until = NEVER
        connection.wake(began + now)
    assert len(parts.core.timers) == 1
    await ada.socket.close()
    async with asyncio.timeout(within(5)):
        while any(parts.core.registry):  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
    assert len(parts.core.timers) == 0


async def fill(parts: Parts, key: str, count: int, size: int) -> None:
    """Publications of `size` bytes each."""
    for start in range(0, count, 500):
        data = json.dumps("x" * size).encode()
        await asyncio.gather(*(parts.broker.publish(key, data) for _ in range(min(500, count - start))))


async def test_a_large_recovery_does_not_count_as_slowness(running: Running) -> None:
    """Requested data that the client reads is delivered, followed by live publications."""
    ada = await client(running, "ada")
    thread = await ada.rpc("thread.create")
    name, key = f"thread:{thread['thread_id']}", f"default/thread:{thread['thread_id']}"
    await fill(parts_of(running), key, 1_600, 2_000)
    reader = await large(running)
    reply = await reader.call("subscribe", channel=name, recover=True, offset=0, epoch="")
    assert reply["subscribe"]["recovered"]
    offsets = [item["offset"] for item in reply["subscribe"]["publications"]]
    assert offsets == list(range(1, 1_601))
    await fill(parts_of(running), key, 1, 10)
    assert (await reader.push("pub"))["pub"]["offset"] == 1_601


async def test_history_and_recovery_are_bounded_in_bytes(running: Running) -> None:
    """A page ends early and can be continued; a recovery is complete or empty."""
    ada = await client(running, "ada")
    thread = await ada.rpc("thread.create")
    name, key = f"thread:{thread['thread_id']}", f"default/thread:{thread['thread_id']}"
    await fill(parts_of(running), key, 1_200, 4_000)
    reader = await large(running)
    reply = await reader.call("subscribe", channel=name, recover=True, offset=0, epoch="")
    assert "recovered" not in reply["subscribe"]
    offsets: list[int] = []
    epoch = reply["subscribe"]["epoch"]
    while len(offsets) < 1_200:
        since = {"offset": len(offsets), "epoch": epoch}
        page = (await reader.call("history", channel=name, limit=-1, since=since))["history"]
        assert len(page["publications"]) <= 512 * 1024 // 4_002
        offsets += [item["offset"] for item in page["publications"]]
    assert offsets == list(range(1, 1_201))


async def large(running: Running) -> Raw:
    """A client that takes messages of any size."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    raw = Raw(await connect(running.ws, additional_headers=headers, proxy=None, max_size=None))
    await raw.call("connect")
    return raw


async def test_a_refused_connect_token_closes_the_socket_with_its_reason(running: Running) -> None:
    """A bad token in `connect` is final: no reply, the close has the reason; so is no token on an inert connection."""
    for command, reason in (
        ({"connect": {"token": "not.a.token"}}, "token_malformed"),
        ({"connect": {}}, "auth_required"),
    ):
        async with connect(running.ws, proxy=None) as socket:
            await socket.send(json.dumps({"id": 1, **command}))
            with pytest.raises(ConnectionClosed) as caught:
                async with asyncio.timeout(within(5)):
                    await socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 3500
            assert reason in caught.value.rcvd.reason


async def test_a_connection_whose_token_ends_says_that_it_expires(running: Running) -> None:
    """SDKs refresh by `expires` and `ttl`; both are there together."""
    headers = {"Authorization": f"Bearer {running.token('ada', ttl_s=600)}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        reply = (await Raw(socket).call("connect"))["connect"]
        assert reply["expires"] is True
        assert 590 <= reply["ttl"] <= 600


async def test_a_connection_without_an_end_says_that_it_does_not_expire(tmp_path: Path) -> None:
    """A guest has no token: an SDK that was told to refresh would ask for one for ever."""
    async with (
        gateway(tmp_path, agents=[Agent(name="words", function=words)], allow_anonymous=True) as guests,
        connect(guests.ws, origin=Origin(guests.http), proxy=None) as socket,
    ):
        reply = (await Raw(socket).call("connect"))["connect"]
        assert not reply.get("expires")
        assert not reply.get("ttl")


async def test_a_client_whose_position_is_lost_is_closed_so_that_it_recovers_or_is_told(
    running: Running,
) -> None:
    """Its log was replaced: 3010, at which an SDK reconnects; then `recovered: false` says that events are missing."""
    key, broker = "default/user:ada", parts_of(running).broker
    await broker.publish(key, b'{"n":1}')
    one = await client(running, "ada")
    position = one.replies[1]["connect"]["subs"]["user:ada"]
    await broker.remove(key)
    await broker.publish(key, b'{"n":1}')
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(within(10)):
            while True:
                await one.step()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3010
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        since = {"recover": True, "offset": position["offset"], "epoch": position["epoch"]}
        again = (await Raw(socket).call("connect", subs={"user:ada": since}))["connect"]["subs"]["user:ada"]
    assert not again.get("recovered")
    assert again["epoch"] != position["epoch"]


async def test_each_ping_renews_presence(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of present clients forgets one that is not renewed."""
    await client(running, "ada")
    (connection,) = parts_of(running).core.registry
    renewed: list[object] = []
    monkeypatch.setattr(
        type(connection.runtime.presence), "renew", lambda _presence, one: renewed.append(one)
    )
    connection.wake(connection.runtime.timers.now() + 60)
    assert renewed == [connection]
