"""Implements the Broker port on one SQLite file in one process: the event loop's side.

Not here: threads (`writer.py`, `reader.py`), SQL (`log.py`). Guarantees beyond the port's: the handler gets a
publication in the same loop tick in which its publisher's `publish` returns, before it. `SqliteBroker.durability` says
which failures an acknowledged publication survives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from narthex.adapters.brokers.presence import PresenceTable
from narthex.adapters.brokers.sqlite.log import Appended, AppendRequest, Log
from narthex.adapters.brokers.sqlite.reader import LogReader, Query
from narthex.adapters.brokers.sqlite.schema import ChannelRetention
from narthex.adapters.brokers.sqlite.writer import Append, LogChange, LogWriter, Outcome
from narthex.adapters.machine import steady_time
from narthex.adapters.sqlite.batching import MAX_PENDING, BatchThread, resolve
from narthex.adapters.sqlite.checkpoint import Checkpointer
from narthex.adapters.sqlite.file import OwnerLock, Synchronous, require_same_file
from narthex.errors import DependencyError, NarthexError
from narthex.ports.broker import (
    BrokerHandler,
    Control,
    LogMoved,
    Member,
    Page,
    Position,
    Publication,
    Published,
)

KNOWN_POSITIONS: Final = 50_000  # about 300 bytes each: under churn of threads memory rises to 15 MB
EXPIRE_PRESENCE_S: Final = 5.0
PING_CHANNEL: Final = "narthex/ping"

_DURABILITY: Final[dict[Synchronous, str]] = {
    "NORMAL": "An acknowledged publication survives the death of the process; after the death of the machine "
    "the last few may be missing, and then the epoch changes.",
    "FULL": "An acknowledged publication survives the death of the process and of the machine, power loss "
    "included, as far as the disk keeps what it has synced.",
}


class SqliteBroker:
    """The embedded broker.

    Args:
        path: `log.db`; its directory exists.
        synchronous: NORMAL or FULL, see `durability`.
        retention: returns a channel's retention by its key; called once per channel and process.
        max_pending: the most publishes, and the most reads, that may wait; more raise Overloaded.
        timeout_s: seconds after which a call raises DependencyError when the disk hangs.
        known_limit: the number of channels whose positions are kept in memory, beside those that are followed.
        clock: returns seconds since the epoch, for `Publication.at`, keys and retention, and never steps: a window of
            120 s would end too early when the wall clock jumps ahead, and never when it jumps back.
    """

    positions_exact = True

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous = "NORMAL",
        retention: Callable[[str], ChannelRetention] = lambda _channel: ChannelRetention(),
        max_pending: int = MAX_PENDING,
        timeout_s: float = 5.0,
        known_limit: int = KNOWN_POSITIONS,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self.path = path
        self.durability = _DURABILITY[synchronous]
        self._lock = OwnerLock("broker", path)
        self._checkpointer: Checkpointer | None = None
        self._synchronous: Synchronous = synchronous
        self._work = LogWriter(
            path,
            synchronous=synchronous,
            retention=retention,
            known_limit=known_limit,
            deliver=self._deliver,
            clock=clock,
        )
        self._writer: BatchThread[Append | LogChange] = BatchThread(
            self._work,
            name=f"{path.name} writer",
            dependency="broker",
            max_pending=max_pending,
            timeout_s=timeout_s,
        )
        self._reader: BatchThread[Query] = BatchThread(
            LogReader(path, lambda: self._work.epoch),
            name=f"{path.name} reader",
            dependency="broker",
            max_batch=64,  # one snapshot should not delay checkpoints for long
            max_pending=max_pending,
            timeout_s=timeout_s,
        )
        self._clock = clock
        self._known_limit = known_limit
        self._positions: dict[str, Position] = {}
        self._complete = False
        self._subscribed: set[str] = set()
        self._presence = PresenceTable()
        self._expiry: asyncio.TimerHandle | None = None
        self._handler: BrokerHandler | None = None
        self._node = ""
        self._inode = 0

    @property
    def pending(self) -> int:
        """Publishes and changes that wait for their commit."""
        return self._writer.pending

    async def start(self, handler: BrokerHandler, node: str) -> None:
        """Lock the file and start. Raises ConfigError (held, foreign or newer file) or DependencyError."""
        self._handler, self._node = handler, node
        self._lock.acquire()
        try:
            await self._writer.start()
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            self._lock.release()
            raise
        self._inode = self.path.stat().st_ino
        self._positions, self._complete = self._work.positions, self._work.complete
        self._work.positions = {}
        self._checkpointer = Checkpointer(self.path, self._synchronous)
        self._checkpointer.start()
        self._expire_presence()

    async def stop(self) -> None:
        """Commit the accepted publications, sync, and release the file; idempotent."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        try:
            await self._reader.stop()
            if self._checkpointer is not None:
                await asyncio.to_thread(self._checkpointer.stop)
                self._checkpointer = None
            await self._writer.stop()
        finally:
            self._lock.release()

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        """See the port. Raises Overloaded when too many wait, DependencyError when the publication is not durable."""
        request = AppendRequest(channel, data, key, tags, expected)
        published: Published = await self._writer.ask(Append, request)
        return published

    def subscribe(self, channel: str) -> None:
        """See the port; effective at once."""
        self._subscribed.add(channel)

    def unsubscribe(self, channel: str) -> None:
        """See the port; effective at once."""
        self._subscribed.discard(channel)

    def known_position(self, channel: str) -> Position | None:
        """The end of the log as far as the handler got it; None for a channel beyond `known_limit`."""
        found = self._positions.get(channel)
        if found is None and self._complete:
            return Position(0, self._work.epoch)
        return found

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        """See the port. The writer's own positions are the log's: only this process appends."""
        found: dict[str, Position] = {}
        for channel, position in known.items():
            end = self.known_position(channel) or (await self.history(channel, limit=0)).top
            if end != position:
                found[channel] = end
        return found

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """See the port. Raises Overloaded or DependencyError."""
        page: Page = await self._reader.ask(Query, channel, since, limit, reverse)
        return page

    async def remove(self, channel: str) -> None:
        """See the port."""

        def apply(log: Log) -> Callable[[], None]:
            position = log.remove(channel, self._clock())
            return lambda: self._know(channel, position)

        await self._change(apply)

    async def trim(self, channel: str, through: Position) -> None:
        """See the port."""
        await self._change(lambda log: log.trim(channel, through, self._clock()))

    async def join(self, channel: str, member: Member) -> None:
        """See the port; the refresh of a present member sends no notice."""
        if self._presence.join(channel, member, time.monotonic()):
            self._tell_presence(channel, member, joined=True)

    async def leave(self, channel: str, client: str) -> None:
        """See the port."""
        member = self._presence.leave(channel, client)
        if member is not None:
            self._tell_presence(channel, member, joined=False)

    async def members(self, channel: str) -> Mapping[str, Member]:
        """See the port."""
        return self._presence.members(channel, time.monotonic())

    async def control(self, message: Control) -> None:
        """Pass it to the handler: this is the only node."""
        if self._handler is not None and message.node in ("", self._node):
            self._handler.control(message)

    async def ping(self) -> None:
        """Append, read back, drop; and check that the file at `path` is still the one that is open."""
        published = await self.publish(PING_CHANNEL, b"{}")
        page = await self.history(
            PING_CHANNEL, since=Position(published.offset - 1, published.epoch), limit=1
        )
        if [found.offset for found in page.publications] != [published.offset]:
            raise DependencyError("broker", "log.db did not return the appended row.", "Check the disk.")
        await self.trim(PING_CHANNEL, Position(published.offset, published.epoch))
        require_same_file("broker", self.path, self._inode, "publications")

    async def _change(self, apply: Callable[[Log], Callable[[], None] | None]) -> None:
        await self._writer.ask(LogChange, apply)

    def _deliver(self, batch: Sequence[Append | LogChange], outcomes: list[Outcome]) -> None:
        """On the loop, after the commit: call the handler in offset order, then answer every publisher."""
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Appended) and isinstance(job, Append):
                self._appended(job.request, outcome)
                result: Any = Published(outcome.offset, outcome.epoch, outcome.duplicate)
            elif isinstance(outcome, NarthexError | LogMoved):
                result = outcome
            else:
                result = outcome() if callable(outcome) else None
            resolve(job.future, result)  # unless it was cancelled: the publication is in the log all the same

    def _appended(self, request: AppendRequest, appended: Appended) -> None:
        if appended.duplicate:
            return
        channel = request.channel
        self._know(channel, Position(appended.offset, appended.epoch))
        if channel in self._subscribed and self._handler is not None:
            publication = Publication(appended.offset, request.data, request.tags, appended.at)
            self._handler.publication(channel, publication, appended.epoch)

    def _know(self, channel: str, position: Position) -> None:
        positions = self._positions
        if channel not in positions and len(positions) >= self._known_limit + len(self._subscribed):
            self._complete = False
            for name in list(
                islice(positions, max(1, self._known_limit // 10))
            ):  # the oldest; to read one is cheap
                oldest = positions.pop(name)
                if name in self._subscribed:  # else each comparison of a quiet channel would read the log
                    positions[name] = oldest
        positions[channel] = position

    def _tell_presence(self, channel: str, member: Member, *, joined: bool) -> None:
        if self._handler is not None and channel in self._subscribed:
            self._handler.presence(channel, member, joined)

    def _expire_presence(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(EXPIRE_PRESENCE_S, self._expire_presence)
        for channel, member in self._presence.expire(time.monotonic()):
            self._tell_presence(channel, member, joined=False)
