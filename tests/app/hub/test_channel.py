"""One channel: a subscriber that joins while publications are in flight gets each of them once."""

from __future__ import annotations

from narthex.app.hub import Channel
from narthex.app.hub.channel import Joiner
from narthex.ports.broker import Publication
from tests.app.hub.test_hub import RecordingSubscriber


def joining(channel: Channel, skip: int) -> RecordingSubscriber:
    """A subscriber whose history reached to `skip`."""
    subscriber = RecordingSubscriber()
    channel.joiners[subscriber] = Joiner()
    assert channel.ready(subscriber, skip)
    return subscriber


def write(channel: Channel) -> None:
    """The hub's handling of a batch."""
    batch = channel.seal()
    for member in channel.members:
        member.socket.send_frames(batch.framed(member.socket.framing))
    channel.promote()


def test_what_the_history_held_is_not_sent_again() -> None:
    """A reader may see a publication in the log before the handler receives it."""
    channel = Channel("t/thread:one", "thread:one")
    channel.last = 10
    late = joining(channel, 12)
    early = joining(channel, 10)
    for offset in range(11, 15):
        channel.accept(Publication(offset, b"{}"))
        write(channel)
    assert early.offsets == [11, 12, 13, 14]
    assert late.offsets == [13, 14]
    assert list(channel.members) == [early, late]


def test_a_lone_joiner_becomes_a_member_without_a_batch() -> None:
    """No other member makes a batch."""
    channel = Channel("t/thread:one", "thread:one")
    channel.last = 1
    subscriber = joining(channel, 2)
    assert not channel.members
    channel.accept(Publication(2, b"{}"))
    assert list(channel.members) == [subscriber]
    assert subscriber.offsets == []


def test_a_history_that_ends_before_what_was_heard_here_is_read_again() -> None:
    """Publication 11 was not kept for this subscriber, and its page ends at 10."""
    channel = Channel("t/thread:one", "thread:one")
    channel.last = 11
    subscriber = RecordingSubscriber()
    channel.joiners[subscriber] = Joiner()
    assert not channel.ready(subscriber, 10)
    assert channel.ready(subscriber, 11)
