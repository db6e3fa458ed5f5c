"""Writes one run's events into its thread's log: numbering, joining, and exactly one publish in flight.

Not here: checking events (`intake`). Rules: an event gets its `seq` when it is published, so a waiting delta can still
be joined with the next one; deltas wait for others at most `join_window_s`, other events not at all; an event is first
durable, then counted into digest and transcript. Every publish carries the key `<run>:<seq>`, so that a repeat is
found, and names the end of the log that this node has read: if others appended meanwhile, it reads their entries first.
So an owner that was frozen, for however long, finds the next owner's events and stops, and a digest is only claimed in
the log that holds all events. The pending events are bounded by `MAX_PENDING` of at most 16 k characters or
`max_event_bytes`; `put` then waits, which slows an agent down that is faster than the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec

from narthex.app.runs.lease import Lease, OwnershipLost
from narthex.app.runs.run_log_state import RunLogState, event_of
from narthex.app.runs.run_trace import NO_RUN_TRACE, RunTrace
from narthex.app.runs.services import RunServices
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import Event, is_delta
from narthex.domain.merging import MAX_JOINED_CHARS, joins
from narthex.errors import DependencyError
from narthex.ports.broker import ANY_OFFSET, LogMoved, Position, Published
from narthex.ports.runs import Run

MAX_PENDING: Final = 32
_RETRY_FIRST_S: Final = 0.05
_RETRY_MOST_S: Final = 2.0
LOST_RACES: Final = 10
"""Appends of one event that others were faster than (it takes hundreds of publications a second in one thread), before
the epoch alone is named, and what came between is read after the append."""
_STAMPED: Final = frozenset(
    {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR", "TEXT_MESSAGE_START", "TOOL_CALL_START"}
)
"""Types that carry a `timestamp` (ms since the epoch): enough for a page, without 25 bytes on every delta."""


class BrokerGone(Exception):
    """The log could not be reached for `broker_patience_s`; a later owner must end the run."""


class _Pending:
    """A pending event: a delta keeps its texts apart until it is published."""

    __slots__ = ("chars", "delta", "event", "texts")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.delta = is_delta(event)
        self.texts: list[str] = [event["delta"]] if self.delta else []
        self.chars = len(event["delta"]) if self.delta else 0

    def takes(self, event: Event) -> bool:
        """Join `event` if that is allowed; returns whether it was."""
        if not self.delta or not joins(self.event, event):
            return False
        chars = self.chars + len(event["delta"])
        if chars > MAX_JOINED_CHARS:
            return False
        self.texts.append(event["delta"])
        self.chars = chars
        return True

    def built(self) -> Event:
        """The event in the form for publishing."""
        if len(self.texts) > 1:
            return {**self.event, "delta": "".join(self.texts)}
        return self.event


class Journal:
    """See the module. One owner puts, `close` ends the writer.

    Attributes:
        log: the durable part: seq, digest, transcript, last offset.
        last_at: loop time of the last event that was put.
    """

    def __init__(
        self, services: RunServices, run: Run, lease: Lease, log: RunLogState, trace: RunTrace = NO_RUN_TRACE
    ) -> None:
        self._services = services
        self._run = run
        self._lease = lease
        self._trace = trace
        self.log = log
        self._channel = channel_key(run.tenant, thread_channel(run.thread_id))
        self._pending: deque[_Pending] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()  # set whenever an event became durable, or never will
        self._accepted = 0  # pending events so far, one for all deltas that were joined
        self._written = 0  # those of them that are durable
        self._awaited = 0  # up to here a caller waits: joining with later events must not delay them
        self._fault: OwnershipLost | BrokerGone | Exception | None = None
        self._next_delta_at = 0.0
        self._finished = False
        self._batch_size = services.meter.observer("journal_batch_size")
        self.last_at = self._loop.time()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._writer: asyncio.Task[None] | None = self._loop.create_task(
            self._write(), name=f"journal {run.run_id}"
        )

    # -- putting -------------------------------------------------------------------------------------------

    async def put(self, event: Event) -> None:
        """Accept an event; returns when there is room for the next one, which is before it is durable.

        Raises:
            OwnershipLost: stop; another owner ends the run, or the journal is closed.
            BrokerGone: stop; nothing can be published now.
        """
        self.add(event)
        while len(self._pending) > MAX_PENDING:
            await self._next_move()
            self._raise_fault()

    def add(self, event: Event) -> None:
        """Accept an event without waiting for room: for the gateway's own events, whose number is bounded elsewhere.
        Raises as `put`.
        """
        self._raise_fault()
        if self._finished:
            return  # the terminal event is the last: two tasks in one agent may still try
        self.last_at = self._loop.time()
        pending = self._pending
        if pending and pending[-1].takes(event):
            self._services.meter.count("run_deltas_joined")
        else:
            pending.append(_Pending(event))
            self._accepted += 1
            self._wake.set()

    async def flush(self) -> None:
        """Wait until all events that were put before this call are durable. Those that an agent at work adds meanwhile
        are not waited for. Raises as `put`, also of a closed journal whose events are all durable.
        """
        self._raise_fault()
        until = self._awaited = self._accepted
        self._wake.set()
        while self._written < until:
            await self._next_move()

    async def finish(self, terminal: Event) -> None:
        """Publish the terminal event with `count` and `digest`, after everything else. Raises as `put`."""
        self._finished = True
        await self.flush()
        seq = self.log.seq + 1
        await self._publish(self._wire(terminal, seq) | {"count": seq}, proof=True)

    async def close(self) -> None:
        """End the writer; pending events are dropped, and callers that wait for them get OwnershipLost. Idempotent."""
        if self._fault is None:
            self._fault = OwnershipLost()
        self._pending.clear()
        # The cancelled task's exception holds its frame, and that this: kept, the run's whole text would wait for
        # the next full collection.
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self._moved.set()
        if not self.failed.done():
            self.failed.cancel()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def _next_move(self) -> None:
        self._raise_fault()
        self._moved.clear()
        await self._moved.wait()

    # -- writing -------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while True:
                while not self._pending:
                    self._wake.clear()
                    await self._wake.wait()
                await self._gather_company()
                head = self._pending.popleft()
                self._batch_size(len(head.texts) or 1)
                await self._publish(self._wire(head.built(), self.log.seq + 1))
                self._written += 1
                if head.delta:
                    self._next_delta_at = self._loop.time() + self._services.limits.join_window_s
                self._moved.set()
        except Exception as fault:
            self._fault = fault
            self._pending.clear()
            self._moved.set()
            if not self.failed.done():
                self.failed.set_result(None)

    async def _gather_company(self) -> None:
        """Let a lone delta wait until the window since the last one is over, or another event follows it.

        The first delta after a pause goes at once: a user sees it as the first token.
        """
        while len(self._pending) == 1 and self._pending[0].delta:
            wait_s = self._next_delta_at - self._loop.time()
            if wait_s <= 0 or self._written < self._awaited or self._pending[0].chars >= MAX_JOINED_CHARS:
                return
            self._wake.clear()
            timer = self._loop.call_later(wait_s, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    def _wire(self, event: Event, seq: int) -> Event:
        wire = {**event, "threadId": self._run.thread_id, "runId": self._run.run_id, "seq": seq}
        if event["type"] in _STAMPED:
            wire["timestamp"] = int(self._services.now() * 1000)
        return wire

    async def _publish(self, wire: Event, *, proof: bool = False) -> None:
        """Publish one event until it is durable, then count it in. With `proof` it gets the digest, if the log that
        takes it holds all events of the run: an engine that was down may have lost entries.
        """
        key = f"{self._run.run_id}:{wire['seq']}"
        give_up_at = self._loop.time() + self._services.limits.broker_patience_s
        pause_s = _RETRY_FIRST_S
        data = b""
        tried: list[bytes] = []  # each may be in the log all the same: then the repeat gets `duplicate`
        races = 0
        began_at = self._services.now() if self._trace.recording else 0.0
        while True:
            await self._lease.hold()
            try:
                if proof and not self.log.broken:
                    wire = wire | {"digest": self.log.digest.value(wire)}
                elif proof:
                    wire.pop("digest", None)
                data = msgspec.json.encode(wire)
                published = await self._append(data, key, tried, exactly=races < LOST_RACES)
                if published is None:
                    races += 1
                    continue
                if published.duplicate:
                    data = await self._ours(published, tried)
                    wire = msgspec.json.decode(data)
                break
            except DependencyError as fault:
                tried.append(data)
                if self._loop.time() + pause_s > give_up_at:
                    raise BrokerGone from fault
                self._services.meter.count("run_publish_retries")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _RETRY_MOST_S)
        at = Position(published.offset, published.epoch)
        self.log.feed(wire, data, at, self._services.now())
        if self._trace.recording:
            self._trace.published(wire, len(data), began_at, tries=1 + races + len(tried))

    async def _append(self, data: bytes, key: str, tried: list[bytes], *, exactly: bool) -> Published | None:
        """Append behind the end that this node knows (or, not `exactly`, anywhere in that log). None: the log went on,
        or is another one; this node has read it now. Raises OwnershipLost: with events of another owner.
        """
        broker, known = self._services.broker, self.log.top
        if known is None:
            return await broker.publish(self._channel, data, key=key)
        expected = known if exactly else Position(ANY_OFFSET, known.epoch)
        try:
            published = await broker.publish(self._channel, data, key=key, expected=expected)
        except LogMoved as moved:
            return await self._read_on(moved.end, tried)
        if not published.duplicate:
            await self._read_on(Position(published.offset - 1, published.epoch), tried)
        return published

    async def _read_on(self, end: Position, tried: list[bytes]) -> Published | None:
        """Read what others appended up to `end`, in another log all that it has. Returns an earlier try of ours that is
        there, although its key was forgotten. Raises OwnershipLost: another owner's events are there.
        """
        log, found, same = self.log, None, True
        assert log.top is not None
        since: Position | None = log.top
        while since is None or since != end:
            if since is not None and (since.epoch != end.epoch or since.offset > end.offset):
                # Another log, without the events that the run had, or with some of them.
                log.broken, since, same = log.broken or log.seq > 0, None, False
            left = end.offset - (since.offset if since is not None else 0)
            page = await self._services.broker.history(self._channel, since=since, limit=max(1, left))
            if page.top.epoch != end.epoch or (since is not None and not page.complete):
                since, end = Position(0, ""), page.top  # replaced or trimmed meanwhile
                continue
            for entry in page.publications:
                if entry.data in tried:
                    found = Published(entry.offset, end.epoch, duplicate=True)
                elif (event := event_of(entry.data, self._run.run_id)) is not None and (
                    same or not log.has(event, entry.data)  # another log may have some of this node's own
                ):
                    raise OwnershipLost
            last = page.publications[-1].offset if page.publications else end.offset
            since = Position(min(last, end.offset), end.epoch)
        log.top = end
        return found

    async def _ours(self, published: Published, tried: list[bytes]) -> bytes:
        """The entry that made ours a duplicate, if it is our own earlier try. Raises OwnershipLost if not."""
        before = Position(published.offset - 1, published.epoch)
        page = await self._services.broker.history(self._channel, since=before, limit=1)
        for entry in page.publications:
            if entry.data in tried:
                return entry.data
        raise OwnershipLost
