"""The two limits of a client that does not read (docs/design.md#limits), each at its number and one past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.adapters.edge.websocket import WebSocket
from narthex.app.backlog import _ENTRY_BYTES
from narthex.app.connection import DRAIN_BYTES, Connection
from narthex.app.hub.channel import Channel
from narthex.app.hub.delivery import Delivery
from narthex.ports.agents import Agent
from narthex.ports.edge import SendProgress
from narthex.protocol.framing import Prepared
from narthex.protocol.session import NEVER
from narthex.testing import Running, gateway
from tests.app.test_commands import client, words
from tests.timing import within

PENDING = 20_000
LAG_S = 3.0


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    options: dict[str, Any] = {"max_pending_bytes": PENDING, "max_lag_s": LAG_S, "max_message_bytes": 4096}
    async with gateway(tmp_path, agents=[Agent(name="words", function=words)], **options) as found:
        yield found


async def stalled(running: Running) -> tuple[Connection, Channel]:
    """A live connection whose transport accepts nothing any more, and its user's channel."""
    parts = running.gateway.parts
    assert parts is not None
    await client(running, "ada")
    (connection,) = parts.core.registry.of_user("default/ada")
    assert isinstance(connection.socket, WebSocket)
    assert connection.socket.buffered() == 0
    connection.writable(False)
    return connection, connection.subscriptions["user:ada"].channel


def delivery(size: int) -> Delivery:
    """A delivery that takes this many bytes while it waits."""
    return Delivery(Prepared(b"x" * (size - _ENTRY_BYTES)), None)


@pytest.mark.parametrize(("more", "closed"), [(0, False), (1, True)])
async def test_pending_bytes(running: Running, more: int, closed: bool) -> None:
    """The limit may wait; one byte more is 3008."""
    connection, channel = await stalled(running)
    connection.deliver_late(channel, [delivery(PENDING // 2)])
    connection.deliver_late(channel, [delivery(PENDING // 2 + more)])
    assert connection.is_closed is closed


async def test_what_waits_of_a_channel_that_is_left_is_not_sent(running: Running) -> None:
    """A client that unsubscribes while it lags gets the backlog of other channels only."""
    connection, channel = await stalled(running)
    other = Channel("default/thread:other", "thread:other")
    for one in (channel, other):
        connection.deliver_late(one, [delivery(100)])
    connection.forget("user:ada")
    backlog = connection._backlog
    assert backlog is not None
    assert [one for one, _ in backlog.take()] == [other]


async def test_a_client_that_reads_nothing_is_closed_on_time(running: Running) -> None:
    """The limit of its lag wakes the connection: nothing else is due before the ping, 25 s later."""
    connection, channel = await stalled(running)
    runtime = connection.runtime
    limits = runtime.backlog_limits._replace(max_lag_s=0.1)
    connection.runtime = msgspec.structs.replace(runtime, backlog_limits=limits)
    connection.deliver_late(channel, [delivery(100)])
    async with asyncio.timeout(within(5)):
        while not connection.is_closed:  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


async def test_lag(running: Running) -> None:
    """It may lag for the whole time and no longer; after it caught up the time starts again."""
    connection, channel = await stalled(running)
    began = connection.runtime.timers.now()
    connection.deliver_late(channel, [delivery(100)])
    backlog = connection._backlog
    assert backlog is not None
    assert 0 <= backlog.started_at - began < 1
    backlog.started_at = began
    connection._wake_at = began
    connection.wake(began + LAG_S)
    assert not connection.is_closed
    connection.writable(True)
    connection.writable(False)
    connection.deliver_late(channel, [delivery(100)])
    again = connection._backlog
    assert again is not None
    connection._wake_at = began
    connection.wake(again.started_at + LAG_S)
    assert not connection.is_closed
    connection._wake_at = began
    connection.wake(again.started_at + LAG_S + 0.001)
    assert connection.is_closed


async def test_a_client_that_fills_up_again_gets_the_rest_later_and_in_order(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backlog is written in parts; what the transport does not take waits on, from the moment at which it began."""
    connection, channel = await stalled(running)
    written: list[bytes] = []
    full_after = 1

    def send_frames(_socket: WebSocket, frames: bytes) -> None:
        written.append(frames)
        if len(written) == full_after:
            connection.writable(False)

    monkeypatch.setattr(WebSocket, "send_frames", send_frames)
    texts = [bytes([number]) * (DRAIN_BYTES // 4) for number in range(4)]
    connection.deliver_late(channel, [Delivery(Prepared(text), None) for text in texts[:3]])
    backlog = connection._backlog
    assert backlog is not None
    monkeypatch.setattr("narthex.app.connection.DRAIN_BYTES", len(texts[0]))
    connection.writable(True)
    rest = connection._backlog
    assert rest is not None
    assert rest.started_at == backlog.started_at
    connection.deliver_late(channel, [Delivery(Prepared(texts[3]), None)])
    full_after = 0
    connection.writable(True)
    assert connection._backlog is None
    sent = b"".join(written)
    assert [sent.find(text) >= 0 for text in texts] == [True] * 4
    assert sorted(texts, key=sent.find) == texts


@pytest.mark.parametrize(
    ("taken", "left", "closed"),
    [
        (1, 1, False),  # slow, and it reads
        (0, 1, True),  # it reads nothing
        (1, 0, True),  # it has read all, and answers no ping
    ],
)
async def test_a_pong_may_come_late_while_the_client_reads(
    running: Running, monkeypatch: pytest.MonkeyPatch, taken: int, left: int, closed: bool
) -> None:
    """The ping is behind bytes that a slow client has to read first; a client that does not read is gone."""
    connection, _ = await stalled(running)
    progress = SendProgress(left=1, taken=100)
    monkeypatch.setattr(WebSocket, "send_progress", lambda _: progress)
    now = connection.runtime.timers.now()
    connection.wake(now + 60)  # a ping
    assert not connection.is_closed
    for late_s in (90, 120):
        progress = SendProgress(left=left, taken=progress.taken + taken)
        connection.wake(now + late_s)
    assert connection.is_closed is closed


async def test_a_rotation_waits_for_a_command_and_not_for_ever(tmp_path: Path) -> None:
    """A connection near the platform's maximum life reconnects when it is idle, in the end also while it is busy."""
    async with gateway(tmp_path) as running:
        parts = running.gateway.parts
        assert parts is not None
        await client(running, "ada")
        (connection,) = parts.core.registry.of_user("default/ada")
        session, now = connection.session, connection.runtime.timers.now()
        session._next_ping_at = session._pong_until = NEVER
        session._life_ends_at, session._life_until = now, now + 60
        connection._in_flight += 1
        ended = []
        for moment in (now, now + 60):
            connection.wake(moment)
            ended.append(connection.is_closed)
        connection._in_flight -= 1
        assert ended == [False, True]
