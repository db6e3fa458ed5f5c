"""Streams one run to an AG-UI client: drives an ordinary connection and writes its pushes as AG-UI events.

Not here: admission (the upgrade handler), the request (`routes`). Rules: the connection behind a stream has a slot,
ends with its token, and is bounded in bytes and lag exactly as a WebSocket's; only the events of the one run are sent,
in the order of the log, each with the position after it as its `id`; they are pure AG-UI, because stock clients warn of
every unknown member: the gateway's own members are left out, except `count` and `digest`, which are in the terminal
event's `metadata.narthex`; the stream ends with the run and never ends the run.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from narthex.app.agui.names import ClientNames, pure
from narthex.app.connection import Connection
from narthex.domain.events import TERMINAL, Event, voids_attempt
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Position
from narthex.protocol.client import ClientSession, Message, Ping, Push, Reply, StreamPosition
from narthex.protocol.codes import Disconnect
from narthex.protocol.framing import Framing
from narthex.protocol.replies import encode_json
from narthex.web.fallbacks import StreamSocket

HEART_BEAT: Final = b":\n\n"  # an SSE comment: it is traffic for proxies, and clients ignore it
_EVENT_ID: Final = re.compile(r"^(\d{1,15})-([!-~]{1,200})$")


class Ended(Exception):
    """The gateway closed the connection behind the stream."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def event_id(offset: int, epoch: str) -> bytes:
    """The `id` of a server-sent event: the channel's position after it."""
    return b"%d-%s" % (offset, epoch.encode())


def position_of(last_event_id: str) -> Position:
    """The inverse of `event_id`. Raises ClientError `bad_last_event_id` (400)."""
    if (
        last_event_id == "0-"
    ):  # behind the preamble of a thread that did not exist: all of it comes after that
        return Position(0, "")
    match = _EVENT_ID.match(last_event_id)
    if match is None:
        raise ClientError(
            "bad_last_event_id",
            "Last-Event-ID is not an id of this stream.",
            "Send the last `id` unchanged, or omit the header.",
        )
    return Position(int(match[1]), match[2])


class RunStream:
    """See the module. The caller must call `close` in every case.

    Args:
        connection: admitted by the upgrade handler, not opened.
        drop: drops the client's TCP connection if the client stops reading; None where the server cannot do that.
    """

    def __init__(self, connection: Connection, drop: Callable[[], None] | None) -> None:
        self.connection = connection
        self._socket = StreamSocket(Framing.HTTP_STREAM, connection)
        if drop is not None:
            self._socket.drop = drop
        self._chunks = self._socket.chunks()
        self._session = ClientSession()
        self._over = False
        self._messages: deque[Message] = deque()  # of one chunk, which the socket bounds
        connection.opened(self._socket)

    @property
    def left(self) -> bool:
        """Whether the client left before the stream was over."""
        return not self._over

    def close(self) -> None:
        """Release the connection; idempotent."""
        self._socket.gone()

    async def connect(self) -> None:
        """Send `connect`. Raises Ended when the gateway refuses it."""
        await self._ask("connect", {})

    async def join(self, channel: str, since: Position) -> None:
        """Subscribe to the thread from `since` on; no later event will be missed.

        Raises:
            ClientError: `position_lost` (410): the log does not reach back that far, or too much was published since.
            Ended: the gateway closed the connection.
        """
        here = StreamPosition(since.offset, since.epoch)
        subscribed = await self._ask("subscribe", {"channel": channel, **here.recovery})
        if not subscribed.get("recovered"):
            raise ClientError(
                "position_lost",
                "The stream cannot resume from that event without a gap.",
                "Read the thread (GET /api/v1/threads/{thread_id}), or follow it over the WebSocket.",
                number=410,
            )

    async def events(
        self,
        run_id: str,
        names: ClientNames,
        *,
        over: bool,
        is_over: Callable[[], Awaitable[bool]],
        before: Callable[[str], Awaitable[list[Event]]],
    ) -> AsyncIterator[bytes]:
        """The run's events as SSE text, to its terminal event or the connection's end.

        Args:
            run_id: the run.
            names: the client's.
            over: whether the run was over before `join`: then all of it was recovered, and the stream does not wait.
            is_over: returns whether it is over now; called at pings. If it was over a whole ping ago, the client's own
                position is past the run's end, and the stream ends.
            before: events that put a client back to before the run, which come before the one that says that its agent
                begins anew.
        """
        # A client goes on after its last event where an engine is away at a moment at which the stream cannot.
        with contextlib.suppress(DependencyError):
            async for block in self._blocks(run_id, names, over=over, is_over=is_over, before=before):
                yield block
        # Not where the client left: it closes the generator at a `yield`, or cancels its task.
        self._over = True

    async def _blocks(
        self,
        run_id: str,
        names: ClientNames,
        *,
        over: bool,
        is_over: Callable[[], Awaitable[bool]],
        before: Callable[[str], Awaitable[list[Event]]],
    ) -> AsyncIterator[bytes]:
        was_over = False
        while self._messages or not over:
            try:
                found = await self.publication()
            except Ended:
                return
            if found is None:
                yield HEART_BEAT
                now_over = await is_over()
                over, was_over = over or (now_over and was_over), now_over
            elif found and found[1].get("runId") == run_id and "seq" in found[1]:
                if voids_attempt(found[1]):
                    for event in await before(run_id):  # without an id: after a cut here they come again
                        yield b"data: %s\n\n" % encode_json(event)
                yield b"id: %s\ndata: %s\n\n" % (found[0], encode_json(pure(found[1], names)))
                if found[1]["type"] in TERMINAL:
                    return

    @property
    def pending(self) -> bool:
        """Whether messages were received that `publication` has not read."""
        return bool(self._messages)

    async def publication(self) -> tuple[bytes, Event] | tuple[()] | None:
        """The thread's next publication with the event id after it; None: a ping; (): something else.

        Raises:
            Ended: the gateway closed the connection, or the user is no member any more.
        """
        message = await self._next()
        if isinstance(message, Ping):
            return None
        if not isinstance(message, Push) or not message.channel.startswith("thread:"):
            return ()
        if message.unsubscribe is not None:
            raise Ended(1000, "")
        if (pub := message.pub) is None or not pub.offset or not isinstance(event := pub.data, dict):
            return ()
        here = self._session.positions[message.channel]._replace(offset=pub.offset)
        return event_id(*here), event

    # -- the protocol behind it ----------------------------------------------------------------------------

    async def _ask(self, command: str, body: dict[str, Any]) -> dict[str, Any]:
        """A command's result. Answers pings; pushes before the reply are the user channel's. Raises Ended."""
        number = self._session.send(command, body)
        self._send_queued()
        while True:
            reply = await self._next()
            if isinstance(reply, Reply) and reply.id == number:
                if reply.error is not None:
                    raise Ended(reply.error.code, reply.error.message)
                return reply.result

    async def _next(self) -> Message:
        """The next message from the gateway. Raises Ended."""
        while not self._messages:
            try:
                self._messages.extend(self._session.receive(await anext(self._chunks)))
            except StopAsyncIteration:
                raise Ended(1006, "") from None
        message = self._messages.popleft()
        if isinstance(message, Disconnect):
            raise Ended(message.code, message.reason)
        if isinstance(message, Ping):  # not sooner: a client that reads nothing owes the pong
            self._send_queued()
        return message

    def _send_queued(self) -> None:
        for queued in self._session.data_to_send():
            self.connection.message(queued, binary=False)
