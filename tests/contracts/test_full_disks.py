"""Engines without room: named by a fixed sign, nothing acknowledged is lost, and publishing resumes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import string
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from narthex.adapters.brokers.nats import NatsBroker
from narthex.adapters.brokers.redis import RedisBroker
from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.postgres import FULL_S, PostgresStore
from narthex.errors import DISK_FULL, ENGINE_HUNG, MEMORY_FULL, DependencyError
from narthex.ports.broker import Broker, Published
from narthex.ports.store import AuditRecord, Store
from tests.campaigns.test_engines_fail import leader_of, until_elected
from tests.contracts.recorder import Recorder
from tests.services import NatsCluster, NatsServer, PostgresServer, ValkeyServer, data_directory
from tests.small_disk import SmallDisk, small_disk
from tests.timing import within

THREAD: Final = "default/thread:t1"
BODY: Final = b'"' + b"x" * 20_000 + b'"'
NAMED_S: Final = within(12)  # docs/guarantees.md
ROOM_S: Final = within(10)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may reach."""
    with data_directory("full") as directory:
        yield directory


@contextlib.asynccontextmanager
async def started(broker: Broker) -> AsyncIterator[Broker]:
    """A broker that follows a channel."""
    await broker.start(Recorder(), "n1")
    broker.subscribe(THREAD)
    try:
        yield broker
    finally:
        await broker.stop()


async def fault_of(engine: Broker | Store) -> DependencyError | None:
    """The error that a health check gets from an engine now."""
    try:
        async with asyncio.timeout(2.0):
            await engine.ping()
    except DependencyError as error:
        return error
    except TimeoutError:
        return DependencyError("broker", "no answer in time")
    return None


async def until(engine: Broker | Store, sign: str | None, within_s: float) -> DependencyError | None:
    """Ask until the engine's fault has this sign (None: until it is well); then it must stay so."""
    errors: list[DependencyError | None] = []
    async with asyncio.timeout(within_s):
        while not errors or (errors[-1].sign if errors[-1] else None) != sign:
            errors.append(await fault_of(engine))
            await asyncio.sleep(0.1)
    for _ in range(3):
        again = await fault_of(engine)
        assert (again.sign if again else None) == sign, again
        await asyncio.sleep(0.3)
    return errors[-1]


async def publish_until_refused(broker: Broker) -> int:
    """Publish until one fails; the number that were acknowledged."""
    for number in range(1_000):
        try:
            await broker.publish(THREAD, BODY, key=f"k{number}")
        except DependencyError:
            return number
    raise AssertionError("never refused")


async def whole(broker: Broker, acknowledged: int) -> Published:
    """Everything acknowledged is there, in order, and the next publication follows it."""
    placed = await broker.publish(THREAD, b'"after"', key="after")
    offsets = [found.offset for found in (await broker.history(THREAD)).publications]
    assert offsets == list(range(1, placed.offset + 1))
    assert placed.offset > acknowledged
    return placed


async def test_nats_on_a_full_disk(place: Path) -> None:
    """NATS answers nothing and writes nothing more until it is restarted: `disk_full`, with that remedy."""
    with small_disk(place / "data", 24) as disk:
        server = NatsServer(disk.directory)
        await asyncio.to_thread(server.start)
        try:
            async with started(NatsBroker(server.url, timeout_s=3.0)) as broker:
                disk.fill(left=200_000)
                acknowledged = await publish_until_refused(broker)
                error = await until(broker, DISK_FULL, NAMED_S)
                assert error is not None and "restart" in error.remedy
                disk.free()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await until(broker, None, ROOM_S)
                await whole(broker, acknowledged)
        finally:
            await asyncio.to_thread(server.kill)


async def test_nats_that_has_used_its_storage(place: Path) -> None:
    """The limit that an operator set (`max_file_store`): the same sign, and no restart is needed."""
    limits = place / "limits.conf"
    limits.write_text('jetstream { max_file_store: 2MB, store_dir: "%s" }\n' % (place / "data"))
    server = LimitedNats(place / "data", limits)
    await asyncio.to_thread(server.start)
    try:
        async with started(NatsBroker(server.url, timeout_s=3.0)) as broker:
            acknowledged = await publish_until_refused(broker)
            assert acknowledged > 10
            await until(broker, DISK_FULL, NAMED_S)
    finally:
        await asyncio.to_thread(server.kill)


