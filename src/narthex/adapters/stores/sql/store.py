"""The narrow ports of a store over one engine, which the stores of both engines are made of.

Not here: engines, starting and stopping (`stores/sqlite.py`, `stores/postgres.py`).
"""

from __future__ import annotations

import secrets

from narthex.adapters.stores.sql.credentials import SqlCredentials
from narthex.adapters.stores.sql.dialect import Dialect
from narthex.adapters.stores.sql.history import SqlHistory
from narthex.adapters.stores.sql.memberships import SqlMemberships
from narthex.adapters.stores.sql.operation import SqlEngine
from narthex.adapters.stores.sql.records import SqlRecords, ping
from narthex.adapters.stores.sql.runs import SqlRuns
from narthex.adapters.stores.sql.threads import SqlThreads
from narthex.errors import DependencyError
from narthex.ports.credentials import Credentials
from narthex.ports.history import History
from narthex.ports.memberships import Memberships
from narthex.ports.runs import Runs
from narthex.ports.store import Records
from narthex.ports.threads import Threads


class SqlStore:
    """All ports of `ports/store.py`, as operations on `engine` in the SQL of `dialect`."""

    def __init__(self, engine: SqlEngine, dialect: Dialect) -> None:
        self.threads: Threads = SqlThreads(engine, dialect)
        self.memberships: Memberships = SqlMemberships(engine, dialect)
        self.runs: Runs = SqlRuns(engine, dialect)
        self.credentials: Credentials = SqlCredentials(engine, dialect)
        self.records: Records = SqlRecords(engine, dialect)
        self.history: History = SqlHistory(engine, dialect)

    async def _write_and_read(self, engine: SqlEngine, name: str, remedy: str) -> None:
        """Write a value and read it back, in one transaction. Raises DependencyError when another one comes back."""
        value = secrets.token_hex(8)
        if await engine.write(ping(value)) != value:
            raise DependencyError("store", f"{name} did not give back what was written.", remedy)
