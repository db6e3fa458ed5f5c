"""The NATS appender over a stream in memory: two nodes, conflicts, lost answers, keys, bounds; without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from narthex.adapters.brokers.nats import appending as module
from narthex.adapters.brokers.nats.appending import BATCH_ENTRIES, LAST_SEQUENCE, SEQUENCE, NatsAppender
from narthex.adapters.brokers.nats.codec import MARK_EVERY, decode_batch
from narthex.adapters.brokers.nats.contention import FOLLOW_S, Contention
from narthex.adapters.brokers.nats.jetstream import Conflict, JetStreamUnavailable, RequestRejected, Stored
from narthex.errors import Bug, DependencyError, Overloaded
from narthex.ports.broker import ANY_OFFSET, IDEMPOTENCY_WINDOW_S, LogMoved, Position, Published
from tests.timing import within


class MemoryStream:
    """One stream's messages by subject. `faults` are raised by the next publishes; a lost one is stored before."""

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.seq = 0
        self.faults: list[Exception] = []
        self.lose = 0
        self.reads = 0
        self.sizes: list[int] = []
        self.gate: asyncio.Event | None = None

    def of(self, subject: str) -> list[Stored]:
        """A subject's messages."""
        return [one for one in self.messages if one.subject == subject]

    async def last(self, subject: str) -> Stored | None:
        """See `JetStream`."""
        self.reads += 1
        return next(reversed(self.of(subject)), None)

    async def between(self, subject: str, first: int, last: int, *_: int) -> list[Stored]:
        """See `JetStream`."""
        self.reads += 1
        return [one for one in self.of(subject) if first <= one.seq <= last]

    async def next(self, subject: str, seq: int) -> Stored | None:
        """See `JetStream`."""
        return next((one for one in self.of(subject) if one.seq >= seq), None)

    async def publish(self, subject: str, body: bytes, *, expected: int, rollup: bool = False) -> int:
        """See `JetStream`."""
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        last = next(reversed(self.of(subject)), None)
        if expected != (last.seq if last else 0):
            raise Conflict(f"wrong last sequence: {last.seq if last else 0}")
        if rollup:
            self.messages = [one for one in self.messages if one.subject != subject]
        self.seq += 1
        self.messages.append(Stored(self.seq, body, subject))
        self.sizes.append(len(decode_batch(body).entries))
        if self.lose:
            self.lose -= 1
            raise JetStreamUnavailable("the answer got lost")
        return self.seq


