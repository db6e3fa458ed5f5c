"""Streams a whole thread to an AG-UI client that connects: its stored part, then the rest of the run under way.

Not here: the thread's stored part (`app/agui/connected`), the connection (`stream`). Rules: runs follow one after the
other, each from its RUN_STARTED on; a run whose messages are in the snapshot is left out; messages and results that
users sent meanwhile come within the next run, because AG-UI has no events between runs; the stream ends when no run is
queued or running, unless the client wishes to `follow`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from narthex.app.agui.connected import Connected
from narthex.app.agui.names import ClientNames, pure
from narthex.domain.channels import thread_channel
from narthex.domain.events import RUN_STARTED, TERMINAL, Event, voids_attempt
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Position
from narthex.protocol.replies import encode_json
from narthex.web.agui.stream import HEART_BEAT, Ended, RunStream, event_id


def block(position: bytes, event: Event) -> bytes:
    """One server-sent event; without a position no client can go on after it."""
    head = b"id: %s\n" % position if position else b""
    return b"%sdata: %s\n\n" % (head, encode_json(event))


def preamble(thread: Connected) -> bytes:
    """The stored part of the thread, as a run."""
    opening = thread.opening()
    at = event_id(thread.at.offset, thread.at.epoch)
    return b"".join(block(at if event is opening[-1] else b"", event) for event in opening)


class ThreadEvents:
    """Turns the thread's publications into one run after the other.

    Args:
        thread: as it was.
        names: the client's names of a run, by its id.
        before: events that put a client back to before a run whose agent begins anew, by its id.

    Attributes:
        current: the run that is under way; empty: none.
        ended: runs of which no further event is streamed.
    """

    def __init__(
        self,
        thread: Connected,
        names: Callable[[Event], Awaitable[ClientNames]],
        before: Callable[[str], Awaitable[list[Event]]],
    ) -> None:
        self._thread = thread
        self._names_of = names
        self._before = before
        self._names = ClientNames("", "")
        self._known = {message["id"] for message in thread.messages}
        self._between: list[Event] = []
        self.ended: set[str] = set(thread.whole_runs)
        self.current = ""

    async def take(self, event: Event) -> list[Event]:
        """The events that a publication stands for. `current` is the run that is under way afterwards."""
        run_id = event.get("runId")
        if run_id is None or "seq" not in event:
            self._say(event)
            return []
        if run_id in self.ended:
            return []
        if not self.current and (event["type"] == RUN_STARTED or not self._thread.preamble):
            self.current, self._names = run_id, await self._names_of(event)
        elif run_id != self.current:  # cancelled in the queue: its two events, beside the run under way
            self.ended.add(run_id)
            return []
        out = [pure(event, self._names)]
        if voids_attempt(event):
            before = await self._before(run_id)
            for snapshot in before:  # it has what users sent meanwhile
                self._known.update(message["id"] for message in snapshot.get("messages", ()))
                self._between = []
            out = before + out
        if event["type"] == RUN_STARTED:
            out += self._between
            self._between = []
        if event["type"] in TERMINAL:
            self.ended.add(run_id)
            self.current = ""
        return out

    def _say(self, event: Event) -> None:
        """A user's message or a result of their tool: kept for the next run."""
        name = event.get("messageId")
        if name in self._known or event["type"] not in _BETWEEN:
            return
        said = {key: event[key] for key in _BETWEEN[event["type"]] if event.get(key) not in (None, "")}
        self._between.append(said | {"metadata": {"narthex": {"between": True}}})


_BETWEEN = {
    "TEXT_MESSAGE_START": ("type", "messageId", "role", "name"),
    "TEXT_MESSAGE_CONTENT": ("type", "messageId", "delta"),
    "TEXT_MESSAGE_END": ("type", "messageId"),
    "TOOL_CALL_RESULT": ("type", "messageId", "toolCallId", "content", "role"),
}


async def thread_blocks(
    stream: RunStream,
    thread: Connected,
    feed: ThreadEvents,
    is_idle: Callable[[Collection[str]], Awaitable[bool]],
    appears: Callable[[], Awaitable[str]],
) -> AsyncIterator[bytes]:
    """The thread as SSE text.

    Args:
        stream: has joined the thread's channel at `thread.at`, or after the client's last event.
        thread: as it was.
        feed: makes the events.
        is_idle: whether no run of the thread is queued or running, but for those whose end was streamed.
        appears: the thread's id, once the user has a thread of this name; empty before.
    """

    async def over() -> bool:
        return not thread.follow and not feed.current and await is_idle(feed.ended)

    if thread.preamble:
        yield preamble(thread)
    if not thread.real_id:
        if not thread.follow:
            return
        try:
            async for beat in _awaited(stream, appears):
                yield beat
        except (Ended, ClientError):
            return
    done, was_over = await over(), False
    while stream.pending or not done:
        try:
            found = await stream.publication()
        except Ended:
            return
        if found is None:
            yield HEART_BEAT
            now_over = await over()
            done, was_over = done or (now_over and was_over), now_over
        elif found:
            position, event = found
            try:
                events = await feed.take(event)
            except DependencyError:  # its client goes on after its last event
                return
            for out in events:
                yield block(position if out is events[-1] else b"", out)
            if events and events[-1]["type"] in TERMINAL:
                done = await over()


async def _awaited(stream: RunStream, appears: Callable[[], Awaitable[str]]) -> AsyncIterator[bytes]:
    """Wait for a thread that the user does not have yet, and join it from its beginning on. The user's notices, one of
    which says that a run began, come on the same connection.
    """
    while not (real_id := await appears()):
        if await stream.publication() is None:
            yield HEART_BEAT
    await stream.join(thread_channel(real_id), Position(0, ""))
