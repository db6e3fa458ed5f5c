"""Brokers whose server dies, hangs, or returns with less data. Each test has its own server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from narthex.adapters.brokers.nats import NatsBroker
from narthex.adapters.brokers.redis import RedisBroker
from narthex.errors import DependencyError
from narthex.ports.broker import Broker, Position, Published
from tests.contracts.recorder import Recorder
from tests.services import NatsCluster, NatsServer, Server, ValkeyServer, data_directory
from tests.timing import within

THREAD = "default/thread:t1"


class Rig:
    """One server and brokers on it."""

    def __init__(self, server: NatsServer | ValkeyServer) -> None:
        self.server = server

    def make(self, timeout_s: float = 12.0) -> Broker:
        """A broker that is not started."""
        if isinstance(self.server, NatsServer):
            return NatsBroker(self.server.url, timeout_s=timeout_s)
        return RedisBroker(self.server.url, timeout_s=timeout_s)


@contextmanager
def rigged(engine: str, fsync: str = "everysec") -> Iterator[Rig]:
    """A started server with data of its own; `fsync` is Redis's."""
    with data_directory(engine) as directory:
        data = directory / "data"
        made = NatsServer(data) if engine == "nats" else ValkeyServer(data, fsync=fsync)
        made.start()
        yield Rig(made)
        made.kill()


