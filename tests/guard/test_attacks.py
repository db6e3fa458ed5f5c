"""Raw sockets against a guard as a process and a guard within servers: what no client library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RemoteSettingsChanged, ResponseReceived
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.guard.cores import token
from tests.guard.process import guarding
from tests.guard.raw import ADMITTED, BROKEN, EITHER, REFUSED, masked, raw_peer, upgrade
from tests.guard.servers import SERVERS, serving
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]
PROCESS = "narthex guard"
FIRST = "uvicorn-websockets"
SILENT = {
    "uvicorn-websockets": {
        "a body",
        "a handshake as its body",
        "chunks",
        "a line of 20 kB",
        "a query of 20 kB",
        "a head of 100 kB",
        "300 headers",
        "a name of 9 kB",
    }
}
"""Handshakes that a server answers with nothing at all (docs/guard.md#servers)."""
LIMITS = {"NARTHEX_MAX_CONNECTIONS_PER_USER": "3", "NARTHEX_INBAND_TIMEOUT_S": "1"}


class Attacked(NamedTuple):
    """A guard.

    Attributes:
        kind: `narthex guard`, or the server that it is within.
        port: on loopback.
        reached: the number of handshakes that came to the application.
    """

    kind: str
    port: int
    reached: Callable[[], int]


@asynccontextmanager
async def attacked(kind: str, directory: Path) -> AsyncIterator[Attacked]:
    """A guard with three connections a user, in front of an echo."""
    if kind != PROCESS:
        async with serving(kind, "starlette", directory, LIMITS) as server:
            yield Attacked(kind, server.port, lambda: server.reached.count("reached"))
        return
    reached = 0

    async def echo(socket: ServerConnection) -> None:
        nonlocal reached
        reached += 1
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as upstream:
        port = next(iter(upstream.sockets)).getsockname()[1]
        async with guarding(directory, f"ws://127.0.0.1:{port}", LIMITS) as guard:
            yield Attacked(kind, guard.port, lambda: reached)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        PROCESS,
        FIRST,
        *(pytest.param(server, marks=pytest.mark.soak) for server in SERVERS if server != FIRST),
    ],
)
async def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Attacked]:
    """The process and uvicorn in CI; the other servers in soaks."""
    async with attacked(request.param, tmp_path_factory.mktemp("attacked")) as found:
        yield found


async def echoes(target: Attacked) -> None:
    """A user is admitted and gets an echo: no slot of an earlier connection is left (a user has three)."""
    async with asyncio.timeout(within(10)):
        while True:
            async with raw_peer(target.port, upgrade()) as peer:
                if await peer.status() == 101:
                    peer.writer.write(masked(0x81, b"hello"))
                    assert await peer.reader.readexactly(7) == b"\x81\x05hello"
                    peer.writer.write(masked(0x88, (1000).to_bytes(2)))
                    await peer.ended()
                    return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_handshake_that_is_refused(target: Attacked, name: str) -> None:
    """It is answered with an error, or the connection ends, and it never reaches the application."""
    before = target.reached()
    async with raw_peer(target.port, REFUSED[name]) as peer:
        if name not in SILENT.get(target.kind, ()):
            statuses = [await peer.status()]
            while statuses[-1] == 200:  # the request before it
                statuses.append(await peer.status())
            assert statuses[-1] == 0 or 400 <= statuses[-1] < 500, statuses
    await echoes(target)
    assert target.reached() == before + 1


@pytest.mark.parametrize("name", [*ADMITTED, *EITHER])
async def test_a_handshake_that_servers_read_differently(target: Attacked, name: str) -> None:
    """Upgraded, and then by the application, or refused before it; its slot is free when it is gone."""
    before = target.reached()
    handshake = ADMITTED.get(name) or EITHER[name]
    async with raw_peer(target.port, handshake) as peer:
        status = 0 if name in SILENT.get(target.kind, ()) else await peer.status()
    assert status == 101 or name not in ADMITTED
    await echoes(target)
    reached = target.reached() - before - 1
    if (target.kind, name) == ("hypercorn", "h2c beside websocket"):
        assert (status, reached) == (101, 0)  # it speaks HTTP/2 now
    elif (target.kind, name) == ("daphne", "a wrong extension"):
        assert (status, reached) == (400, 1)  # it looks at extensions when the application accepts
    else:
        assert reached == (status == 101), status


@pytest.mark.parametrize("name", BROKEN)
async def test_a_frame_that_is_forbidden(target: Attacked, name: str) -> None:
    """The server ends the connection, nothing of it is echoed, and its slot is free."""
    async with raw_peer(target.port, upgrade()) as peer:
        assert await peer.status() == 101
        peer.writer.write(BROKEN[name])
        # wsproto waits for the bytes that such a length promises, and counts them.
        waits = target.kind in ("uvicorn-wsproto", "hypercorn") and name == "a message of 4 exabytes"
        answer = b"" if waits else await peer.ended()
    assert answer[:1] in (b"", b"\x88"), answer
    await echoes(target)


