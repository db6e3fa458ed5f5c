"""Plain HTTP through the guard, as an ASGI application in this process, to a server behind that tests script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from narthex.adapters.edge.upstream.passing import HttpPassing, Message, Receive, Send
from narthex.domain.refusals import Refusal
from narthex.ports.edge import ABORT
from tests.timing import within

TIME_S = 0.3  # the upstream's, where it is awaited

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Exchange:
    """One request of a client, and what the client was sent.

    Attributes:
        sent: the messages of the answer.
        refused: the refusal that was answered instead.
        aborted: the client's connection was dropped.
    """

    def __init__(
        self, *body: bytes, method: str = "POST", path: bytes = b"/a%2Fb", query: bytes = b"x=1"
    ) -> None:
        self.sent: list[Message] = []
        self.refused: Refusal | None = None
        self.aborted = False
        self.changed = asyncio.Event()
        self.left = asyncio.Event()
        self._body = list(body)
        headers = [(b"host", b"chat.example"), (b"x-one", b"1"), (b"connection", b"x-hop"), (b"x-hop", b"1")]
        if body:
            headers.append((b"transfer-encoding", b"chunked"))
        self.scope: Message = {
            "type": "http",
            "method": method,
            "path": "/a/b",
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "extensions": {ABORT: {"abort": self._abort}},
        }

    def _abort(self) -> None:
        self.aborted = True

    async def receive(self) -> Message:
        """The next piece of the body; then nothing until the client leaves."""
        if self._body:
            piece = self._body.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._body)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Keep it."""
        self.sent.append(message)
        self.changed.set()

    @property
    def status(self) -> int:
        """Of the answer."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        """Of the answer, as far as it came."""
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def whole(self) -> bool:
        """Whether the answer was ended."""
        return bool(self.sent) and not self.sent[-1].get("more_body", False) and len(self.sent) > 1


class Leaving(Exchange):
    """A client that leaves in the middle of its body."""

    async def receive(self) -> Message:
        """A piece, and the end of the connection instead of the next one."""
        if self._body:
            return {"type": "http.request", "body": self._body.pop(0), "more_body": True}
        return {"type": "http.disconnect"}


class Passing:
    """The application before a scripted server."""

    def __init__(self, port: int) -> None:
        self.requests: list[bytes] = []
        self._exchange: Exchange | None = None
        self.app = HttpPassing(f"http://127.0.0.1:{port}", _prepared, timeout_s=TIME_S, refuse=self._refuse)

    def _refuse(self, refusal: Refusal) -> Callable[[Message, Receive, Send], Awaitable[None]]:
        async def answer(_scope: Message, _receive: Receive, _send: Send) -> None:
            assert self._exchange is not None
            assert self._exchange.refused is None, "a request has one answer"
            self._exchange.refused = refusal

        return answer

    async def run(self, exchange: Exchange) -> Exchange:
        """Pass a request on; returns when its answer is over."""
        self._exchange = exchange
        async with asyncio.timeout(within(10)):
            await self.app(exchange.scope, exchange.receive, exchange.send)
        return exchange


def _prepared(scope: Message) -> tuple[list[tuple[str, str]], str, str]:
    return [(name.decode(), value.decode()) for name, value in scope["headers"]], "203.0.113.7", "https"


@asynccontextmanager
async def passing(script: Script) -> AsyncIterator[Passing]:
    """A started application; the server behind answers each connection by the script."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the guard had enough of it
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = Passing(server.sockets[0].getsockname()[1])
        await one.app.start()
        try:
            yield one
        finally:
            await one.app.stop()


