"""Implements the Store port on PostgreSQL: drives the operations of `stores/sql`, each in its own transaction.

Not here: SQL. Rules: the store never retries, because only the caller knows whether a repeat is right (after a lost
connection the outcome is unknown); an error quotes no value of a row; only the migration may take longer than
`timeout_s`; the store sets nothing on a session and uses nothing that a pooler would lose, so that it works through
PgBouncer in transaction mode; text with NUL characters, which PostgreSQL cannot hold, is stored with U+FFFD in their
place.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from narthex.adapters.certificates import certificate_end, certificate_words
from narthex.adapters.stores.postgres_address import CONNECT_S, parse_postgres
from narthex.adapters.stores.postgres_indexes import build_indexes
from narthex.adapters.stores.sql.dialect import POSTGRES
from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sql.schema import indexes, migrate
from narthex.adapters.stores.sql.store import SqlStore
from narthex.errors import DISK_FULL, ENGINE_HUNG, Bug, ConfigError, DependencyError, NarthexError, Overloaded

T = TypeVar("T")
_log = structlog.get_logger("narthex.store")

POOL_SIZE: Final = 10  # connections per process: a PostgreSQL of default size serves ten processes
MAX_WAITING: Final = 5_000
TIMEOUT_S: Final = 10.0
IDLE_S: Final = 300.0
FULL_S: Final = 10.0  # health names a full disk for this long after the last write that it refused
MIGRATE_S: Final = 60.0  # tables and columns only; or the wait for the instance that makes them

_BROKEN: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Errors after which a connection is useless. asyncpg raises InternalClientError for a statement on a connection on
which the server has announced its end and which asyncpg has not closed yet."""
_FAULTS: Final = (asyncpg.PostgresError, *_BROKEN)
_READ_ONLY: Final = (asyncpg.ReadOnlySQLTransactionError, asyncpg.TargetServerAttributeNotMatched)
_ELSEWHERE: Final = (
    *(ConnectionError, TimeoutError, socket.gaierror, asyncpg.CannotConnectNowError),
    *(asyncpg.ConnectionDoesNotExistError, asyncpg.TooManyConnectionsError),
    asyncpg.TargetServerAttributeNotMatched,
)
"""Errors after which another host, or the same one a moment later, may work."""


class PostgresStore(SqlStore):
    """The store on PostgreSQL 14 or newer.

    Args:
        url: `postgresql://user:password@host:port[,host:port…]/database`, see `postgres_address`.
        pool_size: connections of this process.
        timeout_s: seconds after which a call raises DependencyError.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, timeout_s: float = TIMEOUT_S) -> None:
        self.durability = _DURABILITY
        self._engine = PostgresEngine(url, pool_size, timeout_s)
        super().__init__(self._engine, POSTGRES)

    @property
    def pending(self) -> int:
        """Operations that wait, of at most `MAX_WAITING`."""
        return self._engine.pending

    async def certificate_ends_at(self) -> float:
        """The end of the server's TLS certificate, on a fresh connection; 0.0 without TLS. Raises DependencyError."""
        return await self._engine.certificate_ends_at()

    async def start(self) -> None:
        """Connect and migrate. Raises ConfigError (newer schema, wrong credentials) or DependencyError."""
        await self._engine.start()
        try:
            found = await self._engine.read(_synchronous_commit())
        except BaseException:
            await self._engine.stop()
            raise
        self.durability = _ASYNCHRONOUS if found == "off" else _DURABILITY

    async def reach(self) -> str:
        """Connect, read, disconnect; returns a description of the server, and changes nothing (`check --connect`).

        Raises:
            ConfigError: wrong credentials or database.
            DependencyError: the server does not answer, or accepts no writes.
        """
        return await self._engine.reach()

    async def stop(self) -> None:
        """Finish the accepted operations, then close; idempotent."""
        await self._engine.stop()

    async def ping(self) -> None:
        """See the port."""
        self._engine.check_disk()
        # Another instance may write the same row at the same time; within the transaction this one holds it.
        await self._write_and_read(self._engine, "PostgreSQL", "Check its log.")


