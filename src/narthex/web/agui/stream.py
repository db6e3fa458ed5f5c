"""One AG-UI client's stream: a connection like any other behind an HTTP response, its pushes told as AG-UI events.

Not here: who may have one (the gate), what it asks (`routes`). Rules: the connection behind it has a seat, ends with
its token, and is bounded in bytes and lag exactly as a WebSocket's; only the events of the one run leave, in the
order of the log, each with the position after it as its `id`; they are pure AG-UI, because stock clients warn of
every member that they do not know: what the gateway adds to events is left out, but for `count` and `digest`, which
stand in the terminal event's `metadata.narthex`; the stream ends with the run, never ends the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from narthex.app.connection import Connection
from narthex.domain.events import RUN_FINISHED, RUN_STARTED, TERMINAL, Event
from narthex.errors import ClientError
from narthex.ports.broker import Position
from narthex.protocol.framing import Framing
from narthex.protocol.replies import encode_json
from narthex.web.agui.asked import event_id
from narthex.web.fallbacks import StreamSocket

HEART_BEAT: Final = b":\n\n"  # an SSE comment: proxies see traffic, clients nothing
_PING: Final = b"{}"
_OURS: Final = frozenset({"threadId", "runId", "seq", "seq_from", "count", "digest"})
_NAMES_RUN: Final = frozenset({RUN_STARTED, RUN_FINISHED})


class _Publication(msgspec.Struct):
    data: msgspec.Raw
    offset: int = 0


class _Disconnect(msgspec.Struct):
    code: int
    reason: str = ""


class _Push(msgspec.Struct):
    channel: str = ""
    pub: _Publication | None = None
    disconnect: _Disconnect | None = None
    unsubscribe: dict[str, Any] | None = None


class _Error(msgspec.Struct):
    code: int
    message: str = ""


class _Subscribed(msgspec.Struct):
    recovered: bool = False
    publications: list[_Publication] = []
    offset: int = 0
    epoch: str = ""


class _Line(msgspec.Struct):
    id: int = 0
    push: _Push | None = None
    error: _Error | None = None
    subscribe: _Subscribed | None = None


class Ended(Exception):
    """The connection behind the stream was closed by the gateway."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


_line: Final = msgspec.json.Decoder(_Line)
_event: Final = msgspec.json.Decoder(dict[str, Any])


def pure(event: Event) -> Event:
    """A published event of a run as AG-UI 1.0 has it, for clients that know nothing else.

    To prove the run, put `threadId` and `runId` of RUN_STARTED back into every event and leave the terminal one's
    `metadata` out: what is digested is the same (docs/runs.md).
    """
    kept = {name: value for name, value in event.items() if name not in _OURS}
    kind = event["type"]
    if kind in _NAMES_RUN:
        kept |= {"threadId": event["threadId"], "runId": event["runId"]}
    if kind in TERMINAL:
        kept["metadata"] = {"narthex": {name: event[name] for name in ("count", "digest") if name in event}}
    return kept


class RunStream:
    """See the module. `close` must be called, however it went.

    Args:
        connection: admitted by the gate, not opened.
        drop: drops the client's TCP connection, should it stop reading; None where the server lends no such thing.
    """

    def __init__(self, connection: Connection, drop: Callable[[], None] | None) -> None:
        self.connection = connection
        self._socket = StreamSocket(Framing.HTTP_STREAM, connection)
        if drop is not None:
            self._socket.drop = drop
        self._chunks = self._socket.chunks()
        self._lines: list[bytes] = []
        self._epoch = ""
        self._subscribed: _Subscribed | None = None
        connection.opened(self._socket)

    def close(self) -> None:
        """Give the connection up; idempotent."""
        self._socket.gone()

    async def connect(self) -> None:
        """Say `connect`. Raises Ended when the gateway does not want it."""
        await self._ask(1, "connect", {})

    async def join(self, channel: str, since: Position) -> None:
        """Listen to the thread from `since` on; nothing after it will be missed.

        Raises:
            ClientError: `position_lost` (410): the log does not reach back that far, or too much came since.
            Ended: the gateway closed the connection.
        """
        body = {"channel": channel, "recover": True, "offset": since.offset, "epoch": since.epoch}
        line = await self._ask(2, "subscribe", body)
        if line.subscribe is None or not line.subscribe.recovered:
            raise ClientError(
                "position_lost",
                "The stream cannot be continued from there without a gap.",
                "Read the thread (GET /api/v1/threads/{thread_id}), or follow it over the WebSocket.",
                number=410,
            )
        self._epoch = line.subscribe.epoch
        self._subscribed = line.subscribe

    async def events(
        self, run_id: str, *, over: bool, is_over: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """The run's events as SSE text, to its terminal event or the connection's end.

        Args:
            run_id: whose.
            over: whether the run was over before `join`: then all of it was recovered, and nothing is waited for.
            is_over: whether it is now; asked at pings. One that was over a whole ping ago has nothing more to say
                to a client whose own position is past its end.
        """
        assert self._subscribed is not None
        recovered, self._subscribed = self._subscribed.publications, None
        for text, last in self._told(recovered, run_id):
            yield text
            over = over or last
        was_over = False
        while not over:
            try:
                line = await self._next()
            except Ended:
                return
            if line is None:
                yield HEART_BEAT
                now_over = await is_over()
                over, was_over = now_over and was_over, now_over
                continue
            push = line.push
            if push is None or not push.channel.startswith("thread:"):
                continue
            if push.unsubscribe is not None:
                return  # no member any more
            for text, last in self._told([push.pub] if push.pub is not None else [], run_id):
                yield text
                over = over or last

    def _told(self, publications: list[_Publication], run_id: str) -> list[tuple[bytes, bool]]:
        """Those of the run as SSE text, each with whether it is the terminal one."""
        told: list[tuple[bytes, bool]] = []
        for publication in publications:
            data = bytes(publication.data)
            if not publication.offset or run_id.encode() not in data:
                continue
            event = _event.decode(data)
            if event.get("runId") == run_id and "seq" in event:
                text = encode_json(pure(event))
                name = event_id(publication.offset, self._epoch)
                told.append((b"id: %s\ndata: %s\n\n" % (name, text), event["type"] in TERMINAL))
        return told

    # -- the protocol behind it ----------------------------------------------------------------------------

    async def _ask(self, command_id: int, method: str, body: object) -> _Line:
        """A command and its reply; pings are answered, pushes before the reply are the user channel's."""
        self.connection.message(encode_json({"id": command_id, method: body}), binary=False)
        while True:
            line = await self._next()
            if line is None or line.id != command_id:
                continue
            if line.error is not None:
                raise Ended(line.error.code, line.error.message)
            return line

    async def _next(self) -> _Line | None:
        """The next line from the gateway; None for a ping, which is answered. Raises Ended."""
        while not self._lines:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                raise Ended(1006, "") from None
            self._lines = chunk.split(b"\n")
            self._lines.reverse()
        raw = self._lines.pop()
        if raw == _PING:
            self.connection.message(_PING, binary=False)
            return None
        line = _line.decode(raw) if raw else _Line()
        if line.push is not None and line.push.disconnect is not None:
            raise Ended(line.push.disconnect.code, line.push.disconnect.reason)
        return line
