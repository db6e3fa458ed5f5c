"""Checks of the log: its content by position, the deliveries to subscribers, and the answers to recoveries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.history.findings import Finding, Kind
from tests.history.reading import INFINITY, Ack, Place, Reading, Segment, same, span
from tests.history.records import Acknowledged, Attempted, LogRead


def offsets(reading: Reading) -> Iterator[Finding]:
    """Gaps, repeats and wrong order within each segment."""
    for _, segment in reading.every_segment():
        everything: dict[int, float] | None = None
        shown: set[int] = set()
        last = segment.base
        for index, at, entry, _ in segment.shown:
            first = entry.offset - span(entry.data) + 1
            what = f"{segment.where}: offset {entry.offset} after {last}"
            if entry.offset in shown:
                yield Finding(Kind.TWICE, f"{what}, which was shown before", at, (segment.index, index))
            elif entry.offset <= last:
                kind = Kind.ORDER if entry.offset > segment.base else Kind.TWICE
                yield Finding(kind, what, at, (segment.index, index))
            elif first <= last:
                yield Finding(Kind.TWICE, f"{what}, and it stands for {first} and on", at, (index,))
            elif first > last + 1:
                everything = segment.arrivals() if everything is None else everything
                if not all(offset in everything for offset in range(last + 1, first)):
                    yield Finding(Kind.GAP, what, at, (segment.index, index))
            shown.update(range(first, entry.offset + 1))
            last = max(last, entry.offset)


def contents(reading: Reading) -> Iterator[Finding]:
    """Different data at one position, and one publication at two positions."""
    found: dict[Place, tuple[bytes, int]] = {}
    for place, index, data in reading.positions():
        fingerprint = same(data)
        before = found.setdefault(place, (fingerprint, index))
        if before[0] != fingerprint:
            text = (
                f"{place.channel} {place.epoch}@{place.offset}: {_short(before[0])} and {_short(fingerprint)}"
            )
            yield Finding(
                Kind.DIFFERENT_DATA, text, reading.history[index].at, tuple(sorted((before[1], index)))
            )
    yield from _merged(reading, found)
    keys = {(channel, same(attempt.data)): key for (channel, key), attempt in reading.attempts.items()}
    places: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for place, (fingerprint, index) in found.items():
        key = keys.get((place.channel, fingerprint))
        if key is not None:
            places[place.channel, place.epoch, key].append((place.offset, index))
    for (channel, epoch, key), several in places.items():
        if len(several) > 1:
            at = max(reading.history[index].at for _, index in several)
            attempts = [
                one.at for _, one in reading.each(Attempted) if (one.channel, one.key) == (channel, key)
            ]
            text = (
                f"{channel} {epoch}: {key} lies at {sorted(offset for offset, _ in several)}; attempted at "
                + ", ".join(f"{attempt:.3f}" for attempt in attempts)
            )
            yield Finding(Kind.TWICE, text, at, tuple(index for _, index in several))
    yield from _messages(reading, found)


def _messages(reading: Reading, found: dict[Place, tuple[bytes, int]]) -> Iterator[Finding]:
    """A user's message that begins twice in one log."""
    began: dict[tuple[str, str, str], tuple[int, int]] = {}
    for place, index, data in reading.positions():
        mine = isinstance(data, dict) and data.get("type") == "TEXT_MESSAGE_START" and "runId" not in data
        if not mine or found[place][1] != index:
            continue
        name = (place.channel, place.epoch, str(data.get("messageId")))
        before = began.setdefault(name, (place.offset, index))
        if before[0] != place.offset:
            text = f"{place.channel}: message {name[2]} begins at {before[0]} and at {place.offset}"
            yield Finding(Kind.TWICE, text, reading.history[index].at, (before[1], index))


