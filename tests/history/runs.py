"""Checks of runs: `seq`, count and digest as each reader saw them, ends, cancels, messages in threads.

Rules: a reader that got `recovered: false`, or that started again, counts as having seen no run completely; later
events of a run that it did not see from the start are checked for order only.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from tests.history.digest import digest
from tests.history.findings import Finding, Kind
from tests.history.reading import INFINITY, TERMINAL, Reading, Segment, Shown, events_of
from tests.history.records import (
    AgentBegan,
    CancelAcknowledged,
    Delivered,
    Restored,
    RunRead,
    RunStarted,
    Subscribed,
    ThreadRead,
)

_CALL: Final = re.compile(r"<call (\d+)>")
ENDED: Final = ("finished", "interrupted", "cancelled", "failed")


class _Seen:
    """One run as one reader saw it."""

    def __init__(self, first: int) -> None:
        self.last = first - 1
        self.whole = first == 1
        self.events: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None


def views(reading: Reading) -> Iterator[Finding]:
    """Each reader's view of each run."""
    terminals = reading.lives().ends
    proven = {
        run_id
        for run_id, ends in terminals.items()
        if any(event.get("digest") for _, _, event in ends.values())
    }
    forgotten = reading.forgotten()
    for (reader, channel), segments in reading.segments.items():
        # After a log loss that subscribers were told about, a run may continue behind the gap; it must not
        # claim to be complete.
        torn = len(reading.epochs[channel]) > 1
        runs: dict[str, _Seen] = {}
        top: tuple[str, int] | None = None
        for segment in segments:
            record = segment.record
            if not record.recovered or (record.since_epoch or record.epoch, record.since_offset) != top:
                runs = {}
            top = (record.epoch, record.offset if not record.recovered else record.since_offset)
            for shown in segment.shown:
                top = (record.epoch, max(top[1], shown.entry.offset))
                run_id = events_of(shown.entry.data)
                if run_id not in forgotten:
                    holes = torn and run_id not in proven
                    yield from _event(runs, shown, f"{channel} at {reader}", torn=torn, holes=holes)


def _event(runs: dict[str, _Seen], shown: Shown, where: str, *, torn: bool, holes: bool) -> Iterator[Finding]:
    index, at, entry, _ = shown
    event = entry.data
    run_id = events_of(event)
    if not run_id:
        return
    first, last = event.get("seq_from", event["seq"]), event["seq"]
    seen = runs.get(run_id)
    if seen is None:
        seen = runs[run_id] = _Seen(first)
    what = f"{where}: run {run_id}, {event.get('type')} seq {last}"
    if seen.end is not None:
        kind = Kind.END_TWICE if event.get("type") in TERMINAL else Kind.AFTER_END
        yield Finding(kind, f"{what} follows its terminal event (seq {seen.end['seq']})", at, (index,))
        return
    if first != seen.last + 1:
        if first <= seen.last or not holes:
            yield Finding(Kind.RUN_ORDER, f"{what} (from {first}) after {seen.last}", at, (index,))
        seen.whole = False
    seen.last = last
    seen.events.append(event)
    if event.get("type") not in TERMINAL:
        return
    seen.end = event
    if event.get("count") != last:
        yield Finding(Kind.DIGEST, f"{what}: it says count {event.get('count')}", at, (index,))
    if event.get("digest") is None and torn:
        return  # a run whose log was lost has no digest
    if seen.whole and event.get("digest") != digest(seen.events):
        yield Finding(Kind.DIGEST, f"{what}: its digest is not that of what was delivered", at, (index,))


