"""AG-UI's own JavaScript client, unmodified, against the real program."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import running
from tests.acceptance.scripts import node_with, script
from tests.timing import within
from tests.web.agui.client import proven

pytestmark = pytest.mark.acceptance
SCRIPT = Path(__file__).with_name("agui.mjs")


class Client:
    """The script, driven one run at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, **asked: Any) -> dict[str, Any]:
        """One `runAgent`; returns its events and the client's messages afterwards."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(within(30)):
            raw = await self._process.stdout.readline()
        assert raw, "the script ended"
        found: dict[str, Any] = json.loads(raw)
        return found


@pytest.fixture
def node() -> str:
    return node_with("@ag-ui/client")


@contextlib.asynccontextmanager
async def client(node: str, *arguments: str) -> AsyncIterator[Client]:
    async with script(node, SCRIPT, *arguments, stderr=asyncio.subprocess.PIPE) as process:
        yield Client(process)
    assert process.stderr is not None
    assert await process.stderr.read() == b"", "the client warned of something"


async def test_a_conversation(tmp_path: Path, node: str) -> None:
    """Runs with a tool and text, an approval answered with `resume`, and a run that the client aborts."""
    async with running(tmp_path) as gateway:
        url = f"{gateway.http}/agui/concierge"
        async with client(node, url, gateway.token("ada"), "my-thread") as ada:
            echoed = await ada.run(text="echo hello", id="m-1")
            assert "error" not in echoed, echoed["error"]
            assert proven(echoed["events"])
            assert echoed["messages"][0]["role"] == "user"
            assert "hello" in echoed["messages"][-1]["content"]

            asked = await ada.run(text="ask me for approval", id="m-2")
            assert "error" not in asked, asked["error"]
            [interrupt] = asked["interrupts"]
            answer = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
            done = await ada.run(resume=[answer])
            assert "error" not in done, done["error"]
            assert proven(done["events"])
            assert done["events"][0]["parentRunId"] == asked["events"][0]["runId"]
            assert done["interrupts"] == []

            broken = await ada.run(text="count to 40", id="m-3", **{"break": 6})
            assert len(broken["events"]) < 40
            run_id = broken["events"][0]["runId"]
            headers = {"Authorization": f"Bearer {gateway.token('ada')}"}
            rest = await gateway.get(f"/agui/concierge/runs/{run_id}", headers=headers, timeout=within(30))
            events = [json.loads(line[6:]) for line in rest.text.split("\n") if line.startswith("data: ")]
            assert proven(events)
            assert events[-1]["type"] == "RUN_FINISHED"
