"""The listener and the appender of Redis alone: their behaviour without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from narthex.adapters.brokers.redis import RedisBroker, attachment, listening
from narthex.adapters.brokers.redis.appending import RedisAppender
from narthex.adapters.brokers.redis.connection import parse_address, read_settings
from narthex.adapters.brokers.redis.listening import Listener
from narthex.adapters.brokers.redis.scripts import KeyNames
from narthex.errors import DependencyError
from tests.contracts.recorder import Recorder
from tests.services import ValkeyServer
from tests.timing import within

THREAD = "default/thread:t1"


class Wire:
    """Replaces a pub/sub connection: it delivers its messages; an exception breaks it."""

    def __init__(self) -> None:
        self.arriving: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self.subscribed: list[str] = []
        self.closed = False

    async def subscribe(self, *names: str) -> None:
        """Note it; the test confirms it."""
        self.subscribed += names

    async def unsubscribe(self, *names: str) -> None:
        """Nothing follows."""

    async def get_message(self, timeout: float) -> dict[str, Any] | None:
        """The next message, or None when the time is over."""
        try:
            async with asyncio.timeout(timeout):
                found = await self.arriving.get()
        except TimeoutError:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


class Wires:
    """Replaces the client: a new wire for each connection of the listener."""

    def __init__(self) -> None:
        self.made: list[Wire] = []
        self.changed = asyncio.Event()

    def pubsub(self) -> Wire:
        """Another connection."""
        self.made.append(Wire())
        self.changed.set()
        return self.made[-1]

    async def number(self, count: int) -> Wire:
        """Wait until so many were made; the last."""
        async with asyncio.timeout(within(10)):
            while len(self.made) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.made[-1]


async def test_a_name_is_confirmed_anew_after_a_break() -> None:
    """Confirmations of the old connection no longer count: `settled` waits for the new one."""
    wires = Wires()
    client: Any = wires
    listener = Listener(lambda: client, lambda _name, _body: None, lost=lambda: None, renewed=_nothing)
    listener.want("told")
    running = asyncio.create_task(listener.run())
    confirmation = {"type": "subscribe", "channel": b"told", "data": 1}
    first = await wires.number(1)
    first.arriving.put_nowait(confirmation)
    await asyncio.wait_for(listener.settled("told"), within(5))
    first.arriving.put_nowait(ConnectionError("gone"))
    second = await wires.number(2)
    settled = asyncio.create_task(listener.settled("told"))
    await asyncio.wait([settled], timeout=0.05)
    assert not settled.done()
    second.arriving.put_nowait(confirmation)
    await asyncio.wait_for(settled, within(5))
    assert second.subscribed == ["told"]
    assert (first.closed, second.closed) == (True, False), "each break would leave a connection at the server"
    running.cancel()
    await asyncio.wait([running])
    assert second.closed


async def test_an_error_that_is_nobodys_does_not_end_the_listening() -> None:
    """For example uvloop's RuntimeError for a closed transport: a new connection is made, as for any other error."""
    wires = Wires()
    client: Any = wires
    told = asyncio.Queue[bytes]()
    listener = Listener(
        lambda: client, lambda _name, body: told.put_nowait(body), lost=lambda: None, renewed=_nothing
    )
    listener.want("told")
    running = asyncio.create_task(listener.run())
    first = await wires.number(1)
    first.arriving.put_nowait(RuntimeError("unable to perform operation on <TCPTransport closed=True>"))
    second = await wires.number(2)
    second.arriving.put_nowait({"type": "message", "channel": b"told", "data": b"x"})
    assert await asyncio.wait_for(told.get(), within(5)) == b"x"
    running.cancel()


async def test_an_error_that_is_nobodys_does_not_end_the_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others forget a node without heartbeats after ten seconds, and it learns of no fail-over."""
    monkeypatch.setattr(attachment, "BEAT_S", 0.001)
    beats = asyncio.Queue[str]()
    faults = 1

    async def run(name: str, keys: list[str], arguments: list[Any]) -> Any:
        nonlocal faults
        del keys, arguments
        beats.put_nowait(name)
        faults -= 1
        if faults == 0:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")
        return [b"1", b"e"]

    found = attachment.Attachment(
        KeyNames("p"), run, synced=_synced, unsure=lambda: None, changed=lambda: None, away=_nothing
    )
    running = asyncio.create_task(found.run())
    for _ in range(3):
        assert await asyncio.wait_for(beats.get(), within(5)) == "BEAT"
    assert found.fault is None
    running.cancel()


async def _synced() -> bool:
    return True


async def _nothing() -> None:
    """No notification."""


async def test_an_idle_connection_is_kept(
    valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is published: the node's own heartbeats are the only messages, and they suffice."""
    monkeypatch.setattr(listening, "SILENT_S", within(1))
    monkeypatch.setattr(attachment, "BEAT_S", 0.02)
    recorder = Recorder()
    broker = RedisBroker(f"{valkey_server.url}?prefix=idle")
    beats = 0
    many = asyncio.Event()
    told = broker._listener._tell

    def counting(name: str, body: bytes) -> None:
        nonlocal beats
        told(name, body)
        beats += name == broker._attachment.beats
        if beats > 3 * within(1) / 0.02:
            many.set()

    monkeypatch.setattr(broker._listener, "_tell", counting)
    await broker.start(recorder, "n1")
    try:
        await asyncio.wait_for(many.wait(), within(30))
        assert recorder.resyncs == []
    finally:
        await broker.stop()


async def test_a_busy_server_is_not_asked_without_a_pause() -> None:
    """A running script blocks: publications are retried with a growing wait, until their time is over."""
    tries = 0

    async def busy(_keys: list[str], _arguments: list[Any]) -> Any:
        nonlocal tries
        tries += 1
        raise ResponseError("BUSY Redis is busy running a script.")

    appender = RedisAppender(
        KeyNames("t"), busy, attach=_nothing, seen=lambda _seq, _epoch: None, timeout_s=1.0
    )
    appender.open()
    with pytest.raises(DependencyError, match="acknowledge"):
        await appender.submit(THREAD, b"1", None, None, None)
    assert 2 <= tries <= 12
    await appender.stop()


async def test_a_removed_channel_has_no_known_end(valkey_server: ValkeyServer) -> None:
    """Its next log is a new one: nothing is known of it before it was read."""
    broker = RedisBroker(f"{valkey_server.url}?prefix=removed")
    await broker.start(Recorder(), "n1")
    try:
        broker.subscribe(THREAD)
        await broker.publish(THREAD, b"1")
        await broker.history(THREAD, limit=0)
        assert broker.known_position(THREAD) is not None
        await broker.remove(THREAD)
        assert broker.known_position(THREAD) is None
    finally:
        await broker.stop()


@pytest.mark.parametrize("answer", [{}, {"appendfsync": ""}, ResponseError("ERR unknown command 'CONFIG'")])
async def test_a_managed_server_that_hides_its_settings(answer: dict[str, str] | Exception) -> None:
    """With an append-only file and unknown sync settings, the usual setting is assumed, not the best."""

    class Client:
        async def info(self, _section: str) -> dict[str, Any]:
            return {"aof_enabled": 1, "role": "master"}

        async def config_get(self, _name: str) -> dict[str, str]:
            if isinstance(answer, Exception):
                raise answer
            return answer

    client: Any = Client()
    assert await read_settings(client, parse_address("redis://h")) == ("everysec", False)
