"""The status page's own SQLite file: its schema, and one thread that does all work on it.

Not here: the statements (`measurements`, `records`). Rules: every call is one transaction on the database's own
thread, so that no slow disk holds the event loop; several processes of one machine may use the file together (the
workers of `narthex serve --workers`); what it holds is bounded by `measurements.prune` and `records.prune`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from narthex.adapters.sqlite.file import claim_format, connect, dependency_error
from narthex.adapters.sqlite.file_system import require_local
from narthex.errors import ConfigError, DependencyError

APPLICATION_ID: Final = 0x4E585354  # "NXST"
SCHEMA_VERSION: Final = 1
CACHE_KIB: Final = 2_048

_SCHEMA: Final = """
CREATE TABLE evidence (
    component TEXT NOT NULL, minute INTEGER NOT NULL, kind TEXT NOT NULL, source TEXT NOT NULL,
    good INTEGER NOT NULL, degraded INTEGER NOT NULL, failed INTEGER NOT NULL,
    latency_ms_sum REAL NOT NULL, latency_count INTEGER NOT NULL, latency_ms_max REAL NOT NULL,
    PRIMARY KEY (component, minute, kind, source)
) WITHOUT ROWID;
CREATE TABLE latest (
    component TEXT NOT NULL, kind TEXT NOT NULL, source TEXT NOT NULL, at REAL NOT NULL, fresh_until REAL NOT NULL,
    good INTEGER NOT NULL, degraded INTEGER NOT NULL, failed INTEGER NOT NULL, latency_ms REAL,
    PRIMARY KEY (component, kind, source)
) WITHOUT ROWID;
CREATE TABLE periods (
    resolution TEXT NOT NULL, component TEXT NOT NULL, start TEXT NOT NULL,
    operational INTEGER NOT NULL, degraded INTEGER NOT NULL, outage INTEGER NOT NULL, maintenance INTEGER NOT NULL,
    latency_ms_sum REAL NOT NULL, latency_count INTEGER NOT NULL, latency_ms_max REAL NOT NULL,
    PRIMARY KEY (resolution, component, start)
) WITHOUT ROWID;
CREATE TABLE states (
    component TEXT PRIMARY KEY, state TEXT NOT NULL, since REAL NOT NULL, announced TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE incidents (
    incident_id TEXT PRIMARY KEY, starts_at REAL NOT NULL, announced TEXT NOT NULL, request_id TEXT UNIQUE,
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX incidents_by_start ON incidents (starts_at);
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, incident_id TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY, message_id TEXT NOT NULL, url TEXT NOT NULL, body BLOB NOT NULL,
    created_at REAL NOT NULL, next_at REAL NOT NULL, attempts INTEGER NOT NULL, state TEXT NOT NULL,
    last_error TEXT NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (state, next_at);
CREATE TABLE marks (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")


class StatusDatabase:
    """The file; see the module.

    Args:
        path: of the file; made with its directory where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="narthex-status")
        self._connection: sqlite3.Connection | None = None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, which runs in one write transaction. Opens the file if it is not open yet.

        Raises:
            DependencyError: the file cannot be used now; a later call tries again.
            ConfigError: it is another program's, of a newer version, or on a network file system.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as fault:
            raise dependency_error("status", self._path, fault) from fault
        return result

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                require_local(self._path)
            except OSError as fault:
                raise DependencyError(
                    "status",
                    f"{self._path} cannot be made ({fault.strerror}).",
                    "Make the data directory writable for this user.",
                ) from fault
            connection = connect(self._path, cache_kib=CACHE_KIB)
            try:
                # The log is copied back by SQLite itself: the writes are few, and off the event loop.
                connection.execute("PRAGMA wal_autocheckpoint=1000")
                connection.execute("BEGIN IMMEDIATE")
                self._migrate(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        claim_format(connection, self._path, APPLICATION_ID)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise ConfigError(
                [f"{self._path} was written by a newer narthex (schema {version}): install that version."]
            )
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    async def close(self) -> None:
        """Finish what runs and close the file; a later `run` opens it again."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