class Node:
    """One node's appender."""

    def __init__(self, stream: MemoryStream, **more: Any) -> None:
        self.now = 1_000_000.0
        self.rechecks = 0
        self.proofs = 0
        self.followed: list[str] = []
        self.contention = Contention(self.followed.append, self.followed.remove)
        options: dict[str, Any] = {
            "timeout_s": within(5),
            "max_body": lambda: 1024 * 1024,
            "clock": lambda: self.now,
        }
        self.appender = NatsAppender(
            cast("Any", stream),
            subject=lambda channel: f"s.{channel}",
            epoch=lambda incarnation: f"e{incarnation}",
            recheck=self._recheck,
            contention=self.contention,
            prove=self._prove,
            **(options | more),
        )
        self.appender.open()

    def _recheck(self) -> None:
        self.rechecks += 1

    async def _prove(self) -> None:
        self.proofs += 1

    def submit(
        self, data: bytes = b"x", key: str | None = None, expected: Position | None = None, channel: str = "c"
    ) -> asyncio.Future[Published]:
        """Queue a publication."""
        return self.appender.submit(channel, data, key, None, expected)

    async def publish(self, *args: Any, **more: Any) -> Published:
        """Queue one and wait for its place."""
        return await asyncio.wait_for(self.submit(*args, **more), within(10))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off of a millisecond."""
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)


async def test_publications_that_wait_together_go_together() -> None:
    """While one message is under way the others queue; they are one message, with contiguous offsets."""
    stream = MemoryStream()
    stream.gate = asyncio.Event()
    node = Node(stream)
    first = node.submit()
    await asyncio.sleep(0)
    others = [node.submit() for _ in range(5)]
    assert node.appender.pending == 6
    stream.gate.set()
    found = await asyncio.gather(first, *others)
    assert [one.offset for one in found] == [1, 2, 3, 4, 5, 6]
    assert {one.epoch for one in found} == {"e"}
    assert sum(stream.sizes) == 6
    assert len(stream.sizes) <= 2
    assert node.appender.pending == 0


async def test_a_batch_is_bounded_in_entries_and_in_bytes() -> None:
    """Entries of one message; a large publication is the last of its message."""
    stream = MemoryStream()
    node = Node(stream)
    await asyncio.gather(*(node.submit() for _ in range(BATCH_ENTRIES + 1)))
    assert stream.sizes == [BATCH_ENTRIES, 1]
    stream = MemoryStream()
    node = Node(stream, max_body=lambda: module.RESERVED_BYTES + 200)
    await asyncio.gather(*(node.submit(b"x" * 100) for _ in range(4)))
    assert stream.sizes == [2, 2]


async def test_two_nodes_never_give_one_offset_twice() -> None:
    """Each reads what the other appended; together the offsets are contiguous."""
    stream = MemoryStream()
    nodes = [Node(stream), Node(stream)]
    found = await asyncio.gather(*(nodes[number % 2].publish() for number in range(40)))
    assert sorted(one.offset for one in found) == list(range(1, 41))
    tops = [decode_batch(one.body).top for one in stream.of("s.c")]
    assert tops == sorted(tops)


@pytest.mark.parametrize("other", [False, True])
async def test_a_key_is_placed_once_within_its_window(other: bool) -> None:
    """Also when another node used it; after the window it may be used again."""
    stream = MemoryStream()
    node = Node(stream)
    first = await node.publish(key="k")
    again = Node(stream) if other else node
    again.now += IDEMPOTENCY_WINDOW_S - 0.1
    assert await again.publish(key="k") == Published(first.offset, "e", duplicate=True)
    again.now += 0.1
    assert await again.publish(key="k") == Published(2, "e", duplicate=False)


async def test_one_key_twice_in_the_queue_is_one_publication() -> None:
    """The second is answered with the place of the first."""
    stream = MemoryStream()
    node = Node(stream)
    found = await asyncio.gather(*(node.submit(b"y", key="l") for _ in range(3)))
    assert [(one.offset, one.duplicate) for one in found] == [(1, False), (1, True), (1, True)]
    assert stream.sizes == [1]


async def test_a_lost_answer_is_no_second_publication() -> None:
    """The node reads its own attempt back, also of a publication without a key."""
    stream = MemoryStream()
    stream.lose = 1
    node = Node(stream)
    assert await node.publish() == Published(1, "e", duplicate=False)
    assert await node.publish() == Published(2, "e", duplicate=False)
    assert stream.sizes == [1, 1]


async def test_an_expected_end_is_compared_and_appended_in_one_step() -> None:
    """Another end is refused with the log's end of now; any offset of the epoch may be asked for."""
    stream = MemoryStream()
    node, other = Node(stream), Node(stream)
    first = await node.publish(expected=Position(0, "e"))
    assert first.offset == 1
    await other.publish()
    with pytest.raises(LogMoved) as moved:
        await node.publish(expected=Position(1, "e"))
    assert moved.value.end == Position(2, "e")
    assert (await node.publish(expected=Position(2, "e"))).offset == 3
    assert (await node.publish(expected=Position(ANY_OFFSET, "e"))).offset == 4
    for wrong in (Position(4, "other"), Position(ANY_OFFSET, "other"), Position(5, "e"), Position(3, "e")):
        with pytest.raises(LogMoved):
            await node.publish(expected=wrong)
    assert node.appender.pending == 0


