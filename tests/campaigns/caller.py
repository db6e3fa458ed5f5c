"""A raw client of one connection that sends commands, and keeps the pushes it receives; its frames can be recorded.

Not here: reconnecting after a loss (`watcher.py`, `follower.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from tests.campaigns.follower import Line
from tests.history import Recorder


class Caller:
    """See the module.

    Attributes:
        closed_at: loop time of the server's close frame, 0.0 while open; `code` is its code.
    """

    def __init__(self, port: int, token: str, recorder: Recorder, reader: str, user: str) -> None:
        self.line = Line(port, token)
        self.line.tap = recorder.connection(reader, user)
        self.pushes: list[dict[str, Any]] = []
        self.closed_at = 0.0
        self.ended = asyncio.Event()
        self._pushed = asyncio.Event()

    @property
    def code(self) -> int:
        """See the class."""
        return self.line.close_code

    async def command(self, name: str, **body: Any) -> dict[str, Any]:
        """Send a command; returns its result. Raises AssertionError for an error."""
        reply = await self._asked(name, body)
        assert "error" not in reply, reply
        return dict(reply[name])

    async def _asked(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        number = self.line.command(name, body)
        self.line.waiting[number] = asyncio.get_running_loop().create_future()
        return await self.line._reply(number)

    async def rpc(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method; returns its result."""
        return dict((await self.command("rpc", method=method, data=params))["data"])

    async def patient_rpc(self, method: str, **params: Any) -> dict[str, Any]:
        """As `rpc`, repeated while the answer is a temporary error (an engine that took longer than a command may): for
        methods whose repetition changes nothing, in campaigns that are not about availability.
        """
        body = {"method": method, "data": params}
        while (reply := await self._asked("rpc", body)).get("error", {}).get("temporary"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)  # the gateway is overloaded: nothing tells when it no longer is
        assert "error" not in reply, reply
        return dict(reply["rpc"]["data"])

    async def until(self, text: str) -> None:
        """Wait for a push that contains the text."""
        while not any(text in str(found) for found in self.pushes):
            self._pushed.clear()
            await self._pushed.wait()

    async def listen(self) -> None:
        """Read until the connection ends."""
        with contextlib.suppress(OSError, EOFError):
            async for raw in self.line.objects():
                found = msgspec.json.decode(raw)
                if not self.line.answered(found):
                    self.pushes.append(found)
                    self._pushed.set()
        self.closed_at = asyncio.get_running_loop().time()
        self.ended.set()


@contextlib.asynccontextmanager
async def calling(port: int, token: str, recorder: Recorder, reader: str, user: str) -> AsyncIterator[Caller]:
    """A connected caller, dropped afterwards."""
    caller = Caller(port, token, recorder, reader, user)
    await caller.line.live()
    listening = asyncio.create_task(caller.listen())
    try:
        yield caller
    finally:
        caller.line.end()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
