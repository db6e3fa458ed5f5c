"""`narthex guard --pass-http` under attack: each request that passes is one request to the server behind, as it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import h11
import pytest
import pytest_asyncio

from tests.guard.process import guarding
from tests.guard.raw import raw_peer, request

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

HOST: Final = "Host: 127.0.0.1"
CHUNKED: Final = "Transfer-Encoding: chunked"
SECOND: Final = request("GET /second HTTP/1.1", HOST)
END: Final = b"0\r\n\r\n"


def post(*lines: str, body: bytes = b"", first: str = "POST /first HTTP/1.1", host: str = HOST) -> bytes:
    """A request, with bytes behind its head."""
    return request(first, host, *lines, body=body)


def chunk(data: bytes) -> bytes:
    """A chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Seen(NamedTuple):
    """A request as the server behind parsed it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


REFUSED: Final = {
    "a length and chunks": post(f"Content-Length: {len(END + SECOND)}", CHUNKED, body=END + SECOND),
    "chunks and a length": post(CHUNKED, "Content-Length: 4", body=chunk(SECOND) + END),
    "a space behind the name": post("Transfer-Encoding : chunked", body=END + SECOND),
    "another coding": post("Transfer-Encoding: xchunked", body=END + SECOND),
    "a quoted coding": post('Transfer-Encoding: "chunked"', body=END + SECOND),
    "identity behind chunks": post(CHUNKED, "Transfer-Encoding: identity", body=END + SECOND),
    "chunks in chunks": post("Transfer-Encoding: chunked, chunked", body=END + SECOND),
    "a control character": post("Transfer-Encoding: \x0bchunked", body=END + SECOND),
    "a folded coding": post("Transfer-Encoding:\r\n chunked", body=END + SECOND),
    "a coding on a folded line": post("X: a\r\n Transfer-Encoding: chunked", body=END + SECOND),
    "a coding behind a bare LF": post("X: a\nTransfer-Encoding: chunked", body=END + SECOND),
    "a coding behind a bare CR": post("X: a\rTransfer-Encoding: chunked", body=END + SECOND),
    "two lengths": post("Content-Length: 0", f"Content-Length: {len(SECOND)}", body=SECOND),
    "a list of lengths": post("Content-Length: 2, 2", body=b"ab"),
    "a signed length": post(f"Content-Length: +{len(SECOND)}", body=SECOND),
    "a negative length": post("Content-Length: -1", body=SECOND),
    "a length in hexadecimal": post("Content-Length: 0x2c", body=SECOND),
    "no length": post("Content-Length: ", body=SECOND),
    "a length beyond 64 bits": post("Content-Length: 99999999999999999999999", body=SECOND),
    "lines that end with LF": post().replace(b"\r\n", b"\n") + SECOND,
    "a chunk beyond 64 bits": post(CHUNKED, body=b"fffffffffffffffff\r\n" + SECOND),
    "a chunk with a sign": post(CHUNKED, body=b"+2\r\nab\r\n" + END),
    "a chunk without its end": post(CHUNKED, body=b"2\r\nabXX0\r\n\r\n"),
    "chunks that end with LF": post(CHUNKED, body=b"2\nab\n0\n\n" + SECOND),
    "two hosts": post("Host: evil.example"),
    "a host with a user": post(host="Host: 127.0.0.1@evil.example"),
    "another host in the target": post(first="GET http://evil.example/ HTTP/1.1"),
    "a space in the target": post(first="GET /a b HTTP/1.1"),
    "a line break in the target": post(first="GET /a%0d%0aX:%20y HTTP/1.1"),
    "CONNECT": post(first="CONNECT 127.0.0.1:80 HTTP/1.1"),
    "a request of HTTP/0.9": b"GET /first\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an upgrade to h2c": post("Connection: Upgrade", "Upgrade: h2c", first="GET /first HTTP/1.1"),
    "a claim with a space behind its name": post("Narthex-Subject : root"),
    "a claim behind a bare LF": post("X: a\nNarthex-Subject: root"),
}
"""Requests that are refused; a part of their body may have begun to pass."""

GET: Final = "GET /first HTTP/1.1"
PASSED: Final[dict[str, tuple[bytes, list[tuple[str, str, bytes]]]]] = {
    "two in one write": (
        post(first=GET) + SECOND,
        [("GET", "/first", b""), ("GET", "/second", b"")],
    ),
    "a request in a body": (
        post(f"Content-Length: {len(SECOND)}", body=SECOND),
        [("POST", "/first", SECOND)],
    ),
    "a request in a chunk": (post(CHUNKED, body=chunk(SECOND) + END), [("POST", "/first", SECOND)]),
    "a body of a GET": (
        post(f"Content-Length: {len(SECOND)}", first=GET, body=SECOND),
        [("GET", "/first", SECOND)],
    ),
    "Connection names the length": (
        post("Connection: Content-Length", f"Content-Length: {len(SECOND)}", body=SECOND),
        [("POST", "/first", SECOND)],
    ),
    "Connection names the coding": (
        post("Connection: Transfer-Encoding", CHUNKED, body=chunk(SECOND) + END),
        [("POST", "/first", SECOND)],
    ),
    "Connection names everything of the guard's": (
        post("Connection: Host, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host", first=GET),
        [("GET", "/first", b"")],
    ),
    "a claim in a trailer": (
        post(CHUNKED, "Trailer: Narthex-Subject", body=chunk(b"ab") + b"0\r\nNarthex-Subject: root\r\n\r\n"),
        [("POST", "/first", b"ab")],
    ),
    "claims and forwarding headers in every spelling": (
        post(
            "Narthex-Subject: root",
            "narthex_tenant: root",
            "narthex.plan: root",
            "X_Forwarded_For: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            first=GET,
        ),
        [("GET", "/first", b"")],
    ),
    "an absolute target": (post(first="GET http://127.0.0.1/first HTTP/1.1"), [("GET", "/first", b"")]),
    "dots and encoded slashes": (
        post(first="GET /a/../%2e%2e/b%2Fc HTTP/1.1"),
        [("GET", "/a/../%2e%2e/b%2Fc", b"")],
    ),
}
"""Requests that pass: the method, target and body of each request that the server behind must see, and no other."""


class Upstream:
    """A strict server: h11 parses, and every request is answered 200.

    Attributes:
        seen: whole requests, in the order in which they came.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it breaks a rule or ends."""
        self._writers.append(writer)
        parser = h11.Connection(h11.SERVER)
        with contextlib.suppress(h11.RemoteProtocolError, ConnectionError, asyncio.CancelledError):
            while parser.our_state is not h11.MUST_CLOSE:
                await self._one(parser, reader, writer)
                parser.start_next_cycle()
        writer.close()

    async def _one(
        self, parser: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked: Any = None
        body = b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                asked = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError
            else:
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in asked.headers}
        self.seen.append(Seen(asked.method.decode(), asked.target.decode(), headers, body))
        answer = [h11.Response(status_code=200, headers=[("Content-Length", "2")]), h11.Data(data=b"ok")]
        for event in (*answer, h11.EndOfMessage()):
            writer.write(parser.send(event) or b"")

    def end(self) -> None:
        """Close what is open."""
        for writer in self._writers:
            writer.close()


class Passing(NamedTuple):
    """A guard that passes HTTP, and the server behind."""

    port: int
    upstream: Upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def passing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Passing]:
    """Both, for the module."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    directory = tmp_path_factory.mktemp("passing")
    try:
        async with guarding(directory, f"ws://127.0.0.1:{port}", None, "--pass-http") as guard:
            yield Passing(guard.port, upstream)
    finally:
        upstream.end()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_with_two_readings_is_refused(passing: Passing, name: str) -> None:
    """400, the connection ends, and the server behind sees neither it as a whole nor another request in it."""
    before = len(passing.upstream.seen)
    async with raw_peer(passing.port, REFUSED[name]) as peer:
        assert await peer.status() == 400
        await peer.ended()
    await answered(passing)
    assert [one.target for one in passing.upstream.seen[before:]] == ["/last"]


@pytest.mark.parametrize("name", PASSED)
async def test_a_request_that_passes_is_one_request(passing: Passing, name: str) -> None:
    """With its method, its target and its body; what it claims about its user and its address is the guard's."""
    sent, expected = PASSED[name]
    before = len(passing.upstream.seen)
    async with raw_peer(passing.port, sent) as peer:
        for _ in expected:
            assert await peer.status() == 200
            assert await peer.reader.readexactly(2) == b"ok"
    await answered(passing)
    *seen, last = passing.upstream.seen[before:]
    assert last.target == "/last"
    assert [(one.method, one.target, one.body) for one in seen] == expected
    for one in seen:
        assert not [header for header in one.headers if header.startswith("narthex")]
        assert "6.6.6.6" not in one.headers.values()
        assert one.headers["host"] == one.headers["x-forwarded-host"] == "127.0.0.1"
        assert one.headers["x-forwarded-for"] == "127.0.0.1"


async def answered(passing: Passing) -> None:
    """A last request on a connection of its own comes back: nothing of an earlier one is in its way."""
    async with raw_peer(passing.port, request("GET /last HTTP/1.1", HOST, "Connection: close")) as peer:
        assert await peer.status() == 200
        assert await peer.ended() == b"ok"
