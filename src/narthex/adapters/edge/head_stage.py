"""The first stage of a connection, until its first request head is read; it fills uvicorn's `http` slot.

Not here: the next stage, which is an upgrade (`upgrades`, `websocket`), uvicorn (`http`), or a refusal (`tcp`), and the
check of a head (`rules`). Rules: received bytes are read at the end of their loop iteration (`upgrade_batch`); every
head has its deadline; every refused request gets an answer and a FIN; a connection that never sent a byte is closed
without an answer, because it made no request (browsers open such connections in advance).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from narthex.adapters.edge.edge import Edge, HttpContext
from narthex.adapters.edge.head import Complete, HeadReader, malformed, request_head
from narthex.adapters.edge.http import AT_LIMIT, serve_http
from narthex.adapters.edge.responses import refusal_response
from narthex.adapters.edge.rules import MountedUpgrade, Upgrade, classify_head
from narthex.adapters.edge.tcp import TOO_MANY, Stage, TcpConnection
from narthex.adapters.edge.upgrade_batch import PendingUpgrade
from narthex.adapters.edge.upgrades import begin
from narthex.domain.refusals import Refusal

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState


class RequestHeadStage(Stage):
    """A connection before its first request is known."""

    __slots__ = ("_read", "_reader", "_unread")

    def __init__(self, tcp: TcpConnection) -> None:
        self.tcp = tcp
        self._reader: HeadReader | None = None
        self._read = b""  # at most `head_bytes`
        self._unread = b""  # received in this loop iteration

    def data_received(self, data: bytes) -> None:
        """Bytes of the head and behind it, which are read at the end of this loop iteration."""
        edge = self.tcp.edge
        if not self._unread:
            edge.upgrades.add(self)
        self._unread += data
        if len(self._unread) > edge.limits.head_bytes:  # more than a head may have: check it now
            self._read_now()

    def read(self) -> PendingUpgrade | None:
        """Read this iteration's bytes; returns the resulting 101, if there is one."""
        data, self._unread = self._unread, b""
        if not data:  # the peer has left, or the bytes were read already
            return None
        reader = self._reader
        if reader is None:
            limits = self.tcp.edge.limits
            reader = self._reader = HeadReader(limits.head_bytes, limits.headers)
        outcome = reader.feed(data)
        if outcome is None:
            self._read += data
        elif isinstance(outcome, Refusal):
            self._refuse(outcome)
        else:
            return self._route(outcome, self._read + data if self._read else data)
        return None

    def eof_received(self) -> bool | None:
        """The peer sends no more bytes; an incomplete head gets its answer all the same."""
        if self._unread and not self._read_now():
            return self.tcp.stage.eof_received()
        if self._reader is None:
            return False
        self._refuse(malformed("The connection ended before the request head was complete."), eof=True)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer left."""
        del exc
        self._unread = b""
        self._drop_reader()

    def expired(self) -> None:
        """No complete head arrived in time."""
        if self._unread and not self._read_now():
            return
        if self._reader is None:
            self.tcp.transport.close()
        else:
            self._refuse(Refusal(code="handshake_timeout", detail="The request head did not arrive in time."))

    def evict(self) -> None:
        """See `Stage`. A request that has begun gets its answer, without lingering."""
        edge, transport = self.tcp.edge, self.tcp.transport
        self._unread = b""
        if self._reader is not None:
            self._drop_reader()
            trace_id = edge.record(TOO_MANY, None)
            common = edge.common_headers()
            transport.write(refusal_response(TOO_MANY, trace_id, root=edge.root_path, common=common))
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def _read_now(self) -> bool:
        """Read this iteration's bytes at once; returns whether the connection is still in this stage then."""
        pending = self.read()
        if pending is not None:
            pending.complete()
        return self.tcp.stage is self

    def _route(self, complete: Complete, data: bytes) -> PendingUpgrade | None:
        tcp = self.tcp
        edge = tcp.edge
        self._reader = None
        head = request_head(
            complete.fields,
            peer=tcp.peer,
            secure=edge.secure,
            received_at=tcp.accepted_at,
        )
        classified = classify_head(complete.fields, head, edge.rules)
        if not tcp.attribute(head):
            classified = AT_LIMIT
        if isinstance(classified, Upgrade):
            return begin(tcp, head, classified, data[complete.size :])
        if isinstance(classified, Refusal):
            tcp.refuse(classified, head)
        elif isinstance(classified, MountedUpgrade):
            from narthex.adapters.edge.mounted import serve_mounted  # most gateways have no such routes

            serve_mounted(tcp, data)
        else:
            serve_http(tcp, data)
        return None

    def _refuse(self, refusal: Refusal, *, eof: bool = False) -> None:
        self._drop_reader()
        self.tcp.refuse(refusal, None, eof=eof)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.drop()
            self._reader = None


class ProtocolFactory:
    """uvicorn calls it for each accepted connection, in place of a protocol class."""

    __slots__ = ("_edge",)

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> TcpConnection:
        """A new connection's protocol."""
        if self._edge.http is None:
            self._edge.http = HttpContext(config, server_state, app_state)
        tcp = TcpConnection(self._edge)
        tcp.stage = RequestHeadStage(tcp)
        return tcp
