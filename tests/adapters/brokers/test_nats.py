"""Features of the NATS broker alone: its codec, its address, marks that lead back through a log, keys that outlive
it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.brokers.nats import NatsBroker, contention
from narthex.adapters.brokers.nats.codec import (
    MARK_EVERY,
    Notice,
    StreamBatch,
    StreamEntry,
    decode_batch,
    decode_live,
    encode,
    token,
)
from narthex.adapters.brokers.nats.connection import parse_address
from narthex.adapters.brokers.nats.keys import KeyWindow
from narthex.errors import ConfigError, DependencyError, Overloaded
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, Member, Position, Published
from tests.contracts.recorder import Recorder
from tests.services import NatsServer
from tests.timing import within

THREAD = "default/thread:t1"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(nats_server: NatsServer) -> str:
    """A separate prefix."""
    return f"{nats_server.url}?prefix=t{secrets.token_hex(4)}"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[NatsBroker]:
    """A started broker with the test's clock."""
    made = NatsBroker(url, clock=Clock())
    await made.start(Recorder(), "n1")
    yield made
    await made.stop()


def recorder_of(broker: NatsBroker) -> Recorder:
    """The handler of the fixture's broker."""
    assert isinstance(broker._handler, Recorder)
    return broker._handler


@given(st.text(min_size=1))
def test_tokens_are_reversible_and_safe(channel: str) -> None:
    """Every channel key is one subject token, and another key is another token."""
    made = token(channel)
    assert unquote(made) == channel
    assert not set(made) & set(".*> \t\r\n\0")


@given(
    st.lists(
        st.tuples(
            st.binary(),
            st.none() | st.dictionaries(st.text(), st.text()),
            st.none() | st.text(),
        )
    ),
    st.integers(1, 2**40),
)
def test_batches_survive_the_codec(
    rows: list[tuple[bytes, dict[str, str] | None, str | None]], first: int
) -> None:
    """Decoding reverses encoding, and publications get their offsets."""
    entries = [StreamEntry(1.5, data, tags, key) for data, tags, key in rows]
    batch = StreamBatch(b"nonce", "inc", first, 7, 9, entries)
    assert decode_batch(encode(batch)) == batch
    assert decode_live(encode(batch)) == batch
    assert [p.offset for p in batch.publications()] == list(range(first, first + len(rows)))
    assert batch.top == first + len(rows) - 1


def test_notices_survive_the_codec() -> None:
    """Presence uses the same subjects as publications."""
    notice = Notice(Member("c1", "u1", {"a": 1}), True)
    assert decode_live(encode(notice)) == notice


def test_marks_are_at_most_so_far_apart() -> None:
    """However batches are split, following a mark back skips at most `MARK_EVERY` offsets and a batch."""
    dice = random.Random(1)
    first = last_mark = 1
    while first < 5_000:
        batch = StreamBatch(b"", "", first, 0, 0, [StreamEntry(0.0, b"")] * dice.randint(1, 40))
        if batch.is_mark:
            assert batch.first - last_mark <= MARK_EVERY + 40
            last_mark = batch.first
        first = batch.top + 1
    assert last_mark > 4_700


@pytest.mark.parametrize(
    ("url", "servers", "shown", "prefix", "replicas"),
    [
        ("nats://h:1", ("nats://h:1",), "h:1", "narthex", None),
        (
            "nats://u:p@h:1,u:p@i:2?prefix=x&replicas=3",
            ("nats://h:1", "nats://i:2"),
            "h:1, i:2",
            "x",
            3,
        ),
        ("tls://h", ("tls://h",), "h:4222", "narthex", None),
    ],
)
def test_addresses(url: str, servers: tuple[str, ...], shown: str, prefix: str, replicas: int | None) -> None:
    """Servers, prefix and replicas; the shown form has no credentials."""
    address = parse_address(url)
    assert (address.servers, address.shown, address.prefix, address.replicas) == (
        servers,
        shown,
        prefix,
        replicas,
    )


