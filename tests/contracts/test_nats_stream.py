"""A log stream that an operator purged, restored, recreated or limited: offsets never restart within one epoch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from narthex.adapters.brokers.nats import NatsBroker
from narthex.adapters.brokers.nats.stream_monitor import StreamMonitor
from narthex.errors import ConfigError, DependencyError
from narthex.ports.broker import Broker, Position, Published
from tests.contracts.recorder import Recorder
from tests.services import NatsServer, data_directory
from tests.timing import within

THREAD, OTHER = "default/thread:t1", "default/thread:t2"
STREAM = "narthex-log"


@pytest.fixture(scope="module")
def own_server() -> Iterator[NatsServer]:
    """A separate server, because these tests change its whole stream."""
    with data_directory("nats-stream") as directory:
        server = NatsServer(directory / "data")
        server.start()
        yield server
        server.kill()


@contextlib.asynccontextmanager
async def running(server: NatsServer, recorder: Recorder, node: str = "n1") -> AsyncIterator[NatsBroker]:
    """A broker, started and stopped."""
    broker = NatsBroker(server.url)
    await broker.start(recorder, node)
    try:
        yield broker
    finally:
        await broker.stop()


@pytest.fixture
async def operator(own_server: NatsServer) -> AsyncIterator[Operator]:
    """An operator with the `nats` command; the stream does not exist before and after."""
    import nats

    client = await nats.connect(own_server.url)
    found = Operator(client)
    with contextlib.suppress(AssertionError):
        await found.api("STREAM.DELETE")
    yield found
    with contextlib.suppress(AssertionError):
        await found.api("STREAM.DELETE")
    await client.close()


class Operator:
    """The operations of an operator on the stream."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """`$JS.API.<name>.<stream>`."""
        answer = await self.client.request(
            f"$JS.API.{name}.{STREAM}", msgspec.json.encode(body or {}), timeout=within(5)
        )
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        assert "error" not in found, found
        return found

    async def edit(self, **changes: Any) -> None:
        """Change the configuration."""
        config = (await self.api("STREAM.INFO"))["config"]
        await self.api("STREAM.UPDATE", config | changes)

    async def snapshot(self) -> tuple[dict[str, Any], list[bytes]]:
        """A backup, for `restore`."""
        inbox, chunks, done = self.client.new_inbox(), [], asyncio.Event()

        async def take(message: Msg) -> None:
            if message.data:
                chunks.append(message.data)
            else:
                done.set()
            if message.reply:
                await self.client.publish(message.reply, b"")

        subscription = await self.client.subscribe(inbox, cb=take)
        about = await self.api("STREAM.SNAPSHOT", {"deliver_subject": inbox})
        await asyncio.wait_for(done.wait(), within(5))
        await subscription.unsubscribe()
        return about, chunks

    async def restore(self, backup: tuple[dict[str, Any], list[bytes]]) -> None:
        """Replace the stream by a backup."""
        about, chunks = backup
        with contextlib.suppress(AssertionError):
            await self.api("STREAM.DELETE")
        answer = await self.api("STREAM.RESTORE", {"config": about["config"], "state": about["state"]})
        for chunk in chunks:
            await self.client.request(answer["deliver_subject"], chunk, timeout=within(5))
        await self.client.request(answer["deliver_subject"], b"", timeout=within(5))


async def fill(broker: Broker, count: int, channel: str = THREAD) -> list[Published]:
    """Publish this many messages."""
    return [await broker.publish(channel, str(number).encode()) for number in range(count)]


async def position(broker: Broker, channel: str = THREAD) -> Position:
    """The end position of a channel."""
    return (await broker.history(channel, limit=0)).top


async def test_a_purge_is_a_new_epoch_for_the_next_append_of_any_node(
    own_server: NatsServer, operator: Operator
) -> None:
    """Neither a node that wrote to the channel nor one that never did continues the old epoch."""
    async with running(own_server, Recorder()) as one, running(own_server, Recorder(), "n2") as two:
        [*_, last] = await fill(one, 5)
        await fill(one, 1, OTHER)
        await operator.api("STREAM.PURGE")
        [first, *_] = await fill(one, 2)
        other = (await fill(two, 1, OTHER))[0]
        assert first.epoch != last.epoch
        assert other.epoch != last.epoch
        page = await two.history(THREAD, since=Position(1, last.epoch))
        assert (page.publications, page.complete) == ([], False)


@pytest.mark.parametrize("key", ["k2", "new"])
async def test_a_purge_that_no_notice_tells_of(
    own_server: NatsServer, operator: Operator, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Another node began the log anew and its notice was lost: the log itself shows it before a key of the purged log
    is answered or a position is given twice.
    """

    async def lost(_monitor: StreamMonitor, _: Msg) -> None:
        return None

    monkeypatch.setattr(StreamMonitor, "on_missed", lost)
    async with running(own_server, Recorder()) as one, running(own_server, Recorder(), "n2") as two:
        for number in range(5):
            before = await one.publish(THREAD, b"1", key=f"k{number}")
        await operator.api("STREAM.PURGE")
        began = await fill(two, 2)
        again = await one.publish(THREAD, b"2", key=key)
        assert (again.offset, again.duplicate) == (3, False)
        assert before.epoch != again.epoch == began[0].epoch


