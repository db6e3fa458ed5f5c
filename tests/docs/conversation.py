"""A conversation with a real gateway that uses every command, every RPC method and every kind of push once.

Not here: what the frames must look like (`test_asyncapi`). Rules: each frame is recorded as it was on the wire; a wait
is for a frame.

    python -m tests.docs.conversation     # records the examples of docs/asyncapi.json anew
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex import RunInput, agent
from narthex.testing import Running, gateway
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"
UNKNOWN_METHOD = "nothing.like.it"


class Frame(NamedTuple):
    """One command of a client, or one reply or push of the gateway."""

    client: int
    sent: bool
    body: dict[str, Any]


def named(tape: list[Frame]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each frame by the name of its message in the AsyncAPI document; a publication is followed by its event."""
    asked: dict[tuple[int, int], str] = {}
    for client, sent, body in tape:
        if sent:
            [command] = [name for name in body if name != "id"] or ["client.pong"]
            name = f"rpc.{body['rpc']['method']}" if command == "rpc" else command
            asked[client, body.get("id", 0)] = name
            yield name, body
        elif not body:
            yield "server.ping", body
        elif "id" in body:
            yield ("error" if "error" in body else f"{asked[client, body['id']]}.reply"), body
        else:
            push = body["push"]
            [kind] = [name for name in push if name != "channel"]
            if kind != "pub":
                yield f"push.{kind}", body
                continue
            yield "push.publication", body
            event = push["pub"]["data"]
            own = event["type"] == "CUSTOM" and event["name"].startswith("narthex.")
            name = event["name"] if own else event["type"]
            yield f"{'event' if push['channel'].startswith('thread:') else 'notice'}.{name}", event


