"""Autobahn's cases on the real program's `/ws/conformance`: through a proxy that adds the credential, which the
suite itself cannot send. The proxy is a few lines of asyncio: nginx would answer some of the bad frames itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import kosoku
import pytest

from tests.acceptance.program import running

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SLOW = ["9.3.*", "9.4.*", "12.*", "13.*"]
DELIBERATE = ["7.1.5"]  # the strictness of the websockets package; our reader passes it, the issue allows it


class HeaderAddingProxy:
    """Forwards bytes, after adding one line to each request head."""

    def __init__(self, upstream: int, line: str) -> None:
        self._upstream = upstream
        self._line = line.encode() + b"\r\n"
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**16)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in set(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                first, rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
                far_writer.write(first + b"\r\n" + self._line + rest)
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            far_writer.close()
            writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()


async def cases(tmp_path: Path, exclude: list[str] | None, concurrency: int) -> int:
    """Run the cases; a failing case raises. Returns the number of cases."""
    async with running(tmp_path, {"NARTHEX_CONFORMANCE_ECHO": "1"}) as program:
        proxy = HeaderAddingProxy(
            program.port, f"Authorization: Bearer {program.token('autobahn', plan='enterprise')}"
        )
        async with proxy.serving():
            url = f"ws://127.0.0.1:{proxy.port}/ws/conformance"
            return len(await kosoku.run_fuzzingclient(url, None, exclude, concurrency=concurrency))


async def test_the_fast_subset(tmp_path: Path) -> None:
    """282 cases; without the header that the proxy adds, the echo is refused."""
    assert await cases(tmp_path, SLOW + DELIBERATE, 4) == 282


@pytest.mark.conformance
@pytest.mark.timeout(1800)
async def test_all_517_cases(tmp_path: Path) -> None:
    """The whole suite, including 7.1.5."""
    assert await cases(tmp_path, None, 2) == 517


async def test_the_echo_needs_a_credential_and_its_variable(tmp_path: Path) -> None:
    """401 without a token; without the variable the path does not exist."""
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers = upgrade | {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    (tmp_path / "on").mkdir()
    (tmp_path / "off").mkdir()
    async with running(tmp_path / "on", {"NARTHEX_CONFORMANCE_ECHO": "1"}) as program:
        assert (await program.get("/ws/conformance", headers=headers)).status_code == 401
    async with running(tmp_path / "off") as program:
        assert (await program.get("/ws/conformance", headers=headers)).status_code == 404