async def test_a_purge_is_noticed_without_traffic(own_server: NatsServer, operator: Operator) -> None:
    """The next comparison changes the epoch and names the channel; a position of the old epoch is not recovered."""
    recorder = Recorder()
    async with running(own_server, recorder) as broker:
        broker.subscribe(THREAD)
        [*_, last] = await fill(broker, 5)
        known = {THREAD: Position(5, last.epoch)}
        assert dict(await broker.behind(known)) == {}
        await operator.api("STREAM.PURGE")
        assert not (await broker.history(THREAD, since=known[THREAD])).complete
        found = await broker.behind(known)
        assert found[THREAD].epoch != last.epoch
        await recorder.until(lambda: bool(recorder.resyncs))


async def test_a_purge_while_no_node_runs_is_noticed_at_the_start(
    own_server: NatsServer, operator: Operator
) -> None:
    """No node remembers the old stream; the stream's own beginning shows the purge. Without a purge the epoch stays."""
    async with running(own_server, Recorder()) as broker:
        [*_, last] = await fill(broker, 5)
    async with running(own_server, Recorder()) as broker:
        assert await position(broker) == Position(5, last.epoch)
    await operator.api("STREAM.PURGE")
    async with running(own_server, Recorder()) as broker:
        again = await position(broker)
        assert again.epoch != last.epoch
        await fill(broker, 7)
        assert not (await broker.history(THREAD, since=Position(5, last.epoch))).complete


async def test_a_purge_of_one_channel_is_noticed(own_server: NatsServer, operator: Operator) -> None:
    """The other channels are unchanged, but the epoch is new all the same."""
    async with running(own_server, Recorder()) as broker:
        [*_, last] = await fill(broker, 5)
        await fill(broker, 1, OTHER)
        await broker.behind({})
        await operator.api("STREAM.PURGE", {"filter": "narthex.log.default/thread:t1"})
        assert not (await broker.history(THREAD, since=Position(5, last.epoch))).complete
        await broker.behind({})
        assert (await position(broker, OTHER)).epoch != last.epoch


async def test_a_restored_stream_is_another_one(own_server: NatsServer, operator: Operator) -> None:
    """A restored backup grows past the clients' positions: their positions do not count as recovered."""
    async with running(own_server, Recorder()) as broker:
        await fill(broker, 3)
        backup = await operator.snapshot()
        [*_, last] = await fill(broker, 3)
    await operator.restore(backup)
    async with running(own_server, Recorder()) as broker:
        await fill(broker, 9)
        assert not (await broker.history(THREAD, since=Position(6, last.epoch))).complete
        assert (await position(broker)).epoch != last.epoch


