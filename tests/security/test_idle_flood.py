"""Item 10: connections without a credential do not take slots from other clients.

1.1 × the limit of open files, from 1 and from 20 addresses: a client at another address connects within 1 s throughout.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.follower import SERVED, token
from tests.security.flood import (
    OF_PROCESS,
    Flood,
    Limited,
    flooding,
    flooding_from_processes,
    own_descriptors,
    plain,
    upgrade,
    visit,
)
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.alone]

KINDS = {
    "silent": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-",
    "kept alive": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a body": b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A gateway with the usual limit of 1,024 files, for one flood after the other."""
    yield from limited(tmp_path_factory.mktemp("usual"), 1_024)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A gateway with 20,000 files."""
    yield from limited(tmp_path_factory.mktemp("large"), 20_000)


def limited(directory: Path, limit: int) -> Iterator[Limited]:
    """A started program with a soft and a hard limit of open files."""
    program = Limited(directory, dict(SERVED), (limit, limit))
    try:
        asyncio.run(program.start())
        yield program
    finally:
        program.end()
    assert "connections evicted" in program.log
    assert "Too many open files" not in program.log
    assert "Traceback" not in program.log


@pytest.mark.parametrize("addresses", [1, 20])
@pytest.mark.parametrize("kind", KINDS)
async def test_another_address_gets_in(usual: Limited, kind: str, addresses: int) -> None:
    """With the usual limit of 1,024."""
    await campaign(usual, addresses, KINDS[kind], seconds=0.7)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("addresses", [1, 20])
@pytest.mark.parametrize("kind", KINDS)
async def test_another_address_gets_in_at_twenty_thousand(large: Limited, kind: str, addresses: int) -> None:
    """With 20,000, for half a minute."""
    await campaign(large, addresses, KINDS[kind], seconds=30.0)


async def campaign(program: Limited, addresses: int, says: bytes, seconds: float) -> None:
    """Flood; meanwhile request readiness, health and a handshake from another address, repeatedly."""
    limit = program.descriptors[0]
    before = await evicted(program)
    flood = Flood(program.port, int(limit * 1.1), addresses, says)
    wanted = {"/readyz": "200", "/livez": "200", "/ws": "101"}
    slowest, visits = 0.0, 0
    if flood.count <= OF_PROCESS:
        own_descriptors(flood.count + 500)
    async with flooding(flood) if flood.count <= OF_PROCESS else flooding_from_processes(flood):
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for path, status in wanted.items():
                head = upgrade(token("elsewhere")) if path == "/ws" else plain(path)
                found = await visit(program.port, head)
                assert f" {status} " in found.status, (path, found, program.open_files())
                assert found.took_s < within(1), (path, found)
                slowest, visits = max(slowest, found.took_s), visits + 1
        held = program.open_files()
    print(f"{limit} files, {addresses} addresses: {visits} visits, slowest {slowest:.3f} s, {held} open")
    assert held < limit
    assert await evicted(program) > before


async def evicted(program: Limited) -> float:
    """How many connections have been evicted so far."""
    lines = (await program.get("/metrics")).text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("narthex_connections_evicted_total{")
    )


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    """512 would be too few: the start raises the limit, logs the consequence, and shows the effective numbers."""
    program = Limited(tmp_path, dict(SERVED), (512, 4096))
    try:
        await program.start()
        said = next(json.loads(line) for line in program.log.splitlines() if '"event":"capacity"' in line)
        assert (said["level"], said["descriptors"], said["max_connections"]) == ("warning", 4096, 3405)
        assert "Raise the limit" in said["detail"]
        config = (await program.get("/ws/config")).json()
        assert config["limits"]["max_connections"] == 3405
    finally:
        program.end()
