"""The hub over the real embedded broker: every subscriber gets every publication once, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.app.hub import Channel, Hub, HubLimits
from narthex.app.hub.delivery import Delivery
from narthex.app.staleness import StalenessCheck
from narthex.app.tasks import Tasks
from narthex.app.traffic import Traffic
from narthex.errors import DependencyError
from narthex.ports.broker import Broker, Control, Member, Page, Position, Publication
from narthex.ports.edge import DirectSender, SendProgress, Socket
from narthex.protocol.framing import Framing, Prepared
from tests.app.runs.fakes import FakeMeter

KEY = "t/thread:one"


class RecordingSubscriber:
    """A subscriber and its socket in one: keeps the offsets that reach it."""

    framing = Framing.HTTP_STREAM  # newline-delimited: easy to read back
    session = ""
    direct_sender: DirectSender | None = None

    def __init__(self) -> None:
        self.socket: Socket = self
        self.lagging = False
        self.pushes: list[dict[str, object]] = []
        self.late: list[int] = []
        self.lost = 0
        self.writes = 0

    def send(self, message: Prepared) -> None:
        self.send_frames(message.framed(self.framing))

    def send_frames(self, frames: bytes) -> None:
        self.writes += 1
        self.pushes += [json.loads(line)["push"] for line in frames.splitlines()]

    def send_rest(self, rest: bytes) -> None:
        raise AssertionError(rest)

    def buffered(self) -> int:
        return 0

    def send_progress(self) -> SendProgress:
        return SendProgress(0, 0)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError((code, reason))

    def abort(self) -> None:
        raise AssertionError

    def deliver_late(self, channel: Channel, items: list[Delivery]) -> None:
        self.late += [item.publication.offset for item in items if item.publication]

    def position_lost(self, channel: Channel) -> None:
        self.lost += 1

    @property
    def offsets(self) -> list[int]:
        return [push["pub"]["offset"] for push in self.pushes if "pub" in push]  # type: ignore[index]  # JSON


def traffic() -> Traffic:
    """Counts that no meter reads."""
    return Traffic(FakeMeter(), lambda: 0.0)


class Rig:
    """A hub on a started broker."""

    def __init__(self, broker: Broker, slice_size: int = 500) -> None:
        self.broker = broker
        self.faults: list[BaseException] = []
        self.tasks = Tasks("hub", 100, self.faults.append)
        self.controls: list[Control] = []
        self.doubts: list[int] = []
        self.hub = Hub(
            broker,
            self.tasks,
            asyncio.get_running_loop(),
            HubLimits(slice_size, 0.0),
            self.controls.append,
            lambda: self.doubts.append(1),
            lambda n: None,
            traffic=traffic(),
        )

    async def join(self, subscriber: RecordingSubscriber) -> Channel:
        """The steps of subscribing: attach, read, release."""
        channel = self.hub.attach(KEY, subscriber)
        page = await self.broker.history(KEY, limit=0)
        self.hub.positioned(channel, page.top)
        assert channel.ready(subscriber, page.top.offset)
        return channel


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    broker = SqliteBroker(tmp_path / "log.db")
    rig = Rig(broker, slice_size=3)
    await broker.start(rig.hub, "node")
    yield rig
    rig.hub.stop()
    await rig.tasks.stop()
    await broker.stop()
    assert rig.faults == []


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for the event itself."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def until(subscriber: RecordingSubscriber, count: int) -> None:
    """Wait for this many publications."""
    await eventually(lambda: len(subscriber.offsets) + len(subscriber.late) >= count)


async def test_everybody_gets_everything_once_in_order(rig: Rig) -> None:
    """More subscribers than a slice holds, joining while publications flow."""
    subscribers = [RecordingSubscriber() for _ in range(10)]
    for subscriber in subscribers[:5]:
        await rig.join(subscriber)
    publishing = asyncio.gather(*(rig.broker.publish(KEY, b'{"n":%d}' % n) for n in range(200)))
    for subscriber in subscribers[5:]:
        await rig.join(subscriber)
    await publishing
    for subscriber in subscribers[:5]:
        await until(subscriber, 200)
        assert subscriber.offsets == list(range(1, 201))
        assert subscriber.writes < 200, "publications of one tick are joined into one write"
    for subscriber in subscribers[5:]:
        if subscriber.offsets:
            await until(subscriber, 200 - subscriber.offsets[0] + 1)
            assert subscriber.offsets == list(range(subscriber.offsets[0], 201))


async def test_who_leaves_hears_nothing_more(rig: Rig) -> None:
    """Also when the batch was already being written."""
    stays, leaves = RecordingSubscriber(), RecordingSubscriber()
    await rig.join(stays)
    channel = await rig.join(leaves)
    await rig.broker.publish(KEY, b"{}")
    rig.hub.detach(channel, leaves)
    heard = len(leaves.offsets)
    await rig.broker.publish(KEY, b"{}")
    await until(stays, 2)
    assert len(leaves.offsets) == heard


async def test_a_lagging_subscriber_is_given_its_part_to_keep(rig: Rig) -> None:
    """The others are not delayed."""
    slow, quick = RecordingSubscriber(), RecordingSubscriber()
    await rig.join(slow)
    await rig.join(quick)
    slow.lagging = True
    for _ in range(5):
        await rig.broker.publish(KEY, b"{}")
    await until(quick, 5)
    assert slow.offsets == []
    assert slow.late == [1, 2, 3, 4, 5]


async def test_repeats_are_discarded_and_gaps_are_read_again(rig: Rig) -> None:
    """A broker may deliver repeats and gaps; subscribers get each publication exactly once, in order."""
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    for n in range(3):
        await rig.broker.publish(KEY, b'{"n":%d}' % n)
    await until(subscriber, 3)
    epoch = channel.epoch
    rig.hub.publication(KEY, Publication(2, b'{"n":1}'), epoch)  # a repeat
    rig.broker.unsubscribe(KEY)
    for n in range(3, 8):
        await rig.broker.publish(KEY, b'{"n":%d}' % n)  # missed: the hub did not receive it
    rig.broker.subscribe(KEY)
    await rig.broker.publish(KEY, b'{"n":8}')
    await until(subscriber, 9)
    assert subscriber.offsets == list(range(1, 10))


async def test_a_position_that_is_gone_is_said(rig: Rig) -> None:
    """A log that began anew cannot be continued: the subscriber is told, and nothing is skipped silently."""
    subscriber = RecordingSubscriber()
    await rig.join(subscriber)
    await rig.broker.publish(KEY, b"{}")
    await until(subscriber, 1)
    await rig.broker.remove(KEY)
    await rig.broker.publish(KEY, b"{}")
    await eventually(lambda: subscriber.lost == 1)
    assert subscriber.offsets == [1]


async def test_a_straggler_of_another_epoch_changes_nothing(rig: Rig) -> None:
    """The log itself decides which epoch is current."""
    subscriber = RecordingSubscriber()
    await rig.join(subscriber)
    rig.hub.publication(KEY, Publication(50, b"{}"), "another-epoch")
    await rig.broker.publish(KEY, b"{}")
    await until(subscriber, 1)
    assert subscriber.offsets == [1]
    assert subscriber.lost == 0


async def test_a_flood_that_outruns_the_history_read_asks_for_another(rig: Rig) -> None:
    """`ready` is false rather than wrong when the subscriber's buffer has a gap."""
    subscriber = RecordingSubscriber()
    channel = rig.hub.attach(KEY, subscriber)
    rig.hub.positioned(channel, Position(3, "e"))
    joiner = channel.joiners[subscriber]
    joiner.buffer = [Delivery(Prepared(b"{}"), Publication(5, b"{}"))]
    joiner.overflow = True
    assert channel.ready(subscriber, 3) is False
    assert subscriber in channel.joiners
    assert (joiner.buffer, joiner.overflow) == ([], False), "the next read begins anew"
    assert channel.ready(subscriber, 3) is True


