"""The hub: every publication of a subscribed channel to every local subscriber, exactly once, in order.

It is the broker's `BrokerHandler`. Not here: the right to subscribe (app/commands/subscribing), bytes that a
connection cannot write (app/backlog). Rules: nothing blocks the loop longer than one slice of subscribers;
a gap in the offsets is re-read from the broker before any later publication is shown; a gap that cannot be re-read is
reported (`position_lost`), never skipped in silence.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from narthex.app.hub.batch_writer import BatchWriter
from narthex.app.hub.channel import Channel, Joiner, Subscriber
from narthex.app.hub.delivery import Delivery
from narthex.app.tasks import Tasks
from narthex.app.traffic import Traffic
from narthex.domain.channels import split_key
from narthex.errors import DependencyError
from narthex.ports.broker import ChannelLog, Control, Member, Position, Publication
from narthex.protocol.replies import ClientInfo

LOOK_EVERY: Final = (
    128  # writes between two looks at the clock: 0.4 ms here, 1.5 ms on a machine thrice as slow
)
REREAD_FIRST_S: Final = (
    2.0  # for one read of a gap, twice as long each time: an answer may be lost with a route
)
REREAD_LAST_S: Final = 16.0
PAUSE_FIRST_S: Final = 0.05  # between two reads of a gap while the broker is down, twice as long each time
PAUSE_LAST_S: Final = 2.0
HELD_LIMIT: Final = 10_000  # publications kept while a gap is re-read; past it the position is lost


class HubLimits(NamedTuple):
    """Bounds of the hub.

    Attributes:
        slice_size: subscribers written to before the loop gets its turn (1 to 3 ms), of all channels together.
        linger_s: how long the broker subscription of an empty channel is kept (reconnects are cheap then).
        slice_s: the loop gets its turn after this time in any case: a slow machine, many slow clients.
    """

    slice_size: int = 500
    linger_s: float = 5.0
    slice_s: float = 0.004


class Hub:
    """See the module.

    Args:
        broker: of the channels' logs.
        tasks: own the re-reads of gaps.
        loop: runs everything.
        limits: bounds.
        on_control: takes control messages.
        on_missed: called when control messages may have been missed.
        on_lost: takes the number of subscribers that lost their position.
        on_fault: takes a subscriber's exception.
        clock: monotonic seconds.
        traffic: counts publications and deliveries.
        watchers: by channel: takes each publication that is handed on, and its number of subscribers (tracing).
    """

    def __init__(
        self,
        broker: ChannelLog,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
        limits: HubLimits,
        on_control: Callable[[Control], None],
        on_missed: Callable[[], None],
        on_lost: Callable[[int], None],
        on_fault: Callable[[BaseException], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,  # not the loop's: uvloop's stands still within a turn
        *,
        traffic: Traffic,
        watchers: Mapping[str, Callable[[Publication, int], None]] = MappingProxyType({}),
    ) -> None:
        self._broker = broker
        self._tasks = tasks
        self._loop = loop
        self._limits = limits
        self._on_control = on_control
        self._on_missed = on_missed
        self._on_lost = on_lost
        self._on_fault = on_fault
        self._clock = clock
        self._traffic = traffic
        self._watchers = watchers
        self._channels: dict[str, Channel] = {}
        self._dirty: list[Channel] = []
        self._writers: deque[BatchWriter] = deque()  # one a channel at most
        self._scheduled = False
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        # Of the re-reads: for an answer, or between two reads.
        self._waits: dict[Channel, asyncio.Timeout] = {}
        self._returns = 0  # how often the engine came back

    # -- subscribing ---------------------------------------------------------------------------------------

    def attach(self, key: str, subscriber: Subscriber, *, deltas: bool = False) -> Channel:
        """Register as a joiner: from now on it misses no publication. Follow with `Channel.ready`.

        Args:
            key: the channel's.
            subscriber: that joins.
            deltas: it takes publications as deltas; the first is whole, unless `Channel.deltas` is set before `ready`.
        """
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key, split_key(key)[1], self._traffic)
            self._broker.subscribe(key)
        handle = self._lingering.pop(key, None)
        if handle is not None:
            handle.cancel()
        channel.joiners[subscriber] = Joiner()
        if deltas:
            channel.deltas[subscriber] = None
        return channel

    def positioned(self, channel: Channel, top: Position) -> bool:
        """Set the log's end from a history read; the first one fixes where live publications continue.

        Returns:
            False: this channel has another epoch, and one of the two is replaced. A re-read finds out which one; the
            joiner has to begin anew, because publications of one epoch must not follow a position in the other.
        """
        if channel.last is None:
            for joiner in channel.joiners.values():  # a late message of a replaced log is not of this one
                joiner.buffer = [item for item in joiner.buffer if item.epoch in ("", top.epoch)]
            seen = [
                item.publication.offset
                for joiner in channel.joiners.values()
                for item in joiner.buffer
                if item.publication is not None
            ]
            channel.last, channel.epoch = max([top.offset, *seen]), top.epoch
        elif channel.epoch != top.epoch:
            if not channel.repairing:
                self._repair(channel)
            return False
        return True

    def detach(self, channel: Channel, subscriber: Subscriber) -> None:
        """Forget a subscriber; an empty channel's broker subscription ends after `linger_s`."""
        channel.drop(subscriber)
        if not channel and channel.key not in self._lingering:
            self._lingering[channel.key] = self._loop.call_later(
                self._limits.linger_s, self._forget, channel.key
            )

    def _forget(self, key: str) -> None:
        self._lingering.pop(key, None)
        channel = self._channels.get(key)
        if channel is not None and not channel:
            del self._channels[key]
            self._broker.unsubscribe(key)

    def subscribers(self, key: str) -> list[Subscriber]:
        """Local subscribers of a channel, as they are now."""
        channel = self._channels.get(key)
        return [*channel.members, *channel.joiners] if channel else []

    def keys(self) -> list[str]:
        """Every channel with subscribers or lingering here, as it is now."""
        return list(self._channels)

    def subscriptions(self) -> int:
        """The number of subscriptions here."""
        return sum(map(len, self._channels.values()))

    def held(self) -> int:
        """The most publications that a channel keeps while its log is read again; `HELD_LIMIT` is the limit."""
        return max((len(channel.held) for channel in self._channels.values() if channel.held), default=0)

    def channels(self) -> int:
        """The number of channels with subscribers or lingering here."""
        return len(self._channels)

    # -- BrokerHandler -------------------------------------------------------------------------------------

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """See `BrokerHandler`."""
        found = self._channels.get(channel)
        if found is None:
            return
        self._traffic.publications += 1
        if found.repairing:
            self._hold(found, publication, epoch)
        elif found.last is None:
            if found.joiners or found.members:  # before the first position: joiners buffer it
                found.put(Delivery(found.encoded(publication), publication, epoch))
        elif epoch != found.epoch or publication.offset > found.last + 1:
            self._repair(found)
            self._hold(found, publication, epoch)
        elif publication.offset == found.last + 1:
            found.accept(publication)
            if self._watchers and (watcher := self._watchers.get(channel)) is not None:
                watcher(publication, len(found.members))
            self._touch(found)

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        """See `BrokerHandler`."""
        found = self._channels.get(channel)
        if found is None:
            return
        info = ClientInfo(user=member.user, client=member.client, conn_info=member.conn_info)
        push = found.encoder.push("join" if joined else "leave", {"info": info})
        found.put(Delivery(push, None))
        self._touch(found)

    def control(self, message: Control) -> None:
        """See `BrokerHandler`. `ephemeral` is the hub's own: a push that is in no history."""
        if message.kind == "ephemeral":
            found = self._channels.get(str(message.data["channel"]))
            if found is not None:
                shown = Publication(0, str(message.data["data"]).encode())
                found.put(Delivery(found.encoded(shown), None), shown)
                self._touch(found)
            return
        self._on_control(message)

    def resync(self, channels: list[str] | None) -> None:
        """See `BrokerHandler`."""
        for key in list(self._channels) if channels is None else channels:
            found = self._channels.get(key)
            if found is not None and found.last is not None and not found.repairing:
                self._repair(found)
        if channels is None:
            self._begin_reads_anew()
            self._on_missed()

    def positions(self) -> dict[str, Position]:
        """This node's position in every channel that it follows, except those that are being re-read."""
        return {
            key: Position(channel.last, channel.epoch)
            for key, channel in self._channels.items()
            if channel.last is not None and not channel.repairing
        }

    def behind(self, known: Mapping[str, Position], ends: Mapping[str, Position]) -> list[str]:
        """The channels to re-read: their logs ended at `ends` after they were at `known`, and they have
        not come that far; or the log ended before `known`, so it is another log now.
        """
        found = []
        for key, end in ends.items():
            channel, before = self._channels.get(key), known[key]
            if channel is None or channel.last is None or channel.repairing:
                continue
            shrunk = end.epoch == before.epoch and end.offset < before.offset
            if shrunk or channel.epoch != end.epoch or channel.last < end.offset:
                found.append(key)
        return found

    # -- gaps ----------------------------------------------------------------------------------------------

    def _hold(self, channel: Channel, publication: Publication, epoch: str) -> None:
        if len(channel.held) < HELD_LIMIT:
            channel.held.append((publication, epoch))

    def _repair(self, channel: Channel) -> None:
        channel.repairing = True
        try:
            self._tasks.spawn(self._repaired(channel))
        except DependencyError:
            self._lost(channel)

    async def _repaired(self, channel: Channel) -> None:
        """Run `_reread`; after any fault in it the channel does not wait for it for ever."""
        try:
            await self._reread(channel)
        except BaseException:
            if channel.repairing:
                self._lost(channel)
            raise

    def _begin_reads_anew(self) -> None:
        """The engine is back: it will not answer the requests that went out on a connection that is gone."""
        self._returns += 1
        waits, self._waits = self._waits, {}
        for wait in waits.values():
            if not wait.expired():
                wait.reschedule(self._loop.time())

    async def _reread(self, channel: Channel) -> None:
        """Read everything after `last` until nothing is missing, or report that it is lost."""
        returns, pause_s, patience_s = self._returns, PAUSE_FIRST_S, REREAD_FIRST_S
        while channel.repairing:
            if not channel or channel.last is None:  # no subscriber is left that could miss anything
                channel.repairing = False
                channel.held.clear()
                channel.last = None  # it may be behind: the next subscriber reads the log's end
                return
            try:
                async with asyncio.timeout(patience_s) as self._waits[channel]:
                    page = await self._broker.history(
                        channel.key, since=Position(channel.last, channel.epoch)
                    )
            except (DependencyError, TimeoutError):
                # The broker is down: clients keep their sockets, nothing is skipped.
                if returns == self._returns:
                    await self._pause(channel, pause_s)
                    pause_s, patience_s = min(pause_s * 2, PAUSE_LAST_S), min(patience_s * 2, REREAD_LAST_S)
                if returns != self._returns:
                    returns, pause_s, patience_s = self._returns, PAUSE_FIRST_S, REREAD_FIRST_S
                continue
            finally:
                self._waits.pop(channel, None)
            if not page.complete:
                self._lost(channel)
                return
            for publication in page.publications:
                channel.accept(publication)
            self._touch(channel)
            if channel.last < page.top.offset:  # a page was not enough
                await asyncio.sleep(0)
                continue
            overflowed = len(channel.held) >= HELD_LIMIT  # the rest is in the log: read again
            held, channel.held = channel.held, []
            for at, (publication, epoch) in enumerate(held):
                if epoch != channel.epoch:
                    continue  # the log confirms our epoch: this one is a late message of another
                if publication.offset > channel.last + 1:
                    channel.held = held[at:]
                    await asyncio.sleep(pause_s)
                    break
                if publication.offset == channel.last + 1:
                    channel.accept(publication)
            else:
                channel.repairing = overflowed
            self._touch(channel)

    async def _pause(self, channel: Channel, seconds: float) -> None:
        """Wait, at most until the engine is back."""
        try:
            async with asyncio.timeout(seconds) as self._waits[channel]:
                await self._loop.create_future()
        except TimeoutError:
            pass
        finally:
            self._waits.pop(channel, None)

    def _lost(self, channel: Channel) -> None:
        channel.repairing = False
        channel.held.clear()
        channel.last = None
        subscribers = [*channel.members, *channel.joiners]
        self._on_lost(len(subscribers))
        for subscriber in subscribers:
            subscriber.position_lost(channel)

    # -- writing -------------------------------------------------------------------------------------------

    def _touch(self, channel: Channel) -> None:
        if channel.batch is not None and not channel.flushing:
            channel.flushing = True
            self._dirty.append(channel)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write one slice, then let the loop turn; later publications join the next batch.

        Channels take turns, so that a small one does not wait for a large one's last subscriber.
        """
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        writers, traffic = self._writers, self._traffic
        writers.extend([BatchWriter(channel, self._on_fault) for channel in dirty])
        left, ends_at = self._limits.slice_size, self._clock() + self._limits.slice_s
        while writers and left > 0:
            current = writers.popleft()
            written = current.write(min(left, LOOK_EVERY))
            left -= written
            traffic.deliveries += written * current.items
            traffic.delivered_bytes += written * current.size
            if current.done():
                self._written(current.channel)
            else:
                writers.append(current)
            if self._clock() >= ends_at:
                break
        if writers:
            self._schedule()

    def _written(self, channel: Channel) -> None:
        channel.flushing = False
        channel.promote()
        self._touch(channel)

    def stop(self) -> None:
        """Forget everything; connections are closed by their owner."""
        for handle in self._lingering.values():
            handle.cancel()
        self._lingering.clear()
        self._channels.clear()
        self._writers.clear()
        self._dirty.clear()
