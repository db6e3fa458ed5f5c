"""The guarantees of `ports/broker.py` for several nodes on one engine, run by every engine that nodes can share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from narthex.app import control_log
from narthex.app.control_log import CHANNEL, ControlLog
from narthex.ports.broker import Broker, Control, LogMoved, Member, Published
from tests.contracts.recorder import Recorder
from tests.contracts.rigs import BrokerRig

THREAD = "default/thread:t1"


class Nodes:
    """Three started brokers, `n0` to `n2`, each with its recorder."""

    def __init__(self, brokers: list[Broker], recorders: list[Recorder]) -> None:
        self.brokers = brokers
        self.recorders = recorders

    def __getitem__(self, index: int) -> tuple[Broker, Recorder]:
        return self.brokers[index], self.recorders[index]


@pytest.fixture
async def nodes(shared_rig: BrokerRig) -> AsyncIterator[Nodes]:
    """Three nodes that started at the same moment."""
    recorders = [Recorder() for _ in range(3)]
    brokers = [shared_rig.make() for _ in recorders]
    await asyncio.gather(
        *(broker.start(recorders[index], f"n{index}") for index, broker in enumerate(brokers))
    )
    yield Nodes(brokers, recorders)
    await asyncio.gather(*(broker.stop() for broker in brokers))


async def test_nodes_that_start_together_share_one_epoch(nodes: Nodes) -> None:
    """The nodes share one log, whichever was first."""
    tops = [(await broker.history(THREAD, limit=0)).top for broker in nodes.brokers]
    assert len({top.epoch for top in tops}) == 1


async def test_subscribers_on_other_nodes_are_told(nodes: Nodes) -> None:
    """A publication reaches exactly the subscribed nodes, including the publisher's own."""
    for index in (0, 1):
        broker, _ = nodes[index]
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
    placed = await nodes.brokers[0].publish(THREAD, b'{"n":1}', tags={"a": "b"})
    for index in (0, 1):
        recorder = nodes.recorders[index]
        await recorder.until(lambda recorder=recorder: bool(recorder.seen))  # type: ignore[misc] # bound per turn
        [(channel, publication, epoch)] = recorder.seen
        assert (channel, publication.offset, publication.data, epoch) == (THREAD, 1, b'{"n":1}', placed.epoch)
    assert nodes.recorders[2].seen == []


async def test_publishers_on_all_nodes_share_one_order(nodes: Nodes) -> None:
    """300 concurrent publishes from three nodes: contiguous, each at its acknowledged offset, in one order for all
    nodes.
    """
    for broker in nodes.brokers:
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)

    async def publish(number: int) -> tuple[int, bytes]:
        data = f'"{number}"'.encode()
        return (await nodes.brokers[number % 3].publish(THREAD, data, key=f"k{number}")).offset, data

    told = dict(await asyncio.gather(*(publish(number) for number in range(300))))
    assert sorted(told) == list(range(1, 301))
    page = await nodes.brokers[1].history(THREAD)
    assert {p.offset: p.data for p in page.publications} == told
    for recorder in nodes.recorders:
        await recorder.until(lambda recorder=recorder: len(recorder.seen) >= 300)  # type: ignore[misc] # as above
        assert [p.offset for p in recorder.of(THREAD)] == list(range(1, 301))


async def test_keys_hold_across_nodes(nodes: Nodes) -> None:
    """30 publishes of one key on three nodes give one publication; a node that never wrote to the channel knows the key
    too.
    """
    placed = await asyncio.gather(*(nodes.brokers[n % 2].publish(THREAD, b"1", key="k") for n in range(30)))
    assert {entry.offset for entry in placed} == {1}
    assert sum(not entry.duplicate for entry in placed) == 1
    for number in range(10):
        await nodes.brokers[0].publish(THREAD, str(number).encode())
    again = await nodes.brokers[2].publish(THREAD, b"1", key="k")
    assert again == Published(1, placed[0].epoch, duplicate=True)


