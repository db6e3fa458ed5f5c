"""`web.fallbacks`: what a stream does after its end, and before its beginning."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.ports.edge import Socket
from narthex.protocol.framing import Framing, Prepared
from narthex.web import fallbacks
from narthex.web.fallbacks import StreamSocket


class Noted:
    """A receiver that notes its end."""

    def __init__(self) -> None:
        self.closes: list[tuple[int, str]] = []

    def opened(self, socket: Socket) -> None: ...
    def message(self, data: bytes, *, binary: bool) -> None: ...
    def writable(self, ready: bool) -> None: ...

    def closed(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))


async def test_nothing_follows_the_end() -> None:
    """What is sent to a stream that is closing is not written, and not held."""
    receiver = Noted()
    socket = StreamSocket(Framing.HTTP_STREAM, receiver)
    socket.send(Prepared(b'{"first":1}'))
    socket.close(3001, "shutdown")
    held = socket.buffered()
    socket.send(Prepared(b'{"late":1}'))
    socket.send_rest(b"late")
    assert socket.buffered() == held
    written = b"".join([part async for part in socket.chunks()])
    assert b"first" in written
    assert b"3001" in written
    assert b"late" not in written
    assert receiver.closes == [(3001, "shutdown")]


async def test_a_stream_whose_client_left_before_it_began_ends() -> None:
    """Its response raises before the first chunk: the receiver is told all the same, once, and the stream forgotten."""
    receiver = Noted()
    socket = StreamSocket(Framing.SSE, receiver)
    ended: list[str] = []

    def on_end() -> None:
        ended.append("end")
        socket.gone()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        raise OSError("the client has left")

    stream = fallbacks._Stream(socket, "text/event-stream", {}, on_end)
    with pytest.raises(BaseException):  # noqa: B017 - which one is Starlette's business
        await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert ended == ["end"]
    assert receiver.closes == [(1006, "")]