def ends(reading: Reading) -> Iterator[Finding]:
    """Every run that started ends once, and its followers receive the end."""
    began, terminals = reading.lives()
    reads: defaultdict[str, list[tuple[int, RunRead]]] = defaultdict(list)
    for index, record in reading.each(RunRead):
        if reading.undone_at(record.at, record.at) == INFINITY:
            reads[record.run_id].append((index, record))
    lost = {
        started.run_id
        for _, started in reading.each(RunStarted)
        if reading.undone_at(started.asked_at, started.at) < INFINITY
    }
    forgotten = reading.forgotten()
    for run_id, places in terminals.items():
        if run_id in forgotten:
            continue
        by_epoch: defaultdict[str, list[int]] = defaultdict(list)
        for epoch, offset in places:
            by_epoch[epoch].append(offset)
        for epoch, offsets in by_epoch.items():
            # In another epoch it may have another position: publications lost with a log are published again.
            if len(offsets) > 1:
                ends_at = [places[epoch, offset] for offset in offsets]
                text = f"run {run_id} ends at {epoch}@{sorted(offsets)}"
                yield Finding(
                    Kind.END_TWICE,
                    text,
                    max(at for at, _, _ in ends_at),
                    tuple(index for _, index, _ in ends_at),
                )
        channel_of = began[run_id][2] if run_id in began else ""
        torn = len(reading.epochs.get(channel_of, ())) > 1
        yield from _read_otherwise(run_id, list(places.items()), reads[run_id], torn=torn)
    for run_id in reads.keys() - terminals.keys():
        yield from _read_otherwise(run_id, [], reads[run_id], torn=False)
    for run_id, (began_at, index, channel) in began.items():
        if run_id in terminals or run_id in lost:
            continue
        read_ends = [(at, read) for at, read in reads[run_id] if read.state in ENDED]
        if not read_ends:
            since = max(
                (
                    min(at for at, _, _ in terminals[ahead].values())
                    for ahead in terminals
                    if _ahead(began, ahead, run_id)
                ),
                default=began_at,
            )
            due = reading.deadlines.after(
                max(since, began_at), reading.bounds.run_end_s, Kind.RUN_WITHOUT_END
            )
            if due <= reading.end:
                text = f"run {run_id} began and had not ended {reading.end - began_at:.1f} s later"
                yield Finding(Kind.RUN_WITHOUT_END, text, reading.end, (index,))
            continue
        if len(reading.epochs.get(channel, ())) > 1:
            continue  # its end may have been lost with a log, which subscribers were told about
        read_index, read = read_ends[0]
        due = reading.deadlines.after(read.at, reading.bounds.silence_s, Kind.END_NOT_TOLD)
        for segment in _attending(reading, channel, began_at, due):
            text = f"run {run_id} is {read.state}; {segment.where} was never shown its terminal event"
            yield Finding(Kind.END_NOT_TOLD, text, due, (index, read_index, segment.index))
            break


def _ahead(began: dict[str, tuple[float, int, str]], run_id: str, of: str) -> bool:
    """Whether a run was in the same thread's queue before another."""
    return run_id in began and began[run_id][2] == began[of][2] and began[run_id][0] < began[of][0]


def _read_otherwise(
    run_id: str,
    ends_at: list[tuple[tuple[str, int], tuple[float, int, dict[str, Any]]]],
    reads: list[tuple[int, RunRead]],
    *,
    torn: bool,
) -> Iterator[Finding]:
    """A run that was read with a different state, error, count or digest than its terminal event has."""
    for index, read in reads:
        if read.error is not None and (read.state == "failed") != bool(read.error):
            text = f"run {run_id}: run.get says {read.state} with error {read.error!r}"
            yield Finding(Kind.END_OTHERWISE, text, read.at, (index,))
    if len({epoch for (epoch, _), _ in ends_at}) > 1 or torn:
        return  # its end was lost with a log, and may have been published again over the rest
    for _, (_, end_index, event) in ends_at:
        end = _end_of(event)
        for index, read in reads:
            told = (read.state, end[1] if read.error is None else read.error)
            if read.state in ENDED and told != end:
                text = f"run {run_id}: run.get says {told}, its terminal event {end}"
                yield Finding(Kind.END_OTHERWISE, text, read.at, (end_index, index))
            if read.digest and (read.digest, read.count) != (event.get("digest"), event.get("count")):
                text = (
                    f"run {run_id}: run.get says count {read.count}, its terminal event {event.get('count')}"
                )
                if read.count == event.get("count"):
                    text = f"run {run_id}: run.get says another digest than its terminal event"
                yield Finding(Kind.DIGEST, text, read.at, (end_index, index))


