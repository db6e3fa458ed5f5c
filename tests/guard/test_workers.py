"""`narthex guard --workers 2`: one port, either process admits, and what one is told holds in both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import psutil
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.program import Program
from tests.guard.cores import token
from tests.guard.process import client, guarding
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

ADMIN_KEY = "an-admin-key-of-32-characters-xx"


async def echo(socket: ServerConnection) -> None:
    """Say each message again."""
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            await socket.send(message)


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[Program]:
    """Two processes in front of an echo server."""
    async with serve(echo, "127.0.0.1", 0) as upstream:
        port = next(iter(upstream.sockets)).getsockname()[1]
        env = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_DRAIN_GRACE_S": "4"}
        async with guarding(tmp_path, f"ws://127.0.0.1:{port}", env, "--workers", "2") as found:
            async with asyncio.timeout(within(30)):
                # One process may answer before the other.
                while "narthex guard is ready" not in found.log:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield found


def workers_of(guard: Program) -> list[psutil.Process]:
    """The serving child processes; a killed one may not be buried yet."""
    assert guard.process is not None
    found = []
    for child in psutil.Process(guard.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def owner_of(guard: Program, socket: ClientConnection) -> int:
    """The process that serves a client's connection."""
    port = socket.local_address[1]
    for worker in workers_of(guard):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp4")):
                return int(worker.pid)
    raise AssertionError(f"no process has the connection of port {port}")


async def on_both(guard: Program, subject: str = "ann") -> dict[int, ClientConnection]:
    """A socket on each of the two, by process: the kernel spreads connections, so several are tried."""
    found: dict[int, ClientConnection] = {}
    async with asyncio.timeout(within(40)):
        while len(found) < 2:
            try:
                socket = await client(guard, subject)
            except InvalidStatus as refused:
                assert refused.response.status_code == 503, refused  # a replaced process starts
                await asyncio.sleep(0.1)
                continue
            if (pid := owner_of(guard, socket)) in found:
                await socket.close()
            else:
                found[pid] = socket
    return found


async def closed(socket: ClientConnection) -> int:
    """The code with which a socket is closed."""
    with pytest.raises(ConnectionClosed) as end:
        async with asyncio.timeout(within(20)):
            await socket.recv()
    assert end.value.rcvd is not None
    return end.value.rcvd.code


async def test_what_one_process_is_told_holds_in_both(guard: Program) -> None:
    """A revocation, a ticket, the keys of assertions, the figures."""
    sockets = await on_both(guard)
    others = await on_both(guard, "bob")
    for socket in (*sockets.values(), *others.values()):
        await socket.send("hello")
        assert await socket.recv() == "hello"
    bearer = {"Authorization": f"Bearer {token('bob')}"}
    for _ in range(6):  # each on a connection of its own: it may come to either process
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
            ticket = (await web.post("/ws/ticket", headers=bearer)).json()["ticket"]
        async with client(guard, path=f"/ws?ticket={ticket}", headers={"Authorization": ""}):
            pass
    keys: set[str] = set()
    for _ in range(12):
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
            keys |= {key["kid"] for key in (await web.get("/.well-known/jwks.json")).json()["keys"]}
    assert len(keys) == 1
    async with asyncio.timeout(within(10)), httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
        # Each process writes its figures once a second.
        while 'narthex_connections_active{class="user"} 4.0' not in (await web.get("/metrics")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    operator = {"Authorization": f"Bearer {ADMIN_KEY}"}
    body = {"kind": "subject", "tenant": "default", "value": "ann", "reason": "test"}
    began = time.monotonic()
    async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
        assert (await web.post("/api/v1/revoke", json=body, headers=operator)).status_code == 200
    assert [await closed(socket) for socket in sockets.values()] == [3500, 3500]
    assert time.monotonic() - began < within(3)
    for socket in others.values():
        await socket.send("still here")
        assert await socket.recv() == "still here"
        await socket.close()


async def test_a_ticket_counts_once_in_both(guard: Program) -> None:
    """Twelve handshakes at once with one ticket, on both processes: one is admitted, the others are replays."""
    bearer = {"Authorization": f"Bearer {token('carl')}"}
    for _ in range(3):
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
            ticket = (await web.post("/ws/ticket", headers=bearer)).json()["ticket"]
        attempts = [
            client(guard, path=f"/ws?ticket={ticket}", headers={"Authorization": ""}) for _ in range(12)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        admitted = [one for one in outcomes if isinstance(one, ClientConnection)]
        for socket in admitted:
            await socket.close()
        refused = [one for one in outcomes if isinstance(one, InvalidStatus)]
        assert (len(admitted), len(refused)) == (1, 11), outcomes
        assert {json.loads(one.response.body or b"")["code"] for one in refused} == {"ticket_invalid"}


async def test_a_killed_process_is_replaced(guard: Program) -> None:
    """The sockets of the other one stay, and both serve again."""
    sockets = await on_both(guard)
    (killed, _), (_, stays) = sockets.items()
    psutil.Process(killed).kill()
    with pytest.raises(ConnectionClosed):
        await sockets[killed].recv()
    await stays.send("hello")
    assert await stays.recv() == "hello"
    async with asyncio.timeout(within(30)):
        while len(workers_of(guard)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    again = await on_both(guard)
    assert killed not in again
    for socket in (stays, *again.values()):
        await socket.close()


@pytest.mark.parametrize("by", ["signal", "command"])
async def test_one_drain_ends_both(guard: Program, by: str) -> None:
    """Every socket gets its reason, and the parent ends in order."""
    sockets = await on_both(guard)
    assert guard.process is not None
    if by == "signal":
        guard.process.terminate()
    else:
        operator = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as web:
            answer = await web.post("/api/v1/drain", json={}, headers=operator)
            assert answer.status_code == 200, json.dumps(answer.json())
    assert [await closed(socket) for socket in sockets.values()] == [3001, 3001]
    assert await asyncio.to_thread(guard.process.wait, within(20)) == 0