@pytest.mark.parametrize("query", ["replicas=2", "prefix=a.b", "prefix=", "colour=red"])
def test_bad_addresses(query: str) -> None:
    """Each error names the fault."""
    with pytest.raises(ConfigError):
        parse_address(f"nats://h:1?{query}")


async def test_pages_from_anywhere_in_a_long_log(broker: NatsBroker) -> None:
    """700 messages of one publication each: every page is right, whatever marks it has to follow."""
    for number in range(700):
        placed = await broker.publish(THREAD, str(number).encode())
    dice = random.Random(2)
    for since in [0, 1, 254, 255, 256, 257, 511, 512, 513, 699, *dice.sample(range(700), 15)]:
        limit = dice.choice([1, 7, 300, 10_000])
        page = await broker.history(THREAD, since=Position(since, placed.epoch), limit=limit)
        wanted = list(range(since + 1, min(700, since + limit) + 1))
        assert [p.offset for p in page.publications] == wanted
        assert page.complete
        page = await broker.history(
            THREAD, since=Position(since + 1, placed.epoch), limit=limit, reverse=True
        )
        assert [p.offset for p in page.publications] == list(range(since, max(0, since - limit), -1))


async def test_marks_that_were_dropped(url: str) -> None:
    """A log that keeps its newest 50 messages: the page reports the missing part and returns the rest."""
    broker = NatsBroker(url, kept_messages=50)
    await broker.start(Recorder(), "n1")
    for number in range(600):
        placed = await broker.publish(THREAD, str(number).encode())
    for since, complete in ((0, False), (300, False), (549, False), (550, True), (590, True)):
        page = await broker.history(THREAD, since=Position(since, placed.epoch))
        assert page.complete is complete
        assert [p.offset for p in page.publications] == list(range(max(since, 550) + 1, 601))
    assert [p.offset for p in (await broker.history(THREAD)).publications] == list(range(551, 601))
    page = await broker.history(THREAD, reverse=True)
    assert (len(page.publications), page.complete) == (50, False)
    await broker.stop()


async def test_trims_leave_the_keys_behind(url: str) -> None:
    """Trimmed publications go at once, the end of the log stays, and every node still knows their keys."""
    one, two = NatsBroker(url), NatsBroker(url)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    placed = [await one.publish(THREAD, str(number).encode(), key=f"k{number}") for number in range(600)]
    epoch = placed[0].epoch
    await one.trim(THREAD, Position(590, epoch))
    page = await one.history(THREAD)
    assert [found.offset for found in page.publications] == list(range(591, 601))
    assert not (await one.history(THREAD, since=Position(1, epoch))).complete
    for broker in (one, two):
        for number in (0, 1, 254, 255, 256, 599):
            again = await broker.publish(THREAD, b"x", key=f"k{number}")
            assert (again.offset, again.duplicate) == (number + 1, True)
    await two.trim(THREAD, Position(10_000, epoch))
    page = await two.history(THREAD)
    assert (page.publications, page.top) == ([], Position(600, epoch))
    assert (await one.publish(THREAD, b"x", key="k599")).duplicate
    assert (await one.publish(THREAD, b"x")).offset == 601
    await one.stop()
    await two.stop()


async def test_newcomer_finds_the_keys_that_a_trim_left_behind(url: str) -> None:
    """However much was appended since: a trim leaves a mark that later ones lead back to."""
    one, two = NatsBroker(url), NatsBroker(url)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    for number in range(600):
        placed = await one.publish(THREAD, b"1", key=f"k{number}")
    await one.trim(THREAD, Position(590, placed.epoch))
    for number in range(600, 900):
        placed = await one.publish(THREAD, b"1", key=f"k{number}")
    for number in (0, 255, 300, 520, 599, 600, 899):
        again = await two.publish(THREAD, b"x", key=f"k{number}")
        assert (again.offset, again.duplicate) == (number + 1, True)
    for since in (590, 599, 600, 601, 899):
        page = await two.history(THREAD, since=Position(since, placed.epoch))
        assert page.complete
        assert [found.offset for found in page.publications] == list(range(since + 1, 901))
    await one.stop()
    await two.stop()


