"""A small TCP proxy with faults on demand: dead, hung, slow, resetting, and recovered."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Self

Mode = Literal["pass", "dead", "hung", "slow", "reset"]
CHUNK = 64 * 1024


class FaultProxy:
    """Forwards to `target` on 127.0.0.1 as `mode` defines; a change applies to new connections and cuts live ones."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mode: Mode = "pass"
        self.delay_s = 1.0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    async def set(self, mode: Mode) -> None:
        """Change what happens; live connections are cut."""
        await self._stop()
        self.mode = mode
        if mode != "dead":
            await self._listen()

    def freeze(self) -> None:
        """Live connections stay open, and nothing passes on them any more; new ones work."""
        self._thawed.clear()
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            return
        if self.mode == "hung":
            while await reader.read(CHUNK):
                pass
            return
        if self.mode == "slow":
            await asyncio.sleep(self.delay_s)
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, downstream))
                group.create_task(self._pump(upstream, writer))
        except* OSError:
            pass
        finally:
            downstream.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        thawed = self._thawed
        while data := await source.read(CHUNK):
            await thawed.wait()
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):  # the other side is gone already
            if sink.can_write_eof():
                sink.write_eof()
