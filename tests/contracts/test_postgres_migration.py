"""A migration of a PostgreSQL in use: nodes of the version before go on, large tables and long transactions or not.

`NARTHEX_TEST_ROWS` is the size of the table of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import asyncpg
import pytest

from narthex.adapters.stores import postgres, postgres_indexes
from narthex.adapters.stores.postgres import PostgresStore, _drive
from narthex.adapters.stores.sql.dialect import POSTGRES
from narthex.adapters.stores.sql.schema import VERSION, indexes, migrate
from narthex.errors import DependencyError
from tests.services import PostgresServer, data_directory, database
from tests.timing import within

ROWS: Final = int(os.environ.get("NARTHEX_TEST_ROWS", "100000"))
BEFORE: Final = 3
BLOCKED_S: Final = 3.0  # the migration's `lock_timeout`
MESSAGES: Final = """INSERT INTO messages (message_id, thread_id, tenant, role, author, content, created_at, run_id,
    detail, "offset") SELECT 'm' || n, 't' || n % 1000, 'a', 'user', 'ada', '', n, '', '', 0
    FROM generate_series($1::int, $2::int) n"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's."""
    with data_directory("migration") as directory:
        made = PostgresServer(directory / "pg")
        made.initialise()
        made.start()
        yield made
        made.stop()


@contextlib.asynccontextmanager
async def version_before(server: PostgresServer, rows: int) -> AsyncIterator[tuple[str, Any]]:
    """A database of the version before with so many messages, and a connection as its nodes have."""
    async with database(server) as url:
        node = await asyncpg.connect(url)
        try:
            async with node.transaction():
                assert await _drive(node, migrate(POSTGRES, "old", 1.0, version=BEFORE)) == BEFORE
            await node.execute(MESSAGES, 1, rows, timeout=120 + rows / 2_000)
            yield url, node
        finally:
            await node.close()


@contextlib.asynccontextmanager
async def transaction(url: str, *, reads: str) -> AsyncIterator[None]:
    """A long transaction of somebody else, with a snapshot, that has read a table."""
    other = await asyncpg.connect(url)
    try:
        async with other.transaction(isolation="repeatable_read"):
            await other.fetch(f"SELECT * FROM {reads} LIMIT 1")
            yield
    finally:
        await other.close()


class Writer:
    """A node of the version before that goes on writing: `slowest_s` is its longest wait."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.slowest_s = 0.0
        self.written = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = time.monotonic()
            number = 10_000_000 + self.written
            await asyncio.shield(self._node.execute(MESSAGES, number, number))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.written += 1
            await asyncio.sleep(0.01)

    async def until(self, written: int) -> None:
        """Wait until it has written so many."""
        while self.written < written:  # noqa: ASYNC110 - a few milliseconds
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def writing(node: Any) -> AsyncIterator[Writer]:
    """Such a node, in the background."""
    writer = Writer(node)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)  # its last statement, which a cancelled task leaves running


async def invalid(node: Any) -> list[str]:
    """The indexes that are missing or unusable."""
    return [row["name"] for row in await node.fetch(postgres_indexes._MISSING, list(indexes(POSTGRES)))]


async def test_indexes_are_built_while_the_version_before_writes(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that takes longer than the migration may is no failure and holds nobody up."""
    monkeypatch.setattr(postgres, "MIGRATE_S", within(3.0))
    async with version_before(server, ROWS) as (url, node), writing(node) as writer:
        stores = [PostgresStore(url) for _ in range(2)]
        async with transaction(url, reads="users"):  # every build waits for its snapshot
            starts = [asyncio.create_task(store.start()) for store in stores]
            await asyncio.sleep(within(3.5))
            assert not any(start.done() for start in starts)
            async with asyncio.timeout(within(10)):
                await writer.until(writer.written + 20)
        began = time.monotonic()
        async with asyncio.timeout(within(60 + ROWS / 10_000)):
            await asyncio.gather(*starts)
        print(
            f"\n{ROWS} rows: indexes built {time.monotonic() - began:.1f} s after the transaction in their way ended"
        )
        print(f"{writer.written} writes meanwhile, the slowest {writer.slowest_s:.2f} s")
        assert writer.slowest_s < within(1.5)
        assert await invalid(stores[0]._engine._pool) == []
        for store in stores:
            await store.ping()
            await store.stop()


async def test_a_held_table_delays_the_migration_and_nobody_else(server: PostgresServer) -> None:
    """While a dump holds a table, the start fails within seconds, says why, and lets the version before go on."""
    async with version_before(server, 10) as (url, node):
        store = PostgresStore(url)
        async with transaction(url, reads="messages"), writing(node) as writer:
            began = time.monotonic()
            with pytest.raises(DependencyError, match="LockNotAvailable") as held:
                await store.start()
            assert "pg_stat_activity" in held.value.remedy
            assert time.monotonic() - began < BLOCKED_S + within(3)
            async with asyncio.timeout(within(10)):
                await writer.until(writer.written + 5)
            assert writer.slowest_s < BLOCKED_S + within(1)
        await store.start()
        assert await node.fetchval("SELECT max(version) FROM schema_versions") == VERSION
        await store.stop()


async def test_a_build_that_was_cut_off_is_made_again(server: PostgresServer) -> None:
    """What is left of it is an index that PostgreSQL maintains and never uses."""
    async with version_before(server, 1_000) as (url, node):
        store = PostgresStore(url)
        async with transaction(url, reads="users"):
            start = asyncio.create_task(store.start())
            async with asyncio.timeout(within(20)):
                while not await node.fetch(postgres_indexes._BUILDS, "runs"):  # noqa: ASYNC110 - the server is asked
                    await asyncio.sleep(0.02)
            await node.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index"
                " WHERE datname = current_database()"
            )
            with pytest.raises(DependencyError):
                await start
        assert await node.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1
        await store.start()
        assert await invalid(node) == []
        await store.stop()