def _end_of(event: dict[str, Any]) -> tuple[str, str]:
    """The state and error that a terminal event stands for (docs/runs.md)."""
    if event["type"] == "RUN_ERROR":
        return "failed", str(event.get("code", ""))
    outcome = event.get("outcome") or {}
    return {"interrupt": "interrupted", "cancelled": "cancelled"}.get(
        str(outcome.get("type")), "finished"
    ), ""


def _attending(reading: Reading, channel: str, since: float, until: float) -> Iterator[Segment]:
    """Segments that follow the channel from before `since` until after `until`, including reconnections."""
    for (_, name), segments in reading.segments.items():
        if name != channel:
            continue
        whole_since: float | None = None
        for segment in segments:
            if whole_since is None or not segment.record.recovered:
                whole_since = segment.record.at
            if whole_since <= since and segment.ended_at >= until <= reading.end:
                yield segment


def agents(reading: Reading) -> Iterator[Finding]:
    """An agent that is not declared restartable is called once for a run, as long as store or log remember it."""
    began: dict[str, int] = {}
    forgotten = reading.forgotten()
    for index, record in reading.each(AgentBegan):
        if not record.restartable:
            before = began.setdefault(record.run_id, index)
            if before != index and record.run_id not in forgotten:
                text = f"run {record.run_id}: its agent was called again"
                yield Finding(Kind.AGENT_TWICE, text, record.at, (before, index))


def calls(reading: Reading) -> Iterator[Finding]:
    """What a run shows in one log is the output of one call of its agent, or of the next one after a restart. An agent
    whose texts have no `<call n>` is not judged.
    """
    logs: defaultdict[tuple[str, str], dict[int, tuple[int, Any]]] = defaultdict(dict)
    for place, index, data in reading.positions():
        logs[place.channel, place.epoch].setdefault(place.offset, (index, data))
    for (channel, epoch), entries in logs.items():
        shown: dict[str, str] = {}
        before = 0
        for offset, (index, data) in sorted(entries.items()):
            if offset != before + 1:
                shown.clear()  # no client knows whether a restart is missing
            before = offset
            run_id = events_of(data)
            if not run_id:
                continue
            if data.get("name") == "narthex.restarted":
                shown.pop(run_id, None)
            for call in _CALL.findall(str(data.get("delta", ""))):
                if shown.setdefault(run_id, call) != call:
                    at = reading.history[index].at
                    text = f"{channel} in {epoch}: run {run_id} goes on with call {call} behind call {shown[run_id]}"
                    yield Finding(Kind.CALLS_MIXED, text, at, (index,))
                    shown[run_id] = call


def given_up(reading: Reading) -> Iterator[Finding]:
    """A run's owner is considered dead only after a fault: clocks alone are no reason."""
    moments: list[tuple[float, int, str, str]] = []
    for run_id, ends in reading.lives().ends.items():
        at, index, event = min(ends.values(), key=lambda seen: seen[:2])
        # For one that was read later, or again behind a lost log, the time at which it was given up is unknown.
        if event.get("code") == "owner_lost" and isinstance(reading.history[index], Delivered):
            moments.append((at, index, run_id, "ended owner_lost"))
    began: dict[str, float] = {}
    for index, record in reading.each(AgentBegan):
        first = began.setdefault(record.run_id, record.at)
        # A store that went back to a moment before has the run in its queue again, for as long as others run.
        if first < record.at and reading.undone_at(first, first) == INFINITY:
            moments.append((record.at, index, record.run_id, "was restarted"))
    for at, index, run_id, what in moments:
        since = at - reading.bounds.cause_s
        restored = any(since <= lost.at <= at for _, lost in reading.each(Restored))
        if since > 0 and not restored and not reading.deadlines.active(since, at):
            text = f"run {run_id} {what}, and nothing had happened for {reading.bounds.cause_s:g} s"
            yield Finding(Kind.RUN_GIVEN_UP, text, at, (index,))


