"""Serves the bidirectional fallbacks of the Centrifuge protocol: HTTP streaming and SSE out, `/emulation` in.

They are for networks that break WebSockets. HTTP streams speak JSON or protobuf, SSE only JSON. Not here: admission
and the session, which are the `UpgradeHandler` and `Receiver` of WebSockets. Rules: the SSE URL holds the whole
connect command, so a token in it is `credential_in_url` and only the cookie counts; commands come in under a session
secret that only the stream's own client has; a stream's buffer is bounded like a WebSocket's; commands forwarded to
another node, which alone can check the secret, are bounded per client address.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from narthex.app.attempts import Attempts
from narthex.domain.addresses import bucket
from narthex.domain.carriers import connect_header
from narthex.domain.endpoints import EMULATION, HTTP_STREAM, SSE
from narthex.domain.refusals import Refusal, rate_limited
from narthex.ports.broker import Control
from narthex.ports.edge import (
    CLOSE_S,
    HIGH_MARK_BYTES,
    LOW_MARK_BYTES,
    Decision,
    Deny,
    DirectSender,
    Receiver,
    SendProgress,
    UpgradeHandler,
)
from narthex.ports.later import settled
from narthex.protocol.codec import JSON, PROTOBUF
from narthex.protocol.codes import Disconnect
from narthex.protocol.commands import FrameError, decode_frame
from narthex.protocol.framing import Framing, Prepared
from narthex.protocol.protobuf_schema import MEDIA_TYPE, EmulationRequest, decode_emulation, is_protobuf
from narthex.web.fields import bounded_body
from narthex.web.problems import problem
from narthex.web.request_rules import RequestAuthenticator, abort_of, head_of

ENVELOPE_BYTES: Final = 1024  # of an /emulation body, beside the message
ESCAPED: Final = 3  # a message's growth as a JSON string: `é` is 2 bytes, `\u00e9` is 6
FORWARDS: Final = 600  # per address and window: a connection's 60 commands a second
FORWARDS_WINDOW_S: Final = 10.0
FORWARDERS: Final = 1_000  # addresses remembered: 5 MB at 8 bytes a command; the oldest go first

Broadcast = Callable[[Control], Awaitable[None]]
Name = Annotated[str, msgspec.Meta(max_length=100)]  # ours have 32 and 17 characters


class Emulated(msgspec.Struct, frozen=True):
    """The body of POST /emulation."""

    session: Name
    node: Name
    data: str


class StreamSocket:
    """`ports.edge.Socket` over a streaming HTTP response. The response's generator is `chunks`."""

    direct_sender: DirectSender | None = None  # a stream is always written by its response

    def __init__(self, framing: Framing, receiver: Receiver) -> None:
        self.framing = framing
        self.codec = PROTOBUF if framing is Framing.PROTOBUF_HTTP_STREAM else JSON
        self.session = secrets.token_urlsafe(24)
        self.receiver = receiver
        self._parts: list[bytes] = []
        self._size = 0
        self._taken = 0
        self._paused = False
        self._ended: tuple[int, str] | None = None
        self._told = False
        self._ready = asyncio.Event()
        self._overdue: asyncio.TimerHandle | None = None
        self.drop: Callable[[], None] = lambda: None  # the response sets it: drops the client's connection

    def send(self, message: Prepared) -> None:
        """See `Socket`."""
        self.send_frames(message.framed(self.framing))

    def send_frames(self, frames: bytes) -> None:
        """See `Socket`."""
        if self._ended is not None:
            return
        self._parts.append(frames)
        self._size += len(frames)
        self._ready.set()
        if self._size > HIGH_MARK_BYTES and not self._paused:
            self._paused = True
            self.receiver.writable(False)

    def send_rest(self, rest: bytes) -> None:
        """See `Socket`; without a direct sender nothing is left over."""
        self.send_frames(rest)

    def buffered(self) -> int:
        """See `Socket`."""
        return self._size

    def send_progress(self) -> SendProgress:
        """See `Socket`: a chunk counts as sent when the response has taken it."""
        return SendProgress(self._size, self._taken)

    def close(self, code: int, reason: str) -> None:
        """See `Socket`: sends the disconnect push in place of the close frame."""
        self.send(Prepared(self.codec.disconnect(Disconnect(code, reason))))
        self._end(code, reason)

    def abort(self) -> None:
        """See `Socket`."""
        self._parts.clear()
        self._end(1006, "")

    def _end(self, code: int, reason: str) -> None:
        if self._ended is None:
            self._ended = (code, reason)
            self._ready.set()
            # a client that reads nothing blocks the response and would hold its slot for ever
            self._overdue = asyncio.get_running_loop().call_later(CLOSE_S, self._drop)

    def _drop(self) -> None:
        self.drop()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks that the response sends, until either side ends it."""
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                parts, self._parts = self._parts, []
                if parts:
                    yield b"".join(parts)
                    self._taken += sum(map(len, parts))
                    self._size = sum(map(len, self._parts))
                    if self._paused and self._size <= LOW_MARK_BYTES:
                        self._paused = False
                        self.receiver.writable(True)
                if self._ended is not None and not self._parts:
                    return
        finally:
            self.gone()

    def gone(self) -> None:
        """The response is over, or never began: call the receiver once."""
        code, reason = self._ended or (1006, "")
        self._end(code, reason)
        if self._overdue is not None:
            self._overdue.cancel()
        if not self._told:
            self._told = True
            self.receiver.closed(code, reason)


class StreamedAnswer(StreamingResponse):
    """A streamed answer that calls `on_end` on every way out, also when the client left before it began."""

    def __init__(
        self, chunks: AsyncIterator[bytes], media: str, headers: dict[str, str], on_end: Callable[[], None]
    ) -> None:
        super().__init__(chunks, media_type=media, headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


class Fallbacks:
    """The three routes, and the streams that are open on this node.

    Args:
        upgrade_handler: admits clients.
        node: this node's name.
        broadcast: forwards a command to the node that has its stream.
        http: CORS, and the client's address.
        message_bytes: the largest message of a client, as on a WebSocket.
    """

    def __init__(
        self,
        upgrade_handler: UpgradeHandler,
        node: str,
        broadcast: Broadcast,
        http: RequestAuthenticator,
        *,
        message_bytes: int,
    ) -> None:
        self._upgrade_handler = upgrade_handler
        self._node = node
        self._broadcast = broadcast
        self._http = http
        self._message_bytes = message_bytes
        self._forwarded = Attempts(FORWARDS, FORWARDS_WINDOW_S, max_entries=FORWARDERS)
        self._streams: dict[str, StreamSocket] = {}

    def routes(self) -> list[BaseRoute]:
        """Starlette routes."""
        return [
            Route(HTTP_STREAM, self.http_stream, methods=["POST"]),
            Route(SSE, self.sse, methods=["GET"]),
            Route(EMULATION, self.emulation, methods=["POST"]),
            # SDKs post JSON, so a browser sends a preflight when the page is of another origin
            Route(HTTP_STREAM, self._asked_first, methods=["OPTIONS"]),
            Route(EMULATION, self._asked_first, methods=["OPTIONS"]),
        ]

    def control(self, message: Control) -> None:
        """Handle a Control of kind `emulation` from another node."""
        stream = self._streams.get(str(message.data["session"]))
        if stream is not None:
            data, binary = str(message.data["data"]).encode(), bool(message.data.get("binary"))
            stream.receiver.message(b64decode(data) if binary else data, binary=binary)

    async def _asked_first(self, request: Request) -> Response:
        """Answer a browser's OPTIONS."""
        return self._http.cors_preflight(request, ("POST", "OPTIONS"))

    async def http_stream(self, request: Request) -> Response:
        """POST with the connect command as its body; the answer is newline-delimited JSON until the stream ends, or
        protobuf messages behind their lengths where the body is one.
        """
        body = await bounded_body(request, self._message_bytes)
        if body is None:
            return self._refused(request, self._too_large())
        return await self._stream(request, Framing.HTTP_STREAM, body, "application/json")

    async def sse(self, request: Request) -> Response:
        """GET with the connect command in `cf_connect`; one event a message."""
        command = request.query_params.get("cf_connect", "").encode()
        if _has_token(command):
            refusal = Refusal(
                code="credential_in_url",
                detail="The SSE URL contains a token; SSE requests authenticate with the cookie only.",
                carriers_checked=("query",),
            )
            trace_id = self._upgrade_handler.refused_early(refusal, head_of(request))
            return self._refused(request, refusal, trace_id)
        if len(command) > self._message_bytes:
            return self._refused(request, self._too_large())
        return await self._stream(request, Framing.SSE, command, "text/event-stream")

    async def _stream(self, request: Request, framing: Framing, first: bytes, media: str) -> Response:
        decision: Decision = await settled(self._upgrade_handler.decide(head_of(request)))
        if isinstance(decision, Deny):
            return self._refused(request, decision.refusal, decision.trace_id)
        receiver = decision.receiver
        if decision.protobuf:
            framing, media = Framing.PROTOBUF_HTTP_STREAM, MEDIA_TYPE
        socket = StreamSocket(framing, receiver)
        self._streams[socket.session] = socket
        receiver.opened(socket)
        receiver.message(first, binary=decision.protobuf)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **self._http.cors(request)}

        def ended() -> None:
            self._streams.pop(socket.session, None)
            socket.gone()

        if (drop := abort_of(request)) is not None:
            socket.drop = drop
        return StreamedAnswer(socket.chunks(), media, headers, ended)

    async def emulation(self, request: Request) -> Response:
        """Commands for an open stream on any node. 204, or 404 when this node should have the stream and has not."""
        refused = self._http.origin_refusal(request)  # the stream's session id is a credential too
        if refused is not None:
            return self._refused(request, refused)
        body = await bounded_body(request, ESCAPED * self._message_bytes + ENVELOPE_BYTES)
        if body is None:
            return self._refused(request, self._too_large())
        binary = is_protobuf(request.headers.get("content-type"))
        try:
            posted = decode_emulation(body) if binary else _emulated(body)
        except FrameError:
            refusal = Refusal(code="bad_request", detail="The body is not {session, node, data}.")
            return self._refused(request, refusal)
        if len(posted.data) > self._message_bytes:
            return self._refused(request, self._too_large())
        if posted.node and posted.node != self._node:
            return await self._forward(request, posted, binary=binary)
        stream = self._streams.get(posted.session)
        if stream is None:
            return Response(status_code=404, headers=self._http.cors(request))
        stream.receiver.message(posted.data, binary=binary)
        return Response(status_code=204, headers=self._http.cors(request))

    async def _forward(self, request: Request, posted: EmulationRequest, *, binary: bool) -> Response:
        """Forward a command, limited per address because only the other node knows whether the session exists."""
        wait_s = self._forwarded.take(bucket(self._http.address(request)), time.monotonic())
        if wait_s > 0:
            detail = f"This address may send at most {FORWARDS} commands to other nodes in {FORWARDS_WINDOW_S:g} s."
            return self._refused(request, rate_limited(wait_s, detail))
        text = b64encode(posted.data) if binary else posted.data
        data: dict[str, object] = {"session": posted.session, "data": text.decode(), "binary": binary}
        await self._broadcast(Control("emulation", data, posted.node))
        return Response(status_code=204, headers=self._http.cors(request))

    def _too_large(self) -> Refusal:
        return Refusal(code="bad_request", detail=f"A message may have at most {self._message_bytes} bytes.")

    def _refused(self, request: Request, refusal: Refusal, trace_id: str = "") -> Response:
        return problem(refusal, trace_id, headers=self._http.cors(request))


def _emulated(body: bytes) -> EmulationRequest:
    """Raises: FrameError."""
    try:
        posted = msgspec.json.decode(body, type=Emulated)
        return EmulationRequest(posted.node, posted.session, posted.data.encode())
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as fault:
        raise FrameError("not an emulation request") from fault


def _has_token(command: bytes) -> bool:
    try:  # with the session's own decoder: two decoders could disagree about the token
        return any(
            found.connect is not None and (found.connect.token or connect_header(found.connect.headers))
            for found in decode_frame(command)
        )
    except FrameError:
        return False  # the session reports the fault
