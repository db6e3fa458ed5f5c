"""Serves HTTP requests with uvicorn's httptools protocol, within the edge's limits on every request of a connection.

uvicorn parses, runs the web application and frames its answers. This subclass adds head limits and deadlines, the check
of every head, a bound on pipelining, an answer and a FIN for every refusal, and upgrades on a kept-alive connection
(proxies re-use their upstream connections). Not here: the check itself (`rules`). Rules: a refusal or an upgrade waits
until all earlier answers are sent; a short body whose length is known arrives whole before the application starts,
so that a client that sends half of it costs a parser and no task; limits of connections bound the others.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from narthex.adapters.edge.head import Fields, header, malformed, request_head, too_large
from narthex.adapters.edge.limits import KIB
from narthex.adapters.edge.rules import MountedUpgrade, Upgrade, classify_head
from narthex.adapters.edge.tcp import Stage, TcpConnection
from narthex.adapters.edge.upgrades import begin
from narthex.domain.refusals import Refusal
from narthex.errors import Bug
from narthex.ports.edge import ABORT, RequestHead

_BETWEEN: Final = 0  # no byte of a next request yet
_HEAD: Final = 1
_BODY: Final = 2
_SHORT_BODY_BYTES: Final = 16 * KIB
_SHORT_BODY_DIGITS: Final = len(str(_SHORT_BODY_BYTES))


class _Stop(Exception):
    """`_outcome` is set: stops llhttp from within its callback, and never leaves this module."""


AT_LIMIT: Final = Refusal(
    code="connection_limit", detail="This address has reached its limit of connections.", retry_after_s=5
)


class _Unread:
    """The deadline of an answer that waits for its client: drops the connection when no byte was taken in `write_s`.

    Without it a client that reads nothing would hold its descriptor, and its answer in memory, for ever, because a
    closing transport waits for its buffer first.
    """

    __slots__ = ("_left", "_tcp", "due")

    def __init__(self, tcp: TcpConnection) -> None:
        self._tcp = tcp
        self._left = 0
        self.due = 0

    def watch(self) -> None:
        """Start to watch, or continue."""
        if not self.due:
            self._left = self._tcp.transport.get_write_buffer_size()
            edge = self._tcp.edge
            edge.timers.schedule(self, edge.timers.now() + edge.limits.write_s)

    def wake(self, now: float) -> None:
        """Check whether the client has taken any byte."""
        del now
        left = self._tcp.transport.get_write_buffer_size()
        if left >= self._left > 0:
            self._tcp.edge.evicted("unread", "", 1)
            self._tcp.transport.abort()
        elif left:
            self.watch()


class HttpConnection(HttpToolsProtocol, Stage):
    """One connection that speaks HTTP, until it closes or upgrades.

    Args:
        tcp: the connection.
    """

    def __init__(self, tcp: TcpConnection) -> None:
        edge = tcp.edge
        context = edge.http
        if context is None:
            raise Bug("no_http_context", "A connection came before uvicorn's server.")
        super().__init__(context.config, context.server_state, context.app_state, _loop=edge.loop)
        self.tcp = tcp
        self._edge = edge
        self._phase: Literal[0, 1, 2] = _BETWEEN
        self._begun_at = tcp.accepted_at
        self._requests = 0
        self._head_bytes = 0  # of the head being read, without those in reads of earlier requests
        self._timed: Literal[0, 1, 2] = _BETWEEN
        self._outcome: Refusal | Upgrade | None = None  # how this connection's HTTP ends
        self._outcome_head: RequestHead | None = None
        self._early = b""
        self._classified = True  # the head stage has checked the first head
        self._unread: _Unread | None = None  # set once part of an answer has to wait
        self._body: bytearray | None = None  # of a request that the application gets when it is complete

    # The transport's side.

    def data_received(self, data: bytes) -> None:
        """Bytes of requests; llhttp gets at most the allowed length of a head."""
        if self._outcome is not None:
            self._keep(data)
            return
        limit = self._edge.limits.head_bytes
        while data:
            if self._phase == _BODY:
                part, data = data, b""
            else:
                room = max(limit - self._head_bytes, 1)
                part, data = data[:room], data[room:]
            expected = self._requests + (self._phase == _BETWEEN)
            in_body = self._phase == _BODY
            if not self._feed(part, data):
                return
            if self._phase == _HEAD:
                # A head that began within a read of earlier requests is counted from the next read on; `_classify`
                # measures the complete head exactly.
                if not in_body and self._requests == expected:
                    self._head_bytes += len(part)
                if self._head_bytes >= limit:
                    self._end(too_large(limit, self._edge.limits.headers))
                    return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_watching()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # it holds us by `on_response`: see `websocket.NullReceiver`

    def expired(self) -> None:
        """A head or a body did not arrive in time."""
        if self._outcome is None:
            self._fault(Refusal(code="handshake_timeout", detail="The request did not arrive in time."))

    def end(self) -> None:
        """The process stops. uvicorn finishes an answer that is under way; a request without its body is refused."""
        if self._body is not None and self._outcome is None and not self._owes():
            self._end(Refusal(code="draining", retry_after_s=1))
        elif self.tcp.due or (self._unread is not None and self._unread.due):
            self.transport.abort()

    def evict(self) -> None:
        """See `Stage`: between two requests it sends a FIN; at any other point no answer is possible."""
        if self._phase == _BETWEEN and not self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than the application produces it."""
        super().pause_writing()
        self.tcp.idle()
        self._watch()

    def resume_writing(self) -> None:
        """The client has taken most of the waiting bytes."""
        super().resume_writing()
        if self._owes():
            self.tcp.busy()
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._edge.timers.cancel(self._unread)

    def _watch(self) -> None:
        """Part of an answer waits for its client, which must take some of it in time."""
        if self._unread is None:
            self._unread = _Unread(self.tcp)
        self._unread.watch()

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self._phase = _HEAD
        self._requests += 1
        self._head_bytes = 0
        self._unset_keepalive_if_required()
        if self._requests > 1:
            self._begun_at = self._edge.clock()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; a chunked body's trailers are dropped, as RFC 9110 section 6.5.1 permits."""
        if self._phase != _HEAD:
            return
        limits = self._edge.limits
        if len(self.headers) >= limits.headers:
            self._stop(too_large(limits.head_bytes, limits.headers), None)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A complete head: check it before the application sees it."""
        if self._classified:
            self._classified = False
        else:
            self._classify()
            if self._outcome is not None:
                return
        if len(self.pipeline) >= self._edge.limits.pipelined:
            self._stop(malformed("Too many pipelined requests."), None)
        if self._has_short_body():
            self._body = bytearray()
        else:
            self._start()
        # Last: an error before this line is one of the head, and no application has begun.
        self._phase = _BODY

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body."""
        if self._body is not None:
            self._body += body
        elif self._outcome is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._phase = _BETWEEN
        self._head_bytes = 0
        body, self._body = self._body, None
        if self._outcome is None:
            if body is not None:
                self._start()
                super().on_body(bytes(body))
            if not self.flow.write_paused:
                self.tcp.busy()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete; it may be the last one before a refusal or an upgrade."""
        super().on_response_complete()
        if self._phase != _BETWEEN:  # of the next request, which has its own deadline
            self._unset_keepalive_if_required()
        if self.transport.get_write_buffer_size():
            self._watch()
            if self.transport.is_closing():  # the client only has to take the rest
                self.tcp.idle()
        if not self.transport.is_closing() and not self._owes() and self._phase == _BETWEEN:
            self._between()
        if self._outcome is not None and not self.transport.is_closing():
            self._conclude()

    def _start(self) -> None:
        """Start the application, or queue the request behind the answer that is under way."""
        super().on_headers_complete()
        # ASGI lacks a way to drop the connection of an answer that its client does not read.
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}

    def _has_short_body(self) -> bool:
        if self.expect_100_continue:  # the client waits for the application before it sends the body
            return False
        length = next((value.strip() for name, value in self.headers if name == b"content-length"), b"0")
        return len(length) <= _SHORT_BODY_DIGITS and 0 < int(length) <= _SHORT_BODY_BYTES

    def _between(self) -> None:
        """No answer is under way: the next step is the client's, or a proxy's for its next client."""
        self.tcp.idle()
        self.tcp.attribute(None)

    def _classify(self) -> None:
        edge = self._edge
        parser = self.parser
        version = parser.get_http_version()
        headers = [header(name, value) for name, value in self.headers]
        fields = Fields(parser.get_method(), self.url, version, headers)
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > edge.limits.head_bytes:
            self._stop(too_large(edge.limits.head_bytes, edge.limits.headers), None)
        host, port = self.client or ("", 0)
        head = request_head(fields, peer=(host, port), secure=edge.secure, received_at=self._begun_at)
        classified = classify_head(fields, head, edge.rules)
        if not self.tcp.attribute(head):
            classified = AT_LIMIT
        if isinstance(classified, Refusal):
            self._stop(classified, head)
        elif isinstance(classified, Upgrade):
            self._outcome, self._outcome_head = classified, head
        elif isinstance(classified, MountedUpgrade):  # clients open a new connection for each WebSocket
            self._stop(Refusal(code="bad_request", detail="A WebSocket needs its own connection."), head)

    def _feed(self, part: bytes, rest: bytes) -> bool:
        """Parse `part`, with `rest` received behind it; False when HTTP ended in it."""
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._keep(part[int(upgrade.args[0]) :] + rest)
            self._conclude()
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Stop):
                self._conclude()
            else:
                self._fault(malformed("The request is not well-formed HTTP/1.1."))
        else:
            return True
        return False

    # The end of HTTP on this connection.

    def _stop(self, refusal: Refusal, head: RequestHead | None) -> None:
        self._outcome, self._outcome_head = refusal, head
        raise _Stop

    def _end(self, refusal: Refusal) -> None:
        self._outcome = refusal
        self._conclude()

    def _fault(self, refusal: Refusal) -> None:
        """Handle a request that broke off or is malformed. Within its body, its answer may have begun already, so that
        no other one can be sent.
        """
        if self._phase == _BODY and self._body is None:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the application sees http.disconnect
            self.cycle.message_event.set()
        self._end(refusal)

    def _keep(self, data: bytes) -> None:
        """Keep bytes behind an upgrade's head that waits for earlier answers; drop those behind a refusal."""
        if isinstance(self._outcome, Upgrade):
            self._early += data
            if len(self._early) > self._edge.limits.early_bytes:
                self.flow.pause_reading()

    def _conclude(self) -> None:
        """Refuse or upgrade, once no answer is under way; until then `on_response_complete` calls this again."""
        outcome = self._outcome
        if outcome is None or self._owes() or self.pipeline:
            return
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self.flow.resume_reading()
        self._stop_watching()  # the next stage has its own deadline
        if isinstance(outcome, Upgrade) and self._outcome_head is not None:
            pending = begin(self.tcp, self._outcome_head, outcome, self._early)
            if pending is not None:
                pending.complete()
        elif isinstance(outcome, Refusal):
            self.tcp.refuse(outcome, self._outcome_head)

    def _owes(self) -> bool:
        """Whether an answer is under way."""
        cycle: RequestResponseCycle | Any = self.cycle  # None before the first request: uvicorn hides that
        return cycle is not None and not (cycle.response_complete or cycle.disconnected)

    def _arm(self) -> None:
        """Set the one deadline for the connection's current phase; uvicorn bounds idle time."""
        phase = self._phase
        if phase == _BETWEEN:
            self.tcp.clear_deadline()
        else:
            if phase != self._timed or not self.tcp.due:
                limits = self._edge.limits
                self.tcp.expire_in(limits.body_s if phase == _BODY else limits.handshake_s)
        self._timed = phase


def serve_http(tcp: TcpConnection, data: bytes) -> None:
    """Pass a connection whose first head requests no upgrade to uvicorn, with the bytes read so far."""
    connection = HttpConnection(tcp)
    connection.connection_made(tcp.transport)
    connection.client = tcp.peer  # uvicorn finds none on a Unix socket
    tcp.become(connection)
    connection.data_received(data)
