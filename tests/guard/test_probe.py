"""The guard's own handshake check: the endpoint that it uses, and what it says of each way in which that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from narthex.app.health import CheckFailed
from narthex.guard.probe import HandshakeCheck
from tests.guard.cores import core


class Endpoint:
    """A server in place of the guarded one; keeps the paths that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status: HTTPStatus | None = None
        self.close: int | None = None

    def request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse the upgrade, if it is to be refused."""
        self.asked.append(request.path)
        return None if self.status is None else connection.respond(self.status, "no\n")

    async def __call__(self, connection: ServerConnection) -> None:
        """Close, or repeat what comes."""
        if self.close is not None:
            await connection.close(self.close)
        async for message in connection:
            await connection.send(message)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[tuple[str, int]]:
        """Its address."""
        async with serve(self, "127.0.0.1", 0, process_request=self.request) as server:
            yield server.sockets[0].getsockname()[:2]


async def hello(socket: Any) -> None:
    """A probe: the endpoint repeats a message."""
    await socket.send("hello")
    assert await socket.recv() == "hello"


async def checked(
    directory: Path,
    endpoint: Endpoint,
    probe: Callable[[Any], Awaitable[None]] | None = hello,
    *,
    path: str = "/ws",
) -> str:
    """What a check says."""
    async with core(directory) as guard, endpoint.served() as address:
        check = HandshakeCheck(guard, path, probe)
        check.address = address
        return await check()


async def test_the_probe_uses_the_endpoint_with_a_ticket_of_its_own(tmp_path: Path) -> None:
    """The application's function gets the open connection; the ticket is the only credential."""
    endpoint, used = Endpoint(), []

    async def probe(socket: Any) -> None:
        await hello(socket)
        used.append(socket)

    assert (
        await checked(tmp_path, endpoint, probe)
        == "the endpoint answered the probe with a ticket; admission without"
    )
    assert len(used) == 1
    (path,) = endpoint.asked
    assert path.startswith("/ws?ticket=")
    assert len(path) > len("/ws?ticket=") + 24


async def test_without_a_probe_the_decision_alone_is_checked(tmp_path: Path) -> None:
    """And the check says so."""
    endpoint = Endpoint()
    assert "Guard has no probe" in await checked(tmp_path, endpoint, None)
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("status", "close", "says"),
    [
        (HTTPStatus.BAD_GATEWAY, None, "refused with status 502"),
        (HTTPStatus.FORBIDDEN, None, "refused with status 403"),
        (None, 4001, "closed the probe's connection with 4001"),
    ],
)
async def test_each_failure_of_the_endpoint_is_named(
    tmp_path: Path, status: HTTPStatus | None, close: int | None, says: str
) -> None:
    """A refused upgrade by its status, a closed connection by its code."""
    endpoint = Endpoint()
    endpoint.status, endpoint.close = status, close
    with pytest.raises(CheckFailed, match=says):
        await checked(tmp_path, endpoint)


async def test_an_answer_that_the_probe_does_not_expect_is_a_failure(tmp_path: Path) -> None:
    """An assertion in the application's function is its verdict."""

    async def wrong(socket: Any) -> None:
        await socket.send("hello")
        assert await socket.recv() == "another"

    with pytest.raises(CheckFailed, match="did not answer as the probe expects"):
        await checked(tmp_path, Endpoint(), wrong)


async def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    """Refused at once, by the kind of the error; a server that has named no address cannot be probed."""
    async with core(tmp_path) as guard:
        check = HandshakeCheck(guard, "/ws", hello)
        with pytest.raises(CheckFailed, match="does not say where it listens"):
            await check()
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        check.address = server.sockets[0].getsockname()[:2]
        server.close()
        await server.wait_closed()
        with pytest.raises(CheckFailed, match="no handshake over loopback"):
            await check()


async def test_a_path_that_is_not_guarded_fails_the_check(tmp_path: Path) -> None:
    """The decision of a handshake with a ticket is no admission."""
    with pytest.raises(CheckFailed):
        await checked(tmp_path, Endpoint(), None, path="/elsewhere")