def cancels(reading: Reading) -> Iterator[Finding]:
    """An acknowledged cancel ends its run in time."""
    began, terminals = reading.lives()
    read_at: dict[str, float] = {}
    # A repeated cancel that is answered with an ended state shows its sender the end, as reading the run does.
    told: list[tuple[int, RunRead | CancelAcknowledged]] = []
    told += reading.each(RunRead)
    told += reading.each(CancelAcknowledged)
    for _, read in told:
        if read.state in ENDED:
            read_at[read.run_id] = min(read.at, read_at.get(read.run_id, read.at))
    for index, record in reading.each(CancelAcknowledged):
        if record.state in ENDED:
            continue  # it had ended before, and its sender was told so
        if reading.undone_at(record.at - reading.bounds.reply_s, record.at) < INFINITY:
            continue  # the store no longer knows it
        due = reading.deadlines.after(record.at, reading.bounds.cancel_s, Kind.CANCEL_LATE)
        shown = {at: index for at, index, _ in terminals.get(record.run_id, {}).values()}
        ended_at = min([*shown, read_at.get(record.run_id, INFINITY)])
        channel = began[record.run_id][2] if record.run_id in began else ""
        live = ended_at in shown and isinstance(reading.history[shown[ended_at]], Delivered)
        if len(reading.epochs.get(channel, ())) > 1 and ended_at < INFINITY and not live:
            continue  # its end was lost with a log, or came before its followers were back: the time is unknown
        if ended_at > due and due <= reading.end:
            text = (
                f"run {record.run_id} had not ended {due - record.at:.1f} s after its cancel was acknowledged"
            )
            yield Finding(Kind.CANCEL_LATE, text, due, (index,))


def queues(reading: Reading) -> Iterator[Finding]:
    """Runs of a thread that were requested one after the other start in that order; a cancelled one need not wait."""
    cancelled = {record.run_id for _, record in reading.each(CancelAcknowledged)} | {
        run_id
        for run_id, ends in reading.lives().ends.items()
        if any((event.get("outcome") or {}).get("type") == "cancelled" for _, _, event in ends.values())
    }
    begun: dict[tuple[str, str, str], int] = {}
    for place, _, data in reading.positions():
        if isinstance(data, dict) and data.get("type") == "RUN_STARTED":
            begun.setdefault((place.channel, place.epoch, events_of(data)), place.offset)
    begun_in = Counter(run_id for _, _, run_id in begun)
    by_channel: defaultdict[str, list[tuple[int, RunStarted]]] = defaultdict(list)
    for index, record in reading.each(RunStarted):
        if record.run_id not in cancelled and reading.undone_at(record.asked_at, record.at) == INFINITY:
            by_channel[record.channel].append((index, record))
    for channel, started in by_channel.items():
        for (first, one), (second, two) in itertools.combinations(started, 2):
            if one.at >= two.asked_at or one.run_id == two.run_id:
                continue
            if max(begun_in[one.run_id], begun_in[two.run_id]) > 1:
                continue  # it started again behind a lost log, when others had ended
            for epoch in reading.epochs[channel]:
                places = (begun.get((channel, epoch, one.run_id)), begun.get((channel, epoch, two.run_id)))
                if places[0] is not None and places[1] is not None and places[0] > places[1]:
                    text = f"{channel}: run {two.run_id} began before {one.run_id}, which was asked for before it"
                    yield Finding(Kind.ORDER, text, two.at, (first, second))