async def test_what_a_node_has_read_is_where_it_may_append(nodes: Nodes) -> None:
    """Other nodes appended since its last publish: it is refused at its old end and accepted at the end that it
    read.
    """
    own, _ = nodes[0]
    for number in range(5):
        before = (await own.history(THREAD, limit=0)).top
        await nodes.brokers[1 + number % 2].publish(THREAD, b"other")
        with pytest.raises(LogMoved) as refused:
            await own.publish(THREAD, b"x", expected=before)
        end = (await nodes.brokers[2].history(THREAD, limit=0)).top
        assert refused.value.end == end
        assert (await own.publish(THREAD, b"own", expected=end)).offset == end.offset + 1
        await nodes.brokers[1].publish(THREAD, b"other")
        end = (await own.history(THREAD, limit=0)).top
        assert (await own.publish(THREAD, b"own", expected=end)).offset == end.offset + 1


async def test_one_of_the_nodes_that_expect_the_same_appends(nodes: Nodes) -> None:
    """In 30 rounds three nodes append behind the same end at once: each time one succeeds and the others are
    refused.
    """
    end = (await nodes.brokers[0].history(THREAD, limit=0)).top
    for _ in range(30):
        outcomes = await asyncio.gather(
            *(broker.publish(THREAD, b"x", expected=end) for broker in nodes.brokers), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes].count(LogMoved) == 2, outcomes
        top = (await nodes.brokers[1].history(THREAD, limit=0)).top
        assert top.offset == end.offset + 1
        end = top


async def test_removal_is_seen_by_all(nodes: Nodes) -> None:
    """After one node removes the channel, the others append to the new log."""
    first = await nodes.brokers[1].publish(THREAD, b"1", key="k")
    await nodes.brokers[0].publish(THREAD, b"2")
    await nodes.brokers[0].remove(THREAD)
    again = await nodes.brokers[1].publish(THREAD, b"1", key="k")
    assert (again.offset, again.duplicate) == (1, False)
    assert again.epoch != first.epoch
    assert (await nodes.brokers[2].history(THREAD)).top.epoch == again.epoch


async def test_nothing_is_missed_between_history_and_handler(nodes: Nodes) -> None:
    """Subscribing on another node during a stream: page and handler together have every publication."""
    going = asyncio.Event()

    async def stream() -> None:
        for number in range(200):
            await nodes.brokers[0].publish(THREAD, str(number).encode())
            if number == 60:
                going.set()

    streaming = asyncio.create_task(stream())
    await going.wait()
    broker, recorder = nodes[1]
    broker.subscribe(THREAD)
    page = await broker.history(THREAD)
    await streaming
    await recorder.until(lambda: any(p.offset == 200 for p in recorder.of(THREAD)))
    read = {p.offset for p in page.publications}
    assert read | {p.offset for p in recorder.of(THREAD)} == set(range(1, 201))


async def test_presence_is_shared(nodes: Nodes) -> None:
    """Each node lists the members of all nodes, and subscribers elsewhere are notified of joins and leaves."""
    broker, recorder = nodes[2]
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    await nodes.brokers[0].join(THREAD, Member("c1", "u1", {"name": "Ann"}))
    await nodes.brokers[1].join(THREAD, Member("c2", "u2"))
    await recorder.until(lambda: len(recorder.presences) >= 2)
    for each in nodes.brokers:
        assert dict(await each.members(THREAD)) == {
            "c1": Member("c1", "u1", {"name": "Ann"}),
            "c2": Member("c2", "u2"),
        }
    await nodes.brokers[0].leave(THREAD, "c1")
    await recorder.until(lambda: len(recorder.presences) >= 3)
    assert recorder.presences[-1] == (THREAD, "c1", False)
    assert set(await nodes.brokers[1].members(THREAD)) == {"c2"}


async def test_control_reaches_all_or_one(nodes: Nodes) -> None:
    """A message to all reaches every node; one to a node reaches only that node."""
    await nodes.brokers[0].control(Control("drain", {"a": 1}))
    await nodes.brokers[0].control(Control("run", {}, node="n1"))
    for recorder in nodes.recorders:
        await recorder.until(lambda recorder=recorder: bool(recorder.controls))  # type: ignore[misc] # as above
    await nodes.recorders[1].until(lambda: len(nodes.recorders[1].controls) == 2)
    assert [len(recorder.controls) for recorder in nodes.recorders] == [1, 2, 1]