def _merged(reading: Reading, found: dict[Place, tuple[bytes, int]]) -> Iterator[Finding]:
    """A delta that was merged for a slow client must equal its parts, one after the other."""
    texts: dict[Place, str] = {
        place: data["delta"]
        for place, _, data in reading.positions()
        if isinstance(data, dict) and isinstance(data.get("delta"), str)
    }
    for _, segment in reading.every_segment():
        channel, epoch = segment.record.channel, segment.record.epoch
        for index, at, entry, _ in segment.shown:
            if span(entry.data) == 1:
                continue
            parts = [
                texts.get(Place(channel, epoch, offset))
                for offset in range(entry.offset - span(entry.data) + 1, entry.offset + 1)
            ]
            known = [part for part in parts if part is not None]
            if len(known) == len(parts) and "".join(known) != entry.data.get("delta"):
                text = f"{channel} {epoch}@{entry.offset}: the merged delta is not its {len(parts)} parts"
                yield Finding(Kind.DIFFERENT_DATA, text, at, (index,))


def publishes(reading: Reading) -> Iterator[Finding]:
    """Acknowledgements among themselves: one key at two positions, and the order of sequential publishes."""
    first: dict[tuple[str, str, str], Acknowledged] = {}
    top: defaultdict[tuple[str, str], int] = defaultdict(int)
    before: dict[tuple[str, str, str], int] = {}
    attempted: set[tuple[str, str]] = set()
    tops: dict[tuple[str, str], dict[str, int]] = {}
    for index, record in enumerate(reading.history):
        if isinstance(record, Attempted):
            name = (record.channel, record.key)
            if name not in attempted:
                attempted.add(name)
                tops[name] = {
                    epoch: offset for (channel, epoch), offset in top.items() if channel == record.channel
                }
        elif isinstance(record, Acknowledged):
            mark = (record.channel, record.epoch, record.key)
            earlier = first.setdefault(mark, record)
            if earlier.offset != record.offset:
                text = (
                    f"{record.channel}: {record.key} was acknowledged at {earlier.offset} and {record.offset}"
                )
                yield Finding(Kind.TWICE, text, record.at, (index,))
            floor = tops.get((record.channel, record.key), {}).get(record.epoch, 0)
            if mark not in before and record.offset <= floor:
                text = (
                    f"{record.channel} {record.epoch}: {record.key} lies at {record.offset}, although {floor} was"
                    " acknowledged before it was sent"
                )
                yield Finding(Kind.ORDER, text, record.at, (index,))
            before[mark] = record.offset
            place = (record.channel, record.epoch)
            top[place] = max(top[place], record.offset)


def epochs(reading: Reading) -> Iterator[Finding]:
    """An old epoch that is current again: seen before a newer one and after it. A node may still use an older epoch for
    `stale_s` after the newer one began.
    """
    stale_s = reading.bounds.stale_s
    for channel, known in reading.epochs.items():
        for epoch, mine in known.items():
            first, last = min(at for _, at in mine), max(asked_at for asked_at, _ in mine)
            for other, spans in known.items():
                if min(at for _, at in spans) < first:
                    continue  # the other epoch is the older one: its own return is checked separately
                between = [at for asked_at, at in spans if first < asked_at and at + stale_s < last]
                if other != epoch and between:
                    text = f"{channel}: epoch {epoch} is back at {last:.3f}; {other} was current at {between[0]:.3f}"
                    yield Finding(Kind.EPOCH_RETURNED, text, last)


def logs(reading: Reading) -> Iterator[Finding]:
    """A log that was read completely has everything that was acknowledged before the read was requested."""
    for index, record in reading.each(LogRead):
        held = {entry.offset for entry in record.publications}
        numbers = [entry.offset for entry in record.publications]
        if numbers != sorted(numbers):
            yield Finding(Kind.ORDER, f"{record.channel}: a log was read as {numbers}", record.at, (index,))
        if record.whole:
            for offset in range(record.since + 1, record.offset + 1):
                if offset not in held:
                    text = f"{record.channel} {record.epoch}: the log has no {offset}"
                    yield Finding(Kind.GAP, text, record.at, (index,))
        for ack in reading.acks[record.channel]:
            mine = ack.record.epoch == record.epoch and ack.record.at <= record.asked_at
            if mine and ack.record.offset > record.offset:
                text = (
                    f"{record.channel} {record.epoch}: {ack.record.key} was acknowledged at {ack.record.offset},"
                    f" the log ends at {record.offset}"
                )
                yield Finding(Kind.LOST, text, record.at, (ack.number, index))


