"""The NATS broker's parts alone: at their limits, and with a server that answers nothing or nonsense."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import pytest
from nats.aio.client import Client, Server
from nats.errors import Error as NatsError

from narthex.adapters.brokers.nats import NatsBroker, broker, connection, contention, stream_monitor
from narthex.adapters.brokers.nats.channel_log import KnownChannelLog
from narthex.adapters.brokers.nats.codec import StreamBatch, decode_batch, encode
from narthex.adapters.brokers.nats.comparison import Comparison
from narthex.adapters.brokers.nats.connection import parse_address
from narthex.adapters.brokers.nats.contention import Contention
from narthex.adapters.brokers.nats.jetstream import (
    Conflict,
    JetStream,
    JetStreamUnavailable,
    Latest,
    RequestRejected,
    Stored,
    StreamMissing,
    _checked,
)
from narthex.adapters.brokers.nats.stream_monitor import StreamMonitor
from narthex.adapters.brokers.nats.subscriptions import NatsSubscriptions
from narthex.errors import DependencyError
from narthex.ports.broker import Member, Position
from tests.contracts.recorder import Recorder
from tests.services import NatsServer
from tests.timing import within

THREAD = "default/thread:t1"


@pytest.fixture
def url(nats_server: NatsServer) -> str:
    """A prefix of the test's own."""
    return f"{nats_server.url}?prefix=t{secrets.token_hex(4)}"


def test_a_channel_is_followed_after_its_second_conflict_while_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One conflict is chance; after two it is followed, once only; with the last slot taken it is not."""
    monkeypatch.setattr(contention, "MAX_FOLLOWED", 2)
    followed: list[str] = []
    found = Contention(followed.append, lambda _: None)
    logs = [KnownChannelLog(f"c{number}", f"s{number}") for number in range(3)]
    found.lost(logs[0])
    assert followed == []
    for log in logs:
        found.lost(log)
        found.lost(log)
    assert followed == ["c0", "c1"]


class Subscribed:
    """A client that counts its calls."""

    def __init__(self) -> None:
        self.now: set[str] = set()

    async def subscribe(self, subject: str, **_: Any) -> Any:
        self.now.add(subject)
        client = self

        class Held:
            _pending_queue: asyncio.Queue[Any] = asyncio.Queue()
            _message_iterator = None

            async def unsubscribe(self) -> None:
                client.now.discard(subject)

        return Held()


async def test_a_channel_that_is_dropped_is_unsubscribed_at_the_server() -> None:
    """Otherwise a node receives unwanted messages for ever; a subscription that is still wanted stays."""
    client = Subscribed()
    found = NatsSubscriptions(lambda: client, "p.", lambda _: None)  # type: ignore[arg-type, return-value]  # what it uses
    running = asyncio.create_task(found.run())
    for name in ("a", "b"):
        found.want(name)
        await found.settled(name)
    found.want("b", beside=True)
    assert client.now == {"p.a", "p.b"}
    for name in ("a", "b"):
        found.drop(name)
        await found.settled(name)
    assert client.now == {"p.b"}
    assert not found.wants("b")
    running.cancel()


async def test_what_came_while_the_subscription_was_made_is_delivered_first() -> None:
    """The library keeps messages in a queue of its own until the request has been sent."""
    seen: list[Any] = []
    client = Subscribed()
    subscribe = client.subscribe

    async def early(subject: str, **options: Any) -> Any:
        held = await subscribe(subject, **options)
        for number in (1, 2):
            held._pending_queue.put_nowait(number)
        return held

    client.subscribe = early  # type: ignore[method-assign]
    found = NatsSubscriptions(lambda: client, "p.", seen.append)  # type: ignore[arg-type, return-value]  # what it uses
    running = asyncio.create_task(found.run())
    found.want("a")
    await found.settled("a")
    assert seen == [1, 2]
    running.cancel()


class Slow(Subscribed):
    """A client whose requests wait, as for a full buffer, until released."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def subscribe(self, subject: str, **options: Any) -> Any:
        held = await super().subscribe(subject, **options)
        unsubscribe = held.unsubscribe

        async def slowly() -> None:
            await self._wait()
            await unsubscribe()

        held.unsubscribe = slowly
        await self._wait()
        return held

    async def _wait(self) -> None:
        self.sending.set()
        await self.go_on.wait()


