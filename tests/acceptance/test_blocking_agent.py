"""Item 20: an agent that blocks the loop is named while it blocks; an agent without `async` does not block the loop."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Program, running
from tests.acceptance.sdk import Person, person
from tests.campaigns.follower import SERVED, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance

AGENTS = '''
import time

async def careless(run):
    yield "a "
    time.sleep(float(run.messages[-1].content))   # the mistake
    yield "b"

def plain(run):
    """Without async: it may wait as it likes."""
    yield "a "
    time.sleep(float(run.messages[-1].content))
    answer = run.ask({"type": "boolean"}, "Go on?")
    yield f"answer {answer} "
    yield {"type": "CUSTOM", "name": "mine", "value": 1}

def answering(run):
    return f"you said {run.messages[-1].content}"

def failing(run):
    yield "so far "
    raise ValueError("a bug of the agent's")

def endless(run):
    while True:
        yield "and on "
        time.sleep(0.02)
'''


def records(program: Program, event: str) -> list[dict[str, Any]]:
    """The log records of an event."""
    lines = (line for line in program.log.splitlines() if f'"event":"{event}"' in line)
    return [json.loads(line) for line in lines]


async def until(condition: Any, seconds: float = 15) -> Any:
    """Wait for a condition that only polling shows."""
    async with asyncio.timeout(within(seconds)):
        while not (found := condition()):  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.05)
    return found


async def over(who: Person, run_id: str) -> dict[str, Any]:
    """Wait until a run has ended."""
    async with asyncio.timeout(within(15)):
        while True:
            found = dict(await who.rpc("run.get", run_id=run_id))
            if found["state"] not in ("queued", "running"):
                return found
            await asyncio.sleep(0.02)


async def test_a_blocking_agent_is_named_while_it_blocks(tmp_path: Path) -> None:
    """The log names agent, run, line and remedy while the loop is blocked, then records its release; a metric counts
    it.
    """
    (tmp_path / "mine.py").write_text(AGENTS)
    async with running(tmp_path, SERVED, ("--agent", "mine:careless")) as program:
        run = await start_run(program.port, token("ada"), "4", "m-1")
        said = (await until(lambda: records(program, "event loop held")))[0]
        assert records(program, "event loop free again") == []
        assert (said["agent"], said["run_id"]) == ("careless", run["run_id"])
        assert said["holder"] == "agent careless"
        assert f"{tmp_path / 'mine.py'}:6 careless" in said["where"]
        assert "time.sleep(float(" in said["exception"]
        assert "def" in said["remedy"]
        assert "narthex worker" in said["remedy"]
        await until(lambda: records(program, "event loop free again"))
        metrics = (await program.get("/metrics")).text
        assert 'narthex_loop_held_total{by="agent"} 1.0' in metrics


async def test_an_agent_without_async_blocks_nobody(tmp_path: Path) -> None:
    """It sleeps, asks and answers in its own thread; `/livez` answers meanwhile, and the loop is never blocked."""
    (tmp_path / "mine.py").write_text(AGENTS)
    async with (
        running(tmp_path, SERVED, ("--agent", "mine:plain")) as program,
        person(program.ws, token("ada")) as ada,
    ):
        thread = (await ada.rpc("thread.create"))["thread_id"]
        run = await ada.rpc("run.start", text="2", thread_id=thread, client_message_id="m-1")
        slowest = 0.0
        async with asyncio.timeout(within(20)):
            while (await ada.rpc("run.get", run_id=run["run_id"]))["state"] in ("queued", "running"):
                began = time.monotonic()
                assert (await program.get("/livez")).status_code == 200
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.05)
        assert slowest < within(1)
        view = await ada.rpc("thread.get", thread_id=thread)
        question = view["interrupts"][0]
        went_on = await ada.rpc(
            "run.resume", run_id=run["run_id"], interrupt_id=question["interrupt_id"], payload=True
        )
        found = await over(ada, went_on["run_id"])
        assert (found["state"], found["text"]) == ("finished", "answer True ")
        assert records(program, "event loop held") == []


async def test_the_ends_of_agents_without_async(tmp_path: Path) -> None:
    """An agent without `async` may return a text, raise an exception, or be cancelled."""
    (tmp_path / "mine.py").write_text(AGENTS)
    names = ("answering", "failing", "endless")
    flags = tuple(word for name in names for word in ("--agent", f"mine:{name}"))
    async with running(tmp_path, SERVED, flags) as program, person(program.ws, token("ada")) as ada:

        async def ended(agent: str, text: str, *, cancel: bool = False) -> dict[str, Any]:
            run = await ada.rpc("run.start", text=text, agent=agent, client_message_id=agent)
            if cancel:
                async with asyncio.timeout(within(10)):
                    while (await ada.rpc("run.get", run_id=run["run_id"]))["state"] != "running":  # noqa: ASYNC110 - asks
                        await asyncio.sleep(0.02)
                await ada.rpc("run.cancel", run_id=run["run_id"])
            return await over(ada, run["run_id"])

        found = await ended("answering", "hello")
        assert (found["state"], found["text"]) == ("finished", "you said hello")
        found = await ended("failing", "hello")
        assert (found["state"], found["text"], found["error"]) == ("failed", "so far ", "agent_failed")
        found = await ended("endless", "hello", cancel=True)
        assert found["state"] == "cancelled"
        assert "ValueError" in program.log
