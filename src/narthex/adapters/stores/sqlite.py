"""Implements the Store port on one SQLite file in one process: drives the operations of `stores/sql` in group commits.

Not here: SQL. Rules: every operation of a batch has its own savepoint, so that a failure undoes only its own
operation; results reach the loop only after the commit; reads run on a connection of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from narthex.adapters.machine import steady_time
from narthex.adapters.sqlite.batching import BatchThread, Job, resolve_all
from narthex.adapters.sqlite.checkpoint import Checkpointer
from narthex.adapters.sqlite.file import (
    OwnerLock,
    Synchronous,
    claim_format,
    connect,
    dependency_error,
    require_same_file,
)
from narthex.adapters.stores.sql.dialect import SQLITE
from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sql.runs import release
from narthex.adapters.stores.sql.schema import migrate
from narthex.adapters.stores.sql.store import SqlStore
from narthex.errors import Bug

T = TypeVar("T")

APPLICATION_ID: Final = 0x6E727473  # "nrts"
MAX_OPERATIONS: Final = 256  # in one commit: about 20 ms
MAX_WAITING: Final = 5_000  # operations; about half a second of work

_DURABILITY: Final[dict[Synchronous, str]] = {
    "NORMAL": "An acknowledged write survives the death of the process; after the death of the machine the "
    "last few may be missing, in order.",
    "FULL": "An acknowledged write survives the death of the process and of the machine, power loss included, "
    "as far as the disk keeps what it has synced.",
}


class SqliteStore(SqlStore):
    """The embedded store.

    Args:
        path: `store.db`; its directory exists.
        synchronous: NORMAL or FULL, see `durability`.
        timeout_s: seconds after which a call raises DependencyError when the disk hangs.
        max_waiting: the most reads, and the most writes, that may wait; more raise Overloaded.
        beside: for a short use beside the process that may own the file (a command line): takes no lock of its own
            and never checkpoints; SQLite's locks keep the two apart.
        shared: several processes use the file as equals, each with a shared claim; no runs may be kept in it, because
            the leases of an ended process stay.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous = "NORMAL",
        timeout_s: float = 5.0,
        max_waiting: int = MAX_WAITING,
        beside: bool = False,
        shared: bool = False,
    ) -> None:
        self.path = path
        self._beside = beside
        self._shared = shared
        self.durability = _DURABILITY[synchronous]
        self._synchronous: Synchronous = synchronous
        self._lock = OwnerLock("store", path, shared=shared)
        self._checkpointer: Checkpointer | None = None
        self._engine = SqliteEngine(path, synchronous, timeout_s, max_waiting)
        super().__init__(self._engine, SQLITE)

    @property
    def pending(self) -> int:
        """Operations that wait, of at most `MAX_WAITING`."""
        return self._engine.pending

    async def start(self) -> None:
        """Lock the file and migrate. Raises ConfigError (held, foreign or newer file) or DependencyError."""
        if self._beside:
            await self._engine.start()
            return
        self._lock.acquire()
        try:
            await self._engine.start()
            if not self._shared:  # this process owns the file: every lease in it is of an ended process
                await self._engine.write(release("owner <> ''"))
        except BaseException:
            await self._engine.stop()
            self._lock.release()
            raise
        self._checkpointer = Checkpointer(self.path, self._synchronous)
        self._checkpointer.start()

    async def stop(self) -> None:
        """Commit the accepted operations, close, and release the file; idempotent."""
        try:
            if self._checkpointer is not None:
                await asyncio.to_thread(self._checkpointer.stop)
                self._checkpointer = None
            await self._engine.stop()
        finally:
            self._lock.release()

    async def ping(self) -> None:
        """See the port; also detects that the file was replaced while it was open."""
        await self._write_and_read(self._engine, self.path.name, "Check the disk.")
        require_same_file("store", self.path, self._engine.inode, "writes")


class _Task(Job):
    operation: Operation[Any]


