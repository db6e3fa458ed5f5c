"""Under uvicorn the application awaits the server's own `receive` and `send`; real server and client, one process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import narthex
from narthex.guard import sockets
from narthex.guard.core import GuardCore
from narthex.guard.sockets import REPORTING, ClosedByGuard
from narthex.protocol.codes import REVOKED, SHUTDOWN
from narthex.settings import load
from tests.guard.cores import SECRET, token, until
from tests.timing import within

Message = dict[str, Any]
Library = Literal["websockets-sansio", "wsproto"]
PROTOCOLS: dict[Library, type] = {"websockets-sansio": WebSocketsSansIOProtocol, "wsproto": WSProtocol}
PIECE = bytes(1_000_000)
MUCH = bytes(20_000_000)  # more than the kernel takes for a client that does not read
STILL = 20  # polls without progress

both = pytest.mark.parametrize("library", PROTOCOLS)


@asynccontextmanager
async def guarded(
    app: Callable[[Any, Any, Any], Awaitable[None]], library: Library, directory: Path
) -> AsyncIterator[tuple[int, GuardCore]]:
    """A guarded application: its port, and its guard."""
    settings = load(
        {"data_dir": directory, "jwt_secret": SECRET, "embedded_provider": "off"},
        {"ENVIRONMENT": "testing"},
        parts={"store"},
    )
    guard = narthex.Guard(app, ["/ws"], settings=settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(guard, ws=library, log_config=None, loop="asyncio"))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await until(lambda: server.started)
            yield int(listener.getsockname()[1]), await guard.start()
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, within(20))


@asynccontextmanager
async def connected(
    app: Callable[[Any, Any, Any], Awaitable[None]], library: Library, directory: Path
) -> AsyncIterator[tuple[ClientConnection, GuardCore]]:
    """A client's connection to a guarded application."""
    async with (
        guarded(app, library, directory) as (port, core),
        connect(
            f"ws://127.0.0.1:{port}/ws",
            additional_headers={"Authorization": f"Bearer {token()}"},
            proxy=None,
        ) as client,
    ):
        yield client, core


@asynccontextmanager
async def unread(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """A connection that has been upgraded, and of which nothing is read until its reader is used."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {token()}\r\n\r\n".encode()
        )
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), within(5))
        yield reader
    finally:
        writer.transport.abort()


def protocol_of(scope: Message) -> Any:
    """The connection's object of uvicorn's."""
    return scope["narthex"]._receive.__self__


class Writer:
    """A task that writes without end, and how many of its messages uvicorn took."""

    def __init__(self) -> None:
        self.sent = 0
        self._protocol: Any = None

    async def write(self, scope: Message, send: Any) -> None:
        """Until `send` raises."""
        self._protocol = protocol_of(scope)
        while True:
            await send({"type": "websocket.send", "bytes": PIECE})
            self.sent += 1

    async def blocked(self) -> int:
        """Wait until the kernel takes no more; the messages that were sent."""
        same, before = 0, -1
        async with asyncio.timeout(within(10)):
            while same < STILL:
                await asyncio.sleep(0.01)
                protocol = self._protocol
                blocked = protocol is not None and not protocol.writable.is_set() and self.sent == before
                same, before = same + 1 if blocked else 0, self.sent
        return self.sent


async def accepted(scope: Message, receive: Any, send: Any) -> None:
    """The beginning of an application without a lifespan."""
    if scope["type"] != "websocket":
        raise ValueError(scope["type"])
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


def test_the_servers_that_report_are_uvicorn_s() -> None:
    """Both of its protocols; under one that is renamed a message would cost more."""
    calls = [call for kind in PROTOCOLS.values() for call in (kind.receive, kind.send)]  # type: ignore[attr-defined]
    assert {call.__module__ for call in calls} == REPORTING
    assert all(issubclass(kind, asyncio.Protocol) for kind in PROTOCOLS.values())


@both
async def test_uvicorn_has_the_attributes_that_the_guard_uses(library: Library, tmp_path: Path) -> None:
    """The guard ends a connection by them; none is part of uvicorn's documented interface."""
    protocols: list[Any] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        protocols.append(protocol_of(scope))
        await receive()

    async with connected(app, library, tmp_path):
        await until(lambda: bool(protocols))
        assert not protocols[0].transport.is_closing()
        assert callable(protocols[0].transport.abort)
        assert isinstance(protocols[0].queue, asyncio.Queue)
        assert isinstance(protocols[0].writable, asyncio.Event)


@both
async def test_a_message_costs_no_frame_of_the_guard_s(library: Library, tmp_path: Path) -> None:
    """The coroutines that the application awaits are uvicorn's, from its accept on."""
    found: list[object] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        while True:
            receiving = receive()
            event = await receiving
            if event["type"] != "websocket.receive":
                return
            sending = send({"type": "websocket.send", "text": event["text"]})
            found.extend((receiving.cr_code, sending.cr_code))
            await sending

    async with connected(app, library, tmp_path) as (client, _):
        for text in ("a", "b"):
            await client.send(text)
            assert await asyncio.wait_for(client.recv(), within(5)) == text
    protocol = cast("Any", PROTOCOLS[library])
    assert found == [protocol.receive.__code__, protocol.send.__code__] * 2


@both
async def test_a_close_reaches_an_application_that_waits(library: Library, tmp_path: Path) -> None:
    """With its code and reason, once from the server and then from the guard; `send` raises."""
    events: list[Message] = []
    ended = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        events.extend([await receive(), await receive()])
        with pytest.raises(ClosedByGuard):
            await send({"type": "websocket.send", "text": "late"})
        ended.set()

    async with connected(app, library, tmp_path) as (client, core):
        for life in core.lives.registry:
            life.close(SHUTDOWN)
        await asyncio.wait_for(ended.wait(), within(5))
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), within(5))
        assert (client.close_code, client.close_reason) == (SHUTDOWN.code, SHUTDOWN.reason)
        await until(lambda: core.limiter.total == 0)
    end = {"type": "websocket.disconnect", "code": SHUTDOWN.code, "reason": SHUTDOWN.reason}
    assert events == [end, end]


