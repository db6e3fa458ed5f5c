"""ASGI servers as teams run them: each started as its own program, unmodified, on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.acceptance.program import clean_environment
from tests.guard.cores import SECRET
from tests.timing import within

APP = "tests.guard.applications:app"
SERVERS = ("uvicorn-websockets", "uvicorn-wsproto", "hypercorn", "daphne", "granian")


def command(server: str, port: int) -> list[str]:
    """The command line of a server."""
    python = [sys.executable, "-m"]
    if server.startswith("uvicorn"):
        library = {"uvicorn-websockets": "websockets-sansio", "uvicorn-wsproto": "wsproto"}[server]
        return [*python, "uvicorn", APP, "--port", str(port), "--ws", library, "--log-level", "warning"]
    if server == "hypercorn":
        return [*python, "hypercorn", APP, "--bind", f"127.0.0.1:{port}", "--workers", "0"]
    if server == "daphne":
        return [*python, "daphne", "-b", "127.0.0.1", "-p", str(port), APP]
    return [
        *(*python, "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)),
        *("--log-level", "warning", APP),
    ]


class Running:
    """A server that runs an application.

    Attributes:
        port: on loopback.
        kind: of the server.
        application: which one of `applications.MAKERS` it serves.
        reached: what the application's handlers wrote down.
    """

    def __init__(
        self, kind: str, application: str, port: int, process: asyncio.subprocess.Process, trace: Path
    ) -> None:
        self.kind = kind
        self.application = application
        self.port = port
        self.process = process
        self._trace = trace

    @property
    def url(self) -> str:
        """Of the guarded WebSocket."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def http(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def reached(self) -> list[str]:
        """Lines that the handlers wrote."""
        return self._trace.read_text().splitlines()

    @property
    def carries_refusals(self) -> bool:
        """Whether the server can answer a refused upgrade with a body (docs/guard.md)."""
        return self.kind != "daphne"


@asynccontextmanager
async def serving(
    server: str,
    application: str,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    app: str = APP,
    port: int = 0,
) -> AsyncIterator[Running]:
    """Start a server, wait until its port answers, and end it with SIGTERM."""
    port = port or free_port()
    trace = directory / "reached"
    trace.touch()
    variables = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NARTHEX_TEST_APP": application,
        "NARTHEX_TEST_REACHED": str(trace),
        "NARTHEX_DATA_DIR": str(directory / "data"),
        "NARTHEX_JWT_SECRET": SECRET,
        "ENVIRONMENT": "testing",
    }
    process = await asyncio.create_subprocess_exec(
        *[word.replace(APP, app) for word in command(server, port)],
        env=clean_environment(
            {name: value for name, value in (variables | dict(environ or {})).items() if value}
        ),
        start_new_session=True,
    )
    try:
        await answers(port, process)
        yield Running(server, application, port, process, trace)
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL when it does not help; granian's worker outlives a parent that is ended while it starts."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within(15)):
                await process.wait()
    for kill in (process.kill, lambda: os.killpg(process.pid, signal.SIGKILL)):
        with contextlib.suppress(ProcessLookupError):
            kill()
    await process.wait()


async def answers(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the port is open."""
    async with asyncio.timeout(within(20)):
        while True:
            assert process.returncode is None, f"the server ended with {process.returncode}"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair."""
    return [(one, other) for one in first for other in second]