class SqliteEngine:
    """`stores.sql.operation.SqlEngine` over a writer thread and a reader thread."""

    def __init__(self, path: Path, synchronous: Synchronous, timeout_s: float, max_waiting: int) -> None:
        self._path = path
        self.inode = 0
        self._writer, self._reader = (
            BatchThread(
                _Driver(path, synchronous, writes=writes),
                name=f"{path.name} {'writer' if writes else 'reader'}",
                dependency="store",
                max_batch=MAX_OPERATIONS,
                max_pending=max_waiting,
                timeout_s=timeout_s,
            )
            for writes in (True, False)
        )

    @property
    def pending(self) -> int:
        """Operations that wait: the longer of the two queues."""
        return max(self._writer.pending, self._reader.pending)

    async def start(self) -> None:
        """Open and migrate. Raises ConfigError or DependencyError."""
        try:
            await self._writer.start()
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            raise
        self.inode = self._path.stat().st_ino

    async def stop(self) -> None:
        """Finish the submitted operations, then close."""
        await self._reader.stop()
        await self._writer.stop()

    async def read(self, operation: Operation[T]) -> T:
        """See `operation.SqlEngine`."""
        value: T = await self._reader.ask(_Task, operation)
        return value

    async def write(self, operation: Operation[T]) -> T:
        """See `operation.SqlEngine`."""
        value: T = await self._writer.ask(_Task, operation)
        return value


class _Driver:
    """`batching.Work`: one transaction per batch, one savepoint per operation."""

    def __init__(self, path: Path, synchronous: Synchronous, *, writes: bool) -> None:
        self._path = path
        self._synchronous: Synchronous = synchronous
        self._writes = writes
        self._connection: sqlite3.Connection | None = None

    @property
    def _sql(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def open(self) -> None:
        """Open; the writer migrates. Raises ConfigError or DependencyError."""
        try:
            self._connection = connect(self._path, synchronous=self._synchronous, read_only=not self._writes)
            self._connection.create_function("steady", 0, steady_time)
            if self._writes:
                claim_format(self._connection, self._path, APPLICATION_ID)
                self._sql.execute("BEGIN IMMEDIATE")
                try:
                    _drive(self._sql, migrate(SQLITE, str(self._path), time.time()))
                    self._sql.execute("COMMIT")
                finally:
                    if self._sql.in_transaction:
                        self._sql.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise dependency_error("store", self._path, error) from error

    def run(self, batch: Sequence[_Task]) -> Callable[[], None]:
        """Drive every operation of the batch, commit, and return a call that delivers the results."""
        try:
            self._sql.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
            outcomes = [self._outcome(task.operation) for task in batch]
            self._sql.execute("COMMIT")
        except sqlite3.Error as error:
            failure = dependency_error("store", self._path, error)
            failure.__cause__ = error
            outcomes = [failure] * len(batch)
        finally:
            with contextlib.suppress(sqlite3.Error):
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
        return lambda: resolve_all(batch, outcomes)

    def idle(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close; the last connection to close checkpoints the log."""
        self._sql.close()

    def _outcome(self, operation: Operation[Any]) -> Any:
        """Drive one operation; its failure undoes only itself. Raises sqlite3.Error when the whole batch is lost."""
        if not self._writes:
            return self._driven(operation)
        self._sql.execute("SAVEPOINT operation")
        outcome = self._driven(operation)
        if isinstance(outcome, Exception):
            self._sql.execute("ROLLBACK TO operation")  # raises when SQLite has rolled the transaction back
        self._sql.execute("RELEASE operation")
        return outcome

    def _driven(self, operation: Operation[Any]) -> Any:
        """The operation's value, or the exception for its caller."""
        try:
            return _drive(self._sql, operation)
        except sqlite3.IntegrityError as error:
            bug = Bug("store_conflict", f"A row that must be new already exists: {error}.")
            bug.__cause__ = error
            return bug
        except sqlite3.Error as error:
            failure = dependency_error("store", self._path, error)
            failure.__cause__ = error
            return failure
        except Exception as error:  # a refusal, or a bug, which must not fail the others of its batch
            return error


def _drive(sql: sqlite3.Connection, operation: Operation[T]) -> T:
    try:
        statement = next(operation)
        while True:
            statement = operation.send(sql.execute(*statement).fetchall())
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        operation.close()