class HeldStream(MemoryStream):
    """A stream whose reads wait until tests let them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.may = asyncio.Event(), asyncio.Event()
        self.may.set()

    async def between(self, subject: str, first: int, last: int, *more: int) -> list[Stored]:
        """See `JetStream`."""
        self.reading.set()
        await self.may.wait()
        return await super().between(subject, first, last, *more)


async def test_a_publication_that_comes_while_the_log_is_read_is_judged_by_the_next_reading() -> None:
    """Its expected end is compared with the log as it is after it came; it is not forgotten either."""
    stream = HeldStream()
    node, other = Node(stream), Node(stream)
    await node.publish(expected=Position(0, "e"))
    await other.publish()
    stream.may.clear()
    stream.reading.clear()
    first = node.submit(expected=Position(1, "e"))
    await asyncio.wait_for(stream.reading.wait(), within(5))
    late = node.submit(expected=Position(1, "e"))
    right = node.submit(expected=Position(2, "e"))
    stream.may.set()
    for waiting in (first, late):
        with pytest.raises(LogMoved) as moved:
            await asyncio.wait_for(waiting, within(5))
        assert moved.value.end == Position(2, "e")
    assert (await asyncio.wait_for(right, within(5))).offset == 3
    assert node.appender.pending == 0


async def test_a_removed_channel_begins_again_with_its_keys_forgotten() -> None:
    """Another incarnation, from 1, at every node."""
    stream = MemoryStream()
    node, other = Node(stream), Node(stream)
    await node.publish(key="k")
    await other.publish()
    await node.appender.remove("c", "new")
    assert len(stream.of("s.c")) == 1
    for one in (node, other):
        expected = {node: 1, other: 2}[one]
        assert await one.publish(key=f"k{expected}") == Published(expected, "enew", duplicate=False)
    assert await other.publish(key="k") == Published(3, "enew", duplicate=False)


async def test_the_window_of_keys_is_read_over_marks() -> None:
    """A node that comes later knows every key of the window, also of a channel with many messages."""
    stream = MemoryStream()
    node = Node(stream)
    for number in range(MARK_EVERY + 20):
        await node.publish(key=f"k{number}")
    late = Node(stream)
    for number in (0, 1, MARK_EVERY - 2, MARK_EVERY - 1, MARK_EVERY, MARK_EVERY + 19):
        assert await late.publish(key=f"k{number}") == Published(number + 1, "e", duplicate=True)
    assert (await late.publish(key="new")).offset == MARK_EVERY + 21


async def test_keys_outlive_a_cut_of_the_log() -> None:
    """`remember` puts them into a message; then the earlier ones may go. An empty channel has nothing to remember."""
    stream = MemoryStream()
    node = Node(stream)
    assert not await node.appender.remember("c")
    await node.publish(key="a")
    await node.publish(key="b")
    assert await node.appender.remember("c")
    del stream.messages[:-1]
    late = Node(stream)
    assert await late.publish(key="a") == Published(1, "e", duplicate=True)
    assert await late.publish(key="b") == Published(2, "e", duplicate=True)
    assert (await late.publish(key="c")).offset == 3
    small = Node(stream, max_body=lambda: 10)
    assert not await small.appender.remember("c")


async def test_what_is_heard_of_the_channel_need_not_be_read() -> None:
    """The next message in order is taken in; one behind a gap is not, and is read before the next append."""
    stream = MemoryStream()
    node, other = Node(stream), Node(stream)
    await node.publish()
    await other.publish()
    await other.publish()
    second, third = stream.of("s.c")[1:]

    def hear(message: Stored, before: int) -> None:
        headers = {SEQUENCE: str(message.seq), LAST_SEQUENCE: str(before)}
        node.appender.heard("c", decode_batch(message.body), headers)

    hear(third, second.seq)  # the second was missed
    log = node.appender._logs["c"]
    assert (log.seq, log.top) == (1, 1)
    hear(second, 1)
    hear(third, second.seq)
    hear(third, second.seq)  # twice
    assert (log.seq, log.top) == (third.seq, 3)
    node.appender.heard("unknown", decode_batch(third.body), {})
    reads = stream.reads
    assert (await node.publish()).offset == 4
    assert stream.reads == reads
    node.appender.forget()
    hear(third, second.seq)
    assert (await node.publish()).offset == 5
    assert stream.reads > reads, "after a change of the stream everything is read again"


async def test_a_stream_that_lost_its_end_is_proved_before_it_is_appended_to() -> None:
    """The log's last messages are gone, or all of them: the broker checks whose stream it is."""
    stream = MemoryStream()
    node = Node(stream)
    for _ in range(3):
        await node.publish()
    del stream.messages[1:]
    found = await node.publish()
    assert found.offset == 2
    proofs = node.proofs
    assert proofs > 0
    stream.messages.clear()
    found = await node.publish()
    assert found.offset == 1
    assert node.proofs > proofs
    assert found.epoch != "e", "the next log is another one"


async def test_jetstream_away_is_waited_for_and_checked_every_third_time() -> None:
    """Then the publication is placed once."""
    stream = MemoryStream()
    stream.faults = [JetStreamUnavailable("away") for _ in range(7)]
    node = Node(stream)
    assert (await node.publish()).offset == 1
    assert node.rechecks == 2


