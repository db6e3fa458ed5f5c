"""The two ways to the same admission, as targets of one suite: the gateway, and a guarded application under a server.

`gateway` is `narthex serve`; `uvicorn-websockets/fastapi` and so on are a server and an application of `applications`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from narthex.domain.refusals import TABLE
from tests.acceptance.program import Program
from tests.guard.applications import MAKERS
from tests.guard.cores import SECRET
from tests.guard.servers import SERVERS, Running, pairs, serving
from tests.timing import within

GATEWAY: Final = "gateway"
GUARD: Final = "uvicorn-websockets/fastapi"
EVERY: Final = [
    GATEWAY,
    GUARD,
    *(
        pytest.param("/".join(pair), marks=pytest.mark.soak)
        for pair in pairs(SERVERS, list(MAKERS))
        if "/".join(pair) != GUARD
    ),
]
"""Every server with every application; all but one of them in soaks only."""


class Answer(NamedTuple):
    """Of a server to an upgrade request."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Target:
    """A running server.

    Attributes:
        http: its base URL.
        inert: whether a connection without proof is upgraded where the environment allows it.
        carries_refusals: whether a refused upgrade has a status and a body.
    """

    def __init__(
        self, http: str, *, inert: bool, carries_refusals: bool = True, guarded: Running | None = None
    ) -> None:
        self.http = http
        self.inert = inert
        self.carries_refusals = carries_refusals
        self._guarded = guarded

    @property
    def ws(self) -> str:
        """The WebSocket's URL."""
        return self.http.replace("http", "ws", 1) + "/ws"

    @property
    def reached(self) -> int:
        """How many handshakes have reached the application's handlers. Their ends, which come later, do not count."""
        return self._guarded.reached.count("reached") if self._guarded is not None else 0

    @property
    def guarded(self) -> bool:
        """Whether it is a guarded application."""
        return self._guarded is not None

    async def preflight(self, headers: Mapping[str, str], query: str = "") -> str:
        """`upgraded`, or the code of the refusal, by `/ws/preflight`."""
        async with httpx2.AsyncClient(base_url=self.http, trust_env=False) as client:
            answer = await client.get(f"/ws/preflight{query}", headers=dict(headers))
        return str(answer.json().get("code", "")) if answer.status_code != 200 else "upgraded"

    async def outcome(
        self, headers: Mapping[str, str], query: str = "", path: str = "/ws", host: str = ""
    ) -> str:
        """`upgraded`, or the code of the refusal. Preflight must say the same (it uses up no ticket)."""
        preflight = await self.preflight(headers, query) if path == "/ws" and not host else ""
        answer = await handshake(self.http, list(headers.items()), path + query, host)
        if answer.status == 101:
            return "upgraded"
        if not self.carries_refusals:
            assert (answer.status, answer.body) == (403, {})
            return preflight
        code = str(answer.body.get("code"))
        assert answer.status == TABLE[code].http, answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert ("www-authenticate" in answer.headers) == (answer.status == 401)
        assert preflight in ("", code), (preflight, code)
        return code


@asynccontextmanager
async def target(
    name: str, directory: Path, environ: Mapping[str, str], *, ready: bool = True
) -> AsyncIterator[Target]:
    """Start a target. `NARTHEX_TEST_IN_BAND` gives a guard the hook for a token in the first message.

    With `ready=False` it only has to answer: it lacks what it needs to get ready.
    """
    base = {"ENVIRONMENT": "testing", "NARTHEX_JWT_SECRET": SECRET, "NARTHEX_HOST": "127.0.0.1"} | dict(
        environ
    )
    if name == GATEWAY:
        program = Program(directory, {key: value for key, value in base.items() if value})
        try:
            await (program.start() if ready else _answers(program))
            yield Target(program.http, inert=True)
        finally:
            program.end()
        return
    server, _, application = name.partition("/")
    async with serving(server, application, directory, base) as guarded:
        yield Target(
            guarded.http,
            inert="NARTHEX_TEST_IN_BAND" in environ,
            carries_refusals=guarded.carries_refusals,
            guarded=guarded,
        )


async def _answers(program: Program) -> None:
    """Start it, and wait for its port."""
    program.spawn()
    async with asyncio.timeout(within(20)):
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                await program.get("/livez")
                return
            await asyncio.sleep(0.05)


async def handshake(
    http: str, headers: Sequence[tuple[str, str]], path: str = "/ws", host: str = ""
) -> Answer:
    """One upgrade request over a raw socket, which sends what no client library would."""
    address = http.partition("://")[2]
    name, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    try:
        head = [
            f"GET {path} HTTP/1.1",
            f"Host: {host or address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            *(f"{header}: {value}" for header, value in headers),
        ]
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1"))
        raw = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), within(5))).decode("latin-1")
        status, *lines = raw.split("\r\n")
        found = {
            header.lower(): value.strip()
            for header, _, value in (item.partition(":") for item in lines)
            if header
        }
        body = await reader.readexactly(int(found.get("content-length", "0")))
        return Answer(int(status.split()[1]), found, json.loads(body) if body else {})
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
