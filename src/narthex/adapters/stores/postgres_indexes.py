"""Builds the indexes of tables that may hold millions of rows, while nodes of the version before use them.

Not here: tables and columns, made by one short transaction (`sql/schema.py`). Rules: an index is built CONCURRENTLY,
outside of any transaction and without a time limit; a build that was cut off leaves an invalid index, which is dropped
and built again; of several instances that start together one builds and the others wait, without a lock: a statement
that waits for a lock holds a snapshot, and the build waits for all snapshots older than itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import asyncpg
import structlog

from narthex.adapters.stores.sql.schema import INDEX

PROGRESS_S: Final = 10.0
AGAIN_S: Final = 0.5
NO_LIMIT_S: Final = 7 * 86_400.0  # asyncpg takes None for the connection's own time-out
_MISSING: Final = """SELECT wanted.name FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, turn)
    LEFT JOIN pg_index i ON i.indexrelid = to_regclass(wanted.name) WHERE i.indisvalid IS NOT TRUE ORDER BY turn"""
_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
_BUILDS: Final = """SELECT phase, blocks_done, blocks_total, current_locker_pid FROM pg_stat_progress_create_index
    WHERE datname = current_database() AND relid = to_regclass($1)"""
_TABLE: Final = re.compile(r" ON (\w+)")
_RACES: Final = (
    *(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.UndefinedObjectError),
    *(asyncpg.UndefinedTableError, asyncpg.DeadlockDetectedError),
)
"""Errors of a build or a removal which another instance began in the same moment."""

_log = structlog.get_logger("narthex.store")


async def build_indexes(
    indexes: Mapping[str, str], pool: Any, connect: Callable[[], Awaitable[Any]], *, pooled: bool
) -> None:
    """Build those that are missing or invalid.

    Args:
        indexes: the `CREATE INDEX` statement of each name.
        pool: of connections, for reading.
        connect: makes a connection for the builds.
        pooled: whether a pooler is between, which would keep a session's settings for others.

    Raises:
        asyncpg's errors, OSError.
    """
    missing = [row["name"] for row in await pool.fetch(_MISSING, list(indexes))]
    if not missing:
        return
    connection = await connect()
    try:
        if not pooled:
            await connection.execute("SET statement_timeout = 0")
            await connection.execute("SET lock_timeout = 0")
        for name in missing:
            async with _reported(pool, name, indexes[name]):
                await _build(connection, name, indexes[name])
    finally:
        connection.terminate()


async def _build(connection: Any, name: str, statement: str) -> None:
    table = _table(statement)
    while True:
        valid = await connection.fetchval(_VALID, name)
        if valid:
            return
        try:
            if await connection.fetch(
                _BUILDS, table
            ):  # another instance; or an ended one, whose server process goes on
                await asyncio.sleep(AGAIN_S)
                continue
            if valid is not None:
                await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", timeout=NO_LIMIT_S)
            concurrently = statement.replace(INDEX, f"{INDEX}CONCURRENTLY IF NOT EXISTS ", 1)
            await connection.execute(concurrently, timeout=NO_LIMIT_S)
        except _RACES:
            await asyncio.sleep(AGAIN_S)


@contextlib.asynccontextmanager
async def _reported(pool: Any, name: str, statement: str) -> AsyncIterator[None]:
    began = time.monotonic()
    _log.info("store_index_build", index=name, table=_table(statement))
    reports = asyncio.create_task(_report(pool, name, _table(statement)), name=f"progress of {name}")
    try:
        yield
    finally:
        reports.cancel()
    _log.info("store_index_built", index=name, seconds=round(time.monotonic() - began, 1))


async def _report(pool: Any, name: str, table: str) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # the build goes on
            for phase, done, total, waits_for in await pool.fetch(_BUILDS, table):
                percent = round(100 * done / total) if total else 0
                _log.info(
                    "store_index_progress",
                    index=name,
                    phase=phase,
                    percent=percent,
                    waits_for_pid=waits_for or None,
                )


def _table(statement: str) -> str:
    found = _TABLE.search(statement)
    assert found is not None, statement
    return found[1]
