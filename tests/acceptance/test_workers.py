"""`narthex serve --workers 2`: one port, any worker serves any socket, a dead worker is replaced, one drain for all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.program import Program, running
from tests.acceptance.sdk import Person, person
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Program]:
    async with running(tmp_path, {}, ("--workers", "2")) as program:
        yield program


async def on_both(program: Program, token: str) -> dict[str, Person]:
    """A client on each of the two workers, by node id: the kernel spreads connections, so several are tried."""
    found: dict[str, Person] = {}
    for _ in range(60):
        somebody = Person(program.ws, token)
        await somebody.client.connect()
        await somebody.client.ready(20)
        node = (await somebody.rpc("whoami"))["node"]
        if node in found:
            await somebody.client.disconnect()
        else:
            found[node] = somebody
        if len(found) == 2:
            return found
    raise AssertionError(f"only {list(found)} answered")


def workers_of(program: Program) -> list[psutil.Process]:
    """The serving child processes; a killed one may not be buried yet."""
    assert program.process is not None
    found = []
    for child in psutil.Process(program.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


async def test_a_run_reaches_devices_on_every_worker(pair: Program) -> None:
    """Started on one worker and complete on both; typing and presence of another user cross over as well."""
    people = await on_both(pair, pair.token("ada"))
    one, two = people.values()
    thread_id = (await one.rpc("thread.create", title="Two workers"))["thread_id"]
    await two.noticed("narthex.thread_created")
    await one.follow(thread_id)
    await two.follow(thread_id)
    run = await two.start("count to 80", thread_id)
    for device in (one, two):
        terminal = await device.finished(thread_id, run["run_id"])
        assert terminal["type"] == "RUN_FINISHED"
    assert one.run_events(thread_id, run["run_id"]) == two.run_events(thread_id, run["run_id"])
    presence = await one.client.get_subscription(f"thread:{thread_id}").presence()
    assert len(presence.clients) == 2
    metrics = (await pair.get("/metrics")).text
    assert 'narthex_connections_active{class="user"} 2.0' in metrics
    for device in people.values():
        await device.client.disconnect()


async def test_a_killed_worker_is_replaced_and_its_run_is_ended(pair: Program) -> None:
    """`kill -9` of a worker in mid-run: its clients reconnect automatically, no event is lost, and the run ends."""
    before = {worker.pid for worker in workers_of(pair)}
    assert len(before) == 2
    async with person(pair.ws, pair.token("ada")) as ada:
        thread_id = (await ada.rpc("thread.create"))["thread_id"]
        await ada.follow(thread_id)
        run = await ada.start("count to 800", thread_id)
        await ada.until(lambda: len(ada.run_events(thread_id, run["run_id"])) > 10, "the run under way")
        for worker in workers_of(pair):
            worker.kill()
        terminal = await ada.finished(thread_id, run["run_id"], 60)
        assert terminal["type"] == "RUN_ERROR"
        assert terminal["code"] == "owner_lost"
        async with asyncio.timeout(30):
            while len(workers_of(pair)) < 2:  # noqa: ASYNC110 - processes have no event here
                await asyncio.sleep(0.1)
        assert not before & {worker.pid for worker in workers_of(pair)}
        again = await ada.start("echo still here", thread_id)
        await ada.finished(thread_id, again["run_id"])


@pytest.mark.soak
async def test_a_worker_that_stands_still_is_replaced(pair: Program) -> None:
    """SIGSTOP of one of two workers: its sockets would wait for ever; after 30 s another process replaces it."""
    hung, other = workers_of(pair)
    hung.suspend()
    async with asyncio.timeout(90):
        while hung.is_running() or len(workers_of(pair)) < 2:  # noqa: ASYNC110 - processes have no event here
            await asyncio.sleep(0.2)
    assert other.is_running()
    assert "a worker hangs" in pair.log
    people = await on_both(pair, pair.token("ada"))
    for device in people.values():
        await device.client.disconnect()


async def test_one_sigterm_drains_all_and_leaves_nobody(pair: Program) -> None:
    """Exit code 0; workers and the local NATS have ended; the log shows no password."""
    assert pair.process is not None
    family = psutil.Process(pair.process.pid).children(recursive=True)
    assert len(family) >= 3
    assert await asyncio.to_thread(pair.terminate) == 0
    _, left = await asyncio.to_thread(
        psutil.wait_procs, family, 5
    )  # the last worker notices its parent's end
    assert left == []
    assert "nats://narthex:" not in pair.log


@pytest.mark.parametrize("words", [(), ("--node", "*")], ids=["the one that answers", "all"])
async def test_a_drain_command_stops_all_and_nothing_is_started_again(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """`narthex drain` ends the whole `serve --workers` as SIGTERM does: exit code 0, and no worker is replaced."""
    key = "an-admin-key-of-decent-length-0123456789"
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": key}, ("--workers", "2")) as program:
        assert program.process is not None
        done = await asyncio.to_thread(
            program.run, "drain", program.http, *words, env={"NARTHEX_ADMIN_KEY": key}
        )
        assert done.returncode == 0, done.stderr
        assert await asyncio.to_thread(program.process.wait, within(20)) == 0
        assert "a worker died" not in program.log
