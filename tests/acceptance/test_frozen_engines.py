"""Item 36: engines that keep their connections or files and do not answer, under the real program in production.

Two gateways, so that two engines freeze at a time: one on NATS and PostgreSQL, one on Valkey and SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import jwt
import pytest

from tests.acceptance.fleet import engines, shared
from tests.acceptance.program import Program, running
from tests.campaigns.follower import ROOT, SECRET, Follower, attending, start_run
from tests.services import NatsServer, PostgresServer, ValkeyServer, data_directory
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

ISSUER: Final = "https://id.example.com"
PRODUCTION: Final = {
    "ENVIRONMENT": "production",
    "NARTHEX_ALLOWED_HOSTS": "chat.example.com",
    "NARTHEX_JWT_SECRET": SECRET,
    "NARTHEX_JWT_ISSUER": ISSUER,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
}
NAMED_S: Final = within(4.5)  # a check of 2 s, after a result that is kept for 2 s
WELL_S: Final = within(8)
FROZEN_S: Final = {"broker": 9.0, "store": 6.0}
"""nats-py gives its connection up after 6 s; a store that hangs for longer than a lease (8 s) costs the runs."""


def token(subject: str) -> str:
    """A token that the gateways admit."""
    claims = {"sub": subject, "iss": ISSUER, "plan": "enterprise", "exp": int(time.time()) + 600}
    return jwt.encode(claims, SECRET, algorithm="HS256")


class Frozen(NamedTuple):
    """A program, the role of the engine that is to freeze, and how to freeze and to thaw it."""

    program: Program
    role: str
    freeze: Callable[[], None]
    thaw: Callable[[], None]


class Gateways(NamedTuple):
    """Both programs and their engines."""

    servers: Program
    nats: NatsServer
    postgres: PostgresServer
    mixed: Program
    valkey: ValkeyServer


@contextlib.asynccontextmanager
async def gateways(directory: Path) -> AsyncIterator[Gateways]:
    """See the module."""
    agents = ("--agent", "tests.campaigns.agents:steady")
    for name in ("servers", "mixed"):
        (directory / name).mkdir()
    with data_directory("frozen") as log:
        valkey = ValkeyServer(log / "valkey")
        await asyncio.to_thread(valkey.start)
        mixed = PRODUCTION | {"NARTHEX_BROKER_URL": valkey.url}
        try:
            async with (
                engines() as (nats, postgres, url),
                running(directory / "servers", shared(nats.url, url) | PRODUCTION, agents) as first,
                running(directory / "mixed", mixed, agents) as second,
            ):
                yield Gateways(first, nats, postgres, second, valkey)
        finally:
            valkey.kill()


@contextlib.contextmanager
def write_lock(database: Path) -> Iterator[Callable[[], None]]:
    """What another program does that holds the file; calling it takes the lock, which ends with this context."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=5)

    def take() -> None:
        connection.execute("BEGIN IMMEDIATE")

    try:
        yield take
    finally:
        connection.close()


async def errors_of(program: Program) -> list[str]:
    """The errors of `/ws/health`."""
    return list((await program.get("/ws/health")).json()["errors"])


async def survives(case: Frozen) -> None:
    """Named within its bound and for as long as it lasts; a run in progress is whole; well again by itself."""
    follower = Follower(case.program.port, token("ada"))
    async with attending(follower):
        run = await start_run(case.program.port, token("ada"), "rate=10 seconds=5 size=40", f"{case.role}-1")
        follower.join(run["channel"])
        await follower.recovered.wait()
        case.freeze()
        began = time.monotonic()
        seen: list[tuple[float, list[str]]] = []
        try:
            while (after := time.monotonic() - began) < FROZEN_S[case.role]:
                seen.append((after, await errors_of(case.program)))
                await asyncio.sleep(0.3)
        finally:
            case.thaw()
        hung = f"{case.role}: engine_hung"
        named = next((after for after, errors in seen if hung in errors), None)
        assert named is not None and named < NAMED_S, seen
        assert [errors for after, errors in seen if after > named and hung not in errors] == [], seen
        began = time.monotonic()
        async with asyncio.timeout(WELL_S):
            while await errors_of(case.program):  # noqa: ASYNC110 - health is asked, it tells nothing
                await asyncio.sleep(0.1)
        print(
            f"\n{case.role}: named after {named:.1f} s, well {time.monotonic() - began:.1f} s after it goes on"
        )
        async with asyncio.timeout(within(20)):
            proof = await follower.until_over(run["run_id"])
        assert proof.terminal is not None
        assert proof.terminal["type"] == "RUN_FINISHED" or proof.terminal["code"] == "owner_lost"
        assert proof.proven and follower.faults == []
    again = await start_run(case.program.port, token("ada"), "rate=10 seconds=0.2", f"{case.role}-2")
    assert again["run_id"] != run["run_id"]


async def test_frozen_engines_are_named_and_survived(tmp_path: Path) -> None:
    """SIGSTOP to NATS, Valkey and PostgreSQL, another program's lock on SQLite: `engine_hung`, and nothing is lost."""
    async with gateways(tmp_path) as all_of_them:
        servers, nats, postgres, mixed, valkey = all_of_them
        await asyncio.gather(
            survives(Frozen(servers, "broker", nats.pause, nats.resume)),
            survives(Frozen(mixed, "broker", valkey.pause, valkey.resume)),
        )
        with contextlib.ExitStack() as held:
            lock = held.enter_context(write_lock(tmp_path / "mixed" / "data" / "narthex.db"))
            await asyncio.gather(
                survives(Frozen(servers, "store", postgres.pause, postgres.resume)),
                survives(Frozen(mixed, "store", lock, held.close)),
            )
        for program in (servers, mixed):
            assert "never retrieved" not in program.log