class Caller:
    """A client that records its frames.

    Attributes:
        pinged: the gateway has sent a ping.
        closed: the close code, once the gateway has closed the connection.
    """

    def __init__(self, tape: list[Frame], send: Callable[[str], Any]) -> None:
        self._tape = tape
        self._client = id(self)
        self._send = send
        self._number = 0
        self._received: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self.pinged = asyncio.Event()
        self.closed = 0

    async def ask(self, command: str, **body: Any) -> dict[str, Any]:
        """Send a command; its reply, which may be an error."""
        self._number += 1
        await self.say({"id": self._number, command: body})
        number = self._number
        return await self.seen(lambda frame: frame.get("id") == number)

    async def rpc(self, method: str, **data: Any) -> dict[str, Any]:
        """Call a method; its result. Raises AssertionError for an error."""
        reply = await self.ask("rpc", method=method, data=data)
        assert "rpc" in reply, reply
        found: dict[str, Any] = reply["rpc"].get("data") or {}
        return found

    async def say(self, frame: dict[str, Any]) -> None:
        """Send a frame."""
        self._tape.append(Frame(self._client, True, frame))
        await self._send(json.dumps(frame))

    async def take(self, text: str) -> None:
        """Record a message of the gateway; a ping is answered."""
        for line in filter(None, text.split("\n")):
            frame = json.loads(line)
            self._tape.append(Frame(self._client, False, frame))
            if not frame:
                await self.say({})
                self.pinged.set()
                continue
            async with self._news:
                self._received.append(frame)
                self._news.notify_all()

    async def seen(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first frame of the gateway that matches, once it has come."""
        async with asyncio.timeout(within(20)), self._news:
            while True:
                for frame in self._received:
                    if matches(frame):
                        return frame
                await self._news.wait()

    async def event(self, kind: str, **members: Any) -> dict[str, Any]:
        """The first published event of this type with these members."""
        frame = await self.seen(lambda frame: _has(frame, {"type": kind, **members}))
        found: dict[str, Any] = frame["push"]["pub"]["data"]
        return found

    async def push(self, kind: str) -> dict[str, Any]:
        """The first push of this kind."""
        return await self.seen(lambda frame: kind in frame.get("push", {}))


def _has(frame: dict[str, Any], members: dict[str, Any]) -> bool:
    event = frame.get("push", {}).get("pub", {}).get("data")
    return isinstance(event, dict) and all(event.get(name) == value for name, value in members.items())


@contextlib.asynccontextmanager
async def calling(running: Running, tape: list[Frame], **token: Any) -> AsyncIterator[Caller]:
    """A connected client of the WebSocket; closed afterwards."""
    async with connect(running.ws, proxy=None) as socket:
        caller = Caller(tape, socket.send)

        async def read() -> None:
            try:
                async for message in socket:
                    assert isinstance(message, str)
                    await caller.take(message)
            except ConnectionClosed:
                pass
            caller.closed = socket.close_code or 0

        reading = asyncio.create_task(read())
        try:
            await caller.ask("connect", token=running.token(**token), name="conversation", version="1")
            yield caller
        finally:
            await socket.close()
            await reading


@agent(name="talker", description="Uses every type of event.", suggestions=["Go on"])
async def talker(run: RunInput) -> AsyncIterator[Any]:
    """Yield every type of event that an agent may."""
    if not run.messages or run.messages[-1].content == "slow":
        yield "waiting"
        async for text in run.steer:
            yield text
            await asyncio.sleep(600)
        return
    if run.messages[-1].content == "ask":
        answer = await run.ask({"type": "object"}, "Shall I?")
        yield f"answered {answer}"
        return
    if run.messages[-1].content == "silent":
        return
    if run.messages[-1].content == "client tool":
        yield {"type": "TOOL_CALL_START", "toolCallId": "mine", "toolCallName": "look"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": "mine", "delta": "{}"}
        yield {"type": "TOOL_CALL_END", "toolCallId": "mine"}
        return
    for event in EVENTS:
        yield event


EVENTS: list[dict[str, Any]] = [
    {"type": "STEP_STARTED", "stepName": "think"},
    {"type": "REASONING_START", "messageId": "r0"},
    {"type": "REASONING_MESSAGE_START", "messageId": "r1", "role": "reasoning"},
    {"type": "REASONING_MESSAGE_CONTENT", "messageId": "r1", "delta": "Hm."},
    {"type": "REASONING_MESSAGE_END", "messageId": "r1"},
    {
        "type": "REASONING_ENCRYPTED_VALUE",
        "subtype": "message",
        "entityId": "r1",
        "encryptedValue": "b3BhcXVl",
    },
    {"type": "REASONING_END", "messageId": "r0"},
    {"type": "STEP_FINISHED", "stepName": "think"},
    {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "weather"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c1", "delta": '{"place": "here"}'},
    {"type": "TOOL_CALL_END", "toolCallId": "c1"},
    {"type": "TOOL_CALL_RESULT", "messageId": "m1", "toolCallId": "c1", "content": '"snow"', "role": "tool"},
    {"type": "STATE_SNAPSHOT", "snapshot": {"place": "here"}},
    {"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/place", "value": "there"}]},
    {"type": "ACTIVITY_SNAPSHOT", "messageId": "a1", "activityType": "plan", "content": {"step": 1}},
    {
        "type": "ACTIVITY_DELTA",
        "messageId": "a1",
        "activityType": "plan",
        "patch": [{"op": "replace", "path": "/step", "value": 2}],
    },
    {"type": "SUBAGENT_STARTED", "subagentRunId": "s1", "name": "helper"},
    {"type": "SUBAGENT_FINISHED", "subagentRunId": "s1"},
    {"type": "SUBAGENT_STARTED", "subagentRunId": "s2", "name": "helper"},
    {"type": "SUBAGENT_ERROR", "subagentRunId": "s2", "message": "It is tired."},
    {"type": "MESSAGES_SNAPSHOT", "messages": []},
    {"type": "RAW", "event": {"anything": True}},
    {"type": "CUSTOM", "name": "weather.seen", "value": 1},
    {"type": "TEXT_MESSAGE_START", "messageId": "t1", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "t1", "delta": "It snows."},
    {"type": "TEXT_MESSAGE_END", "messageId": "t1"},
]


async def recorded(folder: Path) -> list[Frame]:
    """Hold the conversation; its frames in their order."""
    tape: list[Frame] = []
    options: dict[str, Any] = {"admin_key": ADMIN, "ping_interval_s": 5.0, "pong_timeout_s": 4.5}
    async with gateway(folder, agents=[talker], **options) as running, asyncio.timeout(within(60)):
        assert running.gateway.parts is not None
        services = running.gateway.parts.core.engine._services
        services.limits = msgspec.structs.replace(services.limits, silence_s=0.3)
        async with (
            calling(running, tape, subject="ada", name="Ada") as ada,
            calling(running, tape, subject="bob", name="Bob") as bob,
        ):
            thread = await _threads(ada, bob)
            await _runs(ada, thread)
            await _server(running, tape, ada, bob, thread)
            await _rest(running, ada, bob, thread)
        await _stream(running, tape)
    return tape


async def _threads(ada: Caller, bob: Caller) -> str:
    """Threads, members, links; the id of a thread in which both are."""
    made = await ada.rpc("thread.create", title="Weather")
    thread: str = made["thread_id"]
    await ada.event("CUSTOM", name="narthex.thread_created")
    channel = f"thread:{thread}"
    await ada.ask("subscribe", channel=channel, recover=True, offset=0, epoch="")
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    await bob.event("CUSTOM", name="narthex.thread_invited")
    await bob.rpc("thread.invitations")
    await bob.rpc("thread.invitation.accept", thread_id=thread)
    await bob.ask("subscribe", channel=channel)
    await ada.push("join")
    await ada.ask("presence", channel=channel)
    await ada.ask("presence_stats", channel=channel)
    await ada.rpc("thread.rename", thread_id=thread, title="Snow")
    await bob.event("CUSTOM", name="narthex.thread_renamed")
    await ada.rpc("typing", thread_id=thread)
    await bob.event("CUSTOM", name="narthex.typing")
    for other in ("one", "two"):
        second = (await ada.rpc("thread.create", title=other))["thread_id"]
        await ada.rpc("thread.members.add", thread_id=second, user_id="bob")
        if other == "one":
            await bob.rpc("thread.invitation.decline", thread_id=second)
        else:
            await ada.rpc("thread.members.remove", thread_id=second, user_id="bob")
            await bob.event(
                "CUSTOM", name="narthex.invitation_closed", value={"threadId": second, "state": "withdrawn"}
            )
            await bob.rpc("thread.invitation.decline", thread_ids=[second])
    link = await ada.rpc("thread.link", thread_id=second)
    await ada.rpc("thread.link.get", thread_id=second)
    await bob.rpc("thread.link.preview", token=link["token"])
    await bob.rpc("thread.join", token=link["token"])
    await ada.rpc("thread.link.revoke", thread_id=second)
    await ada.rpc("thread.link.get", thread_id=second)
    await ada.rpc("thread.leave", thread_id=second)
    await bob.event("CUSTOM", name="narthex.thread_owner")
    await bob.rpc("thread.leave", thread_ids=[second, "nowhere"])
    await bob.rpc("thread.delete", thread_id=second)
    await bob.event("CUSTOM", name="narthex.thread_deleted")
    await bob.rpc("user.block", user_id="carl")
    await bob.rpc("user.blocked")
    await bob.rpc("user.unblock", user_id="carl")
    return thread


async def _runs(ada: Caller, thread: str) -> None:
    """Runs with every event and every end."""

    async def start(text: str, **more: Any) -> dict[str, Any]:
        return await ada.rpc("run.start", thread_id=thread, text=text, client_message_id=f"m-{text}", **more)

    first = await start("all", agent="talker", state={"place": "?"}, forwarded={"colour": "blue"})
    done = await ada.event("RUN_FINISHED", runId=first["run_id"])
    assert done["outcome"] == {"type": "success"}
    await ada.rpc("run.get", run_id=first["run_id"])
    slow = await start("slow")
    await ada.event("CUSTOM", name="narthex.working", runId=slow["run_id"])
    queued = await start("ask")
    await ada.event("CUSTOM", name="narthex.queued")
    await ada.rpc("thread.get", thread_id=thread)
    await ada.rpc("run.steer", run_id=slow["run_id"], text="hurry")
    await ada.event("CUSTOM", name="narthex.steered")
    await ada.rpc("run.cancel", run_id=slow["run_id"])
    await ada.event("RUN_FINISHED", runId=slow["run_id"])
    asked = await ada.event("RUN_FINISHED", runId=queued["run_id"])
    [question] = asked["outcome"]["interrupts"]
    await ada.rpc("thread.get", thread_id=thread)
    resumed = await ada.rpc(
        "run.resume", run_id=queued["run_id"], interrupt_id=question["id"], payload={"yes": True}
    )
    await ada.event("CUSTOM", name="narthex.answered")
    await ada.event("RUN_FINISHED", runId=resumed["run_id"])
    tool = await start("client tool", tools=[{"name": "look", "description": "Looks.", "parameters": {}}])
    await ada.event("RUN_FINISHED", runId=tool["run_id"])
    went_on = await ada.rpc(
        "run.tool_result", run_id=tool["run_id"], results=[{"tool_call_id": "mine", "content": "a bird"}]
    )
    called = await ada.event("TOOL_CALL_START", runId=tool["run_id"])
    await ada.event("TOOL_CALL_RESULT", toolCallId=called["toolCallId"])
    await ada.event("RUN_FINISHED", runId=went_on["run_id"])
    silent = await start("silent")
    await ada.event("RUN_ERROR", runId=silent["run_id"])
    view = await ada.rpc("thread.get", thread_id=thread)
    await ada.rpc("thread.outcomes", thread_id=thread, since=0.0)
    await ada.rpc("thread.list")
    await ada.rpc("thread.search", text="snows")
    await ada.rpc("thread.read", thread_id=thread, offset=view["offset"])
    await ada.event("CUSTOM", name="narthex.read")
    await ada.ask("history", channel=f"thread:{thread}", limit=3, reverse=True)


async def _server(running: Running, tape: list[Frame], ada: Caller, bob: Caller, thread: str) -> None:
    """Pushes that the server's side causes: publications, server-side subscriptions."""
    channel = f"thread:{thread}"
    bearer = {"Authorization": f"Bearer {ADMIN}"}
    async with (
        httpx2.AsyncClient(base_url=running.http, trust_env=False, headers=bearer) as http,
        calling(running, tape, subject="service", permissions=("chat", "admin"), name="Service") as service,
    ):
        await service.ask(
            "publish", channel=channel, data={"type": "CUSTOM", "name": "weather.alarm", "value": 1}
        )
        await bob.event("CUSTOM", name="weather.alarm")
        await bob.ask("unsubscribe", channel=channel)
        await ada.push("leave")
        for path in ("subscribe", "unsubscribe"):
            answer = await http.post(f"/api/v1/{path}", json={"user": "bob", "channel": channel})
            assert answer.status_code == 200, answer.text
            await bob.push(path)


async def _rest(running: Running, ada: Caller, bob: Caller, thread: str) -> None:
    """What is left: questions about oneself, errors, fresh tokens, a ping."""
    for method in ("time", "whoami", "limits", "agents"):
        await ada.rpc(method)
    await ada.rpc("echo", anything=[1, None])
    assert (await ada.ask("rpc", method=UNKNOWN_METHOD, data={}))["error"]["code"] == 104
    assert (await ada.ask("rpc", method="run.get", data={"run_id": "x"}))["error"]["code"] == 404
    assert (await ada.ask("sub_refresh", channel=f"thread:{thread}", token="x"))["error"]["code"] == 108
    await ada.ask("refresh", token=running.token("ada", name="Ada"))
    await ada.say({"send": {"data": {"any": "thing"}}})
    await ada.ask("ping")
    await ada.rpc("thread.members.remove", thread_id=thread, user_id="bob")
    await bob.event("CUSTOM", name="narthex.thread_removed")
    await asyncio.wait_for(ada.pinged.wait(), within(20))


async def _stream(running: Running, tape: list[Frame]) -> None:
    """The HTTP stream, whose end is a push."""
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        first = {"id": 1, "connect": {"token": running.token("eve")}}
        caller = Caller(tape, _nothing)
        await caller.say(first)
        async with http.stream("POST", "/connection/http_stream", content=json.dumps(first)) as answer:
            lines = answer.aiter_lines()
            await caller.take(await anext(lines))
            bearer = {"Authorization": f"Bearer {ADMIN}"}
            await http.post("/api/v1/disconnect", json={"user": "eve"}, headers=bearer)
            async for line in lines:
                await caller.take(line)
            await caller.push("disconnect")


async def _nothing(_: str) -> None:
    """A stream takes no message here."""


def examples(tape: list[Frame]) -> dict[str, dict[str, Any]]:
    """The first frame of each name, without credentials."""
    found: dict[str, dict[str, Any]] = {}
    for name, body in named(tape):
        if body and name != f"rpc.{UNKNOWN_METHOD}":
            found.setdefault(
                name, json.loads(re.sub(r'("(?:token|session)": )"[^"]+"', r'\1"…"', json.dumps(body)))
            )
    return found


if __name__ == "__main__":
    from tools.asyncapi import EXAMPLES

    with tempfile.TemporaryDirectory() as folder:
        found = examples(asyncio.run(recorded(Path(folder))))
    lines = (
        f"{json.dumps(name)}: {json.dumps(body, ensure_ascii=False)}" for name, body in sorted(found.items())
    )
    EXAMPLES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
