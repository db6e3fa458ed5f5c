"""A small real WebSocket server that plays a gateway from a script: refusals, threads, histories, cut connections.

It speaks just the commands that the client helper sends; that narthex itself does the same is shown by
tests/acceptance.
"""

from __future__ import annotations

import asyncio
import http
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Event = dict[str, Any]


def problem(code: str, status: int, **more: str) -> bytes:
    """A problem+json body."""
    body = {
        "code": code,
        "status": status,
        "detail": f"detail of {code}",
        "remedy": f"remedy of {code}",
        **more,
    }
    return json.dumps(body).encode()


class Scripted:
    """The server.

    Attributes:
        upgrades: the Authorization header of each upgrade request, "" for none.
        preflights: the same of each preflight.
        keys: the X-E2E-Bypass-Key header of every request.
        verdicts: the answers to the next upgrades: None admits, else (status, body, headers); the last stays.
        preflight: the same for preflights.
        on_connect: called for each `connect` command; returns a reply error, a close, or None.
        history: each channel's publications, in order.
        rpc: a method's result, or a coroutine function of its params.
    """

    def __init__(self) -> None:
        self.upgrades: list[str] = []
        self.preflights: list[str] = []
        self.keys: list[str] = []
        self.verdicts: list[tuple[int, bytes, dict[str, str]] | None] = [None]
        self.preflight: tuple[int, bytes, dict[str, str]] | None = None
        self.on_connect: Callable[[Event], Event | tuple[int, str] | None] = lambda _: None
        self.history: dict[str, list[Event]] = {}
        self.recovers = True
        self.rpc: dict[str, Callable[[Event], Awaitable[Event]]] = {}
        self.connections: set[ServerConnection] = set()
        self.listeners: dict[str, set[ServerConnection]] = {}
        self.page = 500
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Of its WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def request(self, _: ServerConnection, request: Request) -> Response | None:
        """Answer preflights, admit or refuse upgrades."""
        token = request.headers.get("Authorization", "")
        self.keys.append(request.headers.get("X-E2E-Bypass-Key", ""))
        if request.path == "/ws/preflight":
            self.preflights.append(token)
            return _response(self.preflight or (200, b"{}", {}))
        self.upgrades.append(token)
        verdict = self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]
        return None if verdict is None else _response(verdict)

    async def handle(self, socket: ServerConnection) -> None:
        """One admitted connection."""
        self.connections.add(socket)
        try:
            async for frame in socket:
                for line in str(frame).splitlines():
                    await self.command(socket, json.loads(line))
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(socket)
            for listeners in self.listeners.values():
                listeners.discard(socket)

    async def command(self, socket: ServerConnection, command: Event) -> None:
        """Answer one command."""
        ident = command.get("id")
        if "connect" in command:
            said = self.on_connect(command["connect"])
            if isinstance(said, tuple):
                await socket.close(*said)
            elif said is not None:
                await _send(socket, {"id": ident, "error": said})
            else:
                result = {"client": "c1", "version": "scripted", "ping": 25, "pong": True}
                await _send(socket, {"id": ident, "connect": result})
        elif "subscribe" in command:
            await self.subscribe(socket, ident, command["subscribe"])
        elif "unsubscribe" in command:
            self.listeners.get(command["unsubscribe"]["channel"], set()).discard(socket)
            await _send(socket, {"id": ident, "unsubscribe": {}})
        elif "history" in command:
            await _send(socket, {"id": ident, "history": self.read(command["history"])})
        elif "rpc" in command:
            method = self.rpc.get(command["rpc"]["method"], _unknown)
            answer = await method(command["rpc"].get("data") or {})
            error = answer.pop("error", None)
            await _send(
                socket, {"id": ident, "error": error} if error else {"id": ident, "rpc": {"data": answer}}
            )

    async def subscribe(self, socket: ServerConnection, ident: Any, request: Event) -> None:
        """Subscribe, with recovery where the script allows it."""
        channel = request["channel"]
        log = self.history.setdefault(channel, [])
        result: Event = {"recoverable": True, "positioned": True, "epoch": "e", "offset": len(log)}
        if request.get("recover"):
            result |= {"was_recovering": True, "recovered": self.recovers}
            if self.recovers:
                at = int(request.get("offset", 0))
                result["publications"] = [_publication(log, i) for i in range(at, len(log))]
        self.listeners.setdefault(channel, set()).add(socket)
        await _send(socket, {"id": ident, "subscribe": result})

    def read(self, request: Event) -> Event:
        """A page of history, newest first."""
        assert request["reverse"], "the client reads backwards"
        log = self.history.get(request["channel"], [])
        until = int(request["since"]["offset"]) - 1 if "since" in request else len(log)
        first = max(0, until - min(request["limit"], self.page))
        found = [_publication(log, i) for i in reversed(range(first, until))]
        return {"publications": found, "epoch": "e", "offset": len(log)}

    async def publish(self, channel: str, event: Event, *, heard: bool = True) -> None:
        """Log an event; deliver it to the subscribers unless it is to get lost."""
        log = self.history.setdefault(channel, [])
        log.append(event)
        for socket in list(self.listeners.get(channel, ())) if heard else ():
            await _send(socket, {"push": {"channel": channel, "pub": _publication(log, len(log) - 1)}})

    def cut(self) -> None:
        """End every TCP connection without a close frame."""
        for socket in list(self.connections):
            socket.transport.abort()


async def _unknown(_: Event) -> Event:
    return {"error": {"code": 404, "message": "not_found: The script has no such method."}}


def _publication(log: list[Event], index: int) -> Event:
    return {"data": log[index], "offset": index + 1}


async def _send(socket: ServerConnection, message: Event) -> None:
    await socket.send(json.dumps(message))


def _response(verdict: tuple[int, bytes, dict[str, str]]) -> Response:
    status, body, headers = verdict
    full = Headers({"Content-Length": str(len(body)), "Connection": "close", **headers})
    return Response(status, http.HTTPStatus(status).phrase, full, body)


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """The server on a free port, for as long as the context lasts."""
    server = Scripted()
    ended: set[asyncio.Future[None]] = set()

    class Tracked(ServerConnection):
        """Its TCP connection is known until it is closed, also one that was refused."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            ended.add(self.connection_lost_waiter)

    serving = serve(server.handle, "127.0.0.1", 0, process_request=server.request, create_connection=Tracked)
    async with serving as listening:
        server.port = next(iter(listening.sockets)).getsockname()[1]
        yield server
    # Otherwise a socket that closes later is reported as unclosed in another test.
    await asyncio.gather(*ended)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another task fulfils; the test's own time-out bounds it."""
    while not condition():  # noqa: ASYNC110 -- the SDK has no event for what is waited for
        await asyncio.sleep(0.005)
