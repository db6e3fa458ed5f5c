"""The whole Autobahn suite through the real `narthex guard`, in front of the real echo server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import kosoku
import pytest

from tests.adapters.edge.child import child
from tests.adapters.edge.test_conformance import KOSOKU_LEAVES_FILES_OPEN
from tests.guard.cores import token
from tests.guard.process import guarding

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]


@contextlib.asynccontextmanager
async def adding_header(port: int, line: bytes) -> AsyncIterator[int]:
    """A proxy on a port of its own that adds a header line to the first head of a connection: kosoku cannot."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 18):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out_reader, out = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            out.write(await reader.readuntil(b"\r\n") + line)
            await asyncio.gather(pump(reader, out), pump(out_reader, writer))
        out.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@KOSOKU_LEAVES_FILES_OPEN
async def test_all_517_cases(tmp_path: Path) -> None:
    """No case fails (a failing case raises)."""
    env = {"NARTHEX_MAX_CONNECTIONS_PER_USER": "1000"}
    with child() as echo:
        upstream = f"ws://127.0.0.1:{echo.port}"
        async with guarding(tmp_path, upstream, env, "--path", "/ws/conformance") as guard:
            header = f"Authorization: Bearer {token(ttl_s=7200)}\r\n".encode()
            async with adding_header(guard.port, header) as port:
                url = f"ws://127.0.0.1:{port}/ws/conformance"
                assert len(await kosoku.run_fuzzingclient(url, None, None, concurrency=2)) == 517