@pytest.mark.parametrize("first", ["leader", pytest.param("follower", marks=pytest.mark.soak)])
async def test_three_nats_servers_whose_disks_fill_up(place: Path, first: str) -> None:
    """One full disk, of the stream's leader or not: every publication is acknowledged, and health stays well. Two: each
    is refused within its time-out, and health is not well. With room, and these two servers restarted, all goes on, in
    the same epoch: nothing acknowledged is lost.
    """
    with contextlib.ExitStack() as disks:
        cluster = NatsCluster(place)
        room = {server: disks.enter_context(small_disk(server.directory, 24)) for server in cluster.servers}
        await asyncio.to_thread(cluster.start)
        try:
            await until_elected(cluster)
            async with started(NatsBroker(cluster.url, timeout_s=5.0)) as broker:
                begun = await broker.publish(THREAD, BODY)
                leader = await leader_of(cluster)
                others = [server for server in cluster.servers if server is not leader]
                full = [leader, others[0]] if first == "leader" else others
                room[full[0]].fill(left=200_000)
                for number in range(60):
                    await acknowledged_in_the_end(broker, f"one:{number}")
                await until(broker, None, NAMED_S)
                room[full[1]].fill(left=200_000)
                acknowledged = 61 + await publish_until_refused(broker)
                error = None
                async with asyncio.timeout(NAMED_S):
                    while error is None or "free their disks" not in error.remedy:
                        error = await fault_of(broker)
                        await asyncio.sleep(0.1)
                assert error.sign == ENGINE_HUNG
                for server in full:
                    room[server].free()
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                began = asyncio.get_running_loop().time()
                await until(broker, None, within(40))
                print(f"\nwell {asyncio.get_running_loop().time() - began:.1f} s after the restart")
                placed = await whole(broker, acknowledged)
                assert placed.epoch == begun.epoch
        finally:
            await asyncio.to_thread(cluster.stop)


async def acknowledged_in_the_end(broker: Broker, key: str) -> None:
    """Publish as the product does, which repeats while a new leader is elected (docs/guarantees.md: 4 to 7 s)."""
    async with asyncio.timeout(within(40)):
        while True:
            try:
                await broker.publish(THREAD, BODY, key=key)
            except DependencyError:
                await asyncio.sleep(0.2)
            else:
                return


class LimitedNats(NatsServer):
    """NATS with a configuration file."""

    def __init__(self, directory: Path, configuration: Path) -> None:
        super().__init__(directory)
        self._configuration = configuration

    def command(self) -> list[str]:
        words = super().command()
        return [*words[: words.index("-js")], "-c", str(self._configuration)]


async def redis_without_room(
    place: Path,
    sign: str,
    fill: Callable[[SmallDisk, redis.Redis], None],
    free: Callable[[SmallDisk, redis.Redis], None],
) -> None:
    """Fill, name, free, resume."""
    with small_disk(place / "data", 8) as disk:
        server = ValkeyServer(disk.directory)
        await asyncio.to_thread(server.start)
        operator = redis.Redis.from_url(server.url)
        try:
            async with started(RedisBroker(server.url, timeout_s=3.0)) as broker:
                await broker.publish(THREAD, BODY)
                fill(disk, operator)
                acknowledged = 1 + await publish_until_refused(broker)
                await until(broker, sign, NAMED_S)
                free(disk, operator)
                await until(broker, None, ROOM_S)
                await whole(broker, acknowledged)
        finally:
            operator.close()
            await asyncio.to_thread(server.kill)


async def test_redis_on_a_full_disk(place: Path) -> None:
    """It refuses every write, the nodes' beats too: `disk_full`, for as long as it lasts."""
    await redis_without_room(
        place, DISK_FULL, lambda disk, _: disk.fill(left=200_000), lambda disk, _: disk.free()
    )


async def test_redis_without_memory(place: Path) -> None:
    """`maxmemory` with `noeviction`: `memory_full`."""

    def fill(_: SmallDisk, operator: redis.Redis) -> None:
        operator.config_set("maxmemory", operator.info("memory")["used_memory"] + 500_000)

    def more(operator: redis.Redis) -> None:
        operator.config_set("maxmemory", 0)

    await redis_without_room(place, MEMORY_FULL, fill, lambda _, operator: more(operator))


async def test_sqlite_on_a_full_disk(place: Path) -> None:
    """A commit that does not fit is refused with `disk_full`; with room all goes on."""
    with small_disk(place / "data", 8) as disk:
        async with started(SqliteBroker(disk.directory / "log.db")) as broker:
            disk.fill(left=200_000)
            acknowledged = await publish_until_refused(broker)
            await until(broker, DISK_FULL, NAMED_S)
            disk.free()
            await until(broker, None, ROOM_S)
            await whole(broker, acknowledged)


async def test_postgres_on_a_full_disk(place: Path) -> None:
    """A write that needs room is refused: `disk_full`, although small writes succeed; with room all goes on."""
    server = PostgresServer(place / "pg")
    with small_disk(server.directory, 160, server.user) as disk:
        await asyncio.to_thread(server.initialise)
        await asyncio.to_thread(server.start)
        store = PostgresStore(server.url)
        detail = "".join(random.Random(1).choices(string.printable, k=20_000))
        record = AuditRecord(at=1.0, kind="test", tenant="acme", subject="ada", detail=detail)
        await store.start()
        try:
            disk.fill()
            acknowledged = 0
            with pytest.raises(DependencyError) as refused:
                while acknowledged < 5_000:
                    await store.records.audit(record)
                    acknowledged += 1
            assert refused.value.sign == DISK_FULL
            error = await fault_of(store)
            assert error is not None and error.sign == DISK_FULL
            disk.free()
            await until(store, None, FULL_S + ROOM_S)
            await store.records.audit(record)
            assert len(await store.records.audits("test", 5_000)) == acknowledged + 1
        finally:
            await store.stop()
            await asyncio.to_thread(server.stop)
