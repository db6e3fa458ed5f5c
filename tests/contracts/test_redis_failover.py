"""Redis and Valkey when a different server responds: the loss is noticed before an append or a read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from narthex.adapters.brokers.redis import RedisBroker
from narthex.adapters.brokers.redis.attachment import PATIENCE_S
from narthex.errors import DependencyError
from narthex.ports.broker import Position, Published
from tests.contracts.recorder import Recorder
from tests.timing import within
from tests.valkey_pair import ValkeyPair, valkey_pair

THREAD = "default/thread:t1"


@pytest.fixture
async def pair() -> AsyncIterator[ValkeyPair]:
    """A separate primary and replica."""
    async with valkey_pair() as made:
        yield made


@asynccontextmanager
async def running(url: str, name: str, recorder: Recorder | None = None) -> AsyncIterator[RedisBroker]:
    """A started broker that follows the thread."""
    broker = RedisBroker(url)
    await broker.start(recorder or Recorder(), name)
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    try:
        yield broker
    finally:
        await broker.stop()


async def placed(broker: RedisBroker, mark: str) -> Published:
    """Publish with retries of the same key until acknowledged."""
    async with asyncio.timeout(within(30)):
        while True:
            try:
                return await broker.publish(THREAD, f'"{mark}"'.encode(), key=mark)
            except DependencyError:
                await asyncio.sleep(0.05)


async def told_again(publisher: RedisBroker, recorder: Recorder) -> None:
    """Publish until the handler receives one. One that arrives while a follower reconnects is re-read at its resync."""
    async with asyncio.timeout(within(10)):
        number = 0
        while True:
            last = await placed(publisher, f"again {number}")
            with contextlib.suppress(AssertionError):
                await recorder.until(lambda: last.offset in [p.offset for p in recorder.of(THREAD)], 0.3)  # noqa: B023 - awaited here
                return
            number += 1


@pytest.mark.parametrize("first", ["the one that knows", "the one that does not"])
async def test_a_replica_without_the_tail_begins_a_new_epoch(pair: ValkeyPair, first: str) -> None:
    """Whichever node asks first: after the promotion nothing is acknowledged or recovered in the old epoch."""
    async with running(pair.url, "knows") as knows, running(pair.url, "idle") as idle:
        before = await placed(knows, "kept")
        await pair.level()
        await pair.detach()
        lost = [await placed(knows, f"lost {number}") for number in range(3)]
        await pair.fail_over()
        order = [knows, idle] if first == "the one that knows" else [idle, knows]
        after = await placed(order[0], "after")
        assert after.epoch != before.epoch
        assert (await placed(order[1], "after too")).epoch == after.epoch
        for node in order:
            page = await node.history(THREAD, since=Position(lost[-1].offset, before.epoch))
            assert not page.complete


async def test_publications_that_were_only_told_count(pair: ValkeyPair) -> None:
    """A node that received a publication of another, dead node knows that it is lost."""
    recorder = Recorder()
    async with running(pair.url, "told", recorder) as told:
        async with running(pair.url, "publisher") as publisher:
            before = await placed(publisher, "kept")
            await pair.level()
            await pair.detach()
            await placed(publisher, "lost")
            await recorder.until(lambda: len(recorder.of(THREAD)) == 2)
        await pair.fail_over()
        assert (await placed(told, "after")).epoch != before.epoch


async def test_publications_that_were_only_read_count(
    pair: ValkeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that showed a publication from the log knows that it is lost, also before its next beat."""

    async def no_beat() -> None: ...

    async with running(pair.url, "reader") as reader:
        async with running(pair.url, "publisher") as publisher:
            before = await placed(publisher, "kept")
            await pair.level()
            await pair.detach()
            reader.unsubscribe(THREAD)
            monkeypatch.setattr(reader._attachment, "beat", no_beat)
            await placed(publisher, "lost")
            assert len((await reader.history(THREAD)).publications) == 2
        await pair.fail_over()
        assert (await placed(reader, "after")).epoch != before.epoch


async def test_a_replica_with_everything_keeps_the_epoch(pair: ValkeyPair) -> None:
    """Every node has compared: clients continue at their positions, and a repeated key is found."""
    async with running(pair.url, "n1") as one, running(pair.url, "n2") as two:
        before = await placed(one, "a")
        await placed(two, "b")
        await pair.level()
        await pair.fail_over()
        again = await placed(two, "a")
        assert (again.offset, again.epoch, again.duplicate) == (before.offset, before.epoch, True)
        after = await placed(one, "c")
        assert (after.offset, after.epoch) == (3, before.epoch)
        assert (await two.history(THREAD, since=Position(1, before.epoch))).complete


