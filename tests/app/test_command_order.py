"""Commands of one connection about one channel, thread or run take effect in order, whatever the engines' speed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from narthex.app.command_order import subject
from narthex.app.connection import IN_FLIGHT_LIMIT
from narthex.domain.admission import Admit
from narthex.ports.agents import Agent, RunInput
from narthex.protocol.codes import SHUTDOWN
from narthex.protocol.commands import decode_frame, request_of
from narthex.protocol.session import ReceivedCommand
from narthex.testing import Running, gateway
from tests.app.test_busy import event, follow
from tests.app.test_commands import Raw, client, spoken, words
from tests.app.test_connection import Slow, bugs, eventually, parts_of


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(
        tmp_path, agents=[Agent(name="words", function=words)], direct_membership=["*"]
    ) as found:
        yield found
        assert bugs(found) == []


class FirstSlow(Slow):
    """The first call waits until released; the others are as fast as the real function."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.asked.is_set():
            return await self.real(*args, **kwargs)
        self.asked.set()
        await self.may.wait()
        return await self.real(*args, **kwargs)


async def sent(raw: Raw, *commands: tuple[str, dict[str, Any]], frames: bool = False) -> list[int]:
    """Commands in one frame, or each in its own frame; returns their ids."""
    numbers = list(range(raw.number + 1, raw.number + 1 + len(commands)))
    raw.number = numbers[-1]
    lines = [
        json.dumps({"id": number, member: body})
        for number, (member, body) in zip(numbers, commands, strict=True)
    ]
    for frame in lines if frames else ["\n".join(lines)]:
        await raw.socket.send(frame)
    return numbers


async def answers(raw: Raw, numbers: list[int]) -> list[dict[str, Any]]:
    return [await raw.reply(number) for number in numbers]


@pytest.mark.parametrize("frames", [False, True], ids=["one frame", "three frames"])
@pytest.mark.parametrize("slow", ["", "role", "history"])
async def test_subscribe_unsubscribe_subscribe_ends_subscribed(
    running: Running, monkeypatch: pytest.MonkeyPatch, slow: str, frames: bool
) -> None:
    """A component that mounts twice ends subscribed and receives the next publication."""
    ada = await client(running, "ada")
    started = await spoken(ada, "one")
    channel = {"channel": started["channel"]}
    gate = slowed(running, monkeypatch, slow)
    numbers = await sent(
        ada, ("subscribe", channel), ("unsubscribe", channel), ("subscribe", channel), frames=frames
    )
    if gate is not None:
        await gate.asked.wait()
        assert (await ada.rpc("echo", n=1)) == {"n": 1}  # other commands continue meanwhile
        gate.may.set()
    replies = await answers(ada, numbers)
    assert ["error" in reply for reply in replies] == [False] * 3, replies
    await spoken(ada, "two", started["thread_id"])
    while (await ada.push("pub"))["channel"] != started["channel"]:
        continue


def slowed(running: Running, monkeypatch: pytest.MonkeyPatch, what: str) -> Slow | None:
    parts = parts_of(running)
    owner: Any = parts.core.chat if what == "role" else parts.broker
    if not what:
        return None
    gate = FirstSlow(getattr(owner, what))
    monkeypatch.setattr(owner, what, gate)
    return gate