async def test_a_head_that_trickles(tmp_path: Path) -> None:
    """50 clients send a byte now and then: each gets 408 in its time, and a user is admitted meanwhile."""
    env = LIMITS | {"NARTHEX_HANDSHAKE_TIMEOUT_S": "2"}
    async with guarding(tmp_path, "ws://127.0.0.1:9", env) as guard:

        async def trickle() -> int:
            async with raw_peer(guard.port, b"GET /ws HTTP/1.1\r\n") as peer:
                answer = asyncio.create_task(peer.status())
                while not answer.done():
                    with contextlib.suppress(ConnectionError):
                        peer.writer.write(b"X")
                        await peer.writer.drain()
                    await asyncio.wait((answer,), timeout=0.05)
                return await answer

        slow = [asyncio.create_task(trickle()) for _ in range(50)]
        async with raw_peer(guard.port, upgrade()) as peer:
            assert await peer.status() in (502, 504)  # admitted; there is no server behind
        assert set(await asyncio.gather(*slow)) == {408}


@pytest.mark.parametrize("piece", [b"\x01\x81\0\0\0\0{", b"\x89\x80\0\0\0\0"], ids=["fragments", "pings"])
async def test_a_first_message_that_trickles(piece: bytes, tmp_path: Path) -> None:
    """In-band proof has one deadline: fragments and pings do not put it off."""
    env = LIMITS | {"NARTHEX_TEST_IN_BAND": "1"}
    async with (
        serving(FIRST, "starlette", tmp_path, env) as server,
        raw_peer(server.port, upgrade(proof=None)) as peer,
    ):
        assert await peer.status() == 101
        # The server answers pings; uvicorn waits 10 s for a close frame that never comes back, and the test does not.
        closed = asyncio.create_task(peer.reader.readuntil((3502).to_bytes(2)))
        while not closed.done():
            with contextlib.suppress(ConnectionError):
                peer.writer.write(piece)
                await peer.writer.drain()
            piece = piece.replace(b"\x01", b"\0")  # a continuation from now on
            await asyncio.wait((closed,), timeout=0.05)
        await closed
        assert server.reached == []


async def test_a_websocket_over_http_2(tmp_path: Path) -> None:
    """RFC 8441 within hypercorn: the same admission, and the application sees no credential."""
    async with serving("hypercorn", "starlette", tmp_path, LIMITS) as server:
        assert await over_http_2(server.port, []) == ("401", b"auth_required")
        assert await over_http_2(server.port, [("authorization", "Bearer x")]) == ("401", b"token_malformed")
        proof = ("authorization", f"Bearer {token()}")
        assert await over_http_2(server.port, [proof, proof]) == ("400", b"bad_request")
        assert server.reached == []
        status, seen = await over_http_2(server.port, [proof, ("narthex-subject", "root")])
        assert status == "200"
        assert b'"user": "ann"' in seen
        assert b"authorization" not in seen
        assert b"root" not in seen


async def over_http_2(port: int, headers: list[tuple[str, str]]) -> tuple[str, bytes]:
    """Status and code of a refusal, or the answer to `whoami`."""
    connection = H2Connection(H2Configuration(client_side=True))
    status, answer = "", b""
    async with raw_peer(port) as peer:

        async def until(kind: type[Event]) -> None:
            nonlocal status, answer
            while True:
                peer.writer.write(connection.data_to_send())
                events = connection.receive_data(await peer.reader.read(65_536))
                for event in events:
                    if isinstance(event, ResponseReceived):
                        status = dict(event.headers)[b":status"].decode()
                    elif isinstance(event, DataReceived):
                        answer += event.data
                if any(isinstance(event, kind) for event in events):
                    return

        async with asyncio.timeout(within(10)):
            connection.initiate_connection()
            await until(RemoteSettingsChanged)
            pseudo = {"method": "CONNECT", "protocol": "websocket", "scheme": "http", "path": "/ws"}
            connection.send_headers(
                1,
                [
                    *((f":{name}", value) for name, value in pseudo.items()),
                    (":authority", "127.0.0.1"),
                    ("sec-websocket-version", "13"),
                    *headers,
                ],
            )
            await until(ResponseReceived)
            if status == "200":
                connection.send_data(1, masked(0x81, b"whoami"))
            if not answer:
                await until(DataReceived)
    if status == "200":
        return status, answer
    return status, json.loads(answer)["code"].encode()
