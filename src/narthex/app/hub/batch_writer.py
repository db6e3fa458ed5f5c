"""Writes one batch to the members of one channel, a part at a time.

Not here: the times of the parts and of the loop's turns (`hub`). Rules: each member at the time when the
batch was sealed gets it once, unless it left meanwhile; one subscriber's fault does not keep it from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import length_hint

from narthex.app.hub.channel import Channel, Recipients, Subscriber


class BatchWriter:
    """See the module.

    Args:
        channel: its batch is sealed and its members are fixed by this.
        on_fault: takes a subscriber's exception; the subscriber is out of the channel then.

    Attributes:
        items: messages of the batch.
        size: their payloads' bytes.
    """

    __slots__ = ("_at", "_batch", "_departures", "_on_fault", "_recipients", "channel", "items", "size")

    def __init__(self, channel: Channel, on_fault: Callable[[BaseException], None]) -> None:
        self.channel = channel
        self._batch = channel.seal()
        self._recipients = [*channel.recipients()]
        self._departures = channel.departures
        self._at = 0
        self._on_fault = on_fault
        items = self._batch.items
        self.items = len(items)
        self.size = sum([len(item.prepared.payload) for item in items])

    def write(self, count: int) -> int:
        """Write to at most `count` more members; returns the number of them, smaller only at the end."""
        if self.channel.departures != self._departures:
            self._drop_departed()
        left = count
        while left and self._recipients:
            group = self._recipients[0]
            begin, size = self._at, len(group.subscribers)
            end = self._at = min(begin + left, size)
            if group.framing is not None:
                self._send_direct(group, begin, end)
            else:
                for subscriber in group.subscribers[begin:end]:
                    self._deliver(subscriber)
            left -= end - begin
            if end == size:
                del self._recipients[0]
                self._at = 0
        return count - left

    def done(self) -> bool:
        """Whether every member has had the batch."""
        return not self._recipients

    def _send_direct(self, group: Recipients, begin: int, end: int) -> None:
        """The hot path: for most members one call that goes to the kernel, and no other object is touched."""
        assert group.framing is not None
        frames, riders = self._batch.framed(group.framing), group.subscribers
        size = len(frames)
        direct = iter(group.senders[begin:end])
        while True:
            try:
                for sender in direct:
                    if (sent := sender.send(frames)) != size:
                        self._send_rest(riders[end - length_hint(direct) - 1], frames[sent:])
            except OSError:  # of the direct sender: `_send_rest` raises nothing
                self._deliver(riders[end - length_hint(direct) - 1])
            else:
                return

    def _deliver(self, subscriber: Subscriber) -> None:
        try:
            if subscriber.lagging:
                subscriber.deliver_late(self.channel, self._batch.items)
            else:
                subscriber.socket.send_frames(self.channel.framed(subscriber, self._batch))
        except Exception as fault:  # one subscriber's bug must not silence the channel for the others
            self.channel.drop(subscriber)
            self._on_fault(fault)

    def _send_rest(self, subscriber: Subscriber, rest: bytes) -> None:
        try:
            subscriber.socket.send_rest(rest)
        except Exception as fault:
            self.channel.drop(subscriber)
            self._on_fault(fault)

    def _drop_departed(self) -> None:
        """Drop members that left since the previous part: they get nothing more."""
        self._departures = self.channel.departures
        staying: list[Recipients] = []
        for group in self._recipients:
            left = Recipients(group.framing, [], [])
            for index in range(self._at, len(group.subscribers)):
                if group.subscribers[index] in self.channel.members:
                    left.subscribers.append(group.subscribers[index])
                    left.senders.extend(group.senders[index : index + 1])
            self._at = 0
            if left.subscribers:
                staying.append(left)
        self._recipients = staying
