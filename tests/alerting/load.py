"""Load on a real gateway that counts what it does: handshakes by outcome, and what subscribers received."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


class Client:
    """One connection in raw JSON; counts the publications, joins and leaves that it received."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.pushes = 0
        self.ended = asyncio.Event()  # a run of a followed thread
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._socket:
                for line in str(message).split("\n"):
                    self._take(json.loads(line))

    def _take(self, item: dict[str, Any]) -> None:
        if "id" in item:
            self._replies.pop(item["id"]).set_result(item)
        elif "push" in item:
            self.pushes += bool({"pub", "join", "leave"} & item["push"].keys())
            publication = item["push"].get("pub")
            if publication and publication["data"].get("type") in ("RUN_FINISHED", "RUN_ERROR"):
                self.ended.set()
        elif not item:
            self._reader.get_loop().create_task(self._socket.send("{}"))

    async def call(self, command: str, **request: Any) -> dict[str, Any]:
        """Send a command; its reply."""
        self._number += 1
        future = self._replies[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": self._number, command: request}))
        return await asyncio.wait_for(future, 30)

    async def rpc(self, method: str, **data: Any) -> dict[str, Any]:
        """Call a method; its result."""
        reply = await self.call("rpc", method=method, data=data)
        assert "rpc" in reply, reply
        result: dict[str, Any] = reply["rpc"]["data"]
        return result

    async def run(self, text: str, thread_id: str) -> None:
        """Start a run and wait for its end."""
        self.ended.clear()
        await self.rpc("run.start", text=text, thread_id=thread_id, client_message_id=uuid4().hex)
        await asyncio.wait_for(self.ended.wait(), 60)

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)


class Load:
    """Counts handshakes of its clients by outcome; closes the clients at the end."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.clients: list[Client] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        await asyncio.gather(*(client.close() for client in self.clients), return_exceptions=True)

    async def shake(self, url: str, headers: dict[str, str]) -> ClientConnection | None:
        """One handshake; the socket, or None when it was refused."""
        try:
            socket = await connect(url, additional_headers=headers, proxy=None, open_timeout=30)
        except InvalidStatus as refused:
            self.outcomes["refused"] += 1
            self.outcomes[str(json.loads(refused.response.body or b"{}").get("code"))] += 1
            return None
        self.outcomes["admitted"] += 1
        return socket

    async def join(self, url: str, token: str) -> Client:
        """A client that has connected."""
        socket = await self.shake(url, {"Authorization": f"Bearer {token}"})
        assert socket is not None
        client = Client(socket)
        self.clients.append(client)
        await client.call("connect")
        return client

    async def touch(self, url: str, token: str, count: int, *, at_once: int = 8) -> None:
        """`count` handshakes that are closed at once."""
        room = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with room:
                socket = await self.shake(url, {"Authorization": f"Bearer {token}"} if token else {})
                if socket is not None:
                    await socket.close()

        await asyncio.gather(*(one() for _ in range(count)))
