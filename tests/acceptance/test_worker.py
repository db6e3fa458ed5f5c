"""`narthex worker`: agents run apart from the gateways, on NATS and PostgreSQL, and either survives the other's
death.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.fleet import Fleet, fleet
from tests.acceptance.program import Program
from tests.acceptance.sdk import Person, person, prove, text_of
from tests.acceptance.worker_agents import WORDS

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

MODULE: Final = "tests.acceptance.worker_agents"
ENV: Final = {
    "NARTHEX_AGENT": f"{MODULE}:once,{MODULE}:again",
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "NARTHEX_DRAIN_GRACE_S": "4",
}
TEXT: Final = "".join(f"{number} " for number in range(WORDS))


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, **ENV) as built:
        yield built


async def agents_health(gateway: Program) -> tuple[str, str]:
    """Status and detail of the check, once it is fresh."""
    check = (await gateway.get("/ws/health")).json()["checks"]["agents"]
    return check["status"], check["detail"]


async def until_health(gateway: Program, status: str) -> str:
    """Wait for this status of the agents; returns its detail."""
    async with asyncio.timeout(20):
        while True:
            found, detail = await agents_health(gateway)
            if found == status:
                return detail
            await asyncio.sleep(0.2)


async def until_metric(program: Program, line: str) -> None:
    """Wait for this line of `/metrics`: a run is counted after its last event was sent."""
    async with asyncio.timeout(20):
        while line not in (await program.get("/metrics")).text:  # noqa: ASYNC110 - metrics have no events
            await asyncio.sleep(0.1)


async def begin(somebody: Person, agent: str) -> tuple[str, str]:
    """Start a run in a new thread and wait until it is in progress; returns thread and run."""
    thread_id = (await somebody.rpc("thread.create"))["thread_id"]
    await somebody.follow(thread_id)
    run = await somebody.start("go", thread_id, agent=agent)
    await somebody.until(lambda: len(somebody.run_events(thread_id, run["run_id"])) > 5, "it under way")
    return thread_id, run["run_id"]


async def test_gateways_accept_and_workers_run(workers: Fleet) -> None:
    """Without a worker runs stay queued and health gives the reason; the first worker runs them, then drains in
    order.
    """
    gateway = await workers.gateway("--no-agents")
    assert "once" in await until_health(gateway, "degraded")
    async with person(gateway.ws, await gateway.login("ada@example.com")) as ada:
        thread_id = (await ada.rpc("thread.create"))["thread_id"]
        await ada.follow(thread_id)
        run = await ada.start("go", thread_id)
        assert (await ada.rpc("run.get", run_id=run["run_id"]))["state"] == "queued"
        worker = await workers.worker()
        assert (await worker.get("/livez")).status_code == 200
        terminal = await ada.finished(thread_id, run["run_id"])
        assert terminal["type"] == "RUN_FINISHED"
        assert text_of(ada.run_events(thread_id, run["run_id"])) == TEXT
        assert await until_health(gateway, "healthy") == "1 workers"
        await until_metric(worker, 'narthex_runs_total{error="",state="finished"} 1.0')
        scraped = (await worker.get("/metrics")).text
        for name in (
            "runs",
            "agents_waiting",
            "agent_threads",
            "broker_queue",
            "store_queue",
            "control_unsent",
        ):
            assert f'narthex_buffer_limit{{buffer="{name}"}} ' in scraped
        for name in ("lifecycle_state 1.0", 'drain_remaining{of="runs"} 0.0', "loop_lag_seconds_count "):
            assert f"narthex_{name}" in scraped
        cancelled = await ada.start("go", thread_id)
        await ada.until(lambda: len(ada.run_events(thread_id, cancelled["run_id"])) > 5, "the second run")
        assert (await ada.rpc("run.cancel", run_id=cancelled["run_id"]))["state"] == "running"
        await ada.finished(thread_id, cancelled["run_id"])
        drained = await ada.start("go", thread_id)
        await ada.until(lambda: len(ada.run_events(thread_id, drained["run_id"])) > 5, "the third run")
        assert await asyncio.to_thread(worker.terminate) == 0, worker.log[-3000:]
        ended = await ada.finished(thread_id, drained["run_id"])
        assert ended["type"] == "RUN_FINISHED" or ended["code"] == "draining"
    await until_health(gateway, "degraded")


async def test_a_killed_worker_costs_the_attempt_and_no_more(workers: Fleet) -> None:
    """`kill -9`: a restartable run starts again on the other worker and completes; another run ends."""
    gateway, first, second = await asyncio.gather(
        workers.gateway("--no-agents"), workers.worker(), workers.worker()
    )
    async with person(gateway.ws, await gateway.login("ada@example.com")) as ada:
        runs = [await begin(ada, agent) for agent in ("again", "once")]
        owners = [one for one in (first, second) if (await one.get("/readyz")).json()["runs"]]
        assert owners
        for worker in owners:
            worker.kill()
        await asyncio.gather(*(worker.start() for worker in owners))
        for (thread_id, run_id), agent in zip(runs, ("again", "once"), strict=True):
            terminal = await ada.finished(thread_id, run_id, 60)
            events = ada.run_events(thread_id, run_id)
            prove(events)
            if agent == "once":
                assert terminal["type"] == "RUN_ERROR"
                assert terminal["code"] == "owner_lost"
            else:
                assert terminal["type"] == "RUN_FINISHED"
                restarts = [at for at, event in enumerate(events) if event.get("name") == "narthex.restarted"]
                assert restarts
                assert text_of(events[restarts[-1] :]) == TEXT
        again = await begin(ada, "again")
        await ada.finished(*again)


async def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    """A worker on SQLite, and a gateway that leaves runs to workers, exit 78 and name the settings to change."""
    program = Program(tmp_path, {})
    for words in (("worker",), ("serve", "--no-agents")):
        done = await asyncio.to_thread(program.run, *words)
        assert done.returncode == 78
        assert "NARTHEX_STORE_URL" in done.stderr
