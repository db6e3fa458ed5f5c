"""The socket over a streamed answer, without a server: its buffer, its client's lag, and its one end."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from starlette.requests import Request

from narthex.domain.refusals import Refusal
from narthex.ports.broker import Control
from narthex.ports.edge import (
    ABORT,
    HIGH_MARK_BYTES,
    LOW_MARK_BYTES,
    Accept,
    Deny,
    RequestHead,
    SendProgress,
    Socket,
)
from narthex.protocol.codes import SHUTDOWN
from narthex.protocol.framing import Framing, Prepared
from narthex.web import fallbacks
from narthex.web.fallbacks import Fallbacks, StreamSocket
from narthex.web.request_rules import RequestAuthenticator


class Listener:
    """A `Receiver` that keeps its calls, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.socket: Socket | None = None

    def opened(self, socket: Socket) -> None:
        """See `Receiver`."""
        self.socket = socket

    def message(self, data: bytes, *, binary: bool) -> None:
        """See `Receiver`."""
        self.calls.append(("message", data, binary))

    def writable(self, ready: bool) -> None:
        """See `Receiver`."""
        self.calls.append(("writable", ready))

    def closed(self, code: int, reason: str) -> None:
        """See `Receiver`."""
        self.calls.append(("closed", code, reason))


def opened(framing: Framing = Framing.HTTP_STREAM) -> tuple[StreamSocket, Listener]:
    listener = Listener()
    return StreamSocket(framing, listener), listener


async def test_a_client_lags_past_the_high_mark_and_until_the_low_mark() -> None:
    """At the high mark it does not lag yet; each change is reported once."""
    socket, listener = opened()
    chunks = socket.chunks()
    socket.send_frames(b"x" * HIGH_MARK_BYTES)
    assert (socket.buffered(), listener.calls) == (HIGH_MARK_BYTES, [])
    socket.send_frames(b"x")
    socket.send_rest(b"x")
    assert listener.calls == [("writable", False)]
    assert await anext(chunks) == b"x" * (HIGH_MARK_BYTES + 2)
    assert socket.send_progress() == SendProgress(HIGH_MARK_BYTES + 2, 0), (
        "the response holds it until it asks for more"
    )
    socket.send_frames(b"y" * (LOW_MARK_BYTES + 1))
    assert await anext(chunks) == b"y" * (LOW_MARK_BYTES + 1)
    assert socket.send_progress() == SendProgress(LOW_MARK_BYTES + 1, HIGH_MARK_BYTES + 2)
    assert listener.calls == [("writable", False)]
    socket.send_frames(b"z" * LOW_MARK_BYTES)
    assert await anext(chunks) == b"z" * LOW_MARK_BYTES
    assert listener.calls == [("writable", False), ("writable", True)]
    await chunks.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert listener.calls[2:] == [("closed", 1006, "")]


@pytest.mark.parametrize("framing", [Framing.HTTP_STREAM, Framing.SSE])
async def test_a_close_is_read_last_and_reported_once(framing: Framing) -> None:
    """Earlier messages come before it, later ones are dropped."""
    socket, listener = opened(framing)
    socket.send(Prepared(b"{}"))
    socket.close(SHUTDOWN.code, SHUTDOWN.reason)
    socket.send(Prepared(b'{"late":1}'))
    socket.close(3000, "another")
    text = b"".join([chunk async for chunk in socket.chunks()]).decode()
    lines = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    assert [lines[0], lines[1]["push"]["disconnect"]["code"], len(lines)] == [{}, SHUTDOWN.code, 2]
    socket.gone()
    assert listener.calls == [("closed", SHUTDOWN.code, SHUTDOWN.reason)]


async def test_an_abort_sends_nothing_more() -> None:
    """Not even the backlog; it ends as a lost connection."""
    socket, listener = opened()
    socket.send(Prepared(b"{}"))
    socket.abort()
    assert [chunk async for chunk in socket.chunks()] == []
    assert listener.calls == [("closed", 1006, "")]


