"""`narthex guard` as a child process in front of a Node server, and its clients."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.acceptance.program import Program
from tests.guard.cores import SECRET, token
from tests.services import missing

ROOT: Final = Path(__file__).parents[2]


class NodeServer:
    """`upstream.mjs` as a process."""

    def __init__(self) -> None:
        node = shutil.which("node")
        if node is None:
            missing("node", "apt-get install nodejs")
        self.process = subprocess.Popen(
            [node, str(Path(__file__).with_name("upstream.mjs")), f"{ROOT}/web/"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def http(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def closes(self) -> list[list[Any]]:
        """Code and reason of every connection that has ended."""
        found: list[list[Any]] = httpx2.get(f"{self.http}/closes").json()
        return found

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def node_server() -> Iterator[NodeServer]:
    """A running server, gone at the end."""
    server = NodeServer()
    try:
        yield server
    finally:
        server.kill()


def program(directory: Path, upstream: str, env: Mapping[str, str] | None = None, *arguments: str) -> Program:
    """A guard that admits tokens of `cores.token`, not started."""
    settings = {"ENVIRONMENT": "testing", "NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_TENANT": "default"}
    return Program(
        directory, settings | dict(env or {}), ("--upstream", upstream, *arguments), serving="guard"
    )


@contextlib.asynccontextmanager
async def guarding(
    directory: Path, upstream: str, env: Mapping[str, str] | None = None, *arguments: str
) -> AsyncIterator[Program]:
    """A started guard, ended afterwards."""
    found = program(directory, upstream, env, *arguments)
    try:
        await found.start()
        yield found
    finally:
        found.end()


def client(guard: Program, subject: str = "ann", path: str = "/ws", **options: Any) -> connect:
    """A connection with a token; `headers` are more headers, an empty `Authorization` among them drops the token."""
    headers = {"Authorization": f"Bearer {token(subject)}"} | dict(options.pop("headers", {}))
    headers = {name: value for name, value in headers.items() if value}
    protocols = [Subprotocol(name) for name in options.pop("protocols", ())]
    return connect(
        guard.ws.removesuffix("/ws") + path,
        additional_headers=headers,
        subprotocols=protocols or None,
        proxy=None,
        **options,
    )


async def request_of(socket: ClientConnection) -> dict[str, Any]:
    """The request as the Node server saw it: its first message."""
    found: dict[str, Any] = json.loads(await socket.recv())
    return found