async def test_a_node_that_does_not_answer_costs_the_epoch(pair: ValkeyPair) -> None:
    """It may have shown more to its clients than the server has: the others wait for it, then begin a new epoch."""
    async with running(pair.url, "alive") as alive:
        gone = RedisBroker(pair.url)
        await gone.start(Recorder(), "gone")
        before = await placed(gone, "a")
        await pair.level()
        for task in gone._tasks:  # the effect of kill -9: no heartbeat, no farewell
            task.cancel()
        await gone._disconnect()
        began = asyncio.get_running_loop().time()
        await pair.fail_over()
        after = await placed(alive, "b")
        assert asyncio.get_running_loop().time() - began >= PATIENCE_S / 2
        assert (after.offset, after.epoch == before.epoch) == (2, False)


async def test_a_key_outlives_the_epoch(pair: ValkeyPair) -> None:
    """A kept publication whose successors were lost is not duplicated when it is repeated."""
    async with running(pair.url, "n1") as broker:
        kept = await placed(broker, "kept")
        await pair.level()
        await pair.detach()
        await placed(broker, "lost")
        await pair.fail_over()
        again = await placed(broker, "kept")
        assert (again.offset, again.duplicate, again.epoch != kept.epoch) == (kept.offset, True, True)


async def test_truncated_file_begins_a_new_epoch(pair: ValkeyPair) -> None:
    """Power loss: the server returns under the same name without the last publications."""
    async with running(pair.url, "knows") as knows, running(pair.url, "idle") as idle:
        before = await placed(knows, "kept")
        for number in range(20):
            await placed(knows, f"lost {number}")
        await pair.truncate(1_500)
        after = await placed(idle, "after")
        assert after.epoch != before.epoch
        assert after.offset < 22


async def test_a_demoted_server_is_left(pair: ValkeyPair) -> None:
    """Its connections stay open to the demoted replica: within 10 s all nodes use the new primary, and followers
    receive its publications.
    """
    recorder = Recorder()
    async with running(pair.url, "n1", recorder) as one, running(pair.url, "n2") as two:
        before = await placed(one, "a")
        await pair.level()
        old = pair.primary
        await pair.promote()
        await pair.ask(old, "REPLICAOF", "127.0.0.1", str(pair.primary.port))
        began = asyncio.get_running_loop().time()
        after = await placed(two, "b")
        assert asyncio.get_running_loop().time() - began < within(10)
        assert (after.offset, after.epoch) == (2, before.epoch)
        await recorder.until(lambda: bool(recorder.resyncs))
        await told_again(two, recorder)


async def test_an_idle_node_notices_another_server(pair: ValkeyPair) -> None:
    """Without publications and without a broken connection, a heartbeat notices, and the handler is asked to
    re-read.
    """
    recorder = Recorder()
    async with running(pair.url, "n1", recorder) as broker:
        before = (await broker.history(THREAD, limit=0)).top
        old = pair.primary
        await pair.promote()
        await pair.ask(old, "REPLICAOF", "127.0.0.1", str(pair.primary.port))
        await recorder.until(lambda: bool(recorder.resyncs))
        assert (await broker.history(THREAD, limit=0)).top == before


async def test_several_servers_in_one_address(pair: ValkeyPair) -> None:
    """Without a proxy: the address names both servers, and the node finds the primary."""
    both = f"redis://127.0.0.1:{pair.replica.port},127.0.0.1:{pair.primary.port}/0"
    async with running(both, "n1") as broker:
        before = await placed(broker, "a")
        await pair.level()
        await pair.fail_over()
        after = await placed(broker, "b")
        assert (after.offset, after.epoch) == (2, before.epoch)


async def test_a_silent_listening_connection_is_renewed(pair: ValkeyPair) -> None:
    """Half open: commands are answered but no messages arrive; the missing heartbeats show it."""
    recorder = Recorder()
    async with running(pair.url, "n1", recorder) as broker:
        client = broker._client()
        # Publications now go straight to the server; the listener stays with the proxy, which forwards nothing from now
        # on.
        broker._client_now = type(client)(port=pair.primary.port)
        await client.connection_pool.disconnect(inuse_connections=False)
        pair.proxy.freeze()
        await placed(broker, "a")
        await recorder.until(lambda: bool(recorder.resyncs))
        await told_again(broker, recorder)
        await client.aclose()