async def test_a_key_that_was_used_while_a_node_did_not_look_counts_however_old(url: str) -> None:
    """A node that was frozen for longer than the window repeats a publication that another node made meanwhile."""
    clock = Clock()
    one, two = NatsBroker(url, clock=clock), NatsBroker(url, clock=clock)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    await one.publish(THREAD, b"1", key="run:1")
    placed = await two.publish(THREAD, b"2", key="run:2")
    clock.now += 10 * IDEMPOTENCY_WINDOW_S
    assert await one.publish(THREAD, b"2", key="run:2") == Published(placed.offset, placed.epoch, True)
    assert (await one.publish(THREAD, b"3", key="run:3")).offset == 3
    await one.stop()
    await two.stop()


async def test_keys_that_are_only_heard_of_are_forgotten_too(url: str) -> None:
    """A node that follows a channel and published to it once keeps the keys of the window only."""
    clock = Clock()
    one, two = NatsBroker(url, clock=clock), NatsBroker(url, clock=clock)
    recorder = Recorder()
    await one.start(recorder, "n1")
    await two.start(Recorder(), "n2")
    one.subscribe(THREAD)
    await one.history(THREAD)
    await one.publish(THREAD, b"1", key="mine")
    for number in range(5):
        clock.now += IDEMPOTENCY_WINDOW_S + 1
        await two.publish(THREAD, b"1", key=f"k{number}")
    await recorder.until(lambda: len(recorder.seen) == 6)
    assert len(one._appender._logs[THREAD].keys) == 1
    await one.stop()
    await two.stop()


async def test_what_jetstream_refuses_is_an_error_of_the_port(broker: NatsBroker) -> None:
    """Also for a removal and a trim: callers know DependencyError only."""
    placed = await broker.publish(THREAD, b"1", key="k")
    answer = await broker._stream.api(f"STREAM.INFO.{broker._names.log_stream}")
    small = {**answer["config"], "max_msg_size": 8}
    await broker._stream.api(f"STREAM.UPDATE.{broker._names.log_stream}", small)
    with pytest.raises(DependencyError, match="refused"):
        await broker.publish(THREAD, b"2")
    with pytest.raises(DependencyError, match="refused"):
        await broker.remove(THREAD)
    with pytest.raises(DependencyError, match="refused"):
        await broker.trim(THREAD, Position(1, placed.epoch))


async def test_keys_expire_after_the_window(broker: NatsBroker) -> None:
    """A key counts for 120 s and not longer."""
    clock = broker._appender._clock
    assert isinstance(clock, Clock)
    await broker.publish(THREAD, b"1", key="k")
    clock.now += IDEMPOTENCY_WINDOW_S - 1
    assert (await broker.publish(THREAD, b"1", key="k")).duplicate
    clock.now += 2
    assert not (await broker.publish(THREAD, b"1", key="k")).duplicate


