"""Which of several real processes begins a run: one that has its agent, serves users, and does not drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.fleet import Fleet, engines, shared
from tests.acceptance.sdk import person, prove, text_of
from tests.acceptance.worker_agents import WORDS
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

MODULE: Final = "tests.acceptance.worker_agents"
ENV: Final = {
    "NARTHEX_AGENT": f"{MODULE}:once,{MODULE}:revision",
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "NARTHEX_DRAIN_GRACE_S": "5",
}


@pytest.fixture
async def gateways(tmp_path: Path) -> AsyncIterator[tuple[Fleet, str]]:
    """An empty fleet, and the URL of its store."""
    async with engines() as (nats, _, store_url):
        built = Fleet(tmp_path, shared(nats.url, store_url, **ENV))
        try:
            yield built, store_url
        finally:
            await asyncio.to_thread(built.end)


async def test_a_gateway_leaves_runs_of_agents_that_it_does_not_have(gateways: tuple[Fleet, str]) -> None:
    """The run waits, and is not ended, until a worker comes that has the agent."""
    fleet, _ = gateways
    accepts = await fleet.gateway("--no-agents")
    other = await fleet.gateway(NARTHEX_AGENT=f"{MODULE}:again")
    token = await accepts.login("ada@example.com")
    async with person(accepts.ws, token) as ada, person(other.ws, token):  # so that both serve users
        thread_id = (await ada.rpc("thread.create"))["thread_id"]
        await ada.follow(thread_id)
        run = await ada.start("go", thread_id, agent="revision")
        await asyncio.sleep(within(2.5))  # `other` has looked for runs at least twice
        assert (await ada.rpc("run.get", run_id=run["run_id"]))["state"] == "queued"
        await fleet.worker(TEST_REVISION="the worker's")
        assert (await ada.finished(thread_id, run["run_id"]))["type"] == "RUN_FINISHED"
        assert text_of(ada.run_events(thread_id, run["run_id"])) == "the worker's"


async def test_a_revision_without_traffic_runs_no_users_messages(gateways: tuple[Fleet, str]) -> None:
    """Messages behind a run that is under way go on where the users are; a run that the candidate accepted is the
    candidate's.
    """
    fleet, _ = gateways
    old = await fleet.gateway(TEST_REVISION="old")
    token = await old.login("ada@example.com")
    async with person(old.ws, token) as ada:
        thread_id = (await ada.rpc("thread.create"))["thread_id"]
        await ada.follow(thread_id)
        candidate = await fleet.gateway(TEST_REVISION="new")
        runs = [await ada.start(f"{number}", thread_id, agent="revision") for number in range(12)]
        tried = await candidate.post(
            "/agui/revision",
            json={
                "threadId": "tried", "runId": "tried", "tools": [], "context": [], "state": {}, "forwardedProps": {},
                "messages": [{"id": "m", "role": "user", "content": "try"}],
            },
            headers={"Authorization": f"Bearer {token}", "Accept": "text/event-stream"},
            timeout=within(30),
        )  # fmt: skip
        assert '"delta":"new"' in tried.text, tried.text
        for run in runs:
            await ada.finished(thread_id, run["run_id"])
        said = [text_of(ada.run_events(thread_id, run["run_id"])) for run in runs]
        assert said == ["old"] * 12


async def test_a_draining_gateway_begins_no_run(gateways: tuple[Fleet, str]) -> None:
    """A run that it has claimed, and cannot begin before SIGTERM because the store is slow, runs elsewhere, whole."""
    import asyncpg

    fleet, store_url = gateways
    first, second = await fleet.gateway(), await fleet.gateway()
    token = await first.login("ada@example.com")
    async with person(second.ws, token) as ada:
        async with person(first.ws, token) as here:
            thread_id = (await here.rpc("thread.create"))["thread_id"]
            await ada.follow(thread_id)
            blocking = await asyncpg.connect(store_url)
            try:
                slow = blocking.transaction()
                await slow.start()
                await blocking.execute("LOCK TABLE agent_states IN ACCESS EXCLUSIVE MODE")
                run = await here.start("go", thread_id, agent="once")
                async with asyncio.timeout(within(20)):
                    while (await here.rpc("run.get", run_id=run["run_id"]))["state"] != "running":  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert first.process is not None
                first.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(within(20)):
                    while (await first.get("/readyz")).status_code == 200:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await slow.rollback()
            finally:
                await blocking.close()
        terminal = await ada.finished(thread_id, run["run_id"], within(60))
        events = ada.run_events(thread_id, run["run_id"])
        prove(events)
        assert (terminal["type"], terminal.get("code")) == ("RUN_FINISHED", None)
        assert text_of(events) == "".join(f"{number} " for number in range(WORDS))
        assert (await ada.rpc("run.get", run_id=run["run_id"]))["attempt"] == 1
