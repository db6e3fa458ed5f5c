"""A history indexed for the checks: which reader followed which channel over which positions, and the log's content.

Rules: nothing is checked here except publications that cannot be assigned (outside every subscription).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec

from tests.history.findings import Bounds, Deadlines, Finding, Kind
from tests.history.records import (
    Acknowledged,
    Attempted,
    Closed,
    Delivered,
    Entry,
    LogRead,
    Opened,
    Record,
    Restored,
    RunStarted,
    Subscribed,
    Unsubscribed,
)

INFINITY = float("inf")
TERMINAL: Final = ("RUN_FINISHED", "RUN_ERROR")
R = TypeVar("R")
_encode = msgspec.json.Encoder(order="sorted").encode


def same(data: Any) -> bytes:
    """The identity of a publication: its JSON with sorted names."""
    return _encode(data)


def events_of(data: Any) -> str:
    """The run that a publication is an event of; empty for other publications."""
    if isinstance(data, dict) and isinstance(data.get("seq"), int):
        return str(data.get("runId", ""))
    return ""


def span(data: Any) -> int:
    """The number of publications that a delivered one stands for: deltas merged for a slow client have `seq_from`."""
    if isinstance(data, dict) and isinstance(data.get("seq_from"), int) and isinstance(data.get("seq"), int):
        return max(1, int(data["seq"]) - int(data["seq_from"]) + 1)
    return 1


class Shown(NamedTuple):
    """A publication that a client received: in record `number`, at `at`."""

    number: int
    at: float
    entry: Entry
    live: bool


class Segment:
    """A period in which one connection followed one channel.

    Attributes:
        base: the offset after which it should receive everything; -1 until the first publication shows it.
        shown: the received publications, in order of arrival.
        ended_at: infinity while it lasts.
    """

    __slots__ = ("base", "conn", "ended_at", "index", "record", "shown", "user")

    def __init__(self, index: int, record: Subscribed, user: str) -> None:
        self.index = index
        self.record = record
        self.conn = record.conn
        self.user = user
        self.base = record.since_offset if record.recover and record.recovered else record.offset
        self.shown: list[Shown] = []
        self.ended_at = INFINITY
        for entry in record.publications:
            self.show(Shown(index, record.at, entry, False))

    def show(self, shown: Shown) -> None:
        """Add the next publication."""
        if self.base < 0:
            self.base = shown.entry.offset - span(shown.entry.data)
        self.shown.append(shown)

    @property
    def where(self) -> str:
        """A description for sentences."""
        return f"{self.record.channel} at {self.conn} ({self.user})"

    def arrivals(self) -> dict[int, float]:
        """When each offset first arrived; a merged publication counts for all that it stands for."""
        found: dict[int, float] = {}
        for _, at, entry, _ in self.shown:
            for offset in range(entry.offset - span(entry.data) + 1, entry.offset + 1):
                found.setdefault(offset, at)
        return found


class Place(NamedTuple):
    """One position of a log."""

    channel: str
    epoch: str
    offset: int


class Lives(NamedTuple):
    """The runs of a history.

    Attributes:
        began: the time and record of each start, and its channel.
        ends: by run and (epoch, offset): the time and record at which each terminal event was first seen.
    """

    began: dict[str, tuple[float, int, str]]
    ends: dict[str, dict[tuple[str, int], tuple[float, int, dict[str, Any]]]]


class Ack(NamedTuple):
    """An acknowledged publication: record `number`."""

    number: int
    record: Acknowledged
    attempted_at: float
    data: Any


def _follows(later: list[tuple[float, float]], earlier: list[tuple[float, float]]) -> bool:
    """Whether a span of `later` lies entirely behind one of `earlier`."""
    return max(asked_at for asked_at, _ in later) > min(at for _, at in earlier)


class Reading:
    """A history, indexed.

    Attributes:
        segments: of each (reader, channel), in order.
        acks: of each channel, in the order of their acknowledgement.
        attempts: the first attempt of each (channel, key).
        epochs: of each channel, for each epoch the spans (asked, answered) within which it was current at some time.
        end: the end of the observation.
        ended: connections that were closed.
    """

    def __init__(self, history: Sequence[Record], bounds: Bounds) -> None:
        self.history = history
        self.bounds = bounds
        self.deadlines = Deadlines(history)
        self.end = history[-1].at if history else 0.0
        self.readers: dict[str, Opened] = {}
        self.segments: defaultdict[tuple[str, str], list[Segment]] = defaultdict(list)
        self.attempts: dict[tuple[str, str], Attempted] = {}
        self.acks: defaultdict[str, list[Ack]] = defaultdict(list)
        self.epochs: defaultdict[str, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
        self.findings: list[Finding] = []
        self.ended: set[str] = set()
        self._positions: list[tuple[Place, int, Any]] | None = None
        self._open: dict[tuple[str, str], Segment] = {}
        self._kinds: defaultdict[type[Record], list[tuple[int, Record]]] = defaultdict(list)
        self._newer: dict[tuple[str, str], list[str]] = {}
        self._lives: Lives | None = None
        for index, record in enumerate(history):
            self._kinds[type(record)].append((index, record))
            self._take(index, record)

    def _take(self, index: int, record: Record) -> None:
        match record:
            case Delivered():  # most of them are
                self._deliver(index, record)
            case Opened():
                self.readers[record.conn] = record
            case Subscribed():
                opened = self.readers[record.conn]
                self._close(record.conn, record.channel, record.at)
                segment = Segment(index, record, opened.user)
                self.segments[opened.reader, record.channel].append(segment)
                self._open[record.conn, record.channel] = segment
                self._current(record.channel, record.epoch, record.asked_at, record.at)
            case Unsubscribed():
                self._close(record.conn, record.channel, record.at)
            case Closed():
                self.ended.add(record.conn)
                for conn, channel in [key for key in self._open if key[0] == record.conn]:
                    self._close(conn, channel, record.at)
            case Attempted():
                self.attempts.setdefault((record.channel, record.key), record)
            case Acknowledged():
                attempt = self.attempts.get((record.channel, record.key))
                asked_at, data = (attempt.at, attempt.data) if attempt else (record.at, None)
                self.acks[record.channel].append(Ack(index, record, asked_at, data))
                self._current(record.channel, record.epoch, asked_at, record.at)
            case LogRead():
                self._current(record.channel, record.epoch, record.asked_at, record.at)
            case _:
                pass

    def _deliver(self, index: int, record: Delivered) -> None:
        if not record.offset:
            return
        segment = self._open.get((record.conn, record.channel))
        if segment is not None:
            segment.show(Shown(index, record.at, Entry(record.offset, record.data), True))
            return
        text = f"{record.channel}@{record.offset} was delivered to {record.conn}, which does not follow it"
        self.findings.append(Finding(Kind.OUTSIDE, text, record.at, (index,)))

    def _close(self, conn: str, channel: str, at: float) -> None:
        segment = self._open.pop((conn, channel), None)
        if segment is not None:
            segment.ended_at = at

    def _current(self, channel: str, epoch: str, asked_at: float, at: float) -> None:
        self.epochs[channel].setdefault(epoch, []).append((asked_at, at))

    def each(self, kind: type[R]) -> list[tuple[int, R]]:
        """All records of a kind, with their indexes."""
        return cast("list[tuple[int, R]]", self._kinds[cast("type[Record]", kind)])

    def newer_epochs(self, channel: str, epoch: str) -> list[str]:
        """Epochs that were current after this one was, and never before it: answers may come late, so a span counts as
        later only if it was requested after the other's answer.
        """
        found = self._newer.get((channel, epoch))
        if found is None:
            known = self.epochs[channel]
            mine = known.get(epoch, [])
            found = self._newer[channel, epoch] = [
                other
                for other, spans in known.items()
                if mine and other != epoch and _follows(spans, mine) and not _follows(mine, spans)
            ]
        return found

    def undone_at(self, asked_at: float, at: float) -> float:
        """When the store may have lost writes made between these times; infinity for never."""
        return min(
            (lost.at for _, lost in self.each(Restored) if lost.since <= at and asked_at <= lost.at),
            default=INFINITY,
        )

    def forgotten(self) -> set[str]:
        """Runs that were forgotten: the store went back before their sender had an answer, and the log was lost as
        well. A repeated request may start them again.
        """
        return {
            started.run_id
            for _, started in self.each(RunStarted)
            if len(self.epochs.get(started.channel, ())) > 1
            and self.undone_at(started.asked_at, started.at) < INFINITY
        }

    def known_at(self, channel: str, epoch: str) -> float:
        """The first time at which a client knew that the epoch had been current."""
        return min(at for _, at in self.epochs[channel][epoch])

    def every_segment(self) -> Iterator[tuple[str, Segment]]:
        """All segments, with their reader."""
        for (reader, _), segments in self.segments.items():
            for segment in segments:
                yield reader, segment

    def positions(self) -> list[tuple[Place, int, Any]]:
        """Every position that a client learned: place, record, data. Merged deltas are left out."""
        if self._positions is None:
            self._positions = list(self._placed())
        return self._positions

    def _placed(self) -> Iterator[tuple[Place, int, Any]]:
        for channel, acks in self.acks.items():
            for ack in acks:
                if ack.data is not None:
                    yield Place(channel, ack.record.epoch, ack.record.offset), ack.number, ack.data
        for _, segment in self.every_segment():
            record = segment.record
            for index, _, entry, _ in segment.shown:
                if span(entry.data) == 1:
                    yield Place(record.channel, record.epoch, entry.offset), index, entry.data
        for index, found in self.each(LogRead):
            for entry in found.publications:
                yield Place(found.channel, found.epoch, entry.offset), index, entry.data

    def lives(self) -> Lives:
        """When each run began, and the positions of its terminal events."""
        if self._lives is None:
            self._lives = self._find_lives()
        return self._lives

    def _find_lives(self) -> Lives:
        lives = Lives({}, defaultdict(dict))

        def event(index: int, at: float, channel: str, epoch: str, offset: int, data: Any) -> None:
            run_id = events_of(data)
            if not run_id:
                return
            if data.get("type") == "RUN_STARTED":
                lives.began.setdefault(run_id, (at, index, channel))
            elif data.get("type") in TERMINAL:
                before = lives.ends[run_id].get((epoch, offset))
                if before is None or at < before[0]:
                    lives.ends[run_id][epoch, offset] = (at, index, data)

        for index, started in self.each(RunStarted):
            lives.began[started.run_id] = (started.at, index, started.channel)
        for index, record in self.each(LogRead):
            for entry in record.publications:
                event(index, record.at, record.channel, record.epoch, entry.offset, entry.data)
        for _, segment in self.every_segment():
            for index, at, entry, _ in segment.shown:
                event(index, at, segment.record.channel, segment.record.epoch, entry.offset, entry.data)
        self._date_ends(lives)
        return lives

    def _date_ends(self, lives: Lives) -> None:
        """A terminal event existed once a client learned of a log end behind it, whether or not it received the
        event.
        """
        tops: defaultdict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
        for _, subscribed in self.each(Subscribed):
            tops[subscribed.channel, subscribed.epoch].append((subscribed.at, subscribed.offset))
        for _, acked in self.each(Acknowledged):
            tops[acked.channel, acked.epoch].append((acked.at, acked.offset))
        for run_id, ends in lives.ends.items():
            channel = lives.began[run_id][2] if run_id in lives.began else ""
            for (epoch, offset), (at, index, data) in ends.items():
                earlier = [moment for moment, top in tops[channel, epoch] if top >= offset and moment < at]
                ends[epoch, offset] = (min(earlier, default=at), index, data)