async def test_presence_and_ephemeral_pushes_have_no_offset(rig: Rig) -> None:
    """They are not in any history."""
    subscriber = RecordingSubscriber()
    await rig.join(subscriber)
    rig.hub.control(Control("ephemeral", {"channel": KEY, "data": '{"type":"CUSTOM"}'}))
    await eventually(lambda: bool(subscriber.pushes))
    assert subscriber.pushes == [{"channel": "thread:one", "pub": {"data": {"type": "CUSTOM"}}}]


async def test_a_page_is_what_the_port_says(rig: Rig) -> None:
    """The fixture's broker is the real one."""
    assert isinstance(await rig.broker.history(KEY, limit=0), Page)


async def test_one_subscribers_bug_does_not_silence_the_channel(rig: Rig) -> None:
    """A subscriber that raises is dropped; the others continue to receive."""

    class Broken(RecordingSubscriber):
        def send_frames(self, frames: bytes) -> None:
            raise RuntimeError("a bug")

    broken, fine = Broken(), RecordingSubscriber()
    await rig.join(broken)
    channel = await rig.join(fine)
    for _ in range(3):
        await rig.broker.publish(KEY, b"{}")
    await until(fine, 3)
    assert broken not in channel.members
    assert not channel.flushing


async def test_a_gap_longer_than_a_page_is_read_to_its_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when more publications arrived meanwhile than the hub keeps."""
    monkeypatch.setattr("narthex.app.hub.hub.HELD_LIMIT", 3)
    real = rig.broker.history

    async def short(channel: str, *, since: Position | None = None, **options: Any) -> Page:
        return await real(channel, since=since, limit=4, **{k: v for k, v in options.items() if k != "limit"})

    subscriber = RecordingSubscriber()
    await rig.join(subscriber)
    monkeypatch.setattr(rig.broker, "history", short)
    rig.broker.unsubscribe(KEY)
    for _ in range(30):
        await rig.broker.publish(KEY, b"{}")
    rig.broker.subscribe(KEY)
    await asyncio.gather(*(rig.broker.publish(KEY, b"{}") for _ in range(10)))
    await until(subscriber, 40)
    assert subscriber.offsets == list(range(1, 41))


async def test_an_empty_channel_is_forgotten_once_and_kept_for_who_comes_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the linger time the broker is no longer asked for it; a subscriber in between keeps it."""
    dropped: list[str] = []
    monkeypatch.setattr(rig.broker, "unsubscribe", dropped.append)
    one, two = RecordingSubscriber(), RecordingSubscriber()
    channel = await rig.join(one)
    await rig.join(two)
    rig.hub.detach(channel, one)
    await asyncio.sleep(0.005)
    assert (rig.hub.keys(), dropped) == ([KEY], [])
    rig.hub.detach(channel, two)
    rig.hub.detach(channel, two)
    assert len(rig.hub._lingering) == 1
    back = RecordingSubscriber()
    assert await rig.join(back) is channel
    await asyncio.sleep(0.005)
    assert (rig.hub.keys(), dropped) == ([KEY], [])
    rig.hub.detach(channel, back)
    await eventually(lambda: not rig.hub.keys())
    assert dropped == [KEY]
    assert not rig.hub._lingering


