"""Item 46: memory under churn reaches a plateau. Clients connect, send a message in their thread and leave, for an
hour.

The growth came from SQLite's page caches (16 MiB for each of six connections, filled at the pace of new pages) and dead
connections that waited for a full collection. `NARTHEX_TEST_CHURN_S` is the soak's length, an hour by default.
All threads share one heap of the C library since holes in the heaps of SQLite's threads grew too. Take the figure on a
quiet machine: a pause makes a crowd of what waits, and each larger crowd leaves its high-water mark.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from narthex.testing import gateway
from tests.acceptance.program import running
from tests.campaigns.follower import SERVED, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance

MIB = 1 << 20
SOAK_S = float(os.environ.get("NARTHEX_TEST_CHURN_S", "3600"))


class Sample(NamedTuple):
    """The program's memory at one time."""

    at_s: float
    rss: int
    talks: int


class Churn(NamedTuple):
    """`rate` clients a second, of `users` users with one thread each, for this many seconds."""

    seconds: float
    rate: float
    users: int
    every_s: float


async def churn(directory: Path, load: Churn) -> list[Sample]:
    """Each client dials, connects, has one run answered, and aborts or closes; memory is sampled meanwhile."""
    samples: list[Sample] = []
    threads: dict[int, str] = {}
    talks = failed = 0
    room = asyncio.Semaphore(64)

    async def talk(number: int) -> None:
        nonlocal talks, failed
        user = number % load.users
        more = {"thread_id": threads[user]} if user in threads else {}
        try:
            async with room, asyncio.timeout(within(20)):
                run = await start_run(
                    program.port, token(f"user-{user}"), f"hello {number} " * 8, f"m-{number}", **more
                )
        except (AssertionError, OSError, TimeoutError, asyncio.IncompleteReadError):
            failed += 1  # the disk may stall for seconds on a shared machine; this test checks memory
            return
        threads[user] = run["thread_id"]
        talks += 1

    async with running(directory, SERVED, ("--agent", "tests.campaigns.agents:parrot")) as program:
        assert program.process is not None
        process = psutil.Process(program.process.pid)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            number = 0
            while (at_s := time.monotonic() - began) < load.seconds:
                if not samples or at_s - samples[-1].at_s >= load.every_s:
                    samples.append(Sample(at_s, process.memory_info().rss, talks))
                    print(f"{at_s:6.0f} s  {samples[-1].rss / MIB:6.1f} MiB  {talks} talks", flush=True)
                group.create_task(talk(number))
                number += 1
                await asyncio.sleep(max(0.0, number / load.rate - (time.monotonic() - began)))
        samples.append(Sample(time.monotonic() - began, process.memory_info().rss, talks))
        assert "Traceback" not in program.log
        assert failed < 0.02 * talks
    return samples


def slope(samples: list[Sample]) -> float:
    """Bytes per minute, by least squares."""
    times = [one.at_s / 60 for one in samples]
    middle = sum(times) / len(times)
    mean = sum(one.rss for one in samples) / len(samples)
    above = sum((at - middle) * (one.rss - mean) for at, one in zip(times, samples, strict=True))
    return above / sum((at - middle) ** 2 for at in times)


async def test_memory_after_seconds_of_churn(tmp_path: Path) -> None:
    """The short variant: the second half grows by less than one of the old caches."""
    samples = await churn(tmp_path, Churn(12.0, 30.0, 30, 1.0))
    half = samples[len(samples) // 2 :]
    print(f"{samples[-1].talks} talks, {(half[-1].rss - half[0].rss) / MIB:.1f} MiB in the second half")
    assert samples[-1].talks > 100
    assert half[-1].rss - half[0].rss < 14 * MIB


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
async def test_memory_after_an_hour_of_churn(tmp_path: Path) -> None:
    """A plateau: in the second half memory grows by less than 0.2 MiB a minute."""
    samples = await churn(tmp_path, Churn(SOAK_S, 20.0, 200, 15.0))
    half = [one for one in samples if one.at_s > SOAK_S / 2]
    rise = slope(half)
    print(
        f"plateau: {samples[0].rss / MIB:.1f} MiB at the start, {half[0].rss / MIB:.1f} at half time, "
        f"{half[-1].rss / MIB:.1f} at the end, {rise / MIB:+.3f} MiB a minute in the second half"
    )
    assert rise < 0.2 * MIB


async def test_the_page_caches_of_a_gateway_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections together use at most 24 MiB, whatever grows."""
    kib: list[int] = []
    opened = sqlite3.connect

    class Counted(sqlite3.Connection):
        def close(self) -> None:
            kib.append(-self.execute("PRAGMA cache_size").fetchone()[0])
            super().close()

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return opened(*arguments, factory=Counted, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    async with gateway(tmp_path):
        pass
    assert len(kib) == 7  # the last is the status page's
    assert sum(kib) <= 24 * 1024
