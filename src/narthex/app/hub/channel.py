"""One channel on this node: its subscribers here, its position in the log, and the batch of this loop tick.

Publications to a channel within one tick are joined once and written once per subscriber: no allocation per subscriber
at all. Not here: writing a batch (`batch_writer`), gaps (`hub`). Rules: a subscriber is a joiner until its history is
read, then a member; a member gets every publication exactly once, in order; joiners become members only between
batches.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from narthex.app.hub.delivery import ChannelBatch, Delivery, DeltaForms
from narthex.app.publisher_info import without_info
from narthex.app.traffic import Traffic
from narthex.ports.broker import Publication
from narthex.ports.edge import DirectSender, Socket
from narthex.protocol.broadcast import Broadcast, ChannelEncoder
from narthex.protocol.framing import Framing, Prepared

JOIN_BUFFER: Final = 4_096  # publications kept for a joiner while its history is read: about 1 s of a flood


class Subscriber(Protocol):
    """A connection as the hub sees it."""

    socket: Socket
    lagging: bool

    def deliver_late(self, channel: Channel, items: list[Delivery]) -> None:
        """The socket is not writable: keep these deliveries (merged where allowed) or give up."""

    def position_lost(self, channel: Channel) -> None:
        """Publications are gone for good for this subscriber: it must recover or be disconnected."""


class Recipients(NamedTuple):
    """Members of a channel that get the same bytes, for writing: made anew only when a member came or left.

    Attributes:
        framing: of the members with direct senders; None: the members have none, or take deltas.
        senders: senders that write to the kernel.
        subscribers: the members, the senders' owners index by index; touched only when a direct sender does not take
            everything.
    """

    framing: Framing | None
    senders: list[DirectSender]
    subscribers: list[Subscriber]


class Joiner:
    """A subscriber whose history is being read (`ready` False) or waits for the next batch (True)."""

    __slots__ = ("buffer", "overflow", "ready", "skip")

    def __init__(self) -> None:
        self.buffer: list[Delivery] = []
        self.skip = 0
        self.ready = False
        self.overflow = False


class Channel:
    """See the module.

    Attributes:
        last: the offset of the last publication seen here, None before the first position.
        deltas: the subscribers that take deltas, and the data of the last publication that each has got.
    """

    __slots__ = (
        "_latest",
        "_recipients",
        "batch",
        "deltas",
        "departures",
        "encoder",
        "epoch",
        "flushing",
        "held",
        "joiners",
        "key",
        "last",
        "members",
        "name",
        "repairing",
        "traffic",
    )

    def __init__(self, key: str, name: str, traffic: Traffic | None = None) -> None:
        self.key = key
        self.traffic = traffic
        self.name = name
        self.encoder = ChannelEncoder(name)
        self.members: dict[Subscriber, None] = {}
        self.joiners: dict[Subscriber, Joiner] = {}
        self.deltas: dict[Subscriber, bytes | None] = {}
        self._latest: bytes | None = None  # the data of the publication before, while there are `deltas`
        self.last: int | None = None
        self.epoch = ""
        self.batch: ChannelBatch | None = None
        self.flushing = False
        self.repairing = False
        self.held: list[tuple[Publication, str]] = []
        self.departures = 0  # members that have left: a batch under way looks whether it moved
        self._recipients: list[Recipients] | None = None

    def __len__(self) -> int:
        return len(self.members) + len(self.joiners)

    def accept(self, publication: Publication) -> Delivery:
        """Encode once, put into this tick's batch, and hand to joiners. The caller has checked the order."""
        self.last = publication.offset
        delivery = self.put(Delivery(self.encoded(publication), publication))
        self.promote()
        return delivery

    def encoded(self, publication: Publication) -> Broadcast:
        """The push of a publication."""
        if publication.tags is None:
            return self.encoder.publication(publication.data, publication.offset)
        return self.encoder.publication(publication.data, publication.offset, *without_info(publication.tags))

    def put(self, delivery: Delivery, ephemeral: Publication | None = None) -> Delivery:
        """Add to the batch and to joiners; `ephemeral` is the publication that is in no history."""
        if self.deltas and (publication := delivery.publication or ephemeral) is not None:
            delivery.forms = DeltaForms(self.encoder, publication, self._latest)
            self._latest = publication.data
        if self.members:
            if self.batch is None:
                self.batch = ChannelBatch()
            self.batch.items.append(delivery)
        for subscriber, joiner in self.joiners.items():
            if joiner.ready:
                _send_past(self, subscriber, joiner, [delivery])
            elif len(joiner.buffer) < JOIN_BUFFER:
                joiner.buffer.append(delivery)
            else:
                joiner.overflow = True
        return delivery

    def seal(self) -> ChannelBatch:
        """Seal this tick's batch; the next publication opens another."""
        batch, self.batch = self.batch, None
        return batch if batch is not None else ChannelBatch()

    def ready(self, subscriber: Subscriber, skip: int) -> bool:
        """The joiner's history up to `skip` is on its way to it. False: its buffer overflowed, read again."""
        joiner = self.joiners[subscriber]
        offsets = [item.publication.offset for item in joiner.buffer if item.publication is not None]
        fresh = [offset for offset in offsets if offset > skip]
        # Publications that arrived before it joined must be in its read, also where it read from a replica.
        behind = self.last is not None and skip + len(fresh) < self.last
        if behind or joiner.overflow or fresh != list(range(skip + 1, skip + 1 + len(fresh))):
            joiner.buffer.clear()
            joiner.overflow = False
            return False
        joiner.skip = skip
        joiner.ready = True
        buffered, joiner.buffer = joiner.buffer, []
        _send_past(self, subscriber, joiner, buffered)
        self.promote()
        return True

    def promote(self) -> None:
        """Make ready joiners members, if nothing is under way that they have had already: no batch, and no
        publication that was in the history they read before it arrived here.
        """
        if not self.joiners or self.batch is not None or self.flushing or self.last is None:
            return
        last = self.last
        for subscriber in [
            who for who, joiner in self.joiners.items() if joiner.ready and joiner.skip <= last
        ]:
            del self.joiners[subscriber]
            self.members[subscriber] = None
            self._recipients = None

    def recipients(self) -> list[Recipients]:
        """The members, for writing. The value never changes: a later call may return another."""
        if self._recipients is None:
            found: dict[Framing | None, Recipients] = {}
            for subscriber in self.members:
                sender = None if subscriber in self.deltas else subscriber.socket.direct_sender
                framing = None if sender is None else subscriber.socket.framing
                group = found.get(framing)
                if group is None:
                    group = found[framing] = Recipients(framing, [], [])
                if sender is not None:
                    group.senders.append(sender)
                group.subscribers.append(subscriber)
            self._recipients = list(found.values())
        return self._recipients

    def recipients_changed(self) -> None:
        """A member has another socket now."""
        self._recipients = None

    def drop(self, subscriber: Subscriber) -> None:
        """The subscriber is gone; idempotent."""
        if subscriber in self.members:
            del self.members[subscriber]
            self.departures += 1
            self._recipients = None
        self.joiners.pop(subscriber, None)
        self.deltas.pop(subscriber, None)
        if not self.deltas:
            self._latest = None

    def recovered(self, subscriber: Subscriber, data: bytes) -> None:
        """The recovery of a subscriber that takes deltas ended with this data. One copy serves all that recover."""
        if self._latest is None:
            self._latest = data
        self.deltas[subscriber] = self._latest if self._latest == data else data

    def prepared(self, subscriber: Subscriber, delivery: Delivery) -> Prepared:
        """A delivery as this subscriber takes it; send it at once: the next may be a delta to it."""
        if subscriber not in self.deltas:
            return delivery.prepared
        if delivery.forms is None and delivery.publication is not None:  # merged for this subscriber alone
            delivery.forms = DeltaForms(self.encoder, delivery.publication, None)
        prepared, self.deltas[subscriber] = delivery.after(self.deltas[subscriber])
        return prepared

    def framed(self, subscriber: Subscriber, batch: ChannelBatch) -> bytes:
        """A batch as this subscriber takes it; send it at once."""
        if subscriber not in self.deltas:
            return batch.framed(subscriber.socket.framing)
        got = self.deltas[subscriber]
        data, self.deltas[subscriber] = batch.framed_after(subscriber.socket.framing, got)
        return data


def _send_past(channel: Channel, subscriber: Subscriber, joiner: Joiner, items: list[Delivery]) -> None:
    """Send a ready joiner the deliveries that it has not had: all after `skip`, and those without an offset."""
    fresh = [item for item in items if item.publication is None or item.publication.offset > joiner.skip]
    if not fresh:
        return
    if channel.traffic is not None:
        channel.traffic.deliveries += len(fresh)
        channel.traffic.delivered_bytes += sum([len(item.prepared.payload) for item in fresh])
    if subscriber.lagging:
        subscriber.deliver_late(channel, fresh)
        return
    for item in fresh:
        subscriber.socket.send(channel.prepared(subscriber, item))
