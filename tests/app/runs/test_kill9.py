"""`kill -9` of a real process at random points: no acknowledged event is lost, every run ends once."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from pathlib import Path

from narthex.adapters.brokers.sqlite.broker import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from tests.app.runs.rig import Rig, text_of
from tests.app.runs.victim_agents import AGENTS, TEXT, VICTIM_LIMITS, Deaf
from tests.timing import within

KILLS = 20
ROOT = Path(__file__).parents[3]


async def killed(directory: Path, number: int, alive_s: float) -> list[tuple[str, int]]:
    """Start the process, kill it after this time; its acknowledged events are durable."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.app.runs.victim",
        str(directory),
        str(number),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(within(20)):
            while (await process.stdout.readline()) != b"ready\n":
                pass
        reading = asyncio.get_running_loop().create_task(process.stdout.read())
        await asyncio.sleep(alive_s)  # the point of the kill, not a wait for an event
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    lines = (await reading).decode().splitlines()
    told = [line.split() for line in lines if " " in line and "/thread:" in line]
    return [(channel, int(offset)) for channel, offset in told if offset.isdigit()]


async def test_killed_at_twenty_random_points(tmp_path: Path) -> None:
    """Every acknowledged event is in the log, and every run has exactly one end within seconds."""
    dice = random.Random(5)
    told: list[tuple[str, int]] = []
    for number in range(KILLS):
        told += await killed(tmp_path, number, dice.uniform(0.0, 0.6))
    broker, store = SqliteBroker(tmp_path / "log.db"), SqliteStore(tmp_path / "store.db")
    await broker.start(Deaf(), "after")
    await store.start()
    rig = Rig(broker=broker, store=store)
    began = time.perf_counter()
    try:
        await rig.node(*AGENTS, name="after", limits=VICTIM_LIMITS)
        ended = {"once": 0, "again": 0}
        offsets: dict[str, set[int]] = {}
        for channel in {channel for channel, _ in told}:
            page = await broker.history(channel)
            offsets[channel] = {entry.offset for entry in page.publications}
        for number in range(KILLS):
            for agent in AGENTS:
                run = await store.runs.by_client_message("acme", "alice", f"{number}-{agent.name}")
                if run is None:
                    continue  # killed before the run was accepted
                row, events = await rig.ended(run)
                assert row.text == text_of(events)
                assert (row.state, row.error) in {("finished", ""), ("failed", "owner_lost")}
                if agent.restartable or row.state == "finished":
                    assert (row.state, row.text) == ("finished", TEXT)
                ended[agent.name] += 1
        took_s = time.perf_counter() - began
    finally:
        await rig.close()
        await store.stop()
        await broker.stop()
    assert all(offset in offsets[channel] for channel, offset in told)
    assert took_s < within(15)
    assert min(ended.values()) >= KILLS // 2
    print(
        f"{KILLS} kills, {sum(ended.values())} runs, {len(told)} acknowledged events, ended in {took_s:.1f} s"
    )
