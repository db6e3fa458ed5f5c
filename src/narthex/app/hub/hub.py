"""The hub: every publication of a subscribed channel to every local subscriber, exactly once, in order.

It is the broker's `BrokerHandler`. Not here: who may subscribe (app/subscriptions), what a connection does
with bytes it cannot write (app/backlog). Rules: nothing blocks the loop longer than one slice of subscribers;
a gap in the offsets is re-read from the broker before anything after it is shown; what cannot be re-read is
said (`position_lost`), never skipped in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from narthex.app.hub.channel import Batch, Channel, Delivery, Joiner, Subscriber
from narthex.app.tasks import Tasks
from narthex.domain.channels import split_key
from narthex.errors import DependencyError
from narthex.ports.broker import Broker, Control, Member, Position, Publication
from narthex.protocol.framing import Framing, Prepared
from narthex.protocol.replies import ClientInfo, encode_publication, encode_push

_WEBSOCKET: Final = Framing.WEBSOCKET
HELD_LIMIT: Final = 10_000  # publications kept while a gap is re-read; past it the position is lost


class HubLimits(NamedTuple):
    """Bounds of the hub.

    Attributes:
        slice_size: subscribers written to before the loop gets its turn (about 2 to 4 ms).
        linger_s: how long the broker subscription of an empty channel is kept (reconnects are cheap then).
    """

    slice_size: int = 500
    linger_s: float = 5.0


class Hub:
    """See the module."""

    def __init__(
        self,
        broker: Broker,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
        limits: HubLimits,
        on_control: Callable[[Control], None],
        on_lost: Callable[[int], None],
        on_fault: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._broker = broker
        self._tasks = tasks
        self._loop = loop
        self._limits = limits
        self._on_control = on_control
        self._on_lost = on_lost
        self._on_fault = on_fault
        self._channels: dict[str, Channel] = {}
        self._dirty: list[Channel] = []
        self._scheduled = False
        self._lingering: dict[str, asyncio.TimerHandle] = {}

    # -- subscribing ---------------------------------------------------------------------------------------

    def attach(self, key: str, subscriber: Subscriber) -> Channel:
        """Register as a joiner: from now on nothing published is missed. Follow with `Channel.ready`."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key, split_key(key)[1])
            self._broker.subscribe(key)
        handle = self._lingering.pop(key, None)
        if handle is not None:
            handle.cancel()
        channel.joiners[subscriber] = Joiner()
        return channel

    def positioned(self, channel: Channel, top: Position) -> None:
        """A history read says where the log stands; the first one fixes where live publications continue."""
        if channel.last is None:
            seen = [
                item.publication.offset
                for joiner in channel.joiners.values()
                for item in joiner.buffer
                if item.publication is not None
            ]
            channel.last, channel.epoch = max([top.offset, *seen]), top.epoch

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

    def channels(self) -> int:
        """How many channels have been asked for here."""
        return len(self._channels)

    # -- BrokerHandler -------------------------------------------------------------------------------------

    def publication(self, channel: str, publication: Publication, epoch: str) -> None:
        """See `BrokerHandler`."""
        found = self._channels.get(channel)
        if found is None:
            return
        if found.repairing:
            self._hold(found, publication, epoch)
        elif found.last is None:
            if found.joiners or found.members:  # before the first position: joiners buffer it
                found.put(Delivery(Prepared(self._encoded(found, publication)), publication))
        elif epoch != found.epoch or publication.offset > found.last + 1:
            self._repair(found)
            self._hold(found, publication, epoch)
        elif publication.offset == found.last + 1:
            found.accept(publication)
            self._touch(found)

    def presence(self, channel: str, member: Member, joined: bool) -> None:
        """See `BrokerHandler`."""
        found = self._channels.get(channel)
        if found is None:
            return
        info = ClientInfo(user=member.user, client=member.client, conn_info=member.conn_info)
        push = encode_push(found.name, "join" if joined else "leave", {"info": info})
        found.put(Delivery(Prepared(push), None))
        self._touch(found)

    def control(self, message: Control) -> None:
        """See `BrokerHandler`. `ephemeral` is the hub's own: a push that is in no history."""
        if message.kind == "ephemeral":
            found = self._channels.get(str(message.data["channel"]))
            if found is not None:
                data = str(message.data["data"]).encode()
                found.put(Delivery(Prepared(encode_publication(found.prefix, data, 0)), None))
                self._touch(found)
            return
        self._on_control(message)

    def resync(self, channels: list[str] | None) -> None:
        """See `BrokerHandler`."""
        for key in list(self._channels) if channels is None else channels:
            found = self._channels.get(key)
            if found is not None and found.last is not None and not found.repairing:
                self._repair(found)

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
        """`_reread`; whatever else goes wrong in it, the channel is not left waiting for it."""
        try:
            await self._reread(channel)
        except BaseException:
            if channel.repairing:
                self._lost(channel)
            raise

    async def _reread(self, channel: Channel) -> None:
        """Read everything after `last` until nothing is missing, or say that it is lost."""
        delay_s = 0.05
        while channel.repairing:
            if not channel or channel.last is None:  # nobody is left to miss anything
                channel.repairing = False
                channel.held.clear()
                return
            try:
                page = await self._broker.history(channel.key, since=Position(channel.last, channel.epoch))
            except DependencyError:
                await asyncio.sleep(
                    delay_s
                )  # the broker is away: clients keep their sockets, nothing is skipped
                delay_s = min(delay_s * 2, 2.0)
                continue
            if not page.complete:
                self._lost(channel)
                return
            for publication in page.publications:
                channel.accept(publication)
            self._touch(channel)
            if channel.last < page.top.offset:  # a page was not enough
                await asyncio.sleep(0)
                continue
            overflowed = len(channel.held) >= HELD_LIMIT  # what did not fit is in the log: read again
            held, channel.held = channel.held, []
            for at, (publication, epoch) in enumerate(held):
                if epoch != channel.epoch:
                    continue  # the log says that our epoch holds: this one is a straggler of another
                if publication.offset > channel.last + 1:
                    channel.held = held[at:]
                    await asyncio.sleep(delay_s)
                    break
                if publication.offset == channel.last + 1:
                    channel.accept(publication)
            else:
                channel.repairing = overflowed
            self._touch(channel)

    def _lost(self, channel: Channel) -> None:
        channel.repairing = False
        channel.held.clear()
        channel.last = None
        everybody = [*channel.members, *channel.joiners]
        self._on_lost(len(everybody))
        for subscriber in everybody:
            subscriber.position_lost(channel)

    # -- writing -------------------------------------------------------------------------------------------

    @staticmethod
    def _encoded(channel: Channel, publication: Publication) -> bytes:
        return encode_publication(channel.prefix, publication.data, publication.offset, publication.tags)

    def _touch(self, channel: Channel) -> None:
        if channel.batch is not None and not channel.flushing:
            channel.flushing = True
            self._dirty.append(channel)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for channel in dirty:
            self._write_slice(channel, iter(list(channel.members)), channel.take(), first=True)

    def _write_slice(
        self, channel: Channel, remaining: Iterator[Subscriber], batch: Batch, *, first: bool = False
    ) -> None:
        """Write one slice, then let the loop breathe; what is published meanwhile joins the next batch."""
        members = channel.members
        size = self._limits.slice_size
        frames = batch.framed(_WEBSOCKET)
        written = 0
        for subscriber in islice(remaining, size):
            written += 1
            if not first and subscriber not in members:
                continue  # left since the slice before
            try:
                if subscriber.lagging:
                    subscriber.deliver_late(channel, batch.items)
                    continue
                socket = subscriber.socket
                socket.send_frames(frames if socket.framing is _WEBSOCKET else batch.framed(socket.framing))
            except Exception as fault:  # one subscriber's bug must not silence the channel for the others
                channel.drop(subscriber)
                self._on_fault(fault)
        if written == size:
            self._loop.call_soon(self._write_slice, channel, remaining, batch)
            return
        channel.flushing = False
        channel.promote()
        self._touch(channel)

    def stop(self) -> None:
        """Forget everything; connections are closed by their owner."""
        for handle in self._lingering.values():
            handle.cancel()
        self._lingering.clear()
        self._channels.clear()