async def test_what_is_told_of_a_channel_that_nobody_follows_is_dropped(rig: Rig) -> None:
    """A publication and a presence notice that arrive after the last subscriber left do not create a channel."""
    rig.hub.publication(KEY, Publication(1, b"{}"), "e")
    rig.hub.presence(KEY, Member("c1", "ada"), True)
    rig.hub.control(Control("ephemeral", {"channel": KEY, "data": "{}"}))
    assert rig.hub.channels() == 0


async def test_a_node_that_was_told_nothing_catches_up_by_comparing(rig: Rig) -> None:
    """Positions, comparison and re-reading together, over the real broker; nothing twice afterwards."""
    subscriber, lost = RecordingSubscriber(), RecordingSubscriber()
    channel = await rig.join(subscriber)
    other = rig.hub.attach("t/thread:two", lost)
    rig.hub.positioned(other, (await rig.broker.history("t/thread:two", limit=0)).top)
    assert other.ready(lost, 0)
    await rig.broker.publish(KEY, b"{}")
    await until(subscriber, 1)
    check = StalenessCheck(rig.hub, rig.broker, grace_s=0.0)
    assert await check.compare() == 0
    rig.broker.unsubscribe(KEY)  # from now on it receives nothing
    for _ in range(3):
        await rig.broker.publish(KEY, b"{}")
    assert subscriber.offsets == [1]
    assert await check.compare() == 1
    await until(subscriber, 4)
    assert subscriber.offsets == [1, 2, 3, 4]
    assert rig.hub.positions() == {
        KEY: Position(4, channel.epoch),
        "t/thread:two": Position(0, other.epoch),
    }
    assert await check.compare() == 0
    assert lost.lost == 0


