"""A connection's own limits at N and N+1, and what its timers do without anybody's asking."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex.app.connection import HELD_LIMIT, IN_FLIGHT_LIMIT, Connection
from narthex.app.hub.channel import Delivery
from narthex.app.rpc.methods import Method
from narthex.protocol.framing import Prepared
from narthex.protocol.session import Asked
from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client
from tests.app.test_connection import eventually, parts_of
from tests.timing import within


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(
        tmp_path, commands_burst=400, ping_interval_s=1.5, pong_timeout_s=1.0, max_lag_s=1.0
    ) as found:
        yield found


async def test_commands_in_flight_at_their_limit(running: Running) -> None:
    """N wait at once; one more is refused with 111, for a while only; what was waiting is answered."""
    gate = asyncio.Event()

    async def wait() -> object:
        await gate.wait()
        return {}

    services = parts_of(running).services
    services.methods = {**services.methods, "wait": Method(lambda _connection, _raw: wait())}
    one = await client(running, "ada")
    frame = "\n".join(
        json.dumps({"id": 100 + number, "rpc": {"method": "wait"}}) for number in range(IN_FLIGHT_LIMIT)
    )
    await one.socket.send(frame)
    refused = await one.call("rpc", method="wait")
    assert refused["error"]["code"] == 111
    gate.set()
    for number in range(IN_FLIGHT_LIMIT):
        assert (await one.reply(100 + number))["rpc"]["data"] == {}
    assert (await one.call("rpc", method="wait"))["rpc"]["data"] == {}


@pytest.mark.parametrize(("more", "closed"), [(0, False), (1, True)])
async def test_commands_batched_behind_connect_at_their_limit(
    running: Running, monkeypatch: pytest.MonkeyPatch, more: int, closed: bool
) -> None:
    """N wait for a `connect` that takes its time; one more closes 3013."""
    gate = asyncio.Event()
    services = parts_of(running).services
    answer = services.handlers["connect"]

    def slowly(connection: Connection, asked: Asked) -> object:
        async def later() -> bytes | None:
            await gate.wait()
            found = answer(connection, asked)
            return await found if asyncio.iscoroutine(found) else found

        return later()

    monkeypatch.setattr(services, "handlers", {**services.handlers, "connect": slowly})
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        commands = [{"id": 1, "connect": {}}]
        commands += [{"id": 2 + n, "rpc": {"method": "time"}} for n in range(HELD_LIMIT + more)]
        await socket.send("\n".join(map(json.dumps, commands)))
        if closed:
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(within(10)):
                    while True:
                        await socket.recv()
            assert socket.close_code == 3013
            return
        gate.set()
        async with asyncio.timeout(within(10)):
            for n in range(HELD_LIMIT):
                assert "time" in (await raw.reply(2 + n))["rpc"]["data"]


async def test_binary_messages_are_refused(running: Running) -> None:
    """JSON is text: 3506, with a reason."""
    one = await client(running, "ada")
    await one.socket.send(b"{}")
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(within(10)):
            while True:
                await one.socket.recv()
    assert one.socket.close_code == 3506


async def test_a_client_that_lags_is_closed_though_no_ping_is_due(tmp_path: Path) -> None:
    """The backlog brings its own deadline into the timers."""
    async with gateway(tmp_path, max_lag_s=1.0, ping_interval_s=50.0) as running:
        await client(running, "ada")
        (connection,) = parts_of(running).services.registry.of_user("default/ada")
        connection.writable(False)
        channel = connection.subscriptions["user:ada"].channel
        connection.deliver_late(channel, [Delivery(Prepared(b"x"), None)])
        async with asyncio.timeout(within(8)):
            await eventually(lambda: connection.is_closed)


async def test_a_ping_renews_presence(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ping does: the list of who is there forgets a client that is not renewed."""
    renewed: list[Connection] = []
    services = parts_of(running).services
    monkeypatch.setattr(services, "keep_present", renewed.append)
    await client(running, "ada")
    (connection,) = services.registry.of_user("default/ada")
    async with asyncio.timeout(within(10)):
        await eventually(lambda: connection in renewed)
