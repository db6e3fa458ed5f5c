"""A real server in a separate thread, and a peer with a plain socket, for the edge's tests."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Self

import uvloop
from websockets.utils import apply_mask

from narthex.adapters.edge.echo import Echo
from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.listeners import listen
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import EdgeServer
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, RequestHead, Socket

TIME_UNIT_S = 10.0  # how long a peer waits for what must come
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3's own sample
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class Recorder:
    """A receiver that keeps every call; `events` can be waited on from another thread."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.socket: Socket | None = None

    def opened(self, socket: Socket) -> None:
        self.socket = socket
        self.events.put(("opened",))

    def message(self, data: bytes, *, binary: bool) -> None:
        if data == b"raise":
            raise RuntimeError("a bug of the receiver's")
        if data == b"abort" and self.socket is not None:
            self.socket.abort()
        self.events.put(("message", data, binary))

    def writable(self, ready: bool) -> None:
        self.events.put(("writable", ready))

    def closed(self, code: int, reason: str) -> None:
        self.events.put(("closed", code, reason))

    def next(self) -> tuple[Any, ...]:
        """The next call; fails without one."""
        return self.events.get(timeout=TIME_UNIT_S)


class PathHandler:
    """Decides by path, so that a test chooses its outcome. `/ws` records, `/ws/conformance` echoes."""

    def __init__(self) -> None:
        self.receivers: queue.Queue[Recorder] = queue.Queue()
        self.early: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self.heads: queue.Queue[RequestHead] = queue.Queue()
        self.waiting: queue.Queue[asyncio.Future[None]] = queue.Queue()
        self.cancelled = threading.Event()

    paths = frozenset(
        {
            "/ws",
            "/ws/conformance",
            "/deny",
            "/explain",
            "/slow",
            "/slow-deny",
            "/broken",
            "/forged",
            "/unoffered",
        }
    )

    def decide(self, head: RequestHead) -> Decision | Awaitable[Decision]:
        self.heads.put(head)
        match head.path:
            case "/deny":
                refusal = Refusal(code="auth_unavailable", retry_after_s=3, carriers_checked=("header",))
                return Deny(refusal=refusal, trace_id="trace-1", headers=[("X-Extra", "yes")])
            case "/explain":
                return Deny(refusal=Refusal(code="token_expired"), trace_id="trace-2", explain=True)
            case "/slow" | "/slow-deny":
                return self._later(head)
            case "/broken":
                raise RuntimeError("a bug of the handler's")
            case "/forged":
                return Accept(receiver=self._recorder(), headers=[("X-Extra", "a\r\nSet-Cookie: b")])
            case "/unoffered":
                return Accept(receiver=self._recorder(), subprotocol="never-offered")
            case "/ws/conformance":
                return Accept(receiver=Echo(), limits="conformance")
            case _:
                offered = (head.get("sec-websocket-protocol") or "").split(", ")
                chosen = "jwt-auth" if "jwt-auth" in offered else None
                return Accept(receiver=self._recorder(), subprotocol=chosen)

    async def _later(self, head: RequestHead) -> Decision:
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.put(release)
        try:
            await release
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if head.path == "/slow-deny":
            return Deny(refusal=Refusal(code="token_invalid"), trace_id="trace-3")
        return Accept(receiver=self._recorder())

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        self.early.put((refusal.code, head.path if head is not None else None))
        return "trace-0"

    def _recorder(self) -> Recorder:
        recorder = Recorder()
        self.receivers.put(recorder)
        return recorder


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers with path and body; `/port` with the peer's port, `/stuck` never, `/slow-answer`
    after 0.3 s, `/stream` in two pieces with 1.5 s between.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/stuck":
        await receive()
        return
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.sleep(1.5)
        await send({"type": "http.response.body", "body": b"last"})
        return
    if scope["path"] == "/slow-answer":
        await asyncio.sleep(0.3)
    answer = scope["path"].encode() + b"|" + body
    if scope["path"] == "/port":
        answer = str(scope["client"][1]).encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class Running:
    """A server that serves in a thread.

    Args:
        limits: bounds, the defaults when None.
        loop: a key of `LOOPS`.
        handler: decides; a `PathHandler` when None.
    """

    def __init__(
        self, limits: EdgeLimits | None = None, *, loop: str = "uvloop", handler: PathHandler | None = None
    ) -> None:
        self.gate = handler or PathHandler()
        rules = HeadRules(
            allowed_host=lambda host: host in ("localhost", "127.0.0.1"), websocket_paths=PathHandler.paths
        )
        self.edge = Edge(self.gate, rules=rules, limits=limits)
        self._started = threading.Event()
        self._factory = LOOPS[loop]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0
        self.loop: asyncio.AbstractEventLoop

    def __enter__(self) -> Self:
        listeners = listen("127.0.0.1", 0, send_buffer_bytes=self.edge.limits.send_buffer_bytes)
        self.port = listeners[0].getsockname()[1]
        self._listeners = listeners
        self._thread.start()
        if not self._started.wait(TIME_UNIT_S):
            raise TimeoutError("the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.server.stop)
        self.loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(TIME_UNIT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = self.new_server()
        await self.server.serve(sockets=self._listeners)

    def new_server(self) -> EdgeServer:
        """The server, not yet serving."""
        return EdgeServer(
            echo_app,
            self.edge,
            lifespan="off",
            grace_s=2.0,
            own_signals=False,
            on_started=lambda _: self._started.set(),
        )

    def alive(self) -> bool:
        """Whether the server's thread still runs."""
        return self._thread.is_alive()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the server's loop and return its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIME_UNIT_S)

    def peer(self) -> Peer:
        """A new connection."""
        return Peer(self.port)

    @contextlib.contextmanager
    def websocket(self, path: str = "/ws", *, extra: str = "", behind: bytes = b"") -> Iterator[Peer]:
        """A connection after its 101."""
        with self.peer() as peer:
            peer.send(upgrade(path, extra=extra) + behind)
            assert peer.head().status == 101
            yield peer


class Answer(NamedTuple):
    """An HTTP answer's head."""

    status: int
    raw: bytes
    headers: dict[str, str]


class Peer:
    """The other end, without any logic."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIME_UNIT_S)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()  # the caller gets no peer that it could close
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def exactly(self, count: int) -> bytes:
        """This many bytes; EOFError when the server's FIN comes first."""
        while len(self._read) < count:
            part = self.socket.recv(65_536)
            if not part:
                raise EOFError(self._read)
            self._read += part
        taken, self._read = self._read[:count], self._read[count:]
        return taken

    def until(self, mark: bytes) -> bytes:
        """Bytes up to and with `mark`."""
        while mark not in self._read:
            part = self.socket.recv(65_536)
            if not part:
                raise EOFError(self._read)
            self._read += part
        end = self._read.index(mark) + len(mark)
        return self.exactly(end)

    def rest(self) -> bytes:
        """Everything until the server's FIN; an RST raises ConnectionResetError."""
        while part := self.socket.recv(65_536):
            self._read += part
        taken, self._read = self._read, b""
        return taken

    def head(self) -> Answer:
        """The head of an HTTP answer."""
        raw = self.until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split(" ")[1]), raw, {name.lower(): value for name, value in pairs})

    def answer(self) -> tuple[Answer, bytes]:
        """A whole HTTP answer with a Content-Length."""
        head = self.head()
        return head, self.exactly(int(head.headers["content-length"]))

    def frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame."""
        first, second = self.exactly(2)
        assert second < 128, "a server must not mask"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self.exactly(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", self.exactly(8))
        return first, self.exactly(size)

    def close_frame(self) -> tuple[int, str]:
        """The next frame, which is a close frame."""
        first, payload = self.frame()
        assert first == 0x88, (first, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")


def upgrade(path: str = "/ws", *, extra: str = "", host: str = "localhost") -> bytes:
    """A correct upgrade request."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{extra}\r\n"
    ).encode("latin-1")


def masked(opcode: int, payload: bytes = b"", *, final: bool = True, rsv: int = 0) -> bytes:
    """A client's frame."""
    mask = b"\x11\x22\x33\x44"
    first = (0x80 if final else 0) | rsv | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + mask + apply_mask(payload, mask)