def answers(answer: bytes, seen: list[bytes] | None = None) -> Script:
    """A script that reads a head, and answers with these bytes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            if b"chunked" in head:
                head += await reader.readuntil(b"0\r\n\r\n")
            seen.append(head)
        writer.write(answer)
        await writer.drain()

    return script


async def test_a_request_and_its_answer_pass_as_they_are() -> None:
    """The target byte for byte and the body in pieces; headers of one connection end here, the client's address is
    told.
    """
    seen: list[bytes] = []
    head = (
        b"HTTP/1.1 201 Created",
        b"X-Two: 2",
        b"Date: now",
        b"Connection: x-hop",
        b"X-Hop: 1",
        b"Content-Length: 5",
    )
    answer = b"\r\n".join((*head, b"", b"hello"))
    async with passing(answers(answer, seen)) as one:
        found = await one.run(Exchange(b"ab", b"", b"c"))
    assert (found.status, found.body, found.whole) == (201, b"hello", True)
    assert dict(found.sent[0]["headers"]) == {b"x-two": b"2", b"content-length": b"5"}
    fields, _, body = seen[0].partition(b"\r\n\r\n")
    lines = fields.decode().split("\r\n")
    assert lines[0] == "POST /a%2Fb?x=1 HTTP/1.1"
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    assert headers["host"] == "chat.example"
    assert headers["x-forwarded-for"] == "203.0.113.7"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-host"]) == ("https", "chat.example")
    assert headers["x-one"] == "1"
    assert "x-hop" not in headers
    assert body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


async def test_a_request_without_a_body_or_a_query_has_none() -> None:
    """No length is invented, and no `?`; a path that another server put in front is taken off."""
    seen: list[bytes] = []
    async with passing(answers(b"HTTP/1.1 204 No Content\r\n\r\n", seen)) as one:
        exchange = Exchange(method="GET", path=b"/root/a", query=b"")
        exchange.scope["root_path"] = "/root"
        found = await one.run(exchange)
    assert (found.status, found.body, found.whole) == (204, b"", True)
    assert seen[0].startswith(b"GET /a HTTP/1.1\r\n")
    assert b"content-length" not in seen[0].lower()
    assert b"transfer-encoding" not in seen[0].lower()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (answers(b"SSH-2.0-OpenSSH\r\n\r\n"), "upstream_invalid"),
        (answers(b""), "upstream_gone"),
    ],
    ids=["no HTTP", "gone"],
)
async def test_an_upstream_without_an_answer_is_refused_once(script: Script, code: str) -> None:
    """With the code of its fault; nothing else is sent."""
    async with passing(script) as one:
        found = await one.run(Exchange(method="GET"))
    assert found.refused is not None
    assert found.refused.code == code
    assert found.sent == []


async def test_an_upstream_that_is_not_there_is_refused_once() -> None:
    """502; and 503 before the start and after the stop, when the process has no connections."""
    async with passing(answers(b"")) as one:
        pass
    for code in ("starting", "upstream_refused"):
        found = await one.run(Exchange(method="GET"))
        assert found.refused is not None
        assert found.refused.code == code
        assert found.sent == []
        await one.app.start()
    await one.app.stop()


async def test_an_upstream_that_is_silent_is_refused_in_time() -> None:
    """504, and not before the upstream's time is over."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with passing(silent) as one:
        began = asyncio.get_running_loop().time()
        found = await one.run(Exchange(method="GET"))
        assert asyncio.get_running_loop().time() - began >= TIME_S
        assert found.refused is not None
        assert found.refused.code == "upstream_timeout"


async def test_a_client_that_leaves_before_its_answer_ends_its_request() -> None:
    """The upstream's connection is closed, and no answer is tried."""
    ended = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        ended.set()

    async with passing(waits) as one:
        found = await one.run(Leaving(b"first"))
        async with asyncio.timeout(within(5)):
            await ended.wait()
    assert (found.refused, found.sent) == (None, [])


async def test_a_client_that_leaves_during_its_answer_ends_it() -> None:
    """An answer may go on for ever: the upstream's connection is closed when the client leaves."""
    ended = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await reader.read(-1)
        ended.set()

    async with passing(endless) as one:
        exchange = Exchange(method="GET")
        running = asyncio.ensure_future(one.run(exchange))
        async with asyncio.timeout(within(5)):
            while len(exchange.sent) < 2:
                exchange.changed.clear()
                await exchange.changed.wait()
            exchange.left.set()
            await running
            await ended.wait()
    assert (exchange.body, exchange.whole, exchange.aborted) == (b"data: 1\n\n", False, False)


async def test_an_answer_that_breaks_off_breaks_off_for_the_client() -> None:
    """It is not ended as if it were whole: the client's connection is dropped."""
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    async with passing(answers(short)) as one:
        found = await one.run(Exchange(method="GET"))
    assert (found.status, found.body, found.whole, found.aborted) == (200, b"half", False, True)
    async with passing(answers(short)) as one:
        exchange = Exchange(method="GET")
        exchange.scope["extensions"] = {}  # a server that cannot drop a connection
        found = await one.run(exchange)
    assert (found.body, found.whole) == (b"half", False)
