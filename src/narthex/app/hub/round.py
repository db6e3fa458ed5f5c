"""One batch on its way to the members of one channel, a part at a time.

Not here: when a part is written and when the loop gets its turn (`hub`). Rules: whoever was a member when the
batch was sealed gets it once, unless it left meanwhile; one subscriber's fault does not keep it from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import length_hint

from narthex.app.hub.channel import Channel, Roster, Subscriber
from narthex.protocol.framing import Framing


class Round:
    """See the module.

    Args:
        channel: whose batch is sealed and whose members are fixed by this.
        on_fault: told of a subscriber's bug; it is out of the channel then.
    """

    __slots__ = ("_at", "_batch", "_departures", "_frames", "_on_fault", "_roster", "channel")

    def __init__(self, channel: Channel, on_fault: Callable[[BaseException], None]) -> None:
        self.channel = channel
        self._batch = channel.take()
        self._roster = channel.roster()
        self._departures = channel.departures
        self._frames = self._batch.framed(Framing.WEBSOCKET) if self._roster.lanes else b""
        self._at = 0
        self._on_fault = on_fault

    def write(self, count: int) -> int:
        """Write to at most `count` more members; returns how many it were, fewer only at the end."""
        if self.channel.departures != self._departures:
            self._strike_out()
        roster = self._roster
        begin, lanes = self._at, len(roster.lanes)
        end = self._at = min(begin + count, lanes + len(roster.others))
        if begin < lanes:
            self._ride(begin, min(end, lanes))
        for subscriber in roster.others[max(begin - lanes, 0) : max(end - lanes, 0)]:
            self._hand(subscriber)
        return end - begin

    def done(self) -> bool:
        """Whether everybody has had it."""
        return self._at == len(self._roster.lanes) + len(self._roster.others)

    def _ride(self, begin: int, end: int) -> None:
        """The hot path: for nearly everybody one call that goes to the kernel, and no other object is touched."""
        frames, riders = self._frames, self._roster.riders
        size = len(frames)
        lanes = iter(self._roster.lanes[begin:end])
        while True:
            try:
                for lane in lanes:
                    if (sent := lane.send(frames)) != size:
                        self._rest(riders[end - length_hint(lanes) - 1], frames[sent:])
            except OSError:  # of the lane: `_rest` raises nothing
                self._hand(riders[end - length_hint(lanes) - 1])
            else:
                return

    def _hand(self, subscriber: Subscriber) -> None:
        try:
            if subscriber.lagging:
                subscriber.deliver_late(self.channel, self._batch.items)
            else:
                socket = subscriber.socket
                socket.send_frames(self._batch.framed(socket.framing))
        except Exception as fault:  # one subscriber's bug must not silence the channel for the others
            self.channel.drop(subscriber)
            self._on_fault(fault)

    def _rest(self, subscriber: Subscriber, rest: bytes) -> None:
        try:
            subscriber.socket.send_rest(rest)
        except Exception as fault:
            self.channel.drop(subscriber)
            self._on_fault(fault)

    def _strike_out(self) -> None:
        """Somebody left since the part before: it gets nothing more."""
        self._departures = self.channel.departures
        members, roster, at = self.channel.members, self._roster, self._at
        staying = [
            (lane, rider)
            for lane, rider in zip(roster.lanes[at:], roster.riders[at:], strict=True)
            if rider in members
        ]
        others = roster.others[max(at - len(roster.lanes), 0) :]
        self._roster = Roster(
            [lane for lane, _ in staying],
            [rider for _, rider in staying],
            [subscriber for subscriber in others if subscriber in members],
        )
        self._at = 0
