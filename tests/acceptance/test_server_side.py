"""Server-side subscriptions with both unmodified SDKs: granted, kept through a reconnect, ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from centrifuge import Client, ClientEventHandler

from tests.acceptance.fleet import fleet
from tests.acceptance.program import Program, running
from tests.acceptance.sdk import Person
from tests.acceptance.test_js_sdk import node, node_person

__all__ = ["node"]  # a fixture

pytestmark = pytest.mark.acceptance

ADMIN = "an-admin-key-of-decent-length-0123456789"


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": ADMIN}) as found:
        yield found


class Operator:
    """The server API with the admin key."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def call(self, path: str, **body: Any) -> httpx2.Response:
        return await self._program.post(
            f"/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {ADMIN}"}
        )

    async def done(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self.call(path, **body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


class Watcher(ClientEventHandler):  # type: ignore[misc]  # the SDK has no types
    """centrifuge-python, and the server-side subscription events that it received."""

    def __init__(self, url: str, token: str) -> None:
        self.client = Client(
            url,
            events=self,
            headers={"Authorization": f"Bearer {token}"},
            min_reconnect_delay=0.3,
            max_reconnect_delay=0.6,
            proxy=None,
        )
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    def _said(self, kind: str, **more: Any) -> None:
        self.lines.append({"kind": kind, **more})
        self._changed.set()

    async def on_connected(self, ctx: Any) -> None:
        self._said("connected", client=ctx.client)

    async def on_connecting(self, ctx: Any) -> None:
        self._said("connecting", code=ctx.code)

    async def on_subscribed(self, ctx: Any) -> None:
        self._said("subscribed", channel=ctx.channel, recovered=ctx.recovered)

    async def on_unsubscribed(self, ctx: Any) -> None:
        self._said("unsubscribed", channel=ctx.channel)

    async def on_publication(self, ctx: Any) -> None:
        self._said("publication", channel=ctx.channel, offset=ctx.pub.offset, data=ctx.pub.data)

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        async with asyncio.timeout(30):
            while len(found := [line for line in self.lines if line["kind"] == kind]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found


def of(channel: str, lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind and line.get("channel") == channel]


async def story(
    operator: Operator, thread_id: str, watcher: Any, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    """A subscription is granted from a position, receives events, is cut, recovers the missed ones, and ends."""
    channel = f"thread:{thread_id}"
    first = await operator.done("publish", channel=channel, data={"n": 1})
    since = {"offset": 0, "epoch": first["epoch"]}
    await operator.done("subscribe", user="ada", channel=channel, recover_since=since)
    await watcher.until("publication", 1)
    await operator.done("subscribe", user="ada", channel=channel)  # a repetition has no effect
    await operator.done("publish", channel=channel, data={"n": 2})
    await watcher.until("publication", 2)
    assert len(of(channel, lines(), "subscribed")) == 1
    await operator.done("disconnect", user="ada", code=3001, reason="shutdown")
    await watcher.until("connecting", 2)
    await operator.done("publish", channel=channel, data={"n": 3})
    await watcher.until("connected", 2)
    await watcher.until("publication", 3)
    assert of(channel, lines(), "subscribed")[-1]["recovered"] is True
    await operator.done("publish", channel=channel, data={"n": 4})
    await watcher.until("publication", 4)
    await operator.done("unsubscribe", user="ada", channel=channel)
    await watcher.until("unsubscribed", 1)
    await operator.done("publish", channel=channel, data={"n": 5})
    await operator.done("publish", channel="user:ada", data={"n": "end"})
    await watcher.until("publication", 5)
    shown = of(channel, lines(), "publication")
    assert [line["data"]["n"] for line in shown] == [1, 2, 3, 4]
    offsets = [line["offset"] for line in shown]
    assert offsets == list(range(offsets[0], offsets[0] + 4))
    await operator.done("disconnect", user="ada", code=3001, reason="shutdown")
    await watcher.until("connected", 3)
    assert len(of(channel, lines(), "subscribed")) == 2, "what was ended is not restored"


async def empty_thread(program: Program) -> str:
    """A thread of ada's whose channel has no publications yet."""
    ada = Person(program.ws, program.token("ada"))
    await ada.client.connect()
    created = await ada.rpc("thread.create", title="one")
    await ada.client.disconnect()
    return str(created["thread_id"])


async def test_the_python_sdk(program: Program) -> None:
    """See `story`."""
    thread_id = await empty_thread(program)
    watcher = Watcher(program.ws, program.token("ada"))
    await watcher.client.connect()
    await watcher.until("connected")
    await story(Operator(program), thread_id, watcher, lambda: watcher.lines)
    await watcher.client.disconnect()


async def test_the_javascript_sdk(program: Program, node: str) -> None:
    """See `story`."""
    thread_id = await empty_thread(program)
    script = Path(__file__).with_name("watch.mjs")
    async with node_person(node, program.ws, program.token("ada"), script=script) as watcher:
        await watcher.until("connected")
        await story(Operator(program), thread_id, watcher, lambda: watcher.lines)


async def test_every_instance_hears_of_it(tmp_path: Path) -> None:
    """The request goes to one gateway and takes effect on both: the user has a device at each."""
    async with fleet(tmp_path) as built:
        one, other = await built.gateways(2)
        thread_id = await empty_thread(one)
        watchers = [Watcher(at.ws, one.token("ada")) for at in (one, other)]
        for watcher in watchers:
            await watcher.client.connect()
            await watcher.until("connected")
        operator, channel = Operator(one), f"thread:{thread_id}"
        await operator.done("subscribe", user="ada", channel=channel)
        for watcher in watchers:
            await watcher.until("subscribed", 2)  # the user's own channel is the first
            assert of(channel, watcher.lines, "subscribed")
        await operator.done("publish", channel=channel, data={"n": 1})
        for watcher in watchers:
            await watcher.until("publication", 1)
        await Operator(other).done("unsubscribe", user="ada", channel=channel)
        for watcher in watchers:
            await watcher.until("unsubscribed", 1)
            await watcher.client.disconnect()