@pytest.mark.parametrize(
    ("fault", "raised"), [(RequestRejected(10_047, "no room"), DependencyError), (KeyError("a bug"), Bug)]
)
async def test_a_refusal_answers_everyone_who_waits(fault: Exception, raised: type[Exception]) -> None:
    """At once, without a retry; later publications go on."""
    stream = MemoryStream()
    node = Node(stream)
    stream.faults = [fault]
    waiting = [node.submit(), node.submit()]
    for one in waiting:
        with pytest.raises(raised):
            await asyncio.wait_for(one, within(5))
    assert node.appender.pending == 0
    assert (await node.publish()).offset == 1


async def test_a_publication_waits_for_its_time_and_not_longer() -> None:
    """Then its publisher gets an error; that of a later one still counts from its own beginning."""
    stream = MemoryStream()
    stream.gate = asyncio.Event()
    node = Node(stream, timeout_s=0.05)
    first = node.submit()
    with pytest.raises(DependencyError, match="did not acknowledge within"):
        await asyncio.wait_for(first, within(5))
    node.appender._timeout_s = within(5)
    second = node.submit()
    stream.gate.set()
    assert (await asyncio.wait_for(second, within(5))).offset in (1, 2)
    assert node.appender.pending == 0


@pytest.mark.parametrize("call", ["remember", "remove"])
async def test_other_messages_give_up_after_the_same_time(call: str) -> None:
    """A refusal is raised at once; while JetStream is away they are tried again until the time is over."""
    stream = MemoryStream()
    node = Node(stream)
    await node.publish()

    async def run() -> object:
        method: Callable[..., Any] = getattr(node.appender, call)
        return await method("c", *(["new"] if call == "remove" else []))

    stream.faults = [RequestRejected(1, "no")]
    with pytest.raises(DependencyError, match="refused"):
        await run()
    stream.faults = [JetStreamUnavailable("away")] * 2
    await run()
    stream.faults = [JetStreamUnavailable("away")] * 1_000
    node.appender._timeout_s = 0.05
    with pytest.raises(DependencyError, match="did not acknowledge"):
        await asyncio.wait_for(run(), within(5))
    assert 1 <= len(stream.faults) < 1_000


async def test_the_queue_is_bounded_and_closed_outside_its_life() -> None:
    """At the limit one more is refused; before `open` and after `stop` every one is. A stop waits for
    those under way.
    """
    stream = MemoryStream()
    stream.gate = asyncio.Event()
    node = Node(stream, max_pending=2)
    waiting = [node.submit(), node.submit()]
    with pytest.raises(Overloaded, match="2 publications are waiting"):
        node.submit()
    stopping = asyncio.create_task(node.appender.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    with pytest.raises(DependencyError, match="not running"):
        node.submit()
    stream.gate.set()
    await asyncio.wait_for(stopping, within(5))
    assert [one.result().offset for one in waiting] == [1, 2]


async def test_a_publisher_that_left_is_passed_over() -> None:
    """Its publication is not stored if it had not been sent, and the number of waiting ones is right."""
    stream = MemoryStream()
    stream.gate = asyncio.Event()
    node = Node(stream)
    first, left, last = node.submit(), node.submit(), node.submit()
    del first
    left.cancel()
    stream.gate.set()
    assert (await asyncio.wait_for(last, within(5))).offset == 2
    assert node.appender.pending == 0


async def test_idle_channels_are_forgotten_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused tenth; they are read again when they are used."""
    monkeypatch.setattr(module, "MAX_CHANNELS", 10)
    stream = MemoryStream()
    node = Node(stream)
    for number in range(10):
        await node.publish(channel=f"c{number}")
    await asyncio.sleep(0)
    await node.publish(channel="c0")
    await node.publish(channel="c10")
    assert sorted(node.appender._logs) == sorted(f"c{number}" for number in (0, *range(2, 11)))
    assert (await node.publish(channel="c1")).offset == 2


async def test_a_followed_channel_is_left_when_it_is_not_used() -> None:
    """After thirty seconds without a publication of this node, and not before."""
    stream = MemoryStream()
    node = Node(stream)
    await node.publish()
    log = node.appender._logs["c"]
    node.contention.lost(log)
    node.contention.lost(log)
    assert node.followed == ["c"]
    node.contention.end_idle(log.used_at + FOLLOW_S)
    assert node.followed == ["c"]
    node.contention.end_idle(log.used_at + FOLLOW_S + 0.1)
    assert (node.followed, log.conflicts) == ([], 0)
