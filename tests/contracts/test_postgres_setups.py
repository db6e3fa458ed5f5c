"""PostgreSQL in common setups: poolers, several hosts, fail-overs that keep connections, roles without privileges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from narthex.adapters.stores.postgres import PostgresStore
from narthex.errors import ConfigError, DependencyError
from narthex.ports.store import AuditRecord
from tests.fault_proxy import FaultProxy
from tests.services import PgBouncer, PostgresServer, StandbyServer, data_directory, database
from tests.timing import within


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A separate database."""
    async with database(postgres_server) as made:
        yield made


@pytest.fixture
def bouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode, with two connections to the server."""
    with data_directory("bouncer") as directory:
        made = PgBouncer(directory / "b", postgres_server)
        made.start()
        yield made
        made.stop()


def record(number: int) -> AuditRecord:
    """An audit record with its number as the subject."""
    return AuditRecord(at=1.0, kind="k", tenant="a", subject=str(number), detail="{}")


async def audit(store: PostgresStore, number: int) -> None:
    """Write a record, retried until it is acknowledged."""
    async with asyncio.timeout(within(20)):
        while True:
            try:
                await store.records.audit(record(number))
                return
            except DependencyError:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[PostgresStore]:
    """A started store."""
    store = PostgresStore(url)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def test_a_pooler_in_transaction_mode(bouncer: PgBouncer, url: str) -> None:
    """Two processes with ten connections each share two server connections, including start-up, migration and reads."""
    async with running(bouncer.url(url)) as one, running(bouncer.url(url)) as two:
        await asyncio.gather(*(store.records.audit(record(n)) for n in range(200) for store in (one, two)))
        pages = await asyncio.gather(
            *(store.records.audits("k", 1_000) for store in (one, two) for _ in range(50))
        )
        assert {len(page) for page in pages} == {400}
        await asyncio.gather(one.ping(), two.ping())
        assert "behind a pooler" in await PostgresStore(bouncer.url(url)).reach()
        assert "pooler" not in await PostgresStore(url).reach()


async def test_a_pooler_that_is_restarted(bouncer: PgBouncer, url: str) -> None:
    """Calls fail meanwhile with the port's error, and then work again."""
    async with running(bouncer.url(url)) as store:
        await audit(store, 1)
        await asyncio.to_thread(bouncer.kill)
        with pytest.raises(DependencyError):
            await store.ping()
        await asyncio.to_thread(bouncer.start)
        await audit(store, 2)
        assert len(await store.records.audits("k", 10)) == 2


async def test_bounds_of_a_transaction_reach_the_server_through_a_pooler(
    bouncer: PgBouncer, url: str
) -> None:
    """Each transaction carries its own time-outs; none remains on the server's connection."""
    async with running(bouncer.url(url)) as store:
        await audit(store, 1)
        connection = await asyncpg.connect(bouncer.url(url), statement_cache_size=0)
        try:
            assert await connection.fetchval("SHOW statement_timeout") == "0"
        finally:
            await connection.close()


async def test_of_several_hosts_the_primary_is_used(postgres_server: PostgresServer) -> None:
    """A host with a closed port, a standby, and the primary, in that order; the standby alone is refused by name."""
    with data_directory("standby") as directory:
        standby = StandbyServer(directory / "s" / "data", postgres_server)
        await asyncio.to_thread(standby.initialise)
        await asyncio.to_thread(standby.start)
        try:
            async with database(postgres_server) as url:
                name = url.rpartition("/")[2]
                hosts = f"127.0.0.1:9,127.0.0.1:{standby.port},127.0.0.1:{postgres_server.port}"
                async with running(
                    f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write"
                ) as store:
                    await store.records.audit(record(1))
                alone = f"postgresql://postgres@127.0.0.1:{standby.port}/postgres"
                with pytest.raises(DependencyError, match="standby"):
                    await PostgresStore(alone).start()
        finally:
            await asyncio.to_thread(standby.stop)


async def test_a_fail_over_that_keeps_connections_open() -> None:
    """The old primary stays up and refuses writes (25006) on connections that it keeps; the address leads to the new
    one. Writes work again within 10 s, and no acknowledged write is lost.
    """
    with data_directory("failover") as directory:
        primary = PostgresServer(directory / "p" / "data")
        (directory / "p").mkdir()
        primary.initialise()
        standby = StandbyServer(directory / "s" / "data", primary)
        try:
            await asyncio.to_thread(primary.start)
            await asyncio.to_thread(standby.initialise)
            await asyncio.to_thread(standby.start)
            async with FaultProxy(primary.port) as proxy:
                url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
                async with running(url) as store:
                    await asyncio.gather(*(store.records.audit(record(n)) for n in range(50)))
                    await sql(primary, "ALTER SYSTEM SET default_transaction_read_only = on")
                    await sql(primary, "SELECT pg_reload_conf()")
                    await level(primary, standby)
                    await sql(standby, "SELECT pg_promote()")
                    proxy.target = standby.port
                    began = asyncio.get_running_loop().time()
                    await asyncio.gather(*(audit(store, n) for n in range(50, 100)))
                    assert asyncio.get_running_loop().time() - began < within(10)
                    await store.ping()
                    kept = {entry.subject for entry in await store.records.audits("k", 1_000)}
                    assert kept == {str(number) for number in range(100)}
        finally:
            await asyncio.to_thread(standby.stop)
            await asyncio.to_thread(primary.stop)


async def sql(server: PostgresServer, statement: str) -> object:
    """Run one statement on a separate connection."""
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def level(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has everything."""
    end = await sql(primary, "SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(within(20)):
        while not await sql(standby, f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_role_that_may_not_make_tables(postgres_server: PostgresServer, url: str) -> None:
    """PostgreSQL 15 and newer: the error names the grant, after which the store starts."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE ROLE narthex_app LOGIN")
        app = url.replace("postgres@", "narthex_app@")
        with pytest.raises(ConfigError, match='GRANT USAGE, CREATE ON SCHEMA public TO "narthex_app"'):
            await PostgresStore(app).start()
        await connection.execute('GRANT USAGE, CREATE ON SCHEMA public TO "narthex_app"')
        async with running(app) as store:
            await store.ping()
    finally:
        await connection.execute("DROP OWNED BY narthex_app; DROP ROLE narthex_app")
        await connection.close()


async def test_parameters_of_consoles(url: str) -> None:
    """URL parameters that Neon, Supabase, Prisma and libpq use: the store starts."""
    more = (
        "sslmode=prefer&channel_binding=require&gssencmode=disable&connect_timeout=10&pgbouncer=true"
        "&connection_limit=1&pool_timeout=0&keepalives=1&application_name=chat%20app&target_session_attrs=any"
    )
    async with running(f"{url}?{more}") as store:
        await store.ping()