@pytest.fixture(params=["nats", "redis"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Every engine that is a server."""
    with rigged(request.param) as made:
        yield made


@pytest.fixture(params=["nats", "redis"])
def synced(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """As `rig`; Redis syncs each write."""
    with rigged(request.param, fsync="always") as made:
        yield made


@asynccontextmanager
async def running(broker: Broker, recorder: Recorder, node: str = "n1") -> AsyncIterator[Broker]:
    """A broker, started and stopped."""
    await broker.start(recorder, node)
    try:
        yield broker
    finally:
        await broker.stop()


async def in_thread(work: object) -> None:
    """Run a slow operation on the server in a thread."""
    assert callable(work)
    await asyncio.to_thread(work)


def lose_the_tail(server: Server, kept: str) -> None:
    """Bring the server back as it was when `kept` was copied."""
    server.kill()
    shutil.rmtree(server.directory)
    shutil.copytree(kept, server.directory)
    server.start()


def begin_anew(server: Server) -> None:
    """Restart the server with no data."""
    server.kill()
    shutil.rmtree(server.directory)
    server.start()


class Ledger:
    """The acknowledged publications, by offset."""

    def __init__(self) -> None:
        self.entries: dict[int, str] = {}
        self._grown = asyncio.Event()

    def note(self, offset: int, data: str) -> None:
        """Record an acknowledgement."""
        self.entries[offset] = data
        self._grown.set()

    async def more(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait for `count` more acknowledgements."""
        wanted = len(self.entries) + count
        async with asyncio.timeout(timeout_s):
            while len(self.entries) < wanted:
                self._grown.clear()
                await self._grown.wait()


async def stream(broker: Broker, task: int, ledger: Ledger, done: asyncio.Event) -> None:
    """Publish until `done`, and retry each publication with its key until it is acknowledged."""
    number = 0
    while not done.is_set():
        data = f'"{task}-{number}"'
        try:
            placed = await broker.publish(THREAD, data.encode(), key=data)
        except DependencyError:
            await asyncio.sleep(0.01)  # a stopped broker refuses at once
            continue
        ledger.note(placed.offset, data)
        number += 1


async def check(broker: Broker, acknowledged: dict[int, str]) -> None:
    """Every acknowledged publication is at its offset, none is duplicated, and there is no gap."""
    page = await broker.history(THREAD)
    log = {p.offset: p.data.decode() for p in page.publications}
    assert acknowledged.items() <= log.items()
    assert sorted(log) == list(range(1, page.top.offset + 1))
    assert len(set(log.values())) == len(log)


async def test_no_server_at_start(rig: Rig) -> None:
    """An error within seconds names the address and the remedy."""
    await in_thread(rig.server.kill)
    with pytest.raises(DependencyError, match=f"127.0.0.1:{rig.server.port}.*NARTHEX_BROKER_URL"):
        await asyncio.wait_for(rig.make().start(Recorder(), "n1"), 8)


async def test_killed_server_loses_nothing_acknowledged(synced: Rig) -> None:
    """Kill -9 and a restart, three times, during publishes on two nodes; the epoch stays."""
    assert await killed_thrice(synced)


async def test_killed_redis_loses_nothing_in_silence() -> None:
    """It syncs once a second, and acknowledges before it writes while an fsync is slow, for up to 2 s: what the kill
    loses then ends the epoch. While the epoch stays, everything is there.
    """
    with rigged("redis") as rig:
        await killed_thrice(rig)


async def killed_thrice(rig: Rig) -> bool:
    """Kill -9 and a restart, three times, during publishes on two nodes. Returns whether the epoch stayed; then all
    acknowledged publications are compared with the log. In any case the nodes go on.
    """
    recorder = Recorder()
    async with running(rig.make(), recorder) as one, running(rig.make(), Recorder(), "n2") as two:
        one.subscribe(THREAD)
        before = (await one.history(THREAD, limit=0)).top.epoch
        ledger = Ledger()
        done = asyncio.Event()
        tasks = [asyncio.create_task(stream((one, two)[n % 2], n, ledger, done)) for n in range(6)]
        for _ in range(3):
            await ledger.more(150)
            resyncs = len(recorder.resyncs)
            await in_thread(rig.server.kill)
            await in_thread(rig.server.start)
            await recorder.until(lambda seen=resyncs: len(recorder.resyncs) > seen)  # type: ignore[misc] # bound per turn
        done.set()
        await asyncio.gather(*tasks)
        top = (await one.history(THREAD, limit=0)).top
        if top.epoch == before:
            await check(two, ledger.entries)
        # After the last resync the handler receives publications again.
        placed = await two.publish(THREAD, b'"last"')
        await recorder.until(lambda: any(p.offset == placed.offset for p in recorder.of(THREAD)))
        return top.epoch == before


async def test_away_server_is_an_error_in_time(rig: Rig) -> None:
    """The server hangs: every call raises within its time-out, and works again afterwards."""
    async with running(rig.make(timeout_s=1.5), Recorder()) as broker:
        await broker.publish(THREAD, b"1", key="k1")
        rig.server.pause()
        began = asyncio.get_running_loop().time()
        outcomes: list[object] = list(
            await asyncio.gather(
                broker.publish(THREAD, b"2", key="k2"), broker.history(THREAD), return_exceptions=True
            )
        )
        assert asyncio.get_running_loop().time() - began < 1.5 + within(0.5)
        outcomes += await asyncio.wait_for(asyncio.gather(broker.ping(), return_exceptions=True), 20)
        assert all(isinstance(outcome, DependencyError) for outcome in outcomes), outcomes
        rig.server.resume()
        placed = await retried(broker, b"2", "k2")
        assert placed.offset == 2
        assert (await broker.publish(THREAD, b"3")).offset == 3


async def retried(broker: Broker, data: bytes, key: str) -> Published:
    """Publish until it is acknowledged."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await broker.publish(THREAD, data, key=key)
            except DependencyError:
                await asyncio.sleep(0.1)


async def test_lost_tail_changes_the_epoch(rig: Rig) -> None:
    """A server returns without acknowledged publications: the node notices, and tells its clients."""
    recorder = Recorder()
    async with running(rig.make(), recorder) as broker:
        first = await broker.publish(THREAD, b"1")
        with data_directory("kept") as kept:
            await in_thread(rig.server.stop)
            shutil.copytree(rig.server.directory, kept / "data")
            await in_thread(rig.server.start)
            await retried(broker, b"2", "k2")
            await retried(broker, b"3", "k3")
            resyncs = len(recorder.resyncs)
            await in_thread(lambda: lose_the_tail(rig.server, str(kept / "data")))
        await recorder.until(lambda: len(recorder.resyncs) > resyncs)
        page = await broker.history(THREAD, since=Position(3, first.epoch))
        assert not page.complete
        assert page.top.epoch != first.epoch
        again = await retried(broker, b"4", "k4")
        assert again.epoch == (await broker.history(THREAD, limit=0)).top.epoch


async def test_lost_server_changes_the_epoch(rig: Rig) -> None:
    """A server returns empty: publishing works in a new log with a new epoch."""
    recorder = Recorder()
    async with running(rig.make(), recorder) as broker:
        broker.subscribe(THREAD)
        first = await broker.publish(THREAD, b"1", key="k1")
        resyncs = len(recorder.resyncs)
        await in_thread(lambda: begin_anew(rig.server))
        await recorder.until(lambda: len(recorder.resyncs) > resyncs)
        again = await retried(broker, b"2", "k2")
        assert again.offset == 1
        assert again.epoch != first.epoch
        page = await broker.history(THREAD, since=Position(1, first.epoch))
        assert (page.complete, page.publications) == (False, [])


async def test_deleted_stream_is_made_anew() -> None:
    """The stream is deleted under a connected node: a new log with a new epoch begins, and the clients are notified."""
    with data_directory("nats") as directory:
        server = NatsServer(directory / "data")
        await in_thread(server.start)
        recorder = Recorder()
        try:
            async with running(NatsBroker(server.url), recorder) as broker:
                assert isinstance(broker, NatsBroker)
                first = await broker.publish(THREAD, b"1")
                resyncs = len(recorder.resyncs)
                await broker._stream.api(f"STREAM.DELETE.{broker._names.log_stream}")
                again = await retried(broker, b"2", "k2")
                assert (again.offset, again.duplicate) == (1, False)
                assert again.epoch != first.epoch
                await recorder.until(lambda: len(recorder.resyncs) > resyncs)
        finally:
            await in_thread(server.kill)


async def test_killed_leader_of_three_loses_nothing_acknowledged() -> None:
    """NATS R3: kill -9 of the stream's leader during publishes on two nodes, then of its successor."""
    with data_directory("nats3") as directory:
        cluster = NatsCluster(directory)
        await in_thread(cluster.start)
        try:
            recorder = Recorder()
            async with (
                running(NatsBroker(cluster.url), recorder) as one,
                running(NatsBroker(cluster.url), Recorder(), "n2") as two,
            ):
                one.subscribe(THREAD)
                await one.history(THREAD, limit=0)
                assert "majority of 3" in one.durability
                ledger = Ledger()
                done = asyncio.Event()
                tasks = [asyncio.create_task(stream((one, two)[n % 2], n, ledger, done)) for n in range(6)]
                for _ in range(2):
                    await ledger.more(150)
                    leader = await leader_of(one)
                    victim = next(server for server in cluster.servers if server.directory.name == leader)
                    await in_thread(victim.kill)
                    await ledger.more(50)
                    await in_thread(victim.start)
                done.set()
                await asyncio.gather(*tasks)
                await check(two, ledger.entries)
                placed = await two.publish(THREAD, b'"last"')
                await recorder.until(lambda: any(p.offset == placed.offset for p in recorder.of(THREAD)))
                assert recorder.resyncs
        finally:
            await in_thread(cluster.stop)


async def leader_of(broker: Broker) -> str:
    """The name of the server that leads the log's stream."""
    assert isinstance(broker, NatsBroker)
    answer = await broker._stream.api(f"STREAM.INFO.{broker._names.log_stream}")
    return str(answer["cluster"]["leader"])