def repeats(reading: Reading) -> Iterator[Finding]:
    """One `client_message_id` is one run and one message."""
    first: dict[tuple[str, str], tuple[int, RunStarted]] = {}
    for index, record in reading.each(RunStarted):
        if not record.client_message_id or reading.undone_at(record.asked_at, record.at) < INFINITY:
            continue
        before = first.setdefault((record.user, record.client_message_id), (index, record))
        if (before[1].run_id, before[1].message_id) != (record.run_id, record.message_id):
            text = (
                f"{record.user}'s message {record.client_message_id} is run {before[1].run_id} and run"
                f" {record.run_id}"
            )
            yield Finding(Kind.TWICE, text, record.at, (before[0], index))


def threads(reading: Reading) -> Iterator[Finding]:
    """A thread that was read shows its messages in the order of the log, each once, and none is missing."""
    offsets: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    latest: dict[str, str] = {}
    for channel, known in reading.epochs.items():
        latest[channel] = max(known, key=lambda epoch: max(asked_at for asked_at, _ in known[epoch]))
    for place, _, data in reading.positions():
        if isinstance(data, dict) and data.get("type") == "TEXT_MESSAGE_START":
            message, name = offsets[place.channel, place.epoch], str(data.get("messageId"))
            if events_of(data):  # a restarted agent begins its message again: the last beginning counts
                message[name] = max(place.offset, message.get(name, 0))
            else:
                message.setdefault(name, place.offset)
    settled = _settled(reading)
    for index, record in reading.each(ThreadRead):
        names = [name for name, _ in record.messages]
        for name, count in Counter(names).items():
            if count > 1:
                text = f"{record.channel}: the thread shows message {name} {count} times"
                yield Finding(Kind.TWICE, text, record.at, (index,))
        places = offsets[record.channel, latest.get(record.channel, "")]
        placed = [
            (places[name], name)
            for name in names
            if name in places and settled.get(name, float("inf")) <= record.asked_at
        ]
        if len(reading.epochs[record.channel]) > 1:
            placed = []  # a thread keeps the order of the log that was lost
        for before, after in itertools.pairwise(placed):
            if before[0] > after[0]:
                text = (
                    f"{record.channel}: the thread shows {before[1]} (offset {before[0]}) before {after[1]}"
                    f" (offset {after[0]})"
                )
                yield Finding(Kind.ORDER, text, record.at, (index,))
        if record.whole:
            yield from _missing(reading, index, record, set(names))


def _settled(reading: Reading) -> dict[str, float]:
    """From this time a message must have its log position: a user's from its acknowledgement, an agent's from the end
    of its run. Before that it may be shown elsewhere.
    """
    found: dict[str, float] = {}
    terminals = reading.lives().ends
    ended = {run_id: min(at for at, _, _ in ends.values()) for run_id, ends in terminals.items()}
    for _, _, data in reading.positions():
        run_id = events_of(data)
        if run_id in ended and data.get("type") == "TEXT_MESSAGE_START":
            found[str(data.get("messageId"))] = ended[run_id] + reading.bounds.stale_s
    for _, record in reading.each(RunStarted):
        if reading.undone_at(record.asked_at, record.at) == INFINITY:
            found.setdefault(record.message_id, record.at)
    return found


def _missing(reading: Reading, index: int, record: ThreadRead, shown: set[str]) -> Iterator[Finding]:
    for number, started in reading.each(RunStarted):
        if started.channel != record.channel:
            continue
        if reading.undone_at(started.asked_at, started.at) <= record.at:
            continue
        if started.message_id and started.at <= record.asked_at and started.message_id not in shown:
            text = f"{record.channel}: the thread does not show message {started.message_id} of run {started.run_id}"
            yield Finding(Kind.LOST, text, record.at, (number, index))


def served(reading: Reading) -> Iterator[tuple[float, float, int, str, str, str]]:
    """Every time at which a user received data: asked at, at, record, user, channel, kind."""
    for _, segment in reading.every_segment():
        record: Subscribed = segment.record
        yield record.asked_at, record.at, segment.index, segment.user, record.channel, "was let in"
        for index, at, entry, live in segment.shown:
            if live:
                yield at, at, index, segment.user, record.channel, f"was shown offset {entry.offset}"
