"""Stores whose server dies or hangs, and tests that apply only to PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from narthex.adapters.stores import postgres
from narthex.adapters.stores.postgres import PostgresStore
from narthex.adapters.stores.sql.dialect import POSTGRES, Dialect
from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sql.schema import migrate
from narthex.errors import Bug, ConfigError, DependencyError
from narthex.ports.store import AuditRecord
from narthex.ports.threads import Message, Thread
from tests.fault_proxy import FaultProxy
from tests.services import PostgresServer, data_directory, database
from tests.timing import within


@pytest.fixture(scope="module")
def module_server() -> Iterator[PostgresServer]:
    """A separate server for this module, so that a test that kills it and fails does not affect other modules."""
    with data_directory("postgres-faults") as directory:
        server = PostgresServer(directory / "data")
        server.initialise()
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres_server(module_server: PostgresServer) -> Iterator[PostgresServer]:
    """The module's server; it runs again after the test, whatever the outcome."""
    yield module_server
    module_server.resume()
    if not module_server.running:
        module_server.start()


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A separate database."""
    async with database(postgres_server) as made:
        try:
            yield made
        finally:
            postgres_server.resume()
            if not postgres_server.running:  # before the database is dropped
                await asyncio.to_thread(postgres_server.start)


@asynccontextmanager
async def running(url: str, timeout_s: float = 10.0) -> AsyncIterator[PostgresStore]:
    """A store, started and stopped."""
    store = PostgresStore(url, timeout_s=timeout_s)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def record(number: int) -> AuditRecord:
    """An audit record with its number as the subject."""
    return AuditRecord(at=1.0, kind="k", tenant="a", subject=str(number), detail="{}")


async def test_killed_server_loses_nothing_acknowledged(postgres_server: PostgresServer, url: str) -> None:
    """Kill -9 of the postmaster during writes: errors meanwhile; every acknowledged write is present afterwards."""
    async with running(url) as store:
        acknowledged: set[str] = set()
        errors = 0
        back = asyncio.Event()

        async def write(task: int) -> None:
            nonlocal errors
            number = task
            while not back.is_set() or number < 2_000:
                try:
                    await store.records.audit(record(number))
                    acknowledged.add(str(number))
                except DependencyError:
                    errors += 1
                    await asyncio.sleep(0.05)
                number += 8

        tasks = [asyncio.create_task(write(task)) for task in range(8)]
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.to_thread(postgres_server.start)
        back.set()
        await asyncio.gather(*tasks)
        kept = {entry.subject for entry in await store.records.audits("k", 10_000)}
        assert errors > 0
        assert len(acknowledged) > 500
        assert acknowledged <= kept


async def test_hanging_server_is_an_error_in_time(postgres_server: PostgresServer, url: str) -> None:
    """Every call raises within its time-out, including those in progress; the store works again once the server
    does.
    """
    async with running(url, timeout_s=1.0) as store:
        await asyncio.gather(*(store.records.audit(record(number)) for number in range(20)))
        calls = [asyncio.ensure_future(store.records.audit(record(number))) for number in range(20)]
        await asyncio.sleep(0.002)  # in the middle of them
        postgres_server.pause()
        began = asyncio.get_running_loop().time()
        calls += [asyncio.ensure_future(store.records.audit(record(1)))]
        outcomes = await asyncio.gather(
            *calls, store.ping(), store.records.audits(None, 1), return_exceptions=True
        )
        assert asyncio.get_running_loop().time() - began < 1.0 + within(0.5)
        assert all(isinstance(outcome, DependencyError) for outcome in outcomes[20:]), outcomes
        postgres_server.resume()
        async with asyncio.timeout(20):
            while True:
                try:
                    await store.ping()
                    break
                except DependencyError:
                    await asyncio.sleep(0.1)


async def test_no_server_and_wrong_database(postgres_server: PostgresServer, url: str) -> None:
    """The error names the problem without the credentials: unreachable, or refused."""
    with pytest.raises(ConfigError, match="NARTHEX_STORE_URL") as refused:
        await PostgresStore(url.replace("postgres@", "nobody:secret@") + "x").start()
    assert "secret" not in str(refused.value)
    await asyncio.to_thread(postgres_server.kill)
    with pytest.raises(DependencyError, match="Cannot reach PostgreSQL"):
        await asyncio.wait_for(PostgresStore(url).start(), 15)
    await asyncio.to_thread(postgres_server.start)


async def test_a_server_that_dies_during_the_start(
    postgres_server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the migration too it is an error of the port, which is retried; nothing stays open."""
    start = postgres.PostgresEngine.start

    async def then_dies(engine: postgres.PostgresEngine) -> None:
        await start(engine)
        await asyncio.to_thread(postgres_server.kill)

    store = PostgresStore(url)
    with monkeypatch.context() as patch:
        patch.setattr(postgres.PostgresEngine, "start", then_dies)
        with pytest.raises(DependencyError):
            await store.start()
    assert store._engine._pool is None
    await asyncio.to_thread(postgres_server.start)
    with pytest.raises(DependencyError, match="not running"):
        await store.ping()
    await store.start()
    await store.ping()
    await store.stop()


