"""Checks of connections: deliveries after a removal, commands without an answer, commands that overtook others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.history.findings import Finding, Kind
from tests.history.reading import INFINITY, Reading, Segment
from tests.history.records import Answered, Asked, Closed, Connected, Membership, Unsubscribed
from tests.history.runs import served

ALREADY_SUBSCRIBED = 105
PERMISSION_DENIED = 103
NEED_SUBSCRIPTION = ("presence", "presence_stats", "history")


def rights(reading: Reading) -> Iterator[Finding]:
    """A removed user receives nothing, once the bound is over, until the user is added again."""
    away: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _, record in reading.each(Membership):
        spans = away[record.channel, record.user]
        if not record.member:
            due = reading.deadlines.after(record.at, reading.bounds.removal_s, Kind.AFTER_REMOVAL)
            spans.append((due, reading.undone_at(record.asked_at, record.at)))
        elif spans:
            spans[-1] = (spans[-1][0], min(spans[-1][1], record.asked_at))
    if not away:
        return
    moments = list(served(reading))
    for index, connected in reading.each(Connected):
        user = reading.readers[connected.conn].user
        moments.append((connected.asked_at, connected.at, index, user, "*", "was connected"))
    for asked_at, at, index, user, channel, what in moments:
        for name in {channel, "*"}:
            for began, ended in away.get((name, user), ()):
                if asked_at > began and at < ended:
                    text = f"{user} {what} on {channel} {at - began:.3f} s after the bound of its removal"
                    yield Finding(Kind.AFTER_REMOVAL, text, at, (index,))


def replies(reading: Reading) -> Iterator[Finding]:
    """Every command is answered in time, or its connection ends."""
    open_: dict[tuple[str, int], tuple[int, Asked]] = {}
    for index, record in enumerate(reading.history):
        if isinstance(record, Asked):
            open_[record.conn, record.id] = (index, record)
        elif isinstance(record, Answered):
            asked = open_.pop((record.conn, record.id), None)
            if asked is not None:
                yield from _late(reading, *asked, record.at)
        elif isinstance(record, Closed):
            for key in [key for key in open_ if key[0] == record.conn]:
                yield from _late(reading, *open_.pop(key), record.at)
    for index, asked_record in open_.values():
        yield from _late(reading, index, asked_record, reading.end)


def _late(reading: Reading, index: int, asked: Asked, at: float) -> Iterator[Finding]:
    due = reading.deadlines.after(asked.at, reading.bounds.reply_s, Kind.NO_REPLY)
    if at > due:
        text = f"{asked.command} {asked.channel} of {asked.conn} had no answer after {due - asked.at:.1f} s"
        yield Finding(Kind.NO_REPLY, text, due, (index,))


def command_order(reading: Reading) -> Iterator[Finding]:
    """Subscribe, unsubscribe and commands that need a subscription, per connection and channel.

    The state is followed in the order of the commands, with each one's own answer. A refused `subscribe` leaves the
    state as it was; after a push from the server nothing is assumed until the next command succeeds.
    """
    asked: defaultdict[tuple[str, str], list[tuple[int, Asked]]] = defaultdict(list)
    answers: dict[tuple[str, int], Answered] = {}
    disturbed: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for index, command in reading.each(Asked):
        if command.channel and command.command != "rpc":
            asked[command.conn, command.channel].append((index, command))
    for _, answered in reading.each(Answered):
        answers[answered.conn, answered.id] = answered
    for _, left in reading.each(Unsubscribed):
        if left.code:
            disturbed[left.conn, left.channel].append(left.at)
    by_conn: defaultdict[tuple[str, str], list[Segment]] = defaultdict(list)
    for _, segment in reading.every_segment():
        by_conn[segment.conn, segment.record.channel].append(segment)
    for (conn, channel), commands in asked.items():
        state: bool | None = False
        if any(segment.record.server_side for segment in by_conn.get((conn, channel), ())):
            state = None
        before = 0.0
        for index, command in commands:
            answer = answers.get((conn, command.id))
            if answer is None:
                state = None
                continue
            if any(before <= moment <= answer.at for moment in disturbed[conn, channel]):
                state = None
            before = command.at
            wrong = ""
            if command.command == "subscribe":
                if answer.error == ALREADY_SUBSCRIBED and state is False:
                    wrong = "105 (already subscribed), though it is not"
                state = True if answer.error in (0, ALREADY_SUBSCRIBED) else state
            elif command.command == "unsubscribe":
                state = False if answer.error == 0 else state
            elif command.command in NEED_SUBSCRIPTION and answer.error == PERMISSION_DENIED and state:
                wrong = "103 (permission denied), though it is subscribed"
            if wrong:
                text = f"{conn}: {command.command} {channel} (id {command.id}) was answered {wrong}"
                yield Finding(Kind.COMMAND_ORDER, text, answer.at, (index,))
        if not any(moment >= commands[-1][1].at for moment in disturbed[conn, channel]):
            yield from _final(reading, by_conn, conn, channel, state)


def _final(
    reading: Reading,
    by_conn: Mapping[tuple[str, str], Sequence[Segment]],
    conn: str,
    channel: str,
    state: bool | None,
) -> Iterator[Finding]:
    """A connection whose last commands subscribed it is subscribed, and one that they unsubscribed is not."""
    if state is None:
        return
    mine = by_conn.get((conn, channel), [])
    following = bool(mine) and mine[-1].ended_at == INFINITY
    if conn not in reading.ended and following != state:
        text = f"{conn} {'follows' if following else 'does not follow'} {channel}, against its last command"
        yield Finding(Kind.COMMAND_ORDER, text, reading.end)
