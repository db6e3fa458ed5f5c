"""What it costs a node to compare 10,000 followed channels with the log, by engine: at most 2 % of a core, on demand.

Measured is CPU time, of this process and of the server, so that other work on the machine matters little.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from narthex.adapters.brokers.nats import NatsBroker
from narthex.adapters.brokers.redis import RedisBroker
from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.app.staleness import COMPARE_EVERY_S
from narthex.ports.broker import Broker, Position
from tests.contracts.recorder import Recorder
from tests.services import NatsServer, ValkeyServer, data_directory

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

CHANNELS: Final = 10_000
AT_ONCE: Final = 250
COMPARISONS: Final = 10
SHARE: Final = 0.02


@contextlib.asynccontextmanager
async def broker_of(
    engine: str, directory: Path
) -> AsyncIterator[tuple[Broker, NatsServer | ValkeyServer | None]]:
    """A started broker, and its server."""
    with data_directory("comparison") as data:
        server: NatsServer | ValkeyServer | None = None
        made: Broker
        if engine == "sqlite":
            made = SqliteBroker(directory / "log.db")
        elif engine == "nats":
            server = NatsServer(data / "js")
            made = NatsBroker(server.url)
        else:
            server = ValkeyServer(data / "data")
            made = RedisBroker(server.url)
        if server is not None:
            await asyncio.to_thread(server.start)
        try:
            await made.start(Recorder(), "n1")
            try:
                yield made, server
            finally:
                await made.stop()
        finally:
            if server is not None:
                await asyncio.to_thread(server.kill)


async def follow(broker: Broker) -> dict[str, Position]:
    """Publish once to every channel and follow it, as a node with as many open threads; their positions."""
    known: dict[str, Position] = {}
    names = [f"default/thread:{number}" for number in range(CHANNELS)]
    for start in range(0, CHANNELS, AT_ONCE):
        part = names[start : start + AT_ONCE]
        for name in part:
            broker.subscribe(name)
        placed = await asyncio.gather(*(broker.publish(name, b'"hello"') for name in part))
        known |= {name: Position(one.offset, one.epoch) for name, one in zip(part, placed, strict=True)}
        await asyncio.gather(*(broker.history(name, limit=0) for name in part))
    return known


def cpu_s(server: NatsServer | ValkeyServer | None) -> tuple[float, float]:
    """CPU seconds of this process, and of the server."""
    if server is None or server._process is None:
        return time.process_time(), 0.0
    times = psutil.Process(server._process.pid).cpu_times()
    return time.process_time(), times.user + times.system


@pytest.mark.parametrize("engine", ["sqlite", "nats", "redis"])
async def test_the_share_of_a_core(engine: str, tmp_path: Path) -> None:
    """Nothing is published meanwhile: that is the cost of being sure."""
    async with broker_of(engine, tmp_path) as (broker, server):
        known = await follow(broker)
        assert await broker.behind(known) == {}
        before = cpu_s(server)
        for _ in range(COMPARISONS):
            assert await broker.behind(known) == {}
        after = cpu_s(server)
    ours, theirs = ((now - then) / COMPARISONS for then, now in zip(before, after, strict=True))
    print(
        f"\n{engine}: {CHANNELS} channels, a node {ours * 1000:.1f} ms of CPU every {COMPARE_EVERY_S} s "
        f"({ours / COMPARE_EVERY_S:.2%} of a core), the server {theirs * 1000:.1f} ms ({theirs / COMPARE_EVERY_S:.2%})"
    )
    assert ours / COMPARE_EVERY_S < SHARE
    assert theirs / COMPARE_EVERY_S < SHARE