FATAL: Final = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


class Announcing(FaultProxy):
    """Forwards, and can send idle clients the message that a dying server sends before it closes."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.clients: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.append(writer)
        try:
            await super()._serve(reader, writer)
        finally:
            self.clients.remove(writer)

    def announce(self) -> None:
        """Send the message that PostgreSQL sends to a session that it ends; the connection stays open for now."""
        for client in self.clients:
            client.write(b"E" + (len(FATAL) + 4).to_bytes(4, "big") + FATAL)


async def test_a_session_whose_end_was_announced_is_an_error_of_the_port(
    postgres_server: PostgresServer, url: str
) -> None:
    """Between the server's FATAL message and the end of the connection asyncpg raises its own kind of error; the store
    raises the port's error, does not reuse the connection, and the next call works.
    """
    async with Announcing(postgres_server.port) as proxy:
        through = url.replace(f":{postgres_server.port}", f":{proxy.port}")
        async with running(through) as store:
            proxy.announce()
            await asyncio.sleep(0.05)  # the message is read before the next statement is sent
            with pytest.raises(DependencyError):
                await store.ping()
            await store.ping()


async def test_stores_that_start_together_migrate_once(url: str) -> None:
    """Five instances on an empty database."""
    stores = [PostgresStore(url) for _ in range(5)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.ping() for store in stores))
    await asyncio.gather(*(store.stop() for store in stores))


async def test_a_migration_may_take_longer_than_a_statement(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building an index on a large table, or waiting for the instance that builds it, is not a failure."""

    def slow(dialect: Dialect, name: str, now: float) -> Operation[int]:
        yield "SELECT pg_sleep(1.2)", ()
        return (yield from migrate(dialect, name, now))

    monkeypatch.setattr(postgres, "migrate", slow)
    async with running(url, timeout_s=0.6) as store:
        with pytest.raises(DependencyError):
            await store._engine.write(slow(POSTGRES, "again", 1.0))


async def test_a_conflict_quotes_no_value(url: str) -> None:
    """A ticket's hash, a user's e-mail: the values of a row do not belong in the log."""
    async with running(url) as store:
        hashed = secrets.token_hex()
        await store.credentials.put_ticket(hashed, "{}", 10.0)
        with pytest.raises(Bug) as caught:
            await store.credentials.put_ticket(hashed, "{}", 10.0)
    shown = "".join(traceback.format_exception(caught.value))
    assert "tickets_pkey" in shown
    assert hashed not in shown


async def test_text_that_postgres_cannot_hold(url: str) -> None:
    """A NUL character is replaced instead of failing the write."""
    async with running(url) as store:
        await store.threads.create(
            Thread(thread_id="t", tenant="a", title="x\0y", created_by="u", created_at=1.0, updated_at=1.0)
        )
        await store.threads.add_messages(
            "a",
            [Message(message_id="m", thread_id="t", role="user", author="u", content="a\0b", created_at=1.0)],
        )
        [message] = await store.threads.messages("a", "t", before=None, limit=1)
        assert message.content == "a\ufffdb"


async def test_deleting_a_thread_and_writing_to_it_at_once(url: str) -> None:
    """Whichever is first: afterwards no row of the thread is left, and no call hangs."""
    async with running(url) as store:
        for turn in range(20):
            name = f"t{turn}"
            await store.threads.create(
                Thread(thread_id=name, tenant="a", title="x", created_by="u", created_at=1.0, updated_at=1.0)
            )
            messages = [
                Message(
                    message_id=f"m{n}", thread_id=name, role="user", author="u", content="x", created_at=1.0
                )
                for n in range(3)
            ]
            await asyncio.gather(
                store.threads.add_messages("a", messages),
                store.threads.delete("a", name),
                store.threads.add_messages("a", messages),
            )
            assert await store.threads.messages("a", name, before=None, limit=10) == []
