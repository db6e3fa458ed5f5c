"""A gateway that starts before its engines names the engine it waits for, and is ready soon after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.acceptance.fleet import shared
from tests.acceptance.program import Program
from tests.acceptance.sdk import person
from tests.services import NatsServer, PostgresServer, Server, ValkeyServer, data_directory
from tests.timing import within

pytestmark = pytest.mark.acceptance

READY_S: Final = within(2)
ORDERS: Final = (("nats", "broker", "store"), ("nats", "store", "broker"), ("redis", "store", "broker"))


class Engines:
    """A broker and a store that are not started yet, and a gateway that is."""

    def __init__(self, broker: NatsServer | ValkeyServer, store: PostgresServer, program: Program) -> None:
        self.servers: dict[str, Server] = {"broker": broker, "store": store}
        self.program = program

    async def health(self) -> tuple[int, list[str]]:
        """Status and errors of `/ws/health`; 0 while the port is closed."""
        with contextlib.suppress(httpx2.HTTPError):
            answer = await self.program.get("/ws/health")
            return answer.status_code, list(answer.json()["errors"])
        return 0, []

    async def until_it_waits_for(self, part: str) -> list[str]:
        """Wait until health names the part that cannot start; returns all its errors."""
        async with asyncio.timeout(within(20)):
            while True:
                status, errors = await self.health()
                assert status in (0, 503)
                if any(error.startswith(f"{part}: ") for error in errors):
                    return errors
                await asyncio.sleep(0.05)

    async def until_ready(self) -> float:
        """Wait until the gateway is ready; returns the seconds from now."""
        began = time.monotonic()
        async with asyncio.timeout(within(20)):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await self.program.get("/readyz")).status_code == 200:
                        return time.monotonic() - began
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def waiting(directory: Path, kind: str) -> AsyncIterator[Engines]:
    """The gateway runs, its engines do not."""
    with data_directory("late-broker") as log, data_directory("late-store") as data:
        broker = NatsServer(log / "js") if kind == "nats" else ValkeyServer(log / "data")
        store = PostgresServer(data / "pg")
        await asyncio.to_thread(store.initialise)
        program = Program(directory, shared(broker.url, store.url))
        program.spawn()
        try:
            yield Engines(broker, store, program)
        finally:
            await asyncio.to_thread(program.end)
            broker.kill()
            store.stop()


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_engines_that_come_late(tmp_path: Path, order: tuple[str, str, str]) -> None:
    """In either order, seconds apart: health shows the cause, and 2 s after the last engine the gateway serves."""
    kind, first, second = order
    async with waiting(tmp_path, kind) as engines:
        errors = await engines.until_it_waits_for("store")
        assert errors[0] == "the gateway is starting"
        await asyncio.to_thread(engines.servers[first].start)
        if first == "store":
            await engines.until_it_waits_for("broker")
        await asyncio.sleep(1.5)  # a few attempts meanwhile
        assert (await engines.health())[0] == 503
        await asyncio.to_thread(engines.servers[second].start)
        ready_s = await engines.until_ready()
        print(f"\n{kind}: {first}, then {second}: ready after {ready_s:.2f} s")
        assert ready_s < READY_S
        token = await engines.program.login("ada@example.com")
        async with person(engines.program.ws, token) as ada:
            assert (await ada.rpc("thread.create"))["thread_id"]
        status, errors = await engines.health()
        assert (status, errors) == (200, [])


async def test_an_engine_that_flaps_while_the_gateway_starts(tmp_path: Path) -> None:
    """NATS starts, stops and starts, twice: the gateway is ready soon after NATS stays up."""
    async with waiting(tmp_path, "nats") as engines:
        broker = engines.servers["broker"]
        await asyncio.to_thread(engines.servers["store"].start)
        await engines.until_it_waits_for("broker")
        for _ in range(2):
            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(broker.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(broker.start)
        ready_s = await engines.until_ready()
        print(f"\nready after {ready_s:.2f} s")
        assert ready_s < READY_S
        assert engines.program.log.count("Call start() first") == 0


async def test_an_engine_that_hangs_at_first(tmp_path: Path) -> None:
    """Redis accepts connections but does not answer; once it answers, the gateway is ready."""
    async with waiting(tmp_path, "redis") as engines:
        broker = engines.servers["broker"]
        await asyncio.to_thread(engines.servers["store"].start)
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(broker.pause)
        await engines.until_it_waits_for("broker")
        broker.resume()
        assert await engines.until_ready() < READY_S


async def test_a_drain_while_engines_are_waited_for(tmp_path: Path) -> None:
    """SIGTERM before any engine is up: an orderly end, at once, that closes all open resources."""
    async with waiting(tmp_path, "nats") as engines:
        await asyncio.to_thread(engines.servers["store"].start)
        await engines.until_it_waits_for("broker")
        began = time.monotonic()
        assert await asyncio.to_thread(engines.program.terminate, within(15)) == 0
        assert time.monotonic() - began < within(5)
        assert "Traceback" not in engines.program.log