async def test_boot_of_the_servers_machine_changes_the_epoch(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers on this machine: after a reboot the losses are unknown, so the log is a new one, once."""
    epochs = []
    for boot in ("a", "a", "b", "b"):
        monkeypatch.setattr("narthex.adapters.brokers.nats.broker.boot_id", lambda boot=boot: boot)
        broker = NatsBroker(url)
        await broker.start(Recorder(), "n1")
        epochs.append((await broker.publish(THREAD, b"1")).epoch)
        await broker.stop()
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]
    assert not parse_address("nats://127.0.0.1:1,nats://other:1").local


async def test_newcomer_knows_all_keys_of_the_window(url: str) -> None:
    """A node that first writes to a busy channel reads back as far as keys count, and no further."""
    clock = Clock()
    one, two = NatsBroker(url, clock=clock), NatsBroker(url, clock=clock)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    await one.publish(THREAD, b"old", key="old")
    clock.now += IDEMPOTENCY_WINDOW_S + 1
    for number in range(600):
        await one.publish(THREAD, b"1", key=f"k{number}")
    for number in (0, 255, 256, 599):
        assert await two.publish(THREAD, b"1", key=f"k{number}") == await one.publish(
            THREAD, b"1", key=f"k{number}"
        )
    assert not (await two.publish(THREAD, b"old", key="old")).duplicate
    await one.stop()
    await two.stop()


async def test_another_stream_is_another_log_for_every_node(url: str) -> None:
    """Another node deleted and recreated the stream, which ends at the old one's position: nothing is mixed up."""
    one, two = NatsBroker(url), NatsBroker(url)
    recorder = Recorder()
    await one.start(recorder, "n1")
    await two.start(Recorder(), "n2")
    for number in range(2):
        placed = await one.publish(THREAD, b"1", key=f"k{number}")
    await one._stream.api(f"STREAM.DELETE.{one._names.log_stream}")
    await two.publish("default/thread:t2", b"1")
    told = await two.publish(THREAD, b"1")
    await recorder.until(lambda: bool(recorder.resyncs))
    again = await one.publish(THREAD, b"1", key="k1")
    assert (told.offset, again.offset, again.duplicate) == (1, 2, False)
    assert told.epoch == again.epoch != placed.epoch
    await one.stop()
    await two.stop()


async def test_a_closed_connection_is_made_anew(broker: NatsBroker) -> None:
    """The library gives up for good: a new connection, the same subscriptions, and a resync."""
    recorder = recorder_of(broker)
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    await broker._client().close()
    await recorder.until(lambda: bool(recorder.resyncs))
    placed = await broker.publish(THREAD, b"1")
    await recorder.until(lambda: [p.offset for p in recorder.of(THREAD)] == [placed.offset])


async def test_who_subscribes_while_there_is_no_connection_is_told_later(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the old connection and the new one: the subscription is made as soon as the new one is up."""
    recorder = recorder_of(broker)
    connect, asked, allowed = broker._connect, asyncio.Event(), asyncio.Event()

    async def late() -> None:
        asked.set()
        await allowed.wait()
        await connect()

    monkeypatch.setattr(broker, "_connect", late)
    await broker._client().close()
    await asyncio.wait_for(asked.wait(), within(5))
    broker.subscribe(THREAD)
    await asyncio.sleep(0)  # the task that subscribes has its turn
    await asyncio.sleep(0)
    allowed.set()
    await recorder.until(lambda: bool(recorder.resyncs))
    await asyncio.wait_for(broker.history(THREAD, limit=0), within(3))
    placed = await broker.publish(THREAD, b"1")
    await recorder.until(lambda: [p.offset for p in recorder.of(THREAD)] == [placed.offset])


async def test_a_bug_of_whoever_resyncs_does_not_end_the_watch(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later losses are reported all the same."""
    recorder = recorder_of(broker)
    asked = asyncio.Event()

    def raises(_: list[str] | None) -> None:
        asked.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "resync", raises)
        broker._monitor.missed()
        await asyncio.wait_for(asked.wait(), within(5))
        await asyncio.sleep(0)
    recorder.resyncs.clear()
    broker._monitor.missed()
    await recorder.until(lambda: bool(recorder.resyncs))


async def test_a_bug_of_the_watch_itself_does_not_end_it(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example an error that the library did not name: it retries."""
    recorder = recorder_of(broker)
    connected, raised = broker._monitor._connected, asyncio.Event()

    async def once() -> bool:
        if not raised.is_set():
            raised.set()
            raise ValueError("credentials")
        return await connected()

    monkeypatch.setattr(broker._monitor, "_connected", once)
    broker._monitor.missed()
    await asyncio.wait_for(raised.wait(), within(5))
    recorder.resyncs.clear()
    broker._monitor.missed()
    await recorder.until(lambda: bool(recorder.resyncs))


@pytest.mark.parametrize("bound", ["bytes", "keys"])
async def test_keys_that_fit_in_no_message_leave_the_log_as_it_is(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """A server with a small message limit, or more keys than a message can have: the trim is skipped, at once."""
    for number in range(300):
        placed = await broker.publish(THREAD, b"1", key=f"k{number}")
    if bound == "bytes":
        monkeypatch.setattr(broker._appender, "_max_body", lambda: 5_000)
    else:
        monkeypatch.setattr("narthex.adapters.brokers.nats.keys.MOST_ROWS", 299)
    await asyncio.wait_for(broker.trim(THREAD, Position(200, placed.epoch)), within(3))
    assert len((await broker.history(THREAD)).publications) == 300


async def test_newcomer_reads_marks_not_messages(url: str) -> None:
    """2,000 keys of others cost a newcomer the messages since the last mark, and one message a mark."""
    one, two = NatsBroker(url), NatsBroker(url)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    for number in range(2_000):
        await one.publish(THREAD, b"1", key=f"k{number}")
    before = two._client().stats["in_msgs"]
    assert (await two.publish(THREAD, b"1", key="k3")).offset == 4
    assert two._client().stats["in_msgs"] - before < 2_000 % MARK_EVERY + 2_000 // MARK_EVERY + 10
    await one.stop()
    await two.stop()


async def test_marks_of_the_version_before_are_read_message_by_message(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log whose marks carry no keys yet: a newcomer still knows all of them."""
    one, two = NatsBroker(url), NatsBroker(url)
    await one.start(Recorder(), "n1")
    await two.start(Recorder(), "n2")
    with monkeypatch.context() as old:
        old.setattr(KeyWindow, "summary", lambda *_: None)
        for number in range(600):
            await one.publish(THREAD, b"1", key=f"k{number}")
    for number in range(600, 900):
        await one.publish(THREAD, b"1", key=f"k{number}")
    assert [(await two.publish(THREAD, b"1", key=f"k{n}")).offset for n in (0, 300, 599, 899)] == [
        1,
        301,
        600,
        900,
    ]
    await one.stop()
    await two.stop()


async def test_a_followed_channel_is_appended_to_without_reading(url: str) -> None:
    """A node knows other nodes' publications to a channel that it follows when it publishes: one request."""
    one, two = NatsBroker(url), NatsBroker(url)
    recorder = Recorder()
    await one.start(Recorder(), "n1")
    await two.start(recorder, "n2")
    two.subscribe(THREAD)
    await two.publish(THREAD, b"1", key="first")
    for number in range(100):
        await one.publish(THREAD, b"1", key=f"k{number}")
    await recorder.until(lambda: len(recorder.of(THREAD)) == 101)
    before = two._client().stats["out_msgs"]
    assert (await two.publish(THREAD, b"1", key="last")).offset == 102
    assert two._client().stats["out_msgs"] - before == 1
    await one.stop()
    await two.stop()


async def test_nodes_that_contend_are_told_of_each_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that lost twice follows the channel apart from its handler, which gets nothing; unused, it stops."""
    recorders = [Recorder(), Recorder()]
    nodes = [NatsBroker(url) for _ in recorders]
    for number, node in enumerate(nodes):
        await node.start(recorders[number], f"n{number}")
    for number in range(4):  # later appends are unknown: each of these loses once
        for node in nodes:
            await node.publish(THREAD, b"1", key=f"{number}:{node._node}")
    assert all(THREAD in node._contention._followed for node in nodes)
    await nodes[0]._subscriptions.settled(THREAD)
    placed = await nodes[1].publish(THREAD, b"1")
    async with asyncio.timeout(within(5)):
        while nodes[0]._appender._logs[THREAD].top != placed.offset:  # noqa: ASYNC110 - nobody is told of it
            await asyncio.sleep(0.01)
    assert recorders[0].seen == recorders[1].seen == []
    nodes[0].subscribe(THREAD)
    nodes[0].unsubscribe(THREAD)
    assert nodes[0]._subscriptions.channel(nodes[0]._names.live + token(THREAD)) == THREAD
    monkeypatch.setattr(contention, "FOLLOW_S", -1.0)
    nodes[0]._contention.end_idle(asyncio.get_running_loop().time())
    assert nodes[0]._subscriptions.channel(nodes[0]._names.live + token(THREAD)) is None
    for node in nodes:
        await node.stop()


async def test_late_answers_do_not_upset_the_count(broker: NatsBroker) -> None:
    """A publish that was refused as late and turns out to be stored is counted down once."""
    broker._appender._timeout_s = 0.0
    with pytest.raises(DependencyError, match="did not acknowledge"):
        await broker.publish(THREAD, b"1", key="k")
    broker._appender._timeout_s = 12.0
    assert (await broker.publish(THREAD, b"1", key="k")).offset == 1
    assert broker.pending == 0


async def test_publishes_that_pile_up_share_messages(broker: NatsBroker) -> None:
    """1,000 publishes to one channel take far fewer messages, and big ones are split by size."""
    await asyncio.gather(*(broker.publish(THREAD, b"1") for _ in range(1_000)))
    info = await broker._stream.api(f"STREAM.INFO.{broker._names.log_stream}")
    assert info["state"]["messages"] < 10
    big = b'"' + b"x" * 60_000 + b'"'
    placed = await asyncio.gather(*(broker.publish(THREAD, big) for _ in range(40)))
    assert sorted(entry.offset for entry in placed) == list(range(1_001, 1_041))


async def test_full_queue_is_an_error(broker: NatsBroker) -> None:
    """Beyond the bound a publish fails at once; the others go through."""
    broker._appender._max_pending = 10
    outcomes = await asyncio.gather(
        *(broker.publish(THREAD, b"1") for _ in range(15)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
    assert broker.pending == 0


async def test_a_subscription_costs_no_task(broker: NatsBroker) -> None:
    """Thousands of followed channels are thousands of subscriptions and not one task more."""
    before = len(asyncio.all_tasks())
    names = [f"default/user:{number}" for number in range(2_000)]
    for name in names:
        broker.subscribe(name)
    await broker.history(names[-1], limit=0)
    assert len(asyncio.all_tasks()) <= before
    for name in names:
        broker.unsubscribe(name)
    await broker.publish(names[0], b"1")
    assert isinstance(broker._handler, Recorder)
    assert broker._handler.seen == []


@pytest.mark.parametrize(
    ("url", "servers", "user", "password"),
    [
        ("nats://u:p%2F%40@h,i:2", ("nats://h", "nats://i:2"), "u", "p/@"),
        ("nats://u:a,b@h", ("nats://h",), "u", "a,b"),
        ("nats://u:p@h,nats://u:p@i", ("nats://h", "nats://i"), "u", "p"),
        ("nats://t%23ken@h", ("nats://h",), "t#ken", None),
    ],
)
def test_credentials_in_addresses(
    url: str, servers: tuple[str, ...], user: str, password: str | None
) -> None:
    """They are decoded once and passed to the library separately: it would send them as written in the URL."""
    address = parse_address(url)
    assert (address.servers, address.user, address.password) == (servers, user, password)


def test_an_unreadable_address_is_a_configuration_error() -> None:
    """Not a traceback, and no part of the password."""
    with pytest.raises(ConfigError, match="%2F") as refused:
        parse_address("nats://u:sec/ret@h")
    assert "ret" not in str(refused.value)