@both
async def test_a_close_releases_an_application_whose_client_does_not_read(
    library: Library, tmp_path: Path
) -> None:
    """Its `send` returns, the next one raises; the client that reads at last gets the code behind what was sent."""
    outcome: list[object] = []
    writer = Writer()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        try:
            await writer.write(scope, send)
        except ClosedByGuard:
            outcome.append("refused")
        outcome.append((await receive())["code"])

    async with guarded(app, library, tmp_path) as (port, core), unread(port) as reader:
        before = await writer.blocked()
        for life in core.lives.registry:
            life.close(SHUTDOWN)
        await until(lambda: len(outcome) == 2)
        assert outcome == ["refused", SHUTDOWN.code]
        assert writer.sent == before + 1
        reason = SHUTDOWN.reason.encode()
        close = bytes((0x88, 2 + len(reason))) + SHUTDOWN.code.to_bytes(2) + reason
        end = b""
        async with asyncio.timeout(within(10)):
            while not end.endswith(close):
                piece = await reader.read(1 << 20)
                assert piece
                end = (end + piece)[-len(close) :]


@both
async def test_a_close_reaches_an_application_whose_connection_uvicorn_gave_up(
    library: Library, tmp_path: Path
) -> None:
    """After a missing pong uvicorn reports no disconnect while data waits for a client that does not read."""
    protocols: list[Any] = []
    events: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        await send({"type": "websocket.send", "bytes": MUCH})
        protocols.append(protocol_of(scope))
        events.append(await receive())

    async with guarded(app, library, tmp_path) as (port, core), unread(port):
        await until(lambda: bool(protocols))
        protocols[0].keepalive_timeout()
        await asyncio.sleep(0)
        assert protocols[0].transport.get_write_buffer_size() > 0
        assert events == []
        for life in core.lives.registry:
            life.close(SHUTDOWN)
        await until(lambda: core.limiter.total == 0)
    assert [event["code"] for event in events] == [SHUTDOWN.code]


@both
async def test_a_close_reaches_every_task_that_receives(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server reports a close to one of them; the guard then ends the connection, which releases the other."""
    monkeypatch.setattr(sockets, "CLOSE_S", 0.1)
    waiting: list[asyncio.Task[Message]] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        await send({"type": "websocket.send", "bytes": MUCH})
        waiting.extend(asyncio.ensure_future(receive()) for _ in range(2))
        await asyncio.wait(waiting)

    async with guarded(app, library, tmp_path) as (port, core), unread(port):
        await until(lambda: len(waiting) == 2)
        await asyncio.sleep(0)
        for life in core.lives.registry:
            life.close(SHUTDOWN)
        await until(lambda: core.limiter.total == 0)
    assert {(await task)["code"] for task in waiting} == {SHUTDOWN.code}


@both
async def test_nothing_is_written_after_a_revocation(library: Library, tmp_path: Path) -> None:
    """Every task that waits for a client that does not read fails, and its message stays unsent."""
    writers = [Writer() for _ in range(3)]
    outcomes: list[object] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        outcomes.extend(
            await asyncio.gather(*(writer.write(scope, send) for writer in writers), return_exceptions=True)
        )
        outcomes.append((await receive())["code"])

    async with guarded(app, library, tmp_path) as (port, core), unread(port):
        before = [await writer.blocked() for writer in writers]
        for life in core.lives.registry:
            life.close(REVOKED)
        await until(lambda: core.limiter.total == 0)
        assert core.meter.counts("disconnects") == {(str(REVOKED.code),): 1}
    assert [writer.sent for writer in writers] == before
    assert all(isinstance(outcome, OSError) for outcome in outcomes[:-1])
    assert outcomes[-1] == REVOKED.code


@both
async def test_a_client_s_own_end_is_counted(library: Library, tmp_path: Path) -> None:
    """As 1005, because its code is in a message that the guard does not see; its slot is free."""
    codes: list[int] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        codes.append((await receive())["code"])

    async with connected(app, library, tmp_path) as (client, core):
        await client.close(4321)
        await until(lambda: core.limiter.total == 0)
        assert core.meter.counts("disconnects") == {("1005",): 1}
    assert codes == [4321]


@both
async def test_the_end_of_an_application_that_fails_is_counted(library: Library, tmp_path: Path) -> None:
    """As 1006, which is what its client gets: the connection ends without a close frame."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await accepted(scope, receive, send)
        await receive()
        raise LookupError("a bug of the application")

    async with connected(app, library, tmp_path) as (client, core):
        await client.send("a")
        await until(lambda: core.limiter.total == 0)
        assert core.meter.counts("disconnects") == {("1006",): 1}
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), within(5))
        assert client.close_code == 1006
