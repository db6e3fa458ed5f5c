"""The history checker on the real program: frames that clients receive are recorded and found correct."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.acceptance.fleet import ADMIN_KEY
from tests.acceptance.program import running
from tests.campaigns.follower import Line
from tests.campaigns.writer import Writer
from tests.history import Bounds, Recorder, Tap, check, report, summary
from tests.timing import within

ENVIRONMENT = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_DIRECT_MEMBERSHIP": "*"}

pytestmark = pytest.mark.acceptance


class Client:
    """A connection whose frames are recorded."""

    def __init__(self, port: int, token: str, tap: Tap) -> None:
        self.line = Line(port, token)
        self.line.tap = tap
        self.pushes: list[dict[str, Any]] = []
        self.pushed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def connected(self) -> Client:
        await self.line.live()
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        async for raw in self.line.objects():
            found = msgspec.json.decode(raw)
            if not self.line.answered(found):
                self.pushes.append(found)
                self.pushed.set()

    async def command(self, name: str, **body: Any) -> dict[str, Any]:
        number = self.line.command(name, body)
        self.line.waiting[number] = asyncio.get_running_loop().create_future()
        reply = await self.line._reply(number)
        assert "error" not in reply, reply
        return dict(reply[name])

    async def rpc(self, method: str, **params: Any) -> dict[str, Any]:
        return dict((await self.command("rpc", method=method, data=params))["data"])

    async def until(self, text: str) -> None:
        """Wait for a push that contains the text."""
        while not any(text in str(found) for found in self.pushes):
            self.pushed.clear()
            await self.pushed.wait()

    async def end(self) -> None:
        self.line.end()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def test_what_clients_of_the_real_program_are_told_is_true(tmp_path: Path) -> None:
    """A run, publications, a reconnection with recovery and a removal, recorded at both clients: no finding."""
    recorder = Recorder()
    async with running(tmp_path, ENVIRONMENT) as program, asyncio.timeout(within(30)):
        tokens = {name: program.token(name) for name in ("alice", "bob")}
        alice = await Client(
            program.port, tokens["alice"], recorder.connection("alice-phone", "alice")
        ).connected()
        thread = (await alice.rpc("thread.create", title="recorded"))["thread_id"]
        channel = f"thread:{thread}"
        await alice.command("subscribe", channel=channel, recoverable=True)
        await alice.rpc("thread.members.add", thread_id=thread, user_id="bob")
        bob = await Client(program.port, tokens["bob"], recorder.connection("bob-laptop", "bob")).connected()
        began = await bob.command("subscribe", channel=channel, recoverable=True)
        writer = Writer([program.port], channel, "mark", 50, within(10), recorder)
        first = await writer.publish("mark-before")
        await bob.until("mark-before")
        await bob.end()
        run = await alice.rpc("run.start", thread_id=thread, text="echo hello", client_message_id="c1")
        await alice.until("RUN_FINISHED")
        bob = await Client(program.port, tokens["bob"], recorder.connection("bob-laptop", "bob")).connected()
        since = {"recover": True, "epoch": began["epoch"], "offset": first.offset}
        assert (await bob.command("subscribe", channel=channel, **since))["recovered"]
        await alice.rpc("thread.members.remove", thread_id=thread, user_id="bob")
        await bob.until("unsubscribe")
        await alice.rpc("run.get", run_id=run["run_id"])
        await writer.publish("mark-after")
        await alice.until("mark-after")
        page = await alice.command("history", channel=channel, limit=-1, since={"offset": 0, "epoch": ""})
        assert len(page["publications"]) == page["offset"]
        await alice.rpc("thread.get", thread_id=thread)
        await alice.end()
        await bob.end()
        writer.drop()
    findings = check(recorder.history(), Bounds(run_end_s=0))
    assert not findings, report(findings)
    counts = summary(recorder.history())
    assert (counts["acknowledged"], counts["recovered"], counts["membership"]) == (2, 1, 2)
    assert counts["delivered"] > 10