async def test_a_node_that_leaves_disturbs_nobody(nodes: Nodes) -> None:
    """While one node stops, the others' publishes continue without a gap."""
    broker, recorder = nodes[1]
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    tasks = [asyncio.create_task(nodes.brokers[n % 2].publish(THREAD, str(n).encode())) for n in range(100)]
    await nodes.brokers[2].stop()
    placed = await asyncio.gather(*tasks)
    assert sorted(entry.offset for entry in placed) == list(range(1, 101))
    await recorder.until(lambda: len(recorder.seen) >= 100)


async def test_a_node_that_was_not_told_finds_out(nodes: Nodes) -> None:
    """A node's next comparison shows publications of another node to a channel that it does not follow."""
    broker, recorder = nodes[1]
    known = {THREAD: (await broker.history(THREAD, limit=0)).top}
    assert dict(await broker.behind(known)) == {}
    placed = await nodes.brokers[0].publish(THREAD, b"1")
    assert {channel: end.offset for channel, end in (await broker.behind(known)).items()} == {THREAD: 1}
    assert recorder.seen == []
    known = {THREAD: (await broker.history(THREAD, limit=0)).top}
    assert known[THREAD].epoch == placed.epoch
    assert dict(await broker.behind(known)) == {}


async def test_a_trimmed_control_log_goes_on(shared_rig: BrokerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes trim it repeatedly: each message is executed once on both, and none counts as lost."""
    monkeypatch.setattr(control_log, "KEPT_S", 0.0)
    recorders = [Recorder(), Recorder()]
    logs = [ControlLog(shared_rig.make()) for _ in recorders]
    lost: list[int] = []
    for index, log in enumerate(logs):
        log.on_lost(lambda index=index: lost.append(index))  # type: ignore[misc] # bound per turn
        await log.start(recorders[index], f"n{index}")
    for number in range(1, 6):
        await logs[number % 2].control(Control("disconnect", {"user": f"a/u{number}"}))
        for recorder in recorders:
            await recorder.until(lambda recorder=recorder, number=number: len(recorder.controls) == number)  # type: ignore[misc]
        for log in logs:
            assert await log.behind({}) == {}
            if log._trimming is not None:
                await log._trimming
    for recorder in recorders:
        assert [one.data["user"] for one in recorder.controls] == [f"a/u{number}" for number in range(1, 6)]
    assert lost == []
    page = await logs[0].history(CHANNEL)
    assert len(page.publications) < 3
    assert page.top.offset == 5
    await asyncio.gather(*(log.stop() for log in logs))


async def test_keys_end_with_a_removed_log_on_every_node(nodes: Nodes) -> None:
    """A node that knew the key learns of the removal only from the log itself."""
    one, two = nodes.brokers[:2]
    placed = await one.publish(THREAD, b"1", key="k")
    assert (await two.publish(THREAD, b"1", key="k")).duplicate
    await one.remove(THREAD)
    again = await two.publish(THREAD, b"2", key="k")
    assert (again.offset, again.duplicate) == (1, False)
    assert again.epoch != placed.epoch
    assert await one.publish(THREAD, b"2", key="k") == Published(1, again.epoch, True)


@pytest.mark.parametrize("key", ["k2", "new"])
async def test_a_purged_log_is_another_one_for_every_node(
    nodes: Nodes, shared_rig: BrokerRig, key: str
) -> None:
    """A node that knows keys publishes right after another node began the log anew: no key of the purged log is
    answered, and no position is given twice.
    """
    one, two = nodes.brokers[:2]
    for number in range(5):
        before = await one.publish(THREAD, b"1", key=f"k{number}")
    await shared_rig.purge()
    began = [await two.publish(THREAD, b"2") for _ in range(2)]
    again = await one.publish(THREAD, b"2", key=key)
    assert (again.offset, again.duplicate) == (3, False)
    assert before.epoch != again.epoch == began[0].epoch == began[1].epoch
