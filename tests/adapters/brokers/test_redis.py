"""Features of the Redis broker alone: its address, the server's settings, retention, and failures."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from redis.exceptions import ResponseError

from narthex.adapters.brokers.redis import RedisBroker
from narthex.adapters.brokers.redis.appending import refused
from narthex.adapters.brokers.redis.broker import durability
from narthex.adapters.brokers.redis.connection import Replica, connect, parse_address
from narthex.errors import DISK_FULL, ConfigError, DependencyError, Overloaded
from narthex.ports.broker import Member, Position
from tests.contracts.recorder import Recorder
from tests.services import ValkeyServer
from tests.timing import within

THREAD = "default/thread:t1"


@pytest.fixture
def url(valkey_server: ValkeyServer) -> str:
    """A prefix of the test's own."""
    return f"{valkey_server.url}?prefix=t{secrets.token_hex(4)}"


def test_addresses() -> None:
    """The prefix is ours, other options the library's; the shown form has no credentials."""
    address = parse_address("valkey://u:p@h:1/2?prefix=x&protocol=3")
    assert address == (("redis://u:p@h:1/2?protocol=3",), "h:1", "x")
    assert parse_address("rediss://h").shown == "h:6379"
    several = parse_address("redis://:p%2F%40%25@a,b:2/0")
    assert several == (("redis://:p%2F%40%25@a/0", "redis://:p%2F%40%25@b:2/0"), "a:6379, b:2", "narthex")
    with pytest.raises(ConfigError, match="unknown option 'nosuch'"):
        parse_address("redis://h?nosuch=1")
    with pytest.raises(ConfigError, match="%2F") as refused:
        parse_address("redis://:sec/ret@h/0")
    assert "ret" not in str(refused.value)
    with pytest.raises(ConfigError):
        parse_address("http://h")


@pytest.mark.parametrize(
    ("fsync", "word"), [("always", "synced"), ("everysec", "last two seconds"), ("", "appendonly yes")]
)
def test_durability_follows_the_servers_settings(fsync: str, word: str) -> None:
    """The sentence describes the effect of these settings."""
    assert word in durability(fsync)


async def test_settings_are_read_from_the_server(valkey_server: ValkeyServer, url: str) -> None:
    """An evicting server is refused; the sentence follows `appendfsync`."""
    client = connect(parse_address(url))
    broker = RedisBroker(url)
    try:
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="noeviction"):
            await broker.start(Recorder(), "n1")
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("appendfsync", "always")
        await broker.start(Recorder(), "n1")
        assert broker.durability == durability("always")
        await broker.stop()
    finally:
        await client.config_set("maxmemory", "0")
        await client.config_set("appendfsync", "everysec")
        await client.aclose()


async def test_retention_by_count(url: str) -> None:
    """A channel keeps at least its newest `kept_count`, and the page reports the missing part."""
    broker = RedisBroker(url, kept_count=100)
    await broker.start(Recorder(), "n1")
    await asyncio.gather(*(broker.publish(THREAD, b"1") for _ in range(1_000)))
    page = await broker.history(THREAD)
    assert 100 <= len(page.publications) <= 300
    assert page.publications[-1].offset == 1_000
    assert not (await broker.history(THREAD, since=Position(0, page.top.epoch))).complete
    await broker.stop()