@pytest.mark.parametrize("member", ["presence", "presence_stats", "history"])
async def test_what_needs_a_subscription_may_follow_it_in_one_frame(
    running: Running, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """`subscribe` and `presence` in one frame: the second sees the effect of the first, including the client itself."""
    ada = await client(running, "ada")
    started = await spoken(ada, "one")
    channel = {"channel": started["channel"]}
    gate = slowed(running, monkeypatch, "role")
    assert gate is not None
    numbers = await sent(ada, ("subscribe", channel), (member, channel), ("unsubscribe", channel))
    await gate.asked.wait()
    gate.may.set()
    replies = await answers(ada, numbers)
    assert member in replies[1], replies
    if member == "presence":
        assert [info["user"] for info in replies[1]["presence"]["presence"].values()] == ["ada"]
    assert (await ada.call(member, **channel))["error"]["code"] == 103


async def test_two_publishes_of_a_service_are_in_the_log_in_their_order(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits for the first, also when the first one's append hangs for a moment."""
    service = await client(running, "service", permissions=frozenset({"admin"}))
    thread = (await service.rpc("thread.create"))["thread_id"]
    gate = FirstSlow(parts_of(running).broker.publish)
    monkeypatch.setattr(parts_of(running).broker, "publish", gate)
    channel = f"thread:{thread}"
    numbers = await sent(
        service, *[("publish", {"channel": channel, "data": {"type": "RAW", "n": n}}) for n in range(5)]
    )
    await gate.asked.wait()
    gate.may.set()
    await answers(service, numbers)
    page = await parts_of(running).broker.history(f"default/{channel}")
    assert [json.loads(item.data)["n"] for item in page.publications] == list(range(5))


async def test_two_messages_of_one_person_keep_their_order(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run.start` twice in one frame: the thread has the first message first, however slow its processing was."""
    ada = await client(running, "ada", plan="mid")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    gate = FirstSlow(parts_of(running).core.chat.require)
    monkeypatch.setattr(parts_of(running).core.chat, "require", gate)

    def said(text: str) -> tuple[str, dict[str, Any]]:
        params = {"text": text, "client_message_id": text, "thread_id": thread}
        return "rpc", {"method": "run.start", "data": params}

    numbers = await sent(ada, said("first"), said("second"))
    await gate.asked.wait()
    gate.may.set()
    ids = [reply["rpc"]["data"]["message_id"] for reply in await answers(ada, numbers)]
    view = await ada.rpc("thread.get", thread_id=thread)
    assert [message["message_id"] for message in view["messages"] if message["role"] == "user"] == ids


async def test_a_thread_that_is_renamed_and_read_has_its_new_name(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RPCs about one thread do not overtake each other."""
    ada = await client(running, "ada")
    thread = (await ada.rpc("thread.create", title="old"))["thread_id"]
    gate = FirstSlow(parts_of(running).core.chat.rename)
    monkeypatch.setattr(parts_of(running).core.chat, "rename", gate)
    numbers = await sent(
        ada,
        ("rpc", {"method": "thread.rename", "data": {"thread_id": thread, "title": "new"}}),
        ("rpc", {"method": "thread.get", "data": {"thread_id": thread}}),
    )
    await gate.asked.wait()
    gate.may.set()
    assert (await answers(ada, numbers))[1]["rpc"]["data"]["thread"]["title"] == "new"


async def test_the_later_of_two_refreshes_holds(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older token whose verification took longer does not replace the newer one's permissions and expiry."""
    ada = await client(running, "ada")
    parts = parts_of(running)
    real = parts.in_band.admit
    asked, may = asyncio.Event(), asyncio.Event()

    async def later(outcome: Any) -> Any:
        await may.wait()
        return outcome

    def admit(seed: Any, token: str) -> Any:
        outcome = real(seed, token)
        assert isinstance(outcome, Admit)
        if asked.is_set():
            return outcome
        asked.set()
        return later(outcome)

    monkeypatch.setattr(parts.in_band, "admit", admit)
    tokens = [running.token("ada", ttl_s=600), running.token("ada", ttl_s=1200)]
    numbers = await sent(ada, *[("refresh", {"token": token}) for token in tokens])
    await asked.wait()
    may.set()
    ttls = [reply["refresh"]["ttl"] for reply in await answers(ada, numbers)]
    assert ttls[0] <= 600 < ttls[1]
    (connection,) = parts.core.registry
    assert connection.session.expires_at - parts.core.timers.now() > 900


async def test_a_command_behind_a_hung_one_is_answered_when_it_is_due(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline counts from the arrival: two commands behind a hung engine do not wait twice as long."""
    monkeypatch.setattr("narthex.app.connection.COMMAND_TIMEOUT_S", 0.3)
    ada = await client(running, "ada")
    started = await spoken(ada, "one")
    channel = {"channel": started["channel"]}
    gate = Slow(parts_of(running).core.chat.role)  # every call hangs
    monkeypatch.setattr(parts_of(running).core.chat, "role", gate)
    began = asyncio.get_running_loop().time()
    numbers = await sent(
        ada,
        *[("subscribe", channel), ("subscribe", channel), ("presence", channel), ("unsubscribe", channel)],
    )
    replies = await answers(ada, numbers)
    took_s = asyncio.get_running_loop().time() - began
    assert [reply.get("error", {}).get("temporary", False) for reply in replies] == [True, True, True, False]
    assert "unsubscribe" in replies[3]
    assert took_s < 0.3 * 2
    monkeypatch.undo()
    assert "subscribe" in await ada.call("subscribe", **channel)


async def listening(run: RunInput) -> AsyncIterator[str]:
    """Says what users add to its run."""
    yield "ready"
    async for text in run.steer:
        yield f"[{text}]"


async def test_a_user_who_stops_a_run_waits_for_no_text_that_was_sent_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is away a text for the run waits, and its cancellation is accepted; what comes behind waits for
    both.
    """
    async with gateway(tmp_path, agents=[Agent(name="listening", function=listening)]) as running:
        ada = await client(running, "ada")
        started = await ada.rpc("run.start", text="one", client_message_id="first")
        run = {"run_id": started["run_id"]}
        await follow(ada, started["channel"])
        await event(ada, type="TEXT_MESSAGE_CONTENT", delta="ready")
        parts = parts_of(running)
        away = Away(parts.broker.publish)
        monkeypatch.setattr(parts.broker, "publish", away)
        steer, cancel, get = await sent(
            ada,
            ("rpc", {"method": "run.steer", "data": {**run, "text": "left"}}),
            ("rpc", {"method": "run.cancel", "data": run}),
            ("rpc", {"method": "run.get", "data": run}),
        )
        await away.asked.wait()
        assert (await ada.reply(cancel))["rpc"]["data"]["state"] == "running"
        await ada.rpc("echo", n=1)
        assert not {steer, get} & set(ada.replies)
        away.may.set()
        await ada.reply(get)
        assert steer in ada.replies
        assert (await event(ada, type="RUN_FINISHED", runId=run["run_id"]))["outcome"]["type"] == "cancelled"
        (connection,) = parts.core.registry
        await eventually(lambda: connection._in_flight == 0 and connection._order is None)


class Away(Slow):
    """An engine that is away until released."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.set()
        await self.may.wait()
        return await self.real(*args, **kwargs)


@pytest.mark.parametrize("command", ["subscribe", "connect"])
async def test_a_command_is_answered_once_though_its_presence_hangs(
    running: Running, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The reply was sent before presence is recorded; a broker that hangs there causes no error under the same id."""
    monkeypatch.setattr("narthex.app.connection.COMMAND_TIMEOUT_S", 0.2)
    ada = await client(running, "ada")
    started = await spoken(ada, "one")
    channel = started["channel"]
    gate = Slow(parts_of(running).broker.join)  # every call hangs
    monkeypatch.setattr(parts_of(running).broker, "join", gate)
    if command == "connect":
        headers = {"Authorization": f"Bearer {running.token('ada')}"}
        ada = Raw(await connect(running.ws, additional_headers=headers, proxy=None))
        body: dict[str, Any] = {"subs": {channel: {"recover": True, "offset": 0, "epoch": ""}}}
    else:
        body = {"channel": channel}
    assert command in await ada.call(command, **body)
    number = ada.replies.popitem()[0]
    await gate.asked.wait()
    await eventually(lambda: len(parts_of(running).core.tasks) == 0)
    assert (await ada.rpc("echo", n=1)) == {"n": 1}  # everything sent before has arrived by now
    assert number not in ada.replies


async def test_what_waits_is_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue behind a hung command counts as commands in progress: past the limit the answer is 111."""
    ada = await client(running, "ada")
    started = await spoken(ada, "one")
    channel = {"channel": started["channel"]}
    gate = Slow(parts_of(running).core.chat.role)
    monkeypatch.setattr(parts_of(running).core.chat, "role", gate)
    numbers = await sent(ada, *[("subscribe", channel)] * (IN_FLIGHT_LIMIT + 1))
    await gate.asked.wait()
    assert (await ada.reply(numbers[-1]))["error"]["code"] == 111
    gate.may.set()
    replies = await answers(ada, numbers[:-1])
    assert "subscribe" in replies[0]
    assert {reply["error"]["code"] for reply in replies[1:]} == {105}
    (connection,) = parts_of(running).core.registry
    await eventually(lambda: connection._in_flight == 0)
    assert connection._order is None  # an idle connection keeps nothing


async def test_a_connection_that_ends_leaves_its_queue_undone(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that waited when the socket closed are not executed."""
    service = await client(running, "service", permissions=frozenset({"admin"}))
    thread = (await service.rpc("thread.create"))["thread_id"]
    parts = parts_of(running)
    gate = FirstSlow(parts.broker.publish)
    monkeypatch.setattr(parts.broker, "publish", gate)
    channel = f"thread:{thread}"
    await sent(service, *[("publish", {"channel": channel, "data": {"n": n}}) for n in range(3)])
    await gate.asked.wait()
    await service.socket.close()
    await eventually(lambda: not parts.core.registry.users())
    gate.may.set()
    await eventually(lambda: len(parts.core.tasks) == 0)
    page = await parts.broker.history(f"default/{channel}")
    assert [json.loads(item.data)["n"] for item in page.publications] == [0]


@pytest.mark.parametrize("slow", ["join", "leave"])
async def test_presence_is_what_the_last_command_says(
    running: Running, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """A join that reaches the broker after a later leave, or the reverse, is corrected."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    channel = {"channel": f"thread:{thread}"}
    key = f"default/thread:{thread}"
    await ada.call("subscribe", **channel)
    parts = parts_of(running)
    gate = FirstSlow(getattr(parts.broker, slow))
    if slow == "join":
        monkeypatch.setattr(parts.broker, slow, gate)
    await sent(bob, ("subscribe", channel))
    if slow == "join":
        await gate.asked.wait()
        (connection,) = [
            one for one in parts.core.registry if one.known_identity and one.known_identity.subject == "bob"
        ]
        connection.close(SHUTDOWN)
    else:
        await bob.reply(bob.number)
        monkeypatch.setattr(parts.broker, slow, gate)
        await bob.call("unsubscribe", **channel)
        await gate.asked.wait()
        await bob.call("subscribe", **channel)
    gate.may.set()
    expected = {"ada"} if slow == "join" else {"ada", "bob"}

    async def present() -> set[str]:
        return {member.user for member in (await parts.broker.members(key)).values()}

    async with asyncio.timeout(10):
        await eventually(lambda: len(parts.core.tasks) == 0)
        assert await present() == expected


async def test_commands_of_one_post_to_emulation_are_in_order(running: Running) -> None:
    """Over HTTP streaming too: subscribe, unsubscribe, subscribe, presence in one POST."""
    ada = await client(running, "ada")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    channel = {"channel": f"thread:{thread}"}
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    commands: list[tuple[str, dict[str, Any]]] = [
        ("subscribe", channel),
        ("unsubscribe", channel),
        ("subscribe", channel),
        ("presence_stats", channel),
    ]
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=10) as http:
        opened = http.stream(
            "POST", "/connection/http_stream", content=b'{"id":1,"connect":{}}', headers=headers
        )
        async with opened as stream:
            lines = stream.aiter_lines()
            connected = json.loads(await anext(lines))["connect"]
            data = "\n".join(
                json.dumps({"id": number, member: body}) for number, (member, body) in enumerate(commands, 2)
            )
            posted = {"session": connected["session"], "node": connected["node"], "data": data}
            assert (await http.post("/emulation", json=posted)).status_code == 204
            replies: dict[int, dict[str, Any]] = {}
            while len(replies) < len(commands):
                message = json.loads(await anext(lines))
                if "id" in message:
                    replies[message["id"]] = message
    assert list(replies) == [2, 3, 4, 5]
    assert [member for member, _ in commands] == [
        next(name for name in reply if name != "id") for reply in replies.values()
    ]


@pytest.mark.parametrize(
    ("command", "about"),
    [
        ('{"id":1,"subscribe":{"channel":"thread:t"}}', "thread:t"),
        ('{"id":1,"unsubscribe":{"channel":"thread:t"}}', "thread:t"),
        ('{"id":1,"presence":{"channel":"thread:t"}}', "thread:t"),
        ('{"id":1,"history":{"channel":"user:ada"}}', "user:ada"),
        ('{"id":1,"publish":{"channel":"thread:t","data":{}}}', "thread:t"),
        ('{"id":1,"sub_refresh":{"channel":"thread:t"}}', "thread:t"),
        ('{"id":1,"refresh":{"token":"x"}}', "refresh"),
        ('{"id":1,"rpc":{"method":"run.start","data":{"thread_id":"t","text":"x"}}}', "thread:t"),
        ('{"id":1,"rpc":{"method":"run.start","data":{"text":"x"}}}', ""),
        (
            '{"id":1,"rpc":{"method":"run.start","data":{"thread_id":"t","input":{"threadId":"u"}}}}',
            "thread:t",
        ),
        ('{"id":1,"rpc":{"method":"run.start","data":{"thread_id":"t","input":7}}}', "thread:t"),
        ('{"id":1,"rpc":{"method":"run.cancel","data":{"run_id":"r"}}}', "run r"),
        ('{"id":1,"rpc":{"method":"thread.get","data":{"thread_id":7}}}', ""),
        ('{"id":1,"rpc":{"method":"agui.run","data":{"agent":"a","input":{"threadId":"t"}}}}', "agui t"),
        ('{"id":1,"rpc":{"method":"agui.connect","data":{"agent":"a","input":{"threadId":"t"}}}}', "agui t"),
        ('{"id":1,"rpc":{"method":"agui.run","data":{"agent":"a","input":7}}}', ""),
        ('{"id":1,"rpc":{"method":"agui.run","data":{"agent":"a"}}}', ""),
        ('{"id":1,"rpc":{"method":"agui.cancel","data":{"run_id":"r"}}}', ""),
        ('{"id":1,"rpc":{"method":"thread.list"}}', ""),
        ('{"id":1,"rpc":{"method":"echo","data":{"thread_id":"t"}}}', ""),
        ('{"id":1,"rpc":{"method":"typing","data":{"thread_id":"t"}}}', ""),
        ('{"id":1,"ping":{}}', ""),
        ('{"id":1,"connect":{}}', ""),
    ],
)
def test_what_a_command_is_about(command: str, about: str) -> None:
    """Channels, threads, runs and the credential are subjects; a command without a subject does not wait."""
    (decoded,) = decode_frame(command.encode(), max_depth=32)
    found = request_of(decoded)
    assert found is not None
    assert subject(ReceivedCommand(decoded.id, *found)) == about
