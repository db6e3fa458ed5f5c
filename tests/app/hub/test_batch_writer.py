"""Writing in slices: how long the loop is blocked, in which order subscribers are written to, and failing direct
senders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.app.hub import Channel, Hub, HubLimits
from narthex.app.hub.batch_writer import BatchWriter
from narthex.app.hub.delivery import Delivery
from narthex.app.hub.hub import LOOK_EVERY
from narthex.app.tasks import Tasks
from narthex.ports.broker import Broker, Publication
from narthex.protocol.framing import TEXT, Framing, Prepared, encode_frame
from tests.app.hub.test_hub import RecordingSubscriber, traffic

SUBSCRIBERS = 5_000


class Road:
    """A direct sender that accepts everything, a part, or nothing; `log` has the writers in order."""

    def __init__(self, log: list[Any], takes: int | None = None) -> None:
        self.taken = b""
        self.takes = takes
        self.log = log

    def send(self, data: bytes, /) -> int:
        if self.takes == 0:
            raise BlockingIOError
        part = data if self.takes is None else data[: self.takes]
        self.taken += part
        self.log.append(self)
        return len(part)


class Driver(RecordingSubscriber):
    """A subscriber with a direct sender."""

    framing = Framing.WEBSOCKET

    def __init__(self, log: list[Any], takes: int | None = None) -> None:
        super().__init__()
        self.road = Road(log, takes)
        self.direct_sender = self.road
        self.walked = b""

    def send_frames(self, frames: bytes) -> None:
        self.walked += frames

    def send_rest(self, rest: bytes) -> None:
        self.walked += rest


def channel_of(members: list[Any]) -> Channel:
    """All subscribers are members, and one publication is sealed to be written."""
    channel = Channel("t/thread:one", "thread:one")
    channel.last = 0
    channel.members = dict.fromkeys(members)
    return channel


def publish(hub: Hub, channel: Channel, offset: int) -> None:
    hub.publication(channel.key, Publication(offset, b'{"n":1}'), channel.epoch)


def hub_of(channels: list[Channel], limits: HubLimits, clock: Callable[[], float] | None = None) -> Hub:
    """A hub that the test itself feeds with publications: its broker is never called."""
    broker: Broker = SqliteBroker(Path("never-started"))
    more: dict[str, Any] = {"clock": clock} if clock else {}
    tasks = Tasks("hub", 10, lambda _: None)
    loop = asyncio.get_running_loop()
    hub = Hub(
        broker, tasks, loop, limits, lambda _: None, lambda: None, lambda _: None, traffic=traffic(), **more
    )
    hub._channels.update({channel.key: channel for channel in channels})
    return hub


async def turns(log: list[Any], until: int) -> list[int]:
    """How much was written in each turn of the loop."""
    steps = [len(log)]
    async with asyncio.timeout(20):
        while len(log) < until:
            await asyncio.sleep(0)
            steps.append(len(log))
    return [after - before for before, after in pairwise(steps)]


async def test_the_loop_gets_a_turn_after_each_slice() -> None:
    """5,000 subscribers, at most `slice_size` a turn, whatever is published."""
    log: list[Any] = []
    channel = channel_of([Driver(log) for _ in range(SUBSCRIBERS)])
    hub = hub_of([channel], HubLimits(slice_size=500, slice_s=60))
    publish(hub, channel, 1)
    written = await turns(log, SUBSCRIBERS)
    assert max(written) == 500
    assert sum(written) == SUBSCRIBERS
    assert len({id(road) for road in log}) == SUBSCRIBERS


async def test_a_slow_machine_gives_it_up_earlier() -> None:
    """Where 128 writes take 3 ms a slice of 4 ms ends after the second look."""
    log: list[Any] = []
    channel = channel_of([Driver(log) for _ in range(SUBSCRIBERS)])
    hub = hub_of([channel], HubLimits(), clock=lambda: len(log) / LOOK_EVERY * 0.003)
    publish(hub, channel, 1)
    written = await turns(log, SUBSCRIBERS)
    assert max(written) == 2 * LOOK_EVERY


async def test_all_channels_of_a_turn_share_one_slice_and_take_turns() -> None:
    """A hundred channels at once block the loop no longer than one; a small one does not wait for a large one's
    last.
    """
    log: list[Any] = []
    crowds = [[Driver(log) for _ in range(2_000)], *([Driver(log)] for _ in range(99))]
    channels = [channel_of(crowd) for crowd in crowds]
    for number, channel in enumerate(channels):
        channel.key = f"t/thread:{number}"
    hub = hub_of(channels, HubLimits(slice_size=300, slice_s=60))
    for channel in channels:
        publish(hub, channel, 1)
    written = await turns(log, 2_099)
    assert max(written) <= 300
    small = {id(crowd[0].road) for crowd in crowds[1:]}
    assert small <= {id(road) for road in log[:300]}


async def test_what_is_published_meanwhile_is_the_next_batch() -> None:
    """In order, for all; the second batch begins when the first has reached every subscriber."""
    log: list[Any] = []
    crowd = [Driver(log) for _ in range(1_000)]
    channel = channel_of(crowd)
    hub = hub_of([channel], HubLimits(slice_size=100, slice_s=60))
    publish(hub, channel, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    publish(hub, channel, 2)
    publish(hub, channel, 3)
    await turns(log, 2_000)
    expected = b"".join(
        encode_frame(TEXT, b'{"push":{"channel":"thread:one","pub":{"data":{"n":1},"offset":%d}}}' % offset)
        for offset in (1, 2, 3)
    )
    assert {driver.road.taken for driver in crowd} == {expected}
    assert [id(road) for road in log[:1_000]] == [id(road) for road in log[1_000:]]


def test_data_that_a_direct_sender_does_not_take_uses_the_socket() -> None:
    """A part: the rest follows. Nothing: the socket gets it. Lagging: it is kept. Other subscribers are not
    affected.
    """
    log: list[Any] = []
    whole, part, none, lagging = (Driver(log, takes) for takes in (None, 5, 0, 0))
    last = Driver(log)
    lagging.lagging = True
    channel = channel_of([whole, part, none, lagging, last])
    channel.accept(Publication(1, b'{"n":1}'))
    current = BatchWriter(channel, lambda fault: None)
    assert current.write(100) == 5
    assert current.done()
    frame = whole.road.taken
    assert frame == last.road.taken
    assert (part.road.taken, part.walked) == (frame[:5], frame[5:])
    assert (none.road.taken, none.walked) == (b"", frame)
    assert (lagging.walked, lagging.late) == (b"", [1])


def test_a_subscriber_whose_socket_fails_leaves_the_channel() -> None:
    """Its fault is reported once, on either way of writing; the others get the whole batch."""
    fault = RuntimeError("a bug of the socket")

    class Broken(Driver):
        def send_frames(self, frames: bytes) -> None:
            raise fault

        def send_rest(self, rest: bytes) -> None:
            raise fault

    log: list[Any] = []
    part, none, well = Broken(log, 5), Broken(log, 0), Driver(log)
    channel = channel_of([part, none, well])
    faults: list[BaseException] = []
    for offset in (1, 2):
        channel.accept(Publication(offset, b'{"n":1}'))
        BatchWriter(channel, faults.append).write(100)
    assert faults == [fault, fault]
    assert list(channel.members) == [well]
    assert [b'"offset":%d' % offset in well.road.taken for offset in (1, 2)] == [True, True]


def test_who_leaves_in_between_gets_nothing_more() -> None:
    """With a direct sender or without one, whether or not it was already written to."""
    log: list[Any] = []
    drivers, subscribers = [Driver(log) for _ in range(4)], [RecordingSubscriber() for _ in range(4)]
    channel = channel_of([*drivers, *subscribers])
    channel.put(Delivery(Prepared(b'{"push":{"pub":{"offset":1}}}'), None))
    current = BatchWriter(channel, lambda fault: None)
    assert current.write(2) == 2
    for gone in (drivers[0], drivers[2], subscribers[1]):
        channel.drop(gone)
    assert current.write(2) == 2  # the last direct sender, and the first subscriber without one
    channel.drop(subscribers[2])
    assert current.write(100) == 1
    assert current.done()
    assert [bool(driver.road.taken) for driver in drivers] == [True, True, False, True]
    assert [len(subscriber.pushes) for subscriber in subscribers] == [1, 0, 0, 1]
