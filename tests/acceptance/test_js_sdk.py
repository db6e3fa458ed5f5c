"""The main job with the unmodified `centrifuge` npm SDK, through a `kill -9` of the server in mid-run."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import running
from tests.acceptance.scripts import node_with
from tests.acceptance.scripts import script as running_script
from tests.acceptance.sdk import prove

pytestmark = pytest.mark.acceptance

SCRIPT = Path(__file__).with_name("chat.mjs")
STRICT_MODE = Path(__file__).with_name("strict_mode.mjs")


@pytest.fixture
def node() -> str:
    return node_with("centrifuge")


class NodePerson:
    """The script's output, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Read until `count` lines of a kind have arrived; returns all of that kind."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while len(found := [line for line in self.lines if line["kind"] == kind]) < count:
                raw = await self.process.stdout.readline()
                assert raw, f"the script ended; it said {self.lines[-5:]}"
                self.lines.append(json.loads(raw))
        return found

    async def until_terminal(self) -> list[dict[str, Any]]:
        """Read to the run's terminal event; returns all events of the run."""
        count = 1
        while True:
            events = [line["data"] for line in await self.until("event", count)]
            if events[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR"):
                return [event for event in events if "runId" in event]
            count = len(events) + 1


@contextlib.asynccontextmanager
async def node_person(node: str, *arguments: str, script: Path = SCRIPT) -> AsyncIterator[NodePerson]:
    async with running_script(node, script, *arguments) as process:
        yield NodePerson(process)


async def test_a_run_through_a_crash(tmp_path: Path, node: str) -> None:
    """No event is lost or duplicated, RUN_ERROR ends the interrupted run, and the SDK reconnects automatically."""
    async with (
        running(tmp_path) as gateway,
        node_person(node, gateway.ws, gateway.token("ada"), "count to 500") as ada,
    ):
        await ada.until("event", 20)
        gateway.kill()
        await gateway.start()
        events = await ada.until_terminal()
        assert events[-1]["type"] == "RUN_ERROR"
        assert events[-1]["code"] == "owner_lost"
        prove(events)
        offsets = [line["offset"] for line in ada.lines if line["kind"] == "event"]
        assert offsets == list(range(1, len(offsets) + 1))
        assert len(await ada.until("connected", 2)) == 2
        assert (await ada.until("subscribed", 2))[-1]["recovered"] is True


async def test_a_whole_run_and_its_notices(tmp_path: Path, node: str) -> None:
    """Every event arrives in order, and the user's own channel announces the run."""
    async with (
        running(tmp_path) as gateway,
        node_person(node, gateway.ws, gateway.token("ada"), "echo hello") as ada,
    ):
        events = await ada.until_terminal()
        assert events[-1]["type"] == "RUN_FINISHED"
        prove(events)
        await ada.until("notice", 2)
        assert "narthex.run_began" in {line["data"]["name"] for line in ada.lines if line["kind"] == "notice"}


async def test_a_component_that_mounts_twice_is_subscribed(tmp_path: Path, node: str) -> None:
    """React's StrictMode (subscribe, unsubscribe, subscribe in one tick) ends with a working subscription and
    presence.
    """
    mounts = 200
    env = {"NARTHEX_COMMANDS_PER_S": "5000", "NARTHEX_COMMANDS_BURST": "5000"}
    async with (
        running(tmp_path, env) as gateway,
        node_person(
            node, gateway.ws, gateway.token("ada", plan="enterprise"), str(mounts), script=STRICT_MODE
        ) as ada,
    ):
        ended = await ada.until("mounted", mounts)
    good = {"kind": "mounted", "state": "subscribed", "shown": True, "clients": 1}
    assert [line for line in ada.lines if line != good] == []
    assert len(ended) == mounts
