"""Item 46: a connection that has ended is freed at once, not by the next full collection.

Thousands of dead connections that waited for the collector made a gateway's memory grow under churn.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from narthex.adapters.edge.http import HttpConnection
from narthex.adapters.edge.websocket import WebSocket
from narthex.app.connection import Connection
from narthex.app.runs.execution import Execution
from narthex.app.runs.intake import Intake
from narthex.app.runs.journal import Journal
from narthex.app.runs.session import AgentSession
from narthex.ports.agents import Agent, RunInput
from narthex.testing import gateway
from tests.app.test_commands import client
from tests.timing import within

ROUNDS = 20


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the cyclic collector: objects are freed only by their references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type) -> int:
    """Live objects of a class."""
    return sum(type(one) is kind for one in gc.get_objects())


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message."""
    yield run.messages[-1].content


@pytest.mark.usefixtures("no_collector")
async def test_ended_runs_need_no_collector(tmp_path: Path) -> None:
    """The run's objects, including its text, are freed with the run."""
    kinds = (Journal, Execution, AgentSession, Intake)
    async with gateway(tmp_path, agents=[Agent(name="words", function=words)]) as running:
        one = await client(running, "ada", plan="enterprise")
        for number in range(ROUNDS):
            run = await one.rpc("run.start", text="hello", client_message_id=f"m{number}")
            async with asyncio.timeout(within(10)):
                while (await one.rpc("run.get", run_id=run["run_id"]))["state"] != "finished":  # noqa: ASYNC110 - asks
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(within(10)):
            while any(alive(kind) > 2 for kind in kinds):  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0.1)


@pytest.mark.usefixtures("no_collector")
async def test_dead_connections_need_no_collector(tmp_path: Path) -> None:
    """WebSockets that closed or broke, and HTTP connections; the gateway's own probe may remain."""
    async with gateway(tmp_path, ping_interval_s=1.5, pong_timeout_s=1.0) as running:
        before = {kind: alive(kind) for kind in (Connection, WebSocket, HttpConnection)}
        for number in range(ROUNDS):
            one = await client(running, f"u{number}")
            thread = (await one.rpc("thread.create"))["thread_id"]
            await one.call("subscribe", channel=f"thread:{thread}")
            if number % 2:
                await one.socket.close()
            else:
                one.socket.transport.abort()
            async with httpx2.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{running.http}/ws/config")).status_code == 200
        async with asyncio.timeout(within(15)):
            while any(alive(kind) > before[kind] + 3 for kind in before):  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0.2)