async def test_a_bug_of_the_handler_does_not_end_the_listening(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raised on: the next publication is delivered, and so is the next resync."""
    recorder, broker, asked = Recorder(), RedisBroker(url), asyncio.Event()
    await broker.start(recorder, "n1")
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)

    def raises(*_: object) -> None:
        asked.set()
        raise RuntimeError("a bug")

    async def cut_off() -> None:
        client: Any = broker._client()
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    for method, provoke in (("publication", lambda: broker.publish(THREAD, b"1")), ("resync", cut_off)):
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(recorder, method, raises)
            await provoke()
            await asyncio.wait_for(asked.wait(), within(5))
    placed = await broker.publish(THREAD, b"2")
    await recorder.until(lambda: placed.offset in [p.offset for p in recorder.of(THREAD)])
    await cut_off()
    await recorder.until(lambda: bool(recorder.resyncs))
    await broker.stop()


async def test_a_server_that_is_set_wrong_later_does_not_end_the_listening(
    valkey_server: ValkeyServer, url: str
) -> None:
    """One that may evict is refused at the start; later its messages are still delivered."""
    client: Any = connect(parse_address(url))
    recorder, broker = Recorder(), RedisBroker(url)
    await broker.start(recorder, "n1")
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    try:
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await recorder.until(lambda: bool(recorder.resyncs))
        placed = await broker.publish(THREAD, b"1")
        await recorder.until(lambda: [p.offset for p in recorder.of(THREAD)] == [placed.offset])
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "0")
        await client.aclose()
        await broker.stop()


async def test_idle_logs_go_and_their_position_stays(url: str) -> None:
    """After `kept_age_s` without a publication the log is empty and continues counting."""
    broker = RedisBroker(url, kept_age_s=1)
    await broker.start(Recorder(), "n1")
    placed = await broker.publish(THREAD, b"1")
    for _ in range(200):
        if not (await broker.history(THREAD)).publications:
            break
        await asyncio.sleep(0.05)
    assert (await broker.history(THREAD)).publications == []
    assert (await broker.history(THREAD, limit=0)).top == Position(1, placed.epoch)
    assert not (await broker.history(THREAD, since=Position(0, placed.epoch))).complete
    assert (await broker.history(THREAD, since=Position(1, placed.epoch))).complete
    assert (await broker.publish(THREAD, b"2")).offset == 2
    await broker.stop()


async def test_members_that_did_not_come_again(url: str) -> None:
    """Expired members are not listed, and their leaving is announced."""
    recorder = Recorder()
    broker = RedisBroker(url)
    await broker.start(recorder, "n1")
    broker.subscribe(THREAD)
    await broker.history(THREAD, limit=0)
    await broker._on_presence("JOIN", THREAD, "c1", b'{"client":"c1","user":"u1"}', 0)
    assert await broker.members(THREAD) == {}
    await broker.join(THREAD, Member("c2", "u2"))
    await recorder.until(lambda: len(recorder.presences) >= 2)
    assert recorder.presences[-1] == (THREAD, "c2", True)
    await broker.stop()


async def test_dropped_connections_are_renewed(url: str) -> None:
    """The server cuts every connection: publishing continues, and the handler is asked to re-read."""
    recorder = Recorder()
    broker = RedisBroker(url)
    await broker.start(recorder, "n1")
    broker.subscribe(THREAD)
    await broker.publish(THREAD, b"1")
    await recorder.until(lambda: bool(recorder.seen))
    client = connect(parse_address(url))
    await client.execute_command("CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal")  # type: ignore[no-untyped-call]
    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
    assert (await broker.publish(THREAD, b"2")).offset == 2
    await recorder.until(lambda: bool(recorder.resyncs))
    assert (await broker.publish(THREAD, b"3")).offset == 3
    await recorder.until(lambda: any(p.offset == 3 for p in recorder.of(THREAD)))
    await client.aclose()
    await broker.stop()


async def test_full_queue_and_refusals(valkey_server: ValkeyServer, url: str) -> None:
    """Beyond the bound a publish fails at once; a server without memory refuses, and then works again."""
    broker = RedisBroker(url)
    await broker.start(Recorder(), "n1")
    broker._appender._max_pending = 10
    outcomes = await asyncio.gather(
        *(broker.publish(THREAD, b"1") for _ in range(15)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
    client = connect(parse_address(url))
    try:
        await client.config_set("maxmemory", "1")
        with pytest.raises(DependencyError, match="no memory"):
            await broker.publish(THREAD, b"2")
    finally:
        await client.config_set("maxmemory", "0")
        await client.aclose()
    assert (await broker.publish(THREAD, b"3")).offset == 11
    await broker.stop()


def test_a_server_that_cannot_write_its_file_is_named() -> None:
    """MISCONF: the answer to every write while the disk is full."""
    full = ResponseError("MISCONF Errors writing to the AOF file: No space left on device")
    assert refused(full).sign == DISK_FULL
    assert refused(ResponseError("ERR something else")).sign == ""


async def test_a_log_that_is_trimmed_during_a_read_gives_no_page_with_a_hole(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries of the first part are gone, and some behind them: only what lies behind the hole is a page."""
    broker = RedisBroker(url)
    await broker.start(Recorder(), "n1")
    for number in range(7):
        placed = await broker.publish(THREAD, str(number).encode())
    monkeypatch.setattr("narthex.adapters.brokers.redis.broker.READ_AT_ONCE", 2)
    on_channel = broker._on_channel
    reads = 0

    async def trimmed(name: str, *arguments: Any) -> Any:
        nonlocal reads
        answer = await on_channel(name, *arguments)
        if name == "READ":
            reads += 1
            if reads == 1:
                await broker.trim(THREAD, Position(4, placed.epoch))
        return answer

    monkeypatch.setattr(broker, "_on_channel", trimmed)
    page = await broker.history(THREAD)
    assert [one.offset for one in page.publications] == [5, 6, 7]
    await broker.stop()


async def test_commands_that_meet_a_replica_together_move_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second move would leave the new server again; a stopping broker does not move."""
    broker = RedisBroker(url)
    await broker.start(Recorder(), "n1")
    refused = asyncio.Event()

    async def replica(*_: object) -> None:
        await refused.wait()
        raise Replica

    monkeypatch.setitem(broker._scripts, "APPEND", replica)

    async def both() -> list[Any]:
        calls = [asyncio.create_task(broker._script("APPEND", [], [])) for _ in range(2)]
        await asyncio.sleep(0)
        refused.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    turn = broker._turn
    assert [type(outcome) for outcome in await both()] == [Replica, Replica]
    assert broker._turn == turn + 1
    monkeypatch.setattr(broker, "_stopping", True)
    assert [type(outcome) for outcome in await both()] == [Replica, Replica]
    assert broker._turn == turn + 1
    await broker.stop()


async def test_a_server_that_is_away_is_said_at_once(url: str) -> None:
    """Health needs the current state: a refused heartbeat is an answer, a missing one is waited for."""
    broker = RedisBroker(url)
    await broker.start(Recorder(), "n1")
    broker._attachment.fault = ConnectionError("refused")
    with pytest.raises(DependencyError, match="ConnectionError"):
        await broker.ping()
    broker._attachment.fault = TimeoutError()
    await broker.ping()
    await broker.stop()
