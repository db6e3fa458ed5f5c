"""Streams one run to an AG-UI client: drives an ordinary connection and writes its pushes as AG-UI events.

Not here: admission (the upgrade handler), the request (`routes`). Rules: the connection behind a stream has a slot,
ends with its token, and is bounded in bytes and lag exactly as a WebSocket's; only the events of the one run are sent,
in the order of the log, each with the position after it as its `id`; they are pure AG-UI, because stock clients warn of
every unknown member: the gateway's own members are left out, except `count` and `digest`, which are in the terminal
event's `metadata.narthex`; the stream ends with the run and never ends the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from narthex.app.connection import Connection
from narthex.domain.events import RUN_FINISHED, RUN_STARTED, TERMINAL, Event
from narthex.errors import ClientError
from narthex.ports.broker import Position
from narthex.protocol.client import ClientSession, Message, Ping, Push, Reply, StreamPosition
from narthex.protocol.codes import Disconnect
from narthex.protocol.framing import Framing
from narthex.protocol.replies import encode_json
from narthex.web.agui.run_input import event_id
from narthex.web.fallbacks import StreamSocket

HEART_BEAT: Final = b":\n\n"  # an SSE comment: it is traffic for proxies, and clients ignore it
_OURS: Final = frozenset({"threadId", "runId", "seq", "seq_from", "count", "digest"})


class Names(msgspec.Struct, frozen=True):
    """A client's names of a thread, a run and its parent; the gateway's own ids where it has none."""

    thread_id: str
    run_id: str
    parent_run_id: str = ""


class Ended(Exception):
    """The gateway closed the connection behind the stream."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def pure(event: Event, names: Names) -> Event:
    """A published event of a run in AG-UI 1.0's form, for clients that know no other members, with their own names.

    To verify the run's digest, a client takes the gateway's ids from `metadata.narthex` of RUN_STARTED: it puts
    `threadId` and `runId` into every event, `parentRunId` into RUN_STARTED, and removes the `metadata` of RUN_STARTED
    and of the terminal event (docs/ag-ui.md).
    """
    kept = {name: value for name, value in event.items() if name not in _OURS}
    kind = event["type"]
    if kind in _NAMES_RUN:
        kept |= {"threadId": names.thread_id, "runId": names.run_id}
        if parent := kept.get("parentRunId"):
            kept["parentRunId"] = names.parent_run_id or parent
    ids: tuple[str, ...]
    if kind == RUN_STARTED:
        ids = ("threadId", "runId", "parentRunId")
    elif kind in TERMINAL:
        ids = ("threadId", "runId", "count", "digest")
    else:
        return kept
    kept["metadata"] = {"narthex": {name: event[name] for name in ids if name in event}}
    return kept


_NAMES_RUN: Final = frozenset({RUN_STARTED, RUN_FINISHED})


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
        self, run_id: str, names: Names, *, over: bool, is_over: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """The run's events as SSE text, to its terminal event or the connection's end.

        Args:
            run_id: the run.
            names: the client's.
            over: whether the run was over before `join`: then all of it was recovered, and the stream does not wait.
            is_over: returns whether it is over now; called at pings. If it was over a whole ping ago, the client's own
                position is past the run's end, and the stream ends.
        """
        async for block in self._blocks(run_id, names, over=over, is_over=is_over):
            yield block
        self._over = (
            True  # not where the client left: it closes the generator at a `yield`, or cancels its task
        )

    async def _blocks(
        self, run_id: str, names: Names, *, over: bool, is_over: Callable[[], Awaitable[bool]]
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