@pytest.mark.parametrize("alive", [False, True])
async def test_a_stream_made_anew_with_its_old_configuration_is_another_one(
    own_server: NatsServer, operator: Operator, *, alive: bool
) -> None:
    """The configuration carries the epoch along, but the creation time differs."""
    async with running(own_server, Recorder()) as broker:
        [*_, last] = await fill(broker, 3)
        config = (await operator.api("STREAM.INFO"))["config"]
        if alive:
            await operator.api("STREAM.DELETE")
            with contextlib.suppress(AssertionError):  # the broker may have created it first
                await operator.api("STREAM.CREATE", config)
            [*_, placed] = await fill(broker, 5)
            assert placed.epoch != last.epoch
            assert not (await broker.history(THREAD, since=Position(3, last.epoch))).complete
    if not alive:
        await operator.api("STREAM.DELETE")
        await operator.api("STREAM.CREATE", config)
        async with running(own_server, Recorder()) as broker:
            await fill(broker, 5)
            assert not (await broker.history(THREAD, since=Position(3, last.epoch))).complete


LIMITS: tuple[dict[str, Any], ...] = (
    {"max_age": 3_600_000_000_000},
    {"max_bytes": 1 << 30},
    {"max_msgs": 1_000_000},
    {"republish": None},
    {"allow_direct": False},
)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: next(iter(limit)))
async def test_a_stream_that_can_lose_is_refused_at_the_start(
    own_server: NatsServer, operator: Operator, limit: dict[str, Any]
) -> None:
    """The error names the setting and the remedy."""
    async with running(own_server, Recorder()) as broker:
        await fill(broker, 1)
    await operator.edit(**limit)
    with pytest.raises(ConfigError, match=f"{next(iter(limit))}.*nats stream edit"):
        await NatsBroker(own_server.url).start(Recorder(), "n1")


async def test_a_limit_that_is_set_while_it_runs_is_refused_until_it_is_gone(
    own_server: NatsServer, operator: Operator
) -> None:
    """After a comparison health and every call report it until the limit is removed; the epoch stays if nothing was
    lost.
    """
    async with running(own_server, Recorder()) as broker:
        [*_, last] = await fill(broker, 3)
        await operator.edit(max_age=3_600_000_000_000)
        with pytest.raises(DependencyError, match="max_age"):
            await broker.behind({})
        calls = (broker.ping(), broker.publish(THREAD, b"4"), broker.history(THREAD), broker.behind({}))
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, DependencyError)
            assert "max_age" in outcome.message
        await operator.edit(max_age=0)
        async with asyncio.timeout(within(10)):
            while True:
                with contextlib.suppress(DependencyError):
                    placed = await broker.publish(THREAD, b"4")
                    break
                await asyncio.sleep(0.05)
        assert (placed.offset, placed.epoch) == (4, last.epoch)


async def test_a_limit_that_has_dropped_something_is_a_loss(
    own_server: NatsServer, operator: Operator
) -> None:
    """`max_msgs` cut the beginning before a comparison: the epoch changes, also after the limit was removed."""
    async with running(own_server, Recorder()) as broker:
        [*_, last] = await fill(broker, 5)
        await fill(broker, 5, OTHER)
        await operator.edit(max_msgs=3)
        await operator.edit(max_msgs=-1)
        assert not (await broker.history(THREAD, since=Position(5, last.epoch))).complete
        assert (await position(broker, OTHER)).epoch != last.epoch


async def test_nodes_that_notice_together_agree(own_server: NatsServer, operator: Operator) -> None:
    """Three nodes notice the purge at once: afterwards one epoch is current, and it stays."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running(own_server, Recorder(), f"n{number}"))
            for number in range(3)
        ]
        [*_, last] = await fill(nodes[0], 3)
        await operator.api("STREAM.PURGE")
        await asyncio.gather(*(node.behind({}) for node in nodes))
        for _ in range(2):
            await asyncio.gather(*(node.behind({}) for node in nodes))
        epochs = {(await position(node)).epoch for node in nodes}
        assert len(epochs) == 1
        assert last.epoch not in epochs
        await asyncio.gather(*(node.behind({}) for node in nodes))
        assert {(await position(node)).epoch for node in nodes} == epochs
