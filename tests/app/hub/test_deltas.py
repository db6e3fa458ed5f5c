"""Subscribers that take deltas: whatever one of them missed or got late, its client decodes every publication."""

from __future__ import annotations

import json
from typing import Any

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import example, given
from hypothesis import strategies as st

from narthex.app.backlog import Backlog
from narthex.app.hub import Channel
from narthex.app.hub.batch_writer import BatchWriter
from narthex.app.hub.channel import Joiner
from narthex.app.hub.delivery import Delivery
from narthex.ports.broker import Publication
from narthex.protocol.fossil import create_delta
from narthex.protocol.framing import Framing
from tests.app.hub.test_batch_writer import Driver
from tests.app.hub.test_hub import RecordingSubscriber
from tests.protocol import centrifuge_schema as oracle
from tests.protocol.test_fossil import event


class DeltaClient(RecordingSubscriber):
    """A subscriber whose client applies deltas as the SDKs do, in JSON or protobuf.

    Attributes:
        data: of the publications that it decoded.
        deltas: the number of publications that came as deltas.
    """

    def __init__(self, framing: Framing = Framing.HTTP_STREAM) -> None:
        super().__init__()
        self.framing = framing
        self.data: list[bytes] = []
        self.deltas = 0
        self.got: bytes | None = None
        self.kept: Backlog | None = None

    def send_frames(self, frames: bytes) -> None:
        if self.framing == Framing.HTTP_STREAM:
            pushes = [json.loads(line)["push"] for line in frames.splitlines()]
            for push in pushes:
                if "pub" in push:
                    assert isinstance(push["pub"]["data"], str)
                    self.take(push["pub"]["data"].encode(), push["pub"].get("delta", False))
        else:
            for reply in oracle.replies(frames):
                if reply.push.HasField("pub"):
                    self.take(reply.push.pub.data, reply.push.pub.delta)

    def take(self, data: bytes, delta: bool) -> None:
        if delta:
            assert self.got is not None
            data = bytes(apply_delta(self.got, data))
            self.deltas += 1
        self.got = data
        self.data.append(data)

    def deliver_late(self, channel: Channel, items: list[Delivery]) -> None:
        if self.kept is None:
            self.kept = Backlog(0.0)
        self.kept.add(channel, items)

    def drain(self) -> None:
        """As `Connection` does when its socket is writable again."""
        kept, self.kept, self.lagging = self.kept, None, False
        for channel, delivery in kept.take() if kept else []:
            self.send_frames(channel.prepared(self, delivery).framed(self.framing))


BOTH = (Framing.HTTP_STREAM, Framing.PROTOBUF_HTTP_STREAM)


def write(channel: Channel) -> None:
    """The hub's handling of a batch."""
    writer = BatchWriter(channel, raised)
    while not writer.done():
        writer.write(100)
    channel.promote()


def raised(fault: BaseException) -> None:
    raise fault


def joined(channel: Channel, subscriber: DeltaClient, recovered: bytes | None = None) -> None:
    """Subscribed with deltas; `recovered` is the last publication of its recovery."""
    channel.joiners[subscriber] = Joiner()
    channel.deltas[subscriber] = recovered
    subscriber.got = recovered
    assert channel.ready(subscriber, channel.last or 0)


def channel_at(last: int) -> Channel:
    channel = Channel("t/thread:one", "thread:one")
    channel.last = last
    return channel


@pytest.mark.parametrize("framing", BOTH)
def test_the_first_is_whole_and_the_next_are_deltas(framing: Framing) -> None:
    """Several in a batch and one alone; a subscriber that did not ask gets whole ones beside it."""
    channel = channel_at(0)
    asks, asks_not = DeltaClient(framing), RecordingSubscriber()
    joined(channel, asks)
    channel.members[asks_not] = None
    events = [event(f" word {seq}", seq) for seq in range(1, 9)]
    for seq, data in enumerate(events, 1):
        channel.accept(Publication(seq, data))
        if seq % 3 == 0:
            write(channel)
    write(channel)
    assert asks.data == events
    assert asks.deltas == 7
    assert [push["pub"] for push in asks_not.pushes] == [
        {"data": json.loads(data), "offset": seq} for seq, data in enumerate(events, 1)
    ]


@pytest.mark.parametrize("framing", BOTH)
def test_a_recovery_is_continued_by_a_delta(framing: Framing) -> None:
    """Where another subscriber has the publication before; else by a whole one."""
    channel = channel_at(0)
    first, later = DeltaClient(framing), DeltaClient(framing)
    joined(channel, first)
    events = [event(f" word {seq}", seq) for seq in range(1, 4)]
    channel.accept(Publication(1, events[0]))
    write(channel)
    joined(channel, later, bytes(bytearray(events[0])))
    for seq in (2, 3):
        channel.accept(Publication(seq, events[seq - 1]))
        write(channel)
    assert (first.data, first.deltas) == (events, 2)
    assert (later.data, later.deltas) == (events[1:], 2)