@pytest.mark.parametrize("leaving", [False, True])
async def test_a_channel_that_changes_while_it_is_sent_ends_as_it_was_wanted_last(*, leaving: bool) -> None:
    """Left and joined again while the request is in flight, or the reverse: the last call counts."""
    client = Slow()
    found = NatsSubscriptions(lambda: client, "p.", lambda _: None)  # type: ignore[arg-type, return-value]  # what it uses
    running = asyncio.create_task(found.run())
    if leaving:
        found.want("a")
        await asyncio.wait_for(found.settled("a"), within(5))
    client.sending.clear()
    client.go_on.clear()
    changes = [found.drop, found.want] if leaving else [found.want, found.drop]
    changes[0]("a")
    await asyncio.wait_for(client.sending.wait(), within(5))
    changes[1]("a")
    client.go_on.set()
    await asyncio.wait_for(found.settled("a"), within(5))
    assert client.now == ({"p.a"} if leaving else set())
    running.cancel()


class Replica(JetStream):
    """A stream whose replica answers with its own state, and its leader with the current one."""

    def __init__(self, replica: list[int], leader: list[int]) -> None:
        super().__init__(lambda: None, "s")  # type: ignore[arg-type, return-value]  # nothing is sent
        self.replica, self.leader = replica, leader
        self.asked: list[int] = []

    async def _direct(self, body: dict[str, Any]) -> Latest:
        return Latest(
            [_stored(seq) for seq in self.replica if seq >= body["seq"]], max(self.replica, default=0)
        )

    async def next(self, subject: str, seq: int) -> Stored | None:
        del subject
        self.asked.append(seq)
        return next((_stored(one) for one in self.leader if one >= seq), None)


def _stored(seq: int) -> Stored:
    return Stored(seq, encode(StreamBatch(b"n", "", seq, 0, 0, [])), "x")


async def test_what_a_lagging_replica_lacks_the_leader_gives() -> None:
    """Up to the last requested message and no further; if the leader lacks it too, the reading ends."""
    assert [one.seq for one in await Replica([1, 2], [1, 2, 3, 4]).between("x", 1, 4)] == [1, 2, 3, 4]
    behind = Replica([1], [1, 9])
    assert [one.seq for one in await behind.between("x", 1, 4)] == [1]
    assert behind.asked == [2]
    assert [one.seq for one in await Replica([1], [1]).between("x", 1, 4)] == [1]
    assert [one.seq for one in await Replica([], [1, 4, 5]).between("x", 1, 4)] == [1, 4]


async def test_a_replica_that_lacks_the_mark_is_asked_again_and_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer from before the request proves nothing; a replica that never catches up is an error."""
    monkeypatch.setattr("narthex.adapters.brokers.nats.comparison.LAGGING_S", 0.001)
    answers = [Latest([], 8), Latest([Stored(10, b"", "mark")], 10)]

    class Stream:
        async def latest_after(self, subjects: list[str], seq: int) -> Latest:
            del seq
            assert subjects == ["s.c", "mark"]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    compared = Comparison(
        Stream(),  # type: ignore[arg-type]  # what it asks
        subject=lambda channel: f"s.{channel}",
        epoch=lambda _: "e",
        mark=lambda: "mark",
    )
    compared.read("c", 5)
    assert await compared.behind({"c": Position(1, "e")}, 10) == {}
    answers[:] = [Latest([], 10)]
    with pytest.raises(JetStreamUnavailable):
        await compared.behind({"c": Position(1, "e")}, 11)


class OneSubject:
    """A stream with one channel's last message, and a mark of the node behind it."""

    def __init__(self) -> None:
        self.end = 0  # sequence of the channel's last message, whose top is the same number

    async def latest_after(self, subjects: list[str], seq: int) -> Latest:
        body = encode(StreamBatch(b"12345678", "", self.end, 0, 0, []))
        found = [Stored(self.end, body, "s.c")] if self.end > seq and "s.c" in subjects else []
        return Latest([*found, Stored(100, b"", "mark")], 100)


@pytest.mark.parametrize("rereading", [False, True])
async def test_a_second_reader_does_not_hide_what_the_first_was_not_told(*, rereading: bool) -> None:
    """One subscriber is at 5 and 6 to 8 never arrive; another, who has read up to 8, joins before the comparison."""
    stream = OneSubject()
    compared = Comparison(
        stream,  # type: ignore[arg-type]  # what it asks
        subject=lambda channel: f"s.{channel}",
        epoch=lambda _: "e",
        mark=lambda: "mark",
    )
    stream.end = 5
    here = Position(decode_batch(encode(StreamBatch(b"12345678", "", 5, 0, 0, []))).top, "e")
    compared.read("c", 5)
    if rereading:  # compared, then left out of one comparison because it was being read again
        assert await compared.behind({"c": here}, 6) == {}
        assert await compared.behind({}, 7) == {}
    stream.end = 8
    compared.read("c", 9)
    assert list(await compared.behind({"c": here}, 10)) == ["c"]