@pytest.mark.parametrize("read", [True, False])
async def test_a_client_that_does_not_read_its_close_is_dropped(
    monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """After `CLOSE_S`, and not when it has read everything before that."""
    monkeypatch.setattr(fallbacks, "CLOSE_S", 0.01)
    socket, _ = opened()
    dropped = asyncio.Event()
    socket.drop = dropped.set
    socket.close(SHUTDOWN.code, SHUTDOWN.reason)
    if read:
        async for _chunk in socket.chunks():
            pass
        await asyncio.sleep(0.05)  # longer than the time after which it would be dropped
    else:
        async with asyncio.timeout(5):
            await dropped.wait()
    assert dropped.is_set() is not read


class FixedHandler:
    """Decides as configured."""

    def __init__(self, decision: Accept | Deny) -> None:
        self.decision = decision
        self.heads: list[RequestHead] = []

    def decide(self, head: RequestHead) -> Accept | Deny:
        """See `ports.edge.UpgradeHandler`."""
        self.heads.append(head)
        return self.decision

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        """See `ports.edge.UpgradeHandler`."""
        return "trace-early"


def request(path: str, body: bytes = b"", query: bytes = b"") -> Request:
    """POST or GET, from a peer over TLS."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": path,
        "query_string": query,
        "headers": [(b"x-a", b"\xe9")],
        "client": ("192.0.2.1", 4711),
        "scheme": "https",
        "http_version": "1.0",
    }
    return Request(scope, receive)


async def unsent(message: Control) -> None:
    raise AssertionError(message)


class Rules(RequestAuthenticator):
    """The gateway's rules, with one answer to every request."""

    def __init__(self, refusal: Refusal | None) -> None:
        self._refusal = refusal

    def cors(self, request: Request) -> dict[str, str]:
        del request
        return {"X-Cors": "1"}

    def address(self, request: Request) -> str:
        del request
        return "192.0.2.1"

    def origin_refusal(self, request: Request, *, cookie: bool = False) -> Refusal | None:
        del request, cookie
        return self._refusal


def stream_routes(handler: FixedHandler, origin: Refusal | None = None) -> Fallbacks:
    return Fallbacks(handler, "node-1", unsent, Rules(origin), message_bytes=100)


async def test_a_command_from_another_node_reaches_its_stream() -> None:
    """By its session; a stream that ended has none. The checked head is the request's own."""
    listener = Listener()
    handler = FixedHandler(Accept(receiver=listener))
    found = stream_routes(handler)
    aborted: list[bool] = []
    asked = request("/connection/http_stream", b'{"id":1,"connect":{}}', b"a=b")
    asked.scope["extensions"] = {ABORT: {"abort": lambda: aborted.append(True)}}
    answer = await found.http_stream(asked)
    assert handler.heads == [
        RequestHead(
            method="POST",
            path="/connection/http_stream",
            query="a=b",
            headers=[("x-a", "é")],
            http_version="1.0",
            peer=("192.0.2.1", 4711),
            secure=True,
        )
    ]
    assert isinstance(listener.socket, StreamSocket)
    command = Control("emulation", {"session": listener.socket.session, "data": "{}"}, "node-1")
    found.control(command)
    found.control(Control("emulation", {"session": "another", "data": "{}"}, "node-1"))
    binary = {"session": listener.socket.session, "data": "AAE=", "binary": True}
    found.control(Control("emulation", binary, "node-1"))
    expected = [
        ("message", b'{"id":1,"connect":{}}', False),
        ("message", b"{}", False),
        ("message", b"\x00\x01", True),
    ]
    assert listener.calls == expected

    async def left() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        del message

    async with asyncio.timeout(5):
        await answer(asked.scope, left, send)
    listener.socket.drop()
    found.control(command)
    assert aborted == [True]
    assert listener.calls == [*expected, ("closed", 1006, "")]


async def test_a_stream_that_is_refused_is_answered_with_the_reason() -> None:
    """By the upgrade handler, with its trace id; over SSE a token in the URL is refused before the handler is
    called.
    """
    handler = FixedHandler(Deny(refusal=Refusal(code="overloaded"), trace_id="trace-1"))
    found = stream_routes(handler)
    answer = await found.sse(request("/connection/sse", query=b"cf_connect=%7B%7D"))
    assert (answer.status_code, json.loads(bytes(answer.body))["trace_id"]) == (503, "trace-1")
    assert answer.headers["X-Cors"] == "1"
    token = b"cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%22token%22%3A%22t%22%7D%7D"
    refused = await found.sse(request("/connection/sse", query=token))
    body = json.loads(bytes(refused.body))
    assert (body["code"], body["trace_id"]) == ("credential_in_url", "trace-early")
    assert len(handler.heads) == 1


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 400)])
async def test_a_first_message_is_as_large_as_any(more: int, status: int) -> None:
    """In the body or in the URL; one byte more is refused, and the handler is not called."""
    message = b'{"id":1,"connect":{"name":"' + b"n" * (100 - 30 + more) + b'"}}'
    assert len(message) == 100 + more
    handler = FixedHandler(Accept(receiver=Listener()))
    found = stream_routes(handler)
    posted = await found.http_stream(request("/connection/http_stream", message))
    asked = await found.sse(request("/connection/sse", query=b"cf_connect=" + quote(message).encode()))
    assert [posted.status_code, asked.status_code] == [status, status]
    assert len(handler.heads) == (0 if more else 2)


@pytest.mark.parametrize(("more", "status"), [(0, 404), (1, 400)])
async def test_a_command_for_a_stream_is_as_large_as_any(more: int, status: int) -> None:
    """However it is escaped: a character of two bytes may take six in the body."""
    found = stream_routes(FixedHandler(Accept(receiver=Listener())))
    for data in ("é" * 50 + "x" * more, "x" * (100 + more)):
        body = json.dumps({"session": "s", "node": "node-1", "data": data}).encode()
        assert (await found.emulation(request("/emulation", body))).status_code == status


async def test_a_page_that_may_not_use_a_credential_cannot_send_a_command() -> None:
    """The session of a stream is a credential too."""
    found = stream_routes(
        FixedHandler(Accept(receiver=Listener())), origin=Refusal(code="origin_not_allowed")
    )
    answer = await found.emulation(request("/emulation", b'{"session":"s","node":"","data":"{}"}'))
    assert (answer.status_code, json.loads(bytes(answer.body))["code"]) == (403, "origin_not_allowed")
