"""An agent that begins anew: what its void attempt has shown is dropped by stock clients too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.ports.agents import Agent, RunInput
from narthex.testing import gateway
from tests.frameworks.client import Device
from tests.timing import within
from tests.web.agui.client import Told, bearer, connecting, proven, said, stream

pytestmark = pytest.mark.timeout(within(60))


async def starter(run: RunInput) -> AsyncIterator[Any]:
    """Shows something and waits for ever; in its second attempt it ends."""
    yield {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/list/-", "value": run.attempt}]}
    yield f"attempt {run.attempt}"
    if run.attempt == 1 and run.messages[-1].content == "begin":
        await asyncio.Event().wait()


async def thread(http: httpx2.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    """As it is stored."""
    found: dict[str, Any] = (await http.get("/agui/starter/threads/t-1", headers=headers)).json()
    return found


AGENT = Agent(name="starter", function=starter, restartable=True)


@pytest.mark.parametrize("way", ["run", "connect"])
async def test_a_stock_client_has_what_the_thread_has(tmp_path: Path, way: str) -> None:
    """The gateway goes in mid-run, and the next one begins the agent anew: no text and no state of the first attempt is
    left, and the run is proved.
    """
    device, told = Device("d"), Told()
    device.state = {"list": ["a"]}
    async with (
        gateway(tmp_path, agents=[AGENT]) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as http,
    ):
        mine = bearer(running)
        body = said("before", state={"list": ["a"]})
        async with http.stream("POST", "/agui/starter", json=body, headers=mine) as response:
            device.hears((await stream(response, Told())).events)
        body = said("begin", message="m-2")
        async with http.stream("POST", "/agui/starter", json=body, headers=mine) as response:
            await stream(response, told, until=4)
    async with (
        gateway(tmp_path, agents=[AGENT]) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as http,
    ):
        mine = bearer(running)
        if way == "run":
            path, sent, headers = "/agui/starter", body, mine | {"Last-Event-ID": told.ids[-1]}
        else:
            path, sent, headers, told = "/agui/starter/connect", connecting(), mine, Told()
        async with http.stream("POST", path, json=sent, headers=headers) as response:
            await stream(response, told)
        device.hears(told.events)
        async with asyncio.timeout(within(20)):  # the end is seen before it is stored
            while len((stored := await thread(http, mine))["endedRuns"]) < 2:  # noqa: ASYNC110 - the store has no event for it
                await asyncio.sleep(0.02)
    assert [one["content"] for one in stored["messages"]] == ["before", "attempt 1", "begin", "attempt 2"]
    assert [one["content"] for one in device.messages] == ["before", "attempt 1", "begin", "attempt 2"]
    assert device.state == stored["state"] == {"list": ["a", 1, 2]}
    between = [event for event in told.events if "between" in event.get("metadata", {}).get("narthex", {})]
    if way == "connect" and not between:  # it connected after the agent began anew: nothing was void any more
        return
    assert [event["type"] for event in between] == ["MESSAGES_SNAPSHOT"]
    own = [event for event in told.events if event not in between]
    starts = [at for at, event in enumerate(own) if event["type"] == "RUN_STARTED"]
    assert proven(own[starts[-1] :])