async def test_a_channel_that_was_left_is_compared_anew_when_it_is_followed_again() -> None:
    """Its old place says nothing about what was read the second time."""
    stream = OneSubject()
    compared = Comparison(
        stream,  # type: ignore[arg-type]  # what it asks
        subject=lambda channel: f"s.{channel}",
        epoch=lambda _: "e",
        mark=lambda: "mark",
    )
    stream.end = 8
    compared.read("c", 9)
    compared.forget("c")
    compared.read("c", 5)
    here = Position(decode_batch(encode(StreamBatch(b"12345678", "", 5, 0, 0, []))).top, "e")
    assert list(await compared.behind({"c": here}, 10)) == ["c"]


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ({"code": 499, "err_code": 1, "description": "no"}, RequestRejected),
        ({"code": 500, "err_code": 1, "description": "no"}, JetStreamUnavailable),
        ({"code": 503, "err_code": 10008, "description": "away"}, JetStreamUnavailable),
        ({"code": 400, "err_code": 10071, "description": "wrong last sequence: 1"}, Conflict),
        ({"code": 404, "err_code": 10059, "description": "stream not found"}, StreamMissing),
    ],
)
def test_an_error_of_jetstream_says_whether_to_try_again(
    fault: dict[str, Any], raised: type[Exception]
) -> None:
    """5xx is a cluster that may be back; 4xx is final, but for the conflict and the stream that is not there."""
    message = SimpleNamespace(data=json.dumps({"error": fault}).encode())
    with pytest.raises(raised):
        _checked(message)  # type: ignore[arg-type]  # what it reads
    assert _checked(SimpleNamespace(data=b'{"seq": 1}')) == {"seq": 1}  # type: ignore[arg-type]
    with pytest.raises(JetStreamUnavailable, match="not JSON"):
        _checked(SimpleNamespace(data=b"<html>"))  # type: ignore[arg-type]


async def test_the_watch_over_the_stream_pauses_after_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unavailable JetStream, and a bug, are retried after a pause, not in a busy loop."""
    monkeypatch.setattr(stream_monitor, "AGAIN_S", 0.02)
    for fault in (JetStreamUnavailable("away"), RuntimeError("a bug")):
        tries: list[float] = []

        async def reopen(fault: Exception = fault, tries: list[float] = tries) -> None:
            tries.append(asyncio.get_running_loop().time())
            if len(tries) < 4:
                raise fault

        async def connected() -> bool:
            return False

        resyncs = asyncio.Event()
        found = StreamMonitor(
            None,  # type: ignore[arg-type]  # not asked
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            subject=str,
            changed=connected,  # type: ignore[arg-type]
            connected=connected,
            resync=resyncs.set,
        )
        running = asyncio.create_task(found.run(reopen))
        found.missed()
        await asyncio.wait_for(resyncs.wait(), within(5))
        assert len(tries) == 4
        assert tries[-1] - tries[0] >= 3 * 0.02 * 0.9
        running.cancel()


async def test_a_server_that_refuses_is_asked_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal comes at once: without the pause a start would be a busy loop for five seconds."""
    made: list[int] = []

    class Refusing:
        async def connect(self, *_: object, **__: object) -> None:
            made.append(1)
            raise NatsError("authorization violation")

    async def nothing() -> None: ...

    async def noted(_: Exception) -> None: ...

    monkeypatch.setattr(connection, "Client", Refusing)
    monkeypatch.setattr(connection, "CONNECT_S", 0.25)
    with pytest.raises(DependencyError, match="NARTHEX_BROKER_URL"):
        await connection.connect(
            parse_address("nats://127.0.0.1:4222"),
            name="n",
            disconnected=nothing,
            reconnected=nothing,
            error=noted,
        )
    assert 2 <= len(made) <= 3


async def test_after_a_resync_no_position_is_known_by_heart(url: str) -> None:
    """It may be behind the log: it is forgotten before the handler is called, which then reads."""
    known: list[Position | None] = []

    class Asking(Recorder):
        def resync(self, channels: list[str] | None) -> None:
            known.append(made.known_position(THREAD))
            super().resync(channels)

    recorder = Asking()
    made = NatsBroker(url)
    await made.start(recorder, "n1")
    made.subscribe(THREAD)
    await made.history(THREAD, limit=0)
    await made.publish(THREAD, b"1")
    await recorder.until(lambda: bool(recorder.seen))
    assert made.known_position(THREAD) is not None
    made._monitor.missed()
    await recorder.until(lambda: bool(recorder.resyncs))
    assert known == [None]
    await made.stop()