async def test_a_log_that_has_less_than_was_told_is_another_log(rig: Rig) -> None:
    """It ended before our position in our epoch: its followers are told instead of staying behind it for ever."""
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    before = Position(7, channel.epoch)
    channel.last = 7
    assert rig.hub.behind({KEY: before}, {KEY: Position(3, channel.epoch)}) == [KEY]
    assert rig.hub.behind({KEY: Position(6, channel.epoch)}, {KEY: Position(7, channel.epoch)}) == []
    assert rig.hub.behind({KEY: before}, {KEY: Position(8, channel.epoch)}) == [KEY]
    assert rig.hub.behind({KEY: before}, {KEY: Position(7, "another")}) == [KEY]
    rig.hub.resync([KEY])
    await eventually(lambda: subscriber.lost == 1)


async def test_only_a_resync_of_everything_doubts_control_messages(rig: Rig) -> None:
    """Re-reading a single channel says nothing about other lost messages."""
    await rig.join(RecordingSubscriber())
    rig.hub.resync([KEY])
    assert rig.doubts == []
    rig.hub.resync(None)
    assert rig.doubts == [1]


async def test_a_broker_that_is_away_is_asked_again_after_a_pause(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is down: a few attempts at growing intervals, no busy loop; then everything, and no position is lost."""
    subscriber = RecordingSubscriber()
    await rig.join(subscriber)
    real, calls = rig.broker.history, [0]

    async def away(channel: str, **options: Any) -> Page:
        calls[0] += 1
        if calls[0] <= 2:
            raise DependencyError("broker", "away")
        return await real(channel, **options)

    monkeypatch.setattr(rig.broker, "history", away)
    rig.broker.unsubscribe(KEY)
    await rig.broker.publish(KEY, b"{}")
    began = asyncio.get_running_loop().time()
    rig.hub.resync([KEY])
    await until(subscriber, 1)
    assert asyncio.get_running_loop().time() - began >= 0.05 + 0.1
    assert calls == [3]
    assert subscriber.lost == 0


async def test_a_bug_while_a_channel_is_read_again_is_said_and_reported(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subscribers lose their position, and the fault is reported as a bug."""
    subscriber = RecordingSubscriber()
    await rig.join(subscriber)

    async def broken(channel: str, **options: Any) -> Page:
        raise RuntimeError("a bug")

    monkeypatch.setattr(rig.broker, "history", broken)
    rig.hub.resync([KEY])
    await eventually(lambda: subscriber.lost == 1 and bool(rig.faults))
    assert [str(fault) for fault in rig.faults] == ["a bug"]
    rig.faults.clear()


async def test_a_read_whose_answer_is_lost_is_made_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is re-read within seconds, although the first read's answer never arrives."""
    monkeypatch.setattr("narthex.app.hub.hub.REREAD_FIRST_S", 0.05)
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    real, lost = rig.broker.history, asyncio.Event()

    async def once(*args: Any, **kwargs: Any) -> Page:
        if not lost.is_set():
            lost.set()
            await asyncio.Event().wait()
        return await real(*args, **kwargs)

    monkeypatch.setattr(rig.broker, "history", once)
    rig.broker.unsubscribe(KEY)  # later publications do not arrive
    await rig.broker.publish(KEY, b"1")
    rig.hub.resync([KEY])
    await until(subscriber, 1)
    assert (subscriber.offsets, lost.is_set(), channel.repairing) == ([1], True, False)


@pytest.mark.parametrize("waits", ["for an answer", "between two reads"])
async def test_a_read_that_began_before_the_engine_came_back_is_begun_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    """Its request went to a connection that is gone: neither the hub's time-out nor its pause is waited for."""
    for name in ("REREAD_FIRST_S", "PAUSE_FIRST_S", "PAUSE_LAST_S"):
        monkeypatch.setattr(f"narthex.app.hub.hub.{name}", 3_600.0)
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    real, asked = rig.broker.history, asyncio.Event()

    async def away(*args: Any, **kwargs: Any) -> Page:
        asked.set()
        if waits == "between two reads":
            raise DependencyError("broker", "away")
        return await asyncio.Future()

    monkeypatch.setattr(rig.broker, "history", away)
    rig.broker.unsubscribe(KEY)  # later publications do not arrive
    await rig.broker.publish(KEY, b"1")
    rig.hub.resync([KEY])
    await asked.wait()
    monkeypatch.setattr(rig.broker, "history", real)
    rig.hub.resync(None)
    rig.hub.resync(None)  # twice in one turn of the loop
    await until(subscriber, 1)
    assert (subscriber.offsets, subscriber.lost, channel.repairing) == ([1], 0, False)


async def test_a_straggler_of_another_epoch_is_not_shown_to_who_joins(rig: Rig) -> None:
    """A late publication of a replaced log arrives while the first subscriber reads the new log's position."""
    subscriber = RecordingSubscriber()
    channel = rig.hub.attach(KEY, subscriber)
    rig.hub.publication(KEY, Publication(1, b'"old"'), "an older epoch")
    page = await rig.broker.history(KEY, limit=0)
    rig.hub.publication(KEY, Publication(1, b'"new"'), page.top.epoch)
    rig.hub.positioned(channel, page.top)
    assert channel.ready(subscriber, page.top.offset)
    await until(subscriber, 1)
    assert subscriber.pushes == [{"channel": "thread:one", "pub": {"data": "new", "offset": 1}}]


async def test_a_read_that_is_behind_what_was_told_is_made_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica answers with less than this node received: the rest is read after a pause, in order, once."""
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    rig.broker.unsubscribe(KEY)
    for _ in range(4):
        await rig.broker.publish(KEY, b"{}")
    real, calls = rig.broker.history, [0]

    async def replica(key: str, **options: Any) -> Page:
        calls[0] += 1
        page = await real(key, **options)
        return page if calls[0] > 1 else Page(page.publications[:1], Position(1, page.top.epoch), True)

    monkeypatch.setattr(rig.broker, "history", replica)
    began = asyncio.get_running_loop().time()
    for offset in (3, 4):
        rig.hub.publication(KEY, Publication(offset, b"{}"), channel.epoch)
    await until(subscriber, 4)
    assert (subscriber.offsets, calls) == ([1, 2, 3, 4], [2])
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert not channel.repairing


async def test_a_channel_that_everybody_left_is_not_read_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker is down; the next subscriber reads the log's position."""
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    calls = [0]

    async def away(*args: Any, **options: Any) -> Page:
        calls[0] += 1
        rig.hub.detach(channel, subscriber)
        raise DependencyError("broker", "away")

    monkeypatch.setattr(rig.broker, "history", away)
    rig.hub.resync([KEY])
    rig.hub.publication(KEY, Publication(1, b"{}"), channel.epoch)
    await eventually(lambda: not channel.repairing)
    assert (calls, channel.last, channel.held) == ([1], None, [])


async def test_a_channel_that_cannot_be_read_again_now_has_lost_its_position(rig: Rig) -> None:
    """The limit of concurrent tasks is reached: its subscribers are told at once."""
    subscriber = RecordingSubscriber()
    channel = await rig.join(subscriber)
    rig.tasks._limit = 0
    rig.hub.resync([KEY])
    assert (subscriber.lost, channel.repairing, channel.last) == (1, False, None)


async def test_a_subscriber_that_read_another_epoch_than_its_channel_has_begins_anew(rig: Rig) -> None:
    """The log was replaced without this node's knowledge: late publications of the old one must not follow the new
    position.
    """
    first, second = RecordingSubscriber(), RecordingSubscriber()
    channel = await rig.join(first)
    old = channel.epoch
    assert rig.hub.attach(KEY, second) is channel
    assert not rig.hub.positioned(channel, Position(0, "a newer epoch"))
    rig.hub.publication(KEY, Publication(1, b'"old"'), old)
    assert second.pushes == []
    channel.drop(second)  # as its connection does
    await eventually(lambda: not channel.repairing)
    # The log reports that the old epoch is current, so no other subscriber is lost.
    assert (channel.epoch, first.lost) == (old, 0)
    assert rig.hub.positioned(channel, Position(1, old))
