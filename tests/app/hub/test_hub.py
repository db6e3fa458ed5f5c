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
from narthex.app.hub.channel import Delivery
from narthex.app.tasks import Tasks
from narthex.ports.broker import Broker, Control, Page, Position, Publication
from narthex.ports.edge import Lane, Socket, Underway
from narthex.protocol.framing import Framing, Prepared

KEY = "t/thread:one"


class Ear:
    """A subscriber and its socket in one: keeps the offsets that reach it."""

    framing = Framing.HTTP_STREAM  # newline-delimited: easy to read back
    session = ""
    lane: Lane | None = None

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

    def underway(self) -> Underway:
        return Underway(0, 0)

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


class House:
    """A hub on a started broker."""

    def __init__(self, broker: Broker, slice_size: int = 500) -> None:
        self.broker = broker
        self.faults: list[BaseException] = []
        self.tasks = Tasks("hub", 100, self.faults.append)
        self.controls: list[Control] = []
        self.hub = Hub(
            broker,
            self.tasks,
            asyncio.get_running_loop(),
            HubLimits(slice_size, 0.0),
            self.controls.append,
            lambda n: None,
        )

    async def join(self, ear: Ear) -> Channel:
        """What subscribing does: attach, read, release."""
        channel = self.hub.attach(KEY, ear)
        page = await self.broker.history(KEY, limit=0)
        self.hub.positioned(channel, page.top)
        assert channel.ready(ear, page.top.offset)
        return channel


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    broker = SqliteBroker(tmp_path / "log.db")
    house = House(broker, slice_size=3)
    await broker.start(house.hub, "node")
    yield house
    house.hub.stop()
    await house.tasks.stop()
    await broker.stop()
    assert house.faults == []


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for the event itself."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)


async def until(ear: Ear, count: int) -> None:
    """So many publications have come."""
    await eventually(lambda: len(ear.offsets) + len(ear.late) >= count)


async def test_everybody_gets_everything_once_in_order(house: House) -> None:
    """More subscribers than a slice holds, joining while publications flow."""
    ears = [Ear() for _ in range(10)]
    for ear in ears[:5]:
        await house.join(ear)
    publishing = asyncio.gather(*(house.broker.publish(KEY, b'{"n":%d}' % n) for n in range(200)))
    for ear in ears[5:]:
        await house.join(ear)
    await publishing
    for ear in ears[:5]:
        await until(ear, 200)
        assert ear.offsets == list(range(1, 201))
        assert ear.writes < 200, "publications of one tick are joined into one write"
    for ear in ears[5:]:
        if ear.offsets:
            await until(ear, 200 - ear.offsets[0] + 1)
            assert ear.offsets == list(range(ear.offsets[0], 201))


async def test_who_leaves_hears_nothing_more(house: House) -> None:
    """Also when the batch was already under way."""
    stays, leaves = Ear(), Ear()
    await house.join(stays)
    channel = await house.join(leaves)
    await house.broker.publish(KEY, b"{}")
    house.hub.detach(channel, leaves)
    heard = len(leaves.offsets)
    await house.broker.publish(KEY, b"{}")
    await until(stays, 2)
    assert len(leaves.offsets) == heard


async def test_a_lagging_subscriber_is_given_its_part_to_keep(house: House) -> None:
    """The others are not held up."""
    slow, quick = Ear(), Ear()
    await house.join(slow)
    await house.join(quick)
    slow.lagging = True
    for _ in range(5):
        await house.broker.publish(KEY, b"{}")
    await until(quick, 5)
    assert slow.offsets == []
    assert slow.late == [1, 2, 3, 4, 5]


