"""A tiny HTTP server that plays an issuer: any JSON under any path, hits counted, status settable."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

Answer = Callable[[str, bytes], tuple[int, Any]]
"""Takes the raw request head and body; returns status and JSON document (bytes are sent unchanged)."""


class HttpIssuer:
    """Serves `documents` by path. A callable document answers itself; `hits` counts requests by path."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.hits: Counter[str] = Counter()
        self.heads: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    (
                        int(line[15:])
                        for line in head.split("\r\n")
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                writer.write(self._answer(head, body))
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    def _answer(self, head: str, body: bytes) -> bytes:
        path = head.split(" ", 2)[1]
        self.hits[path] += 1
        self.heads.append(head)
        found = self.documents.get(path.partition("?")[0], (404, {"error": "not found"}))
        if callable(found):
            found = found(head, body)
        status, document = found if isinstance(found, tuple) else (200, found)
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw
