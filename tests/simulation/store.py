"""The simulated store: the real SQL of `adapters/stores/sql` on a SQLite in memory, behind a network and faults.

Not here: the SQL. Rules: an operation is executed at one point of virtual time between the call and its answer, as a
transaction; an engine shows only faults that `ports/store.py` allows.

Permitted faults (each drawn by the plan):
- be slow, hang, or be down: a call raises `DependencyError` after its time-out; a write may have been executed or not;
- be cut off from one node, in either direction: the answer of a write that was executed gets lost;
- go back in time, as after a restore or a fail-over to a standby that lagged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

from narthex.adapters.stores.sql.credentials import SqlCredentials
from narthex.adapters.stores.sql.dialect import SQLITE
from narthex.adapters.stores.sql.history import SqlHistory
from narthex.adapters.stores.sql.memberships import SqlMemberships
from narthex.adapters.stores.sql.operation import Operation, Row, Statement
from narthex.adapters.stores.sql.records import SqlRecords
from narthex.adapters.stores.sql.runs import SqlRuns
from narthex.adapters.stores.sql.schema import migrate
from narthex.adapters.stores.sql.threads import SqlThreads
from narthex.errors import Bug
from narthex.ports.credentials import Credentials
from narthex.ports.history import History
from narthex.ports.memberships import Memberships
from narthex.ports.runs import Runs
from narthex.ports.store import Records
from narthex.ports.threads import Threads
from tests.simulation.network import Link

T = TypeVar("T")
STORE_TIMEOUT_S: Final = 10.0  # PostgreSQL's, docs/guarantees.md


class _Database:
    """One migrated SQLite for all histories of the process, because migrating it and preparing its statements takes
    longer than a history's own statements. A history is one transaction, which is rolled back in the end.
    """

    def __init__(self) -> None:
        self.time: Callable[[], float] = float
        self.sql = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        # As adapters/stores/sqlite.py does: the engine's own clock.
        self.sql.create_function("steady", 0, self._now)
        _drive(self.sql, migrate(SQLITE, "simulated", 0.0))

    def _now(self) -> float:
        return self.time()

    def begin(self, time: Callable[[], float]) -> sqlite3.Connection:
        """An empty database."""
        self.end()
        self.sql.execute("BEGIN")
        self.time = time
        return self.sql

    def end(self) -> None:
        """Forget a history."""
        if self.sql.in_transaction:
            self.sql.execute("ROLLBACK")


_databases: list[_Database] = []


class StoreEngine:
    """The database itself, which every node's `SimStore` talks to. A process has one at a time.

    Args:
        time: virtual seconds.

    Attributes:
        rewritten: SQL that is replaced by other SQL (`mutants`).
    """

    def __init__(self, time: Callable[[], float]) -> None:
        if not _databases:
            _databases.append(_Database())
        self._sql = _databases[0].begin(time)
        self.rewritten: tuple[str, str] | None = None
        # Nodes repeat the same queries while nothing changes: two of three statements are answered from here.
        self._answers: dict[Statement, list[Row]] = {}
        self._changes = self._sql.total_changes

    def look(self, operation: Operation[T]) -> T:
        """A read-only operation; no other operation runs meanwhile, so it needs no transaction."""
        return self._drive(operation)

    def execute(self, operation: Operation[T]) -> T:
        """One transaction. Raises what the operation raises."""
        self._sql.execute("SAVEPOINT operation")
        try:
            value = self._drive(operation)
        except sqlite3.IntegrityError as error:
            self._roll_back()
            raise Bug("store_conflict", f"A row that must be new already exists: {error}.") from error
        except BaseException:
            self._roll_back()
            raise
        self._sql.execute("RELEASE operation")
        return value

    def _roll_back(self) -> None:
        self._go_back("operation")
        self._sql.execute("RELEASE operation")

    def _go_back(self, savepoint: str) -> None:
        self._sql.execute(f"ROLLBACK TO {savepoint}")
        self._answers.clear()

    def _drive(self, operation: Operation[T]) -> T:
        try:
            statement = next(operation)
            while True:
                rows = self._answers.get(statement)
                statement = operation.send(self._ask(statement) if rows is None else rows.copy())
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            operation.close()

    def _ask(self, statement: Statement) -> list[Row]:
        """The database's answer; it is cached until a row changes, unless it depends on the time as well."""
        text, values = statement
        asked = text if self.rewritten is None else text.replace(*self.rewritten)
        rows = self._sql.execute(asked, values).fetchall()
        if self._sql.total_changes != self._changes:
            self._changes = self._sql.total_changes
            self._answers.clear()
        elif "steady()" not in text:
            self._answers[statement] = rows.copy()
        return rows

    def back_up(self) -> None:
        """Make the copy that the next `restore` returns to."""
        self._sql.execute("SAVEPOINT back_up")

    def restore(self) -> None:
        """Return to the last back-up."""
        self._go_back("back_up")

    def close(self) -> None:
        """The end of the history."""
        _databases[0].end()


def _drive(sql: sqlite3.Connection, operation: Operation[T]) -> T:
    """Run an operation on a database without the cache."""
    try:
        statement = next(operation)
        while True:
            statement = operation.send(sql.execute(*statement).fetchall())
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
    history: History

    def __init__(self, engine: StoreEngine, link: Link) -> None:
        self._engine = engine
        self._link = link
        self.threads = SqlThreads(self, SQLITE)
        self.memberships = SqlMemberships(self, SQLITE)
        self.runs = SqlRuns(self, SQLITE)
        self.credentials = SqlCredentials(self, SQLITE)
        self.records = SqlRecords(self, SQLITE)
        self.history = SqlHistory(self, SQLITE)

    async def start(self) -> None:
        """Raises DependencyError while it cannot be reached."""
        await self.ping()

    async def stop(self) -> None:
        """Nothing to stop."""

    async def ping(self) -> None:
        """A round trip."""
        await self._link.call(bool)

    async def read(self, operation: Operation[T]) -> T:
        """See `operation.Engine`."""
        found: T = await self._link.call(self._engine.look, operation)
        return found

    async def write(self, operation: Operation[T]) -> T:
        """See `operation.Engine`."""
        found: T = await self._link.call(self._engine.execute, operation)
        return found