async def test_repeats_are_discarded_and_gaps_are_read_again(house: House) -> None:
    """At least once with gaps is what a broker may give; exactly once in order is what comes out."""
    ear = Ear()
    channel = await house.join(ear)
    for n in range(3):
        await house.broker.publish(KEY, b'{"n":%d}' % n)
    await until(ear, 3)
    epoch = channel.epoch
    house.hub.publication(KEY, Publication(2, b'{"n":1}'), epoch)  # a repeat
    house.broker.unsubscribe(KEY)
    for n in range(3, 8):
        await house.broker.publish(KEY, b'{"n":%d}' % n)  # missed: nobody told the hub
    house.broker.subscribe(KEY)
    await house.broker.publish(KEY, b'{"n":8}')
    await until(ear, 9)
    assert ear.offsets == list(range(1, 10))


async def test_a_position_that_is_gone_is_said(house: House) -> None:
    """A log that began anew cannot be continued: the subscriber is told, nothing is skipped in silence."""
    ear = Ear()
    await house.join(ear)
    await house.broker.publish(KEY, b"{}")
    await until(ear, 1)
    await house.broker.remove(KEY)
    await house.broker.publish(KEY, b"{}")
    await eventually(lambda: ear.lost == 1)
    assert ear.offsets == [1]


async def test_a_straggler_of_another_epoch_changes_nothing(house: House) -> None:
    """The log itself decides which epoch holds."""
    ear = Ear()
    await house.join(ear)
    house.hub.publication(KEY, Publication(50, b"{}"), "another-epoch")
    await house.broker.publish(KEY, b"{}")
    await until(ear, 1)
    assert ear.offsets == [1]
    assert ear.lost == 0


async def test_a_flood_that_outruns_the_history_read_asks_for_another(house: House) -> None:
    """`ready` is false rather than wrong when the joiner's buffer has a hole."""
    ear = Ear()
    channel = house.hub.attach(KEY, ear)
    house.hub.positioned(channel, Position(3, "e"))
    joiner = channel.joiners[ear]
    joiner.buffer = [Delivery(Prepared(b"{}"), Publication(5, b"{}"))]
    assert channel.ready(ear, 3) is False
    assert ear in channel.joiners


async def test_presence_and_ephemeral_pushes_have_no_offset(house: House) -> None:
    """They are in no history."""
    ear = Ear()
    await house.join(ear)
    house.hub.control(Control("ephemeral", {"channel": KEY, "data": '{"type":"CUSTOM"}'}))
    await eventually(lambda: bool(ear.pushes))
    assert ear.pushes == [{"channel": "thread:one", "pub": {"data": {"type": "CUSTOM"}}}]


async def test_a_page_is_what_the_port_says(house: House) -> None:
    """The fixture's broker is the real one."""
    assert isinstance(await house.broker.history(KEY, limit=0), Page)


async def test_one_subscribers_bug_does_not_silence_the_channel(house: House) -> None:
    """Whoever raises is dropped; the others go on hearing."""

    class Broken(Ear):
        def send_frames(self, frames: bytes) -> None:
            raise RuntimeError("a bug")

    broken, fine = Broken(), Ear()
    await house.join(broken)
    channel = await house.join(fine)
    for _ in range(3):
        await house.broker.publish(KEY, b"{}")
    await until(fine, 3)
    assert broken not in channel.members
    assert not channel.flushing


async def test_a_gap_longer_than_a_page_is_read_to_its_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when more came meanwhile than is held."""
    monkeypatch.setattr("narthex.app.hub.hub.HELD_LIMIT", 3)
    real = house.broker.history

    async def short(channel: str, *, since: Position | None = None, **options: Any) -> Page:
        return await real(channel, since=since, limit=4, **{k: v for k, v in options.items() if k != "limit"})

    ear = Ear()
    await house.join(ear)
    monkeypatch.setattr(house.broker, "history", short)
    house.broker.unsubscribe(KEY)
    for _ in range(30):
        await house.broker.publish(KEY, b"{}")
    house.broker.subscribe(KEY)
    await asyncio.gather(*(house.broker.publish(KEY, b"{}") for _ in range(10)))
    await until(ear, 40)
    assert ear.offsets == list(range(1, 41))
