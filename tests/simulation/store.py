"""The simulated store: the real SQL of `adapters/stores/sql` on a SQLite in memory, behind a network and faults.

Not here: what the SQL does. Rules: an operation is executed at one moment of virtual time, some way between the call
and its answer, as a transaction; what an engine may do wrong is what `ports/store.py` allows and nothing else.

What it may do wrong (each drawn by the plan):
- be slow, hang, or be away: a call raises `DependencyError` after its time-out; a write may have been executed or not;
- be cut off from one node, in either direction: the answer of a write that was executed gets lost;
- go back in time, as after a restore or a fail-over to a standby that lagged (a mutant of the engine, see `mutants`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

from narthex.adapters.stores.sql.credentials import SqlCredentials
from narthex.adapters.stores.sql.dialect import SQLITE
from narthex.adapters.stores.sql.memberships import SqlMemberships
from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sql.records import SqlRecords
from narthex.adapters.stores.sql.runs import SqlRuns
from narthex.adapters.stores.sql.schema import migrate
from narthex.adapters.stores.sql.threads import SqlThreads
from narthex.errors import Bug, DependencyError
from narthex.ports.credentials import Credentials
from narthex.ports.memberships import Memberships
from narthex.ports.runs import Runs
from narthex.ports.store import Records
from narthex.ports.threads import Threads
from tests.simulation.network import Link, Unreachable

T = TypeVar("T")
TIMEOUT_S: Final = 10.0  # PostgreSQL's, docs/guarantees.md


def _empty() -> bytes:
    """A migrated database, once for all histories of the process."""
    sql = sqlite3.connect(":memory:", isolation_level=None)
    _drive(sql, migrate(SQLITE, "simulated", 0.0))
    return sql.serialize()


_image: list[bytes] = []


class StoreEngine:
    """The database itself, which every node's `SimStore` talks to.

    Args:
        time: virtual seconds.

    Attributes:
        operations: how many were executed.
        rewritten: SQL that is replaced by other SQL (`mutants`).
    """

    def __init__(self, time: Callable[[], float]) -> None:
        if not _image:
            _image.append(_empty())
        self._sql = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        self._sql.deserialize(_image[0])
        self._sql.create_function("steady", 0, time)  # as adapters/stores/sqlite.py: the engine's own clock
        self.operations = 0
        self.rewritten: tuple[str, str] | None = None

    def look(self, operation: Operation[T]) -> T:
        """An operation that changes nothing; nothing else happens meanwhile, so it needs no transaction."""
        self.operations += 1
        return _drive(self._sql, operation, self.rewritten)

    def execute(self, operation: Operation[T]) -> T:
        """One transaction. Raises what the operation raises."""
        self.operations += 1
        self._sql.execute("BEGIN")
        try:
            value = _drive(self._sql, operation, self.rewritten)
        except sqlite3.IntegrityError as error:
            self._sql.execute("ROLLBACK")
            raise Bug("store_conflict", f"A row that must be new was there already: {error}.") from error
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        self._sql.execute("COMMIT")
        return value

    def snapshot(self) -> bytes:
        """The whole database, for a restore."""
        return self._sql.serialize()

    def restore(self, image: bytes) -> None:
        """Go back in time."""
        self._sql.deserialize(image)

    def close(self) -> None:
        """The end of the history."""
        self._sql.close()


def _drive(sql: sqlite3.Connection, operation: Operation[T], rewritten: tuple[str, str] | None = None) -> T:
    try:
        statement = next(operation)
        while True:
            text, values = statement
            if rewritten is not None:
                text = text.replace(*rewritten)
            statement = operation.send(sql.execute(text, values).fetchall())
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        operation.close()


class SimStore:
    """`ports.store.Store` of one node: the real SQL adapters over a link to the engine."""

    durability = "simulated"
    threads: Threads
    memberships: Memberships
    runs: Runs
    credentials: Credentials
    records: Records

    def __init__(self, engine: StoreEngine, link: Link) -> None:
        self._engine = engine
        self._link = link
        self.threads = SqlThreads(self, SQLITE)
        self.memberships = SqlMemberships(self, SQLITE)
        self.runs = SqlRuns(self, SQLITE)
        self.credentials = SqlCredentials(self, SQLITE)
        self.records = SqlRecords(self, SQLITE)

    async def start(self) -> None:
        """Raises DependencyError while it cannot be reached."""
        await self.ping()

    async def stop(self) -> None:
        """Nothing is kept here."""

    async def ping(self) -> None:
        """A round trip."""
        await self._call(lambda: None)

    async def read(self, operation: Operation[T]) -> T:
        """See `operation.Engine`."""
        found: T = await self._call(lambda: self._engine.look(operation))
        return found

    async def write(self, operation: Operation[T]) -> T:
        """See `operation.Engine`."""
        found: T = await self._call(lambda: self._engine.execute(operation))
        return found

    async def _call(self, execute: Callable[[], Any]) -> Any:
        try:
            return await self._link.call(execute, TIMEOUT_S)
        except Unreachable as error:
            raise DependencyError("store", "The simulated store did not answer.") from error