def recoveries(reading: Reading) -> Iterator[Finding]:
    """Every `recovered: true`, compared with the acknowledgements until then."""
    for _, segment in reading.every_segment():
        record = segment.record
        if not record.recovered or record.since_offset < 0:
            continue
        index, where = segment.index, segment.where
        if not record.recover:
            yield Finding(
                Kind.FALSE_RECOVERED, f"{where}: recovered without being asked", record.at, (index,)
            )
            continue
        if record.since_epoch and record.since_epoch != record.epoch:
            text = f"{where}: recovered from epoch {record.since_epoch} in epoch {record.epoch}"
            yield Finding(Kind.FALSE_RECOVERED, text, record.at, (index,))
        reached = max((entry.offset for entry in record.publications), default=record.since_offset)
        if reached != record.offset:
            text = (
                f"{where}: recovered from {record.since_offset} to {reached}; the told end is {record.offset}"
            )
            yield Finding(Kind.FALSE_RECOVERED, text, record.at, (index,))
        for other in reading.newer_epochs(record.channel, record.epoch):
            if reading.known_at(record.channel, other) <= record.asked_at:
                text = f"{where}: recovered in epoch {record.epoch}, though {other} was current before"
                yield Finding(Kind.FALSE_RECOVERED, text, record.at, (index,))
        for ack in reading.acks[record.channel]:
            stale = ack.record.epoch == record.epoch and ack.record.offset > record.offset
            if stale and ack.record.at + reading.bounds.stale_s <= record.asked_at:
                text = (
                    f"{where}: recovered to {record.offset}; {ack.record.key} had been acknowledged at"
                    f" {ack.record.offset} {record.asked_at - ack.record.at:.3f} s before"
                )
                yield Finding(Kind.FALSE_RECOVERED, text, record.at, (ack.number, index))


def deliveries(reading: Reading) -> Iterator[Finding]:
    """Every acknowledged publication reaches every live subscriber in time, or the subscriber's segment ends."""
    for _, segment in reading.every_segment():
        record = segment.record
        arrivals = segment.arrivals()
        for ack in reading.acks[record.channel]:
            finding = _delivery(reading, segment, arrivals, ack)
            if finding is not None:
                yield finding


def _delivery(reading: Reading, segment: Segment, arrivals: dict[int, float], ack: Ack) -> Finding | None:
    record, acked = segment.record, ack.record
    if acked.epoch != record.epoch:
        if acked.epoch not in reading.newer_epochs(record.channel, record.epoch):
            return None
        due = reading.deadlines.after(max(acked.at, record.at), reading.bounds.silence_s, Kind.EPOCH_NOT_TOLD)
        if due <= min(segment.ended_at, reading.end):
            text = f"{segment.where} stands in epoch {record.epoch}; {acked.key} was acknowledged in {acked.epoch}"
            return Finding(Kind.EPOCH_NOT_TOLD, text, due, (segment.index, ack.number))
        return None
    if acked.offset <= (segment.base if segment.base >= 0 else record.offset):
        return None
    came_at = arrivals.get(acked.offset, INFINITY)
    due = reading.deadlines.after(max(acked.at, record.at), reading.bounds.silence_s, Kind.SILENCE)
    over = min(segment.ended_at, reading.end)
    passed = came_at == INFINITY and any(offset > acked.offset for offset in arrivals)
    if came_at <= due or (over < due and not passed):
        return None
    if came_at == INFINITY:
        text = f"{segment.where} was never shown {acked.key}, acknowledged at {acked.offset}"
        return Finding(Kind.LOST, text, min(due, over), (segment.index, ack.number))
    text = f"{segment.where} was shown {acked.key} {came_at - acked.at:.3f} s after its acknowledgement"
    return Finding(Kind.SILENCE, text, came_at, (segment.index, ack.number))


def _short(data: Any) -> str:
    return (data if isinstance(data, bytes) else same(data)).decode(errors="replace")[:80]