class PostgresEngine:
    """`stores.sql.operation.SqlEngine` over a pool of connections."""

    def __init__(self, url: str, pool_size: int, timeout_s: float) -> None:
        self._address = parse_postgres(url)
        self._shown = self._address.shown
        self._pool_size = pool_size
        self._timeout_s = timeout_s
        self._pool: Any = None  # asyncpg has no types
        self._pooled = self._address.pooled
        self._last: Exception | None = None  # of the last failed try to connect
        self._host = 0  # the one that accepted the last connection comes first
        self._full: tuple[float, DependencyError] | None = (
            None  # when a write found the disk full, on loop's clock
        )
        self._waiting = 0
        self._idle = asyncio.Event()

    @property
    def pending(self) -> int:
        """Operations that wait for a connection, at most `MAX_WAITING`, or are under way."""
        return self._waiting

    async def start(self) -> None:
        """Connect and migrate."""
        try:
            async with asyncio.timeout(CONNECT_S):
                self._pool = await self._connect()
            async with asyncio.timeout(MIGRATE_S):
                operation = migrate(POSTGRES, f"PostgreSQL at {self._shown}", time.time())
                await self._run(operation, writes=True, statement_s=MIGRATE_S)
            await self._build_indexes()
        except BaseException as error:
            await self._close()
            if isinstance(error, TimeoutError):
                raise self._never() from error
            raise
        for note in self._address.notes:
            _log.warning("store_url_parameter", note=note)

    async def _build_indexes(self) -> None:
        try:
            await build_indexes(indexes(POSTGRES), self._pool, self._open, pooled=self._pooled)
        except _FAULTS as error:
            raise self._translated(error) from error

    async def certificate_ends_at(self) -> float:
        """See `PostgresStore.certificate_ends_at`."""
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._open()
        except (TimeoutError, *_FAULTS) as error:
            raise self._unreachable(type(error).__name__) from error
        try:
            return certificate_end(getattr(connection, "_transport", None))
        finally:
            connection.terminate()

    async def reach(self) -> str:
        """See `PostgresStore.reach`."""
        try:
            async with asyncio.timeout(CONNECT_S):
                self._pool = await self._connect()
                async with self._connection() as connection:
                    pooler = ", behind a pooler" if self._pooled else ""
                    version = await connection.fetchval("SHOW server_version")
                    ends_at = certificate_end(getattr(connection, "_transport", None))
                    known = await connection.fetchval("SELECT to_regclass('schema_versions') IS NOT NULL")
        except TimeoutError as error:
            raise self._never() from error
        except _FAULTS as error:
            raise self._translated(error) from error
        finally:
            await self._close()
        words = [f"PostgreSQL {version}{pooler}", f"{'with' if known else 'without'} narthex's tables"]
        return ", ".join([*words, *certificate_words(ends_at), *self._address.notes])

    async def stop(self) -> None:
        """Wait for the operations under way, then close."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._waiting:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), self._timeout_s)
            except TimeoutError:
                pool.terminate()
                return
        await pool.close()

    async def read(self, operation: Operation[T]) -> T:
        """See `operation.SqlEngine`; without a transaction: each statement sees everything committed before it."""
        return await self._bounded(operation, writes=False)

    async def write(self, operation: Operation[T]) -> T:
        """See `operation.SqlEngine`."""
        return await self._bounded(operation, writes=True)

    def check_disk(self) -> None:
        """A small write may succeed on a full disk, within what is reserved already. Raises DependencyError for
        `FULL_S` after another write did not.
        """
        if self._full is not None and asyncio.get_running_loop().time() - self._full[0] < FULL_S:
            raise self._full[1]

    async def _connect(self) -> Any:
        while True:
            try:
                await self._look_for_pooler()
                return await asyncpg.create_pool(
                    min_size=1,
                    max_size=self._pool_size,
                    max_inactive_connection_lifetime=IDLE_S,
                    connect=self._open,
                    reset=_leave_as_it_is,
                )
            except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
                problem = f"PostgreSQL at {self._shown} refused the credentials or the database of NARTHEX_STORE_URL."
                raise ConfigError([problem]) from error
            except (asyncpg.ClientConfigurationError, FileNotFoundError) as error:
                # `from None`: the library's message may quote the URL.
                problem = (
                    f"NARTHEX_STORE_URL has a parameter that cannot be used ({type(error).__name__}): check the "
                    f"files that sslrootcert, sslcert, sslkey, sslcrl, passfile and service name."
                )
                raise ConfigError([problem]) from None
            except _ELSEWHERE as error:
                self._last = error
                await asyncio.sleep(0.2)  # the server may be starting: retry until the caller's time is over
            except _FAULTS as error:
                raise self._unreachable(type(error).__name__) from error

    async def _look_for_pooler(self) -> None:
        """Detect a pooler, which gives clients made-up process ids, and use no named statements behind it: a pooler
        that lends its connections per transaction loses them.
        """
        if self._pooled:
            return
        connection = await self._open(statement_cache_size=0)
        try:
            self._pooled = await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
        finally:
            connection.terminate()

    async def _open(self, *_: Any, **options: Any) -> Any:
        """A connection to the primary host; the last one is tried first."""
        address = self._address
        last: Exception | None = None
        if self._pooled:
            options["statement_cache_size"] = 0
        if address.system_roots:
            options["ssl"] = ssl.create_default_context()
        for turn in range(len(address.urls) or 1):
            place = (self._host + turn) % max(1, len(address.urls))
            try:
                connection = await asyncpg.connect(
                    address.urls[place] if address.urls else None,
                    timeout=address.connect_s,
                    command_timeout=self._timeout_s,
                    server_settings=address.settings,
                    target_session_attrs=address.session_attrs,
                    **options,
                )
            except (*_ELSEWHERE, asyncpg.InvalidCatalogNameError) as error:  # a standby may not know it yet
                last = error
                continue
            self._host = place
            return connection
        assert last is not None
        raise last

    async def _bounded(self, operation: Operation[T], *, writes: bool) -> T:
        if self._pool is None:
            operation.close()
            raise DependencyError("store", "The PostgreSQL store is not running.", "Call start() first.")
        if self._waiting >= MAX_WAITING:
            operation.close()
            said = f"{MAX_WAITING} operations are waiting for PostgreSQL, the limit."
            raise Overloaded("store", said, "Retry later; if the problem persists, check PostgreSQL's load.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._run(operation, writes=writes)
        except TimeoutError as error:
            raise self._unreachable(f"no answer within {self._timeout_s:g} s") from error
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._idle.set()

    async def _run(self, operation: Operation[T], *, writes: bool, statement_s: float | None = None) -> T:
        """Drive an operation; `statement_s` replaces `timeout_s` as the time limit of one statement."""
        try:
            async with self._connection() as connection:
                if not writes:
                    return await _drive(connection, operation)
                async with _transaction(connection, statement_s or self._timeout_s):
                    return await _drive(connection, operation, statement_s)
        except NarthexError:
            raise
        except asyncpg.UniqueViolationError as error:
            # `from None`: the library's message quotes the row's values.
            raise Bug(
                "store_conflict", f"A row that must be new already exists ({error.constraint_name})."
            ) from None
        except asyncpg.InsufficientPrivilegeError as error:
            if statement_s is None:
                raise self._translated(error) from error
            raise self._no_privilege() from error
        except asyncpg.DiskFullError as error:
            self._full = asyncio.get_running_loop().time(), self._translated(error)
            raise self._full[1] from error
        except _READ_ONLY as error:
            await self._leave()
            raise self._translated(error) from error
        except _FAULTS as error:
            raise self._translated(error) from error
        finally:
            operation.close()

    async def _leave(self) -> None:
        """After the server stopped accepting writes, drop every connection to it, and find the primary."""
        self._host += 1
        if self._pool is not None:
            await self._pool.expire_connections()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pool = self._pool
        connection = await pool.acquire(timeout=self._timeout_s)
        try:
            yield connection
        except (asyncio.CancelledError, TimeoutError, *_BROKEN):
            connection.terminate()  # no answer will come on it: `release` would wait for one again
            raise
        finally:
            await pool.release(connection)

    def _no_privilege(self) -> ConfigError:
        role = self._address.user or "the role of NARTHEX_STORE_URL"
        problem = (
            f"The role {role} may not create tables in the database {self._shown}. As the database's owner run: "
            f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"; (PostgreSQL 15 and newer do not by default), or give '
            "the role a schema of its own."
        )
        return ConfigError([problem])

    def _translated(self, error: Exception) -> DependencyError:
        remedy = "Retry; if the problem persists, check PostgreSQL's log."
        if isinstance(error, asyncpg.DiskFullError):
            remedy = "Free disk space for PostgreSQL."
        elif isinstance(error, asyncpg.LockNotAvailableError):
            remedy = (
                "A transaction holds a table that the migration has to change (a dump, a report, a forgotten session): "
                "narthex tries again until it has ended; pg_stat_activity names it."
            )
        elif isinstance(error, _READ_ONLY):
            remedy = "The server is a standby: set NARTHEX_STORE_URL to the primary, or list all hosts of the cluster."
        sign = ENGINE_HUNG if isinstance(error, TimeoutError) else ""
        if isinstance(error, asyncpg.DiskFullError):
            sign = DISK_FULL
        return DependencyError(
            "store", f"PostgreSQL at {self._shown} failed: {type(error).__name__}.", remedy, sign=sign
        )

    def _never(self) -> DependencyError:
        """The error when no host was usable within the time of a start."""
        if isinstance(self._last, _READ_ONLY):
            return self._translated(self._last)
        return self._unreachable("no connection before the time-out")

    def _unreachable(self, why: str) -> DependencyError:
        return DependencyError(
            "store",
            f"Cannot reach PostgreSQL at {self._shown}: {why}.",
            "Start it, or check NARTHEX_STORE_URL.",
        )

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


async def _leave_as_it_is(connection: Any) -> None:
    """Skip the reset of a returned connection: this store changes no session, and a reset is a round trip."""
    del connection


@asynccontextmanager
async def _transaction(connection: Any, statement_s: float) -> AsyncIterator[None]:
    """Begin; commit, or roll back. After a time-out it sends neither: the server rolls back by itself when it loses the
    connection. The time limits are the transaction's own, set in the same round trip.
    """
    bound = int(statement_s * 1000)
    try:
        await connection.execute(
            f"BEGIN; SET LOCAL statement_timeout = {bound}; SET LOCAL idle_in_transaction_session_timeout = {bound}"
        )
        yield
    except (asyncio.CancelledError, TimeoutError):
        raise
    except BaseException:
        await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


async def _drive(connection: Any, operation: Operation[T], statement_s: float | None = None) -> T:
    try:
        sql, values = next(operation)
        while True:
            records = await connection.fetch(_numbered(sql), *map(_clean, values), timeout=statement_s)
            sql, values = operation.send([tuple(record) for record in records])
    except StopIteration as stop:
        value: T = stop.value
        return value


def _synchronous_commit() -> Operation[str]:
    """Whether a commit waits for its disk: anything but `off`."""
    rows = yield "SHOW synchronous_commit", ()
    return str(rows[0][0])


@lru_cache(maxsize=1_024)
def _numbered(sql: str) -> str:
    """`?` placeholders as `$1`, `$2` …; statements contain no other `?`."""
    parts = sql.split("?")
    return parts[0] + "".join(f"${number}{part}" for number, part in enumerate(parts[1:], start=1))


def _clean(value: object) -> object:
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value


_DURABILITY: Final = (
    "An acknowledged write is synced to the write-ahead log: it survives the death of the process and of the machine; "
    "a fail-over to an asynchronous standby may lose the last few."
)
_ASYNCHRONOUS: Final = "synchronous_commit is off: an acknowledged write survives the death of narthex only."