def test_ephemeral_publications_are_links_of_the_chain() -> None:
    """A client applies a delta to the last publication that came, in history or not; a join is none."""
    channel = channel_at(0)
    subscriber = DeltaClient()
    joined(channel, subscriber)
    typing = Publication(0, b'{"type":"CUSTOM","name":"narthex.typing","value":{}}')
    channel.accept(Publication(1, event("a", 1)))
    channel.put(Delivery(channel.encoded(typing), None), typing)
    channel.put(Delivery(channel.encoder.push("join", {"info": {"user": "ada", "client": "c"}}), None))
    channel.accept(Publication(2, event("b", 2)))
    write(channel)
    channel.put(Delivery(channel.encoder.push("leave", {"info": {"user": "ada", "client": "c"}}), None))
    write(channel)
    channel.accept(Publication(3, event("c", 3)))
    write(channel)
    assert subscriber.data == [event("a", 1), typing.data, event("b", 2), event("c", 3)]
    assert subscriber.deltas == 1


def test_a_channel_without_such_subscribers_keeps_nothing_for_them() -> None:
    """Off unless asked for: no form is made, and after the last one left none either."""
    channel = channel_at(0)
    subscriber, other = DeltaClient(), RecordingSubscriber()
    channel.members[other] = None
    assert channel.accept(Publication(1, event("a", 1))).forms is None
    write(channel)
    joined(channel, subscriber)
    assert channel.accept(Publication(2, event("b", 2))).forms is not None
    write(channel)
    channel.drop(subscriber)
    assert channel.accept(Publication(3, event("c", 3))).forms is None


def test_such_a_subscriber_is_not_among_the_direct_senders() -> None:
    """Its bytes are its own: the loop that writes the same to all must not touch it."""
    channel = channel_at(0)
    driver = Driver([])
    channel.joiners[driver] = Joiner()
    channel.deltas[driver] = None
    assert channel.ready(driver, 0)
    for seq in (1, 2):
        channel.accept(Publication(seq, event("a", seq)))
        write(channel)
    assert driver.road.taken == b""
    assert driver.walked.count(b'"delta":true') == 1


def test_a_delta_is_computed_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many subscribers, both formats, some late: one computation a publication."""
    computed: list[bytes] = []

    def counted(source: bytes, target: bytes) -> bytes | None:
        computed.append(target)
        return create_delta(source, target)

    monkeypatch.setattr("narthex.app.hub.delivery.create_delta", counted)
    channel = channel_at(0)
    crowd = [DeltaClient(BOTH[number % 2]) for number in range(20)]
    for subscriber in crowd:
        joined(channel, subscriber)
    events = [event(f" {'x' * seq}", seq) for seq in range(1, 11)]
    for seq, data in enumerate(events, 1):
        channel.accept(Publication(seq, data))
        if seq % 2:
            write(channel)
    write(channel)
    assert computed == events[1:]
    assert {tuple(subscriber.data) for subscriber in crowd} == {tuple(events)}


def test_the_one_after_merged_ones_is_whole() -> None:
    """A slow reader got two publications as one: the next cannot be a delta to a publication that it never saw."""
    channel = channel_at(0)
    slow = DeltaClient()
    joined(channel, slow)
    events = [event(f" word {seq}", seq) for seq in range(1, 6)]
    channel.accept(Publication(1, events[0]))
    write(channel)
    slow.lagging = True
    for seq in (2, 3):
        channel.accept(Publication(seq, events[seq - 1]))
        write(channel)
    slow.drain()
    for seq in (4, 5):
        channel.accept(Publication(seq, events[seq - 1]))
        write(channel)
    assert slow.data == [events[0], slow.data[1], events[3], events[4]]
    assert json.loads(slow.data[1])["delta"] == " word 2 word 3"
    assert slow.deltas == 1


STEPS = st.lists(
    st.sampled_from(["publish", "publish", "typing", "write", "lag", "drain", "join", "leave"]), max_size=60
)


@given(STEPS, st.sampled_from(BOTH))
@example(
    ["publish", "lag", "publish", "write", "publish", "typing", "write", "drain", "publish", "write"], BOTH[1]
)
def test_whatever_happens_every_client_can_decode(steps: list[str], framing: Framing) -> None:
    """Batches, slow clients whose deltas are merged, joiners, leavers: each client ends with the same text."""
    channel = channel_at(0)
    steady, slow = DeltaClient(framing), DeltaClient(framing)
    joined(channel, steady)
    joined(channel, slow)
    texts: list[str] = []
    late: DeltaClient | None = None
    for step in steps:
        if step == "publish":
            texts.append(f" {len(texts)}ż")
            channel.accept(Publication(len(texts), event(texts[-1], len(texts))))
        elif step == "typing":
            shown = Publication(0, b'{"type":"CUSTOM","name":"narthex.typing"}')
            channel.put(Delivery(channel.encoded(shown), None), shown)
        elif step == "write":
            write(channel)
        elif step == "lag":
            slow.lagging = True
        elif step == "drain":
            slow.drain()
        elif step == "join" and late is None:
            late = DeltaClient(framing)
            joined(channel, late)
        elif step == "leave" and late is not None:
            channel.drop(late)
            late = None
    write(channel)
    slow.drain()
    for client in (steady, slow):
        assert text_of(client.data) == "".join(texts)
    assert steady.data == [data for data in steady.data if data]
    if late is not None:
        assert "".join(texts).endswith(text_of(late.data))


def text_of(data: list[bytes]) -> str:
    events: list[dict[str, Any]] = [json.loads(raw) for raw in data]
    return "".join(found.get("delta", "") for found in events)