async def test_presence_that_runs_out_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers of the channel are notified that a member whose node died has left."""
    monkeypatch.setattr(broker, "HOUSEKEEPING_S", 0.01)
    recorder = Recorder()
    made = NatsBroker(url)
    await made.start(recorder, "n1")
    made.subscribe(THREAD)
    await made.history(THREAD, limit=0)
    gone = [(THREAD, Member("c1", "ada"))]
    monkeypatch.setattr(made._presence, "expire", lambda _now: [gone.pop()] if gone else [])
    await recorder.until(lambda: bool(recorder.presences))
    assert recorder.presences == [(THREAD, "c1", False)]
    await made.stop()


async def test_what_jetstream_refuses_is_an_error_of_the_port_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not a temporary fault: no caller waits twelve seconds for it."""
    made = NatsBroker(url)
    await made.start(Recorder(), "n1")

    async def refused(*_: object) -> None:
        raise RequestRejected(10000, "no")

    monkeypatch.setattr(made._reader, "page", refused)
    async with asyncio.timeout(within(2)):
        with pytest.raises(DependencyError, match="no"):
            await made.history(THREAD)
    await made.stop()


async def test_what_was_left_out_is_compared_from_where_it_was_left() -> None:
    """A channel that was behind is compared from its last equal place on, until it is equal again."""
    stream = OneSubject()
    compared = Comparison(
        stream,  # type: ignore[arg-type]  # what it asks
        subject=lambda channel: f"s.{channel}",
        epoch=lambda _: "e",
        mark=lambda: "mark",
    )

    def place(seq: int) -> Position:
        return Position(decode_batch(encode(StreamBatch(b"12345678", "", seq, 0, 0, []))).top, "e")

    stream.end = 5
    compared.read("c", 5)
    assert await compared.behind({"c": place(5)}, 6) == {}
    stream.end = 8
    for through in (9, 10, 11):
        assert await compared.behind({"c": place(5)}, through) == {"c": place(8)}
    assert await compared.behind({"c": place(8)}, 12) == {}
    assert await compared.behind({"c": place(8)}, 13) == {}


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("nats://h:4222", {}),
        ("nats://u:p%40@h:4222", {"user": "u", "password": "p@"}),
        ("nats://token@h:4222", {"token": "token"}),
        ("nats://h:4222?creds=/run/secrets/nats.creds", {"user_credentials": "/run/secrets/nats.creds"}),
    ],
)
async def test_the_client_never_gives_up_and_keeps_nothing_back(
    monkeypatch: pytest.MonkeyPatch, url: str, credentials: dict[str, str]
) -> None:
    """It reconnects for ever, fails publishes at once while it is away, and has the URL's credentials only."""
    asked: dict[str, Any] = {}

    class Connecting:
        async def connect(self, servers: list[str], **options: Any) -> None:
            asked.update(options, servers=servers)

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(connection, "Client", Connecting)
    await connection.connect(
        parse_address(url), name="n1", disconnected=nothing, reconnected=nothing, error=nothing
    )
    assert (asked["max_reconnect_attempts"], asked["allow_reconnect"], asked["pending_size"]) == (-1, True, 0)
    assert (asked["name"], asked["ping_interval"]) == ("n1", connection.PING_EVERY_S)
    assert {
        name: asked[name] for name in ("user", "password", "token", "user_credentials") if name in asked
    } == credentials


def test_nodes_reconnect_one_by_one_to_the_server_tried_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is random, so that a fleet does not come in one wave; it grows with the attempts up to a bound."""
    monkeypatch.setattr(connection, "random", random.Random(7))
    servers = [Server(uri=urlparse(f"nats://{name}:4222")) for name in ("a", "b")]
    waits: dict[int, list[float]] = {}
    for attempts in (0, 3, 60):
        servers[1].reconnects = attempts
        servers[0].reconnects = attempts + 1
        chosen = [connection._next_server(servers, {}) for _ in range(300)]
        assert {server.uri.hostname for server, _ in chosen} == {"b"}
        waits[attempts] = [wait for _, wait in chosen]
    for attempts, most in ((0, 0.2), (3, 1.6), (60, connection.MAX_WAIT_S)):
        assert min(waits[attempts]) >= 0.02
        assert most * 0.8 < max(waits[attempts]) <= most
        assert min(waits[attempts]) < most / 4
    servers[0].reconnects = 60
    assert {connection._next_server(servers, {})[0].uri.hostname for _ in range(100)} == {"a", "b"}


@pytest.mark.parametrize("fault", [NatsError("nats: permissions violation"), TimeoutError()])
async def test_a_start_whose_subscriptions_fail_is_no_start(
    url: str, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """A node without them would serve and get no message of another node."""
    one = NatsBroker(url)
    subscribe = Client.subscribe

    async def fails(client: Client, subject: str, *given: Any, **more: Any) -> Any:
        if subject == one._names.control_all:
            raise fault
        return await subscribe(client, subject, *given, **more)

    monkeypatch.setattr(Client, "subscribe", fails)
    try:
        with pytest.raises(DependencyError):
            await one.start(Recorder(), "n1")
    finally:
        await one.stop()
