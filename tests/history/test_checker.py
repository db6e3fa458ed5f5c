"""Seeded violations: each history below breaks one guarantee, and the checker must name it; correct histories must
pass.

The correct history is fed to the recorder frame by frame, as a campaign's clients would; a lie is one change to its
frames or records.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.history import Bounds, Kind, Record, Recorder, Tap, check, load, report, summary
from tests.history.digest import digest
from tests.history.records import (
    Acknowledged,
    CancelAcknowledged,
    Closed,
    Delivered,
    LogRead,
    Restored,
    RunRead,
    RunStarted,
    Subscribed,
    ThreadRead,
)

CHANNEL = "thread:t1"
EPOCH = "e1"
BOUNDS = Bounds(silence_s=5, stale_s=1, removal_s=2, reply_s=10, run_end_s=20, cancel_s=5, cause_s=20)


class Story:
    """A correct history: a log of one channel, delivered to clients as the product would."""

    def __init__(self) -> None:
        self.at = 0.0
        self.recorder = Recorder(lambda: self.at)
        self.log: list[Any] = []
        self.ids = 10
        self.live: dict[str, Tap] = {}

    def later(self, seconds: float = 0.1) -> None:
        """Advance the time."""
        self.at += seconds

    def asked(self, tap: Tap, command: str, body: object, answer: object) -> None:
        """A command and its answer; an int is an error."""
        self.ids += 1
        tap.sent(json.dumps({"id": self.ids, command: body}))
        self.later(0.01)
        reply = {"error": {"code": answer, "message": "no"}} if isinstance(answer, int) else {command: answer}
        tap.received(json.dumps({"id": self.ids, **reply}))

    def opened(self, reader: str, user: str, since: int | None = None) -> Tap:
        """A connection that follows the channel, recovered from `since` if that is given."""
        tap = self.recorder.connection(reader, user)
        self.asked(tap, "connect", {}, {"client": "c", "subs": {f"user:{user}": {"epoch": "u", "offset": 0}}})
        self.subscribe(tap, since)
        return tap

    def subscribe(self, tap: Tap, since: int | None = None) -> None:
        """`subscribe` with a correct answer."""
        body: dict[str, Any] = {"channel": CHANNEL}
        answer: dict[str, Any] = {"epoch": EPOCH, "offset": len(self.log), "recoverable": True}
        if since is not None:
            body |= {"recover": True, "epoch": EPOCH, "offset": since}
            missed = [{"offset": at + 1, "data": self.log[at]} for at in range(since, len(self.log))]
            answer |= {"recovered": True, "was_recovering": True, "publications": missed}
        self.asked(tap, "subscribe", body, answer)
        self.live[tap.conn] = tap

    def closed(self, tap: Tap, code: int = 1006) -> None:
        """The connection breaks."""
        self.live.pop(tap.conn, None)
        tap.closed(code)

    def append(self, data: Any) -> int:
        """Append to the log, and deliver to every live subscriber shortly afterwards."""
        self.log.append(data)
        self.later(0.02)
        for tap in self.live.values():
            pub = {"data": data, "offset": len(self.log)}
            tap.received(json.dumps({"push": {"channel": CHANNEL, "pub": pub}}))
        return len(self.log)

    def publish(self, mark: str) -> None:
        """Publish over the server API."""
        data = {"type": "CUSTOM", "name": "mark", "value": mark}
        self.recorder.attempted(mark, CHANNEL, data)
        offset = self.append(data)
        self.recorder.acknowledged(mark, CHANNEL, EPOCH, offset)
        self.later()

    def run(self, tap: Tap, run_id: str, *, cancelled: bool = False) -> None:
        """A user's message and its whole run."""
        started = {"run_id": run_id, "message_id": f"m-{run_id}", "channel": CHANNEL, "thread_id": "t1"}
        params = {"text": "hi", "client_message_id": f"c-{run_id}", "thread_id": "t1"}
        said = {"threadId": "t1", "messageId": f"m-{run_id}"}
        self.append({"type": "TEXT_MESSAGE_START", "role": "user", **said})
        self.append({"type": "TEXT_MESSAGE_CONTENT", "delta": "hi", **said})
        self.append({"type": "TEXT_MESSAGE_END", **said})
        self.asked(tap, "rpc", {"method": "run.start", "data": params}, {"data": started})
        answer = {"messageId": f"a-{run_id}"}
        events: list[dict[str, Any]] = [
            {"type": "RUN_STARTED"},
            {"type": "TEXT_MESSAGE_START", "role": "assistant", **answer},
            {"type": "TEXT_MESSAGE_CONTENT", "delta": "one ", **answer},
            {"type": "TEXT_MESSAGE_CONTENT", "delta": "two", **answer},
            {"type": "TEXT_MESSAGE_END", **answer},
            {"type": "RUN_FINISHED", "outcome": {"type": "cancelled" if cancelled else "success"}},
        ]
        for number, event in enumerate(events, 1):
            event |= {"threadId": "t1", "runId": run_id, "seq": number}
        if cancelled:
            cancel = {"method": "run.cancel", "data": {"run_id": run_id}}
            self.asked(tap, "rpc", cancel, {"data": {"state": "running"}})
        events[-1] |= {"count": len(events), "digest": digest(events)}
        for event in events:
            self.append(event)
        self.later()
        state = "cancelled" if cancelled else "finished"
        read = {"state": state, "count": len(events), "digest": events[-1]["digest"], "error": ""}
        self.asked(tap, "rpc", {"method": "run.get", "data": {"run_id": run_id}}, {"data": read})

    def read(self, tap: Tap) -> None:
        """The whole log and the thread, as `history` and `thread.get` return them."""
        entries = [{"offset": at, "data": data} for at, data in enumerate(self.log, 1)]
        told = {"publications": entries, "epoch": EPOCH, "offset": len(self.log)}
        body = {"channel": CHANNEL, "limit": -1, "since": {"offset": 0, "epoch": EPOCH}}
        self.asked(tap, "history", body, told)
        begun = [data for data in self.log if data["type"] == "TEXT_MESSAGE_START"]
        messages = [{"message_id": data["messageId"], "role": data["role"]} for data in begun]
        self.asked(
            tap,
            "rpc",
            {"method": "thread.get", "data": {"thread_id": "t1"}},
            {"data": {"messages": messages}},
        )


def true_story() -> Story:
    """Two readers, one of which reconnects; publications, runs, a cancel, a removal, a read at the end."""
    story = Story()
    alice = story.opened("alice-phone", "alice")
    bob = story.opened("bob-laptop", "bob")
    for number in range(3):
        story.publish(f"first-{number}")
    story.closed(bob)
    story.publish("while-away-0")
    story.publish("while-away-1")
    story.later(2)
    bob = story.opened("bob-laptop", "bob", since=3)
    story.run(alice, "r1")
    story.run(alice, "r2", cancelled=True)
    story.asked(
        alice,
        "rpc",
        {"method": "thread.members.remove", "data": {"thread_id": "t1", "user_id": "bob"}},
        {"data": {}},
    )
    story.publish("bob-still-sees-this")
    gone = {"channel": CHANNEL, "unsubscribe": {"code": 2500, "reason": "removed"}}
    bob.received(json.dumps({"push": gone}))
    story.live.pop(bob.conn)
    story.later(3)
    story.publish("bob-does-not")
    story.asked(alice, "unsubscribe", {"channel": CHANNEL}, {})
    story.live.pop(alice.conn)
    story.subscribe(alice, since=len(story.log))
    story.publish("last")
    story.read(alice)
    story.later(30)
    return story


def truth() -> list[Record]:
    """The records of the correct story."""
    return true_story().recorder.history()


def at(history: list[Record], kind: type[Record], number: int = 0, **values: object) -> int:
    """The index of the n-th record of a kind with these values."""
    found = [
        index
        for index, record in enumerate(history)
        if isinstance(record, kind) and all(getattr(record, name) == value for name, value in values.items())
    ]
    return found[number]


def changed(history: list[Record], index: int, **values: object) -> list[Record]:
    """The history with one record changed."""
    history[index] = msgspec.structs.replace(history[index], **values)
    return history


def test_a_true_history_passes() -> None:
    """A history that keeps every guarantee has no finding and is not empty."""
    history = truth()
    assert not check(history, BOUNDS), report(check(history, BOUNDS))
    counts = summary(history)
    assert (counts["acknowledged"], counts["recovered"], counts["runstarted"]) == (8, 2, 2)
    assert counts["delivered"] > 30


def lost_live(history: list[Record]) -> list[Record]:
    """One event never reaches alice."""
    del history[at(history, Delivered, conn="alice-phone#1", offset=2)]
    return history


def lost_at_the_end(history: list[Record]) -> list[Record]:
    """The last event never reaches alice: no later offset shows the gap."""
    last = max(record.offset for record in history if isinstance(record, Delivered))
    del history[at(history, Delivered, conn="alice-phone#1", offset=last)]
    return history


def lost_from_the_log(history: list[Record]) -> list[Record]:
    """The log that is read at the end lacks one acknowledged publication."""
    index = at(history, LogRead)
    read = history[index]
    assert isinstance(read, LogRead)
    return changed(history, index, publications=read.publications[:-1], offset=read.offset - 1)


def twice_live(history: list[Record]) -> list[Record]:
    """Alice receives one offset twice."""
    index = at(history, Delivered, conn="alice-phone#1", offset=2)
    return [*history[: index + 1], history[index], *history[index + 1 :]]


def twice_in_recovery(history: list[Record]) -> list[Record]:
    """Bob's recovery has an event that he had already received."""
    index = at(history, Subscribed, recovered=True)
    told = history[index]
    assert isinstance(told, Subscribed)
    again = [type(told.publications[0])(3, {"type": "CUSTOM", "name": "mark", "value": "first-2"})]
    return changed(history, index, publications=again + told.publications)


def twice_in_the_log(history: list[Record]) -> list[Record]:
    """A publication that was repeated under its key was appended again."""
    index = at(history, Acknowledged, key="first-1")
    again = msgspec.structs.replace(history[index], offset=3)
    return [*history[: index + 1], again, *history[index + 1 :]]


def exchanged_live(history: list[Record]) -> list[Record]:
    """Alice receives two events in the wrong order."""
    one = at(history, Delivered, conn="alice-phone#1", offset=7)
    two = at(history, Delivered, conn="alice-phone#1", offset=8)
    first, second = history[one], history[two]
    assert isinstance(first, Delivered)
    assert isinstance(second, Delivered)
    changed(history, one, offset=second.offset, data=second.data)
    return changed(history, two, offset=first.offset, data=first.data)


def exchanged_in_the_log(history: list[Record]) -> list[Record]:
    """A publication sent after an acknowledgement is stored before the acknowledged one."""
    one, two = at(history, Acknowledged, key="first-0"), at(history, Acknowledged, key="first-1")
    changed(history, one, offset=2)
    return changed(history, two, offset=1)


def exchanged_in_the_thread(history: list[Record]) -> list[Record]:
    """`thread.get` shows an answer before its question."""
    index = at(history, ThreadRead)
    read = history[index]
    assert isinstance(read, ThreadRead)
    return changed(history, index, messages=[read.messages[1], read.messages[0], *read.messages[2:]])


def exchanged_in_the_queue(history: list[Record]) -> list[Record]:
    """The run that was requested later starts first."""
    story = true_story()
    phone = story.opened("alice-tablet", "alice")
    for run_id in ("r8", "r9"):
        story.recorder.run_started(story.at, run_id=run_id, channel=CHANNEL)
        story.later()
    for run_id in ("r9", "r8"):
        story.append({"type": "RUN_STARTED", "runId": run_id, "threadId": "t1", "seq": 1})
    story.closed(phone)
    return story.recorder.history()


def other_data(history: list[Record]) -> list[Record]:
    """Bob receives different data at an offset than alice."""
    index = at(history, Delivered, conn="bob-laptop#2", offset=2)
    return changed(history, index, data={"type": "CUSTOM", "name": "mark", "value": "forged"})


def a_gap(history: list[Record]) -> list[Record]:
    """An event of a run, which no acknowledgement names, never reaches alice."""
    del history[at(history, Delivered, conn="alice-phone#1", offset=11)]
    return history


def falsely_recovered(history: list[Record]) -> list[Record]:
    """Bob gets `recovered: true` at a stale offset."""
    return changed(history, at(history, Subscribed, recovered=True), offset=3, publications=[])


def recovered_with_a_hole(history: list[Record]) -> list[Record]:
    """Bob's recovery ends before the position in its answer."""
    index = at(history, Subscribed, recovered=True)
    told = history[index]
    assert isinstance(told, Subscribed)
    return changed(history, index, publications=told.publications[:1])


def recovered_across_epochs(history: list[Record]) -> list[Record]:
    """Bob's old position belongs to another epoch."""
    return changed(history, at(history, Subscribed, recovered=True), since_epoch="e0")


def epoch_not_told(history: list[Record]) -> list[Record]:
    """The epoch changed, and alice, who is live, stays in the old one."""
    changed(history, at(history, Acknowledged, key="last"), epoch="e2", offset=1)
    return changed(history, at(history, LogRead), epoch="e2", offset=0, publications=[], since=0)


def epoch_returned(history: list[Record]) -> list[Record]:
    """A newer epoch was current, and the old one is current again."""
    index = at(history, Acknowledged, key="first-1")
    return changed(history, index, epoch="e2", offset=1)


def late(history: list[Record]) -> list[Record]:
    """An event reaches alice 29 s after its acknowledgement."""
    index = at(history, Delivered, -1, conn="alice-phone#1")
    record = history.pop(index)
    end = history.pop()
    return [*history, msgspec.structs.replace(record, at=end.at - 1), end]


def outside(history: list[Record]) -> list[Record]:
    """Alice receives an event after she left the channel."""
    index = at(history, Delivered, -1, conn="alice-phone#1")
    record = history.pop(index)
    left = at(history, Subscribed, -1, conn="alice-phone#1")
    return [*history[:left], msgspec.structs.replace(record, at=history[left].at), *history[left:]]


def removed_member_listens(history: list[Record]) -> list[Record]:
    """Bob continues to receive events after his removal."""
    index = next(
        index
        for index, record in enumerate(history)
        if type(record).__name__ == "Unsubscribed" and getattr(record, "conn", "") == "bob-laptop#3"
    )
    del history[index]
    place = at(history, Delivered, -2, conn="alice-phone#1")
    shown = msgspec.structs.replace(history[place], conn="bob-laptop#3")
    return [*history[: place + 1], shown, *history[place + 1 :]]


def removed_member_returns(history: list[Record]) -> list[Record]:
    """Bob receives events again long after his removal."""
    end = history.pop()
    told = history[at(history, Subscribed, -1, conn="bob-laptop#3", channel=CHANNEL)]
    again = msgspec.structs.replace(told, at=end.at, asked_at=end.at, recover=False, recovered=False)
    return [*history, again, end]


def revoked_user_connects(history: list[Record]) -> list[Record]:
    """Alice is revoked, and connects 2.5 s later."""
    story = true_story()
    story.recorder.removed("*", "carol")
    story.later(2.5)
    story.opened("carol-phone", "carol")
    return story.recorder.history()


def end_twice(history: list[Record]) -> list[Record]:
    """A run's terminal event is published again."""
    index = at(history, Delivered, -1, conn="alice-phone#1")
    end = next(
        record.data
        for record in history
        if isinstance(record, Delivered) and record.data["type"] == "RUN_FINISHED"
    )
    return changed(history, index, data=end)


def after_the_end(history: list[Record]) -> list[Record]:
    """A run publishes an event after its terminal event."""
    index = at(history, Delivered, -1, conn="alice-phone#1")
    event = next(
        record.data
        for record in history
        if isinstance(record, Delivered)
        and record.data["type"] == "TEXT_MESSAGE_CONTENT"
        and "seq" in record.data
    )
    return changed(history, index, data={**event, "seq": 7})


def no_end(history: list[Record]) -> list[Record]:
    """A run is acknowledged and never has an event."""
    record = RunStarted(at=0, asked_at=0, run_id="r9", channel=CHANNEL)
    place = at(history, RunStarted)
    return [
        *history[:place],
        msgspec.structs.replace(record, at=history[place].at),
        *history[place:],
    ]


def end_not_told(history: list[Record]) -> list[Record]:
    """A run ended in the store; its followers never received the end."""
    history = no_end(history)
    place = at(history, LogRead)
    read = RunRead(at=history[place].at, run_id="r9", state="cancelled")
    return [*history[:place], read, *history[place:]]


def seq_skips(history: list[Record]) -> list[Record]:
    """A run's `seq` skips one, though the offsets are complete."""
    for index, record in enumerate(history):
        if isinstance(record, Delivered) and record.data.get("runId") == "r1" and record.data["seq"] == 4:
            changed(history, index, data={**record.data, "seq": 5})
    return history


def wrong_digest(history: list[Record]) -> list[Record]:
    """The delivered text differs from the text that the digest covers."""
    for index, record in enumerate(history):
        if isinstance(record, Delivered) and record.data.get("delta") == "two":
            changed(history, index, data={**record.data, "delta": "three"})
    return history


def wrong_count(history: list[Record]) -> list[Record]:
    """`run.get` has a different count than the terminal event."""
    return changed(history, at(history, RunRead), count=5)


def failed_without_error(history: list[Record]) -> list[Record]:
    """A run whose end no client received is read as failed, without an error."""
    place = at(history, LogRead)
    read = RunRead(at=history[place].at, run_id="r9", state="failed", error="")
    return [*history[:place], read, *history[place:]]


def another_end(history: list[Record]) -> list[Record]:
    """`run.get` reports cancelled; the terminal event reports finished."""
    return changed(history, at(history, RunRead), state="cancelled")


def given_up_without_cause(history: list[Record]) -> list[Record]:
    """A run ends `owner_lost` without a fault."""
    story = true_story()
    story.later(30)
    ids = {"threadId": "t1", "runId": "r9"}
    phone = story.opened("carol-phone", "carol")
    story.append({"type": "RUN_STARTED", **ids, "seq": 1})
    end: dict[str, Any] = {"type": "RUN_ERROR", "code": "owner_lost", **ids, "seq": 2, "count": 2}
    story.append(end | {"digest": digest([story.log[-1], end])})
    story.closed(phone)
    return story.recorder.history()


def cancel_without_effect(history: list[Record]) -> list[Record]:
    """A cancel was acknowledged, and the run never ends."""
    end = history.pop()
    started = RunStarted(at=end.at, asked_at=end.at, run_id="r9", channel=CHANNEL)
    acknowledged = CancelAcknowledged(end.at, "r9", "running")
    return [*history, started, acknowledged, msgspec.structs.replace(end, at=end.at + 6)]


def agent_twice(history: list[Record]) -> list[Record]:
    """An agent that must not run again was called a second time for one run."""
    story = true_story()
    story.recorder.agent_began("r1")
    story.recorder.agent_began("r2")
    story.recorder.agent_began("r1")
    return story.recorder.history()


def calls_mixed(history: list[Record]) -> list[Record]:
    """An owner goes on behind the output of another one."""
    return two_calls(restarted=False)


def two_calls(*, restarted: bool) -> list[Record]:
    """A run whose agent was called twice, and of which both calls were shown."""
    story = true_story()
    story.opened("bob-phone", "bob")
    events: list[dict[str, Any]] = [
        {"type": "RUN_STARTED"},
        {"type": "TEXT_MESSAGE_START", "role": "assistant", "messageId": "a"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a", "delta": "<call 7>one <call 7>two "},
        {"type": "CUSTOM", "name": "narthex.restarted" if restarted else "narthex.working", "value": {}},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a", "delta": "<call 8>one "},
    ]
    for number, event in enumerate(events, 1):
        story.append(event | {"threadId": "t1", "runId": "r7", "seq": number})
    return story.recorder.history()


def test_a_restart_tells_that_another_call_follows() -> None:
    """The second call's output is announced, so nothing is mixed."""
    kinds = {finding.kind for finding in check(two_calls(restarted=True), BOUNDS)}
    assert Kind.CALLS_MIXED not in kinds


def test_what_a_client_reads_after_it_has_dropped_its_connection_does_not_count() -> None:
    """A frame may lie in its buffer: that is no delivery outside a subscription."""
    story = true_story()
    phone = story.opened("bob-phone", "bob")
    phone.closed(1006)
    story.append({"type": "CUSTOM", "name": "mark", "value": "late"})
    kinds = {finding.kind for finding in check(story.recorder.history(), BOUNDS)}
    assert Kind.OUTSIDE not in kinds


def message_twice(history: list[Record]) -> list[Record]:
    """A user's message begins at two offsets."""
    story = true_story()
    story.append(next(data for data in story.log if data.get("role") == "user"))
    return story.recorder.history()


def run_twice(history: list[Record]) -> list[Record]:
    """One `client_message_id` became two runs."""
    index = at(history, RunStarted, 1)
    return changed(history, index, client_message_id="c-r1")


def message_lost(history: list[Record]) -> list[Record]:
    """The thread lacks an acknowledged message."""
    index = at(history, ThreadRead)
    read = history[index]
    assert isinstance(read, ThreadRead)
    return changed(history, index, messages=read.messages[1:], whole=True)


def no_reply(history: list[Record]) -> list[Record]:
    """A command is never answered although its connection is up."""
    story = true_story()
    tap = story.opened("carol-phone", "carol")
    tap.sent(json.dumps({"id": 99, "rpc": {"method": "time"}}))
    story.later(11)
    return story.recorder.history()


def already_subscribed(history: list[Record]) -> list[Record]:
    """Subscribe, unsubscribe, subscribe: the last one is answered 105, and the connection is not subscribed."""
    story = true_story()
    tap = story.opened("carol-phone", "carol")
    story.asked(tap, "unsubscribe", {"channel": CHANNEL}, {})
    story.asked(tap, "subscribe", {"channel": CHANNEL}, 105)
    return story.recorder.history()


def presence_refused(history: list[Record]) -> list[Record]:
    """`presence` right after `subscribe` is refused."""
    story = true_story()
    tap = story.opened("carol-phone", "carol")
    story.asked(tap, "presence", {"channel": CHANNEL}, 103)
    return story.recorder.history()


def unsubscribed_by_an_overtaken_command(history: list[Record]) -> list[Record]:
    """The client unsubscribed, got the confirmation, and continues to receive."""
    story = true_story()
    tap = story.opened("carol-phone", "carol")
    story.asked(tap, "unsubscribe", {"channel": CHANNEL}, {})
    story.publish("carol-left")
    return story.recorder.history()


LIES: dict[Callable[[list[Record]], list[Record]], Kind] = {
    lost_live: Kind.LOST,
    lost_at_the_end: Kind.LOST,
    lost_from_the_log: Kind.LOST,
    message_lost: Kind.LOST,
    twice_live: Kind.TWICE,
    twice_in_recovery: Kind.TWICE,
    twice_in_the_log: Kind.TWICE,
    message_twice: Kind.TWICE,
    run_twice: Kind.TWICE,
    exchanged_live: Kind.ORDER,
    exchanged_in_the_log: Kind.ORDER,
    exchanged_in_the_thread: Kind.ORDER,
    exchanged_in_the_queue: Kind.ORDER,
    a_gap: Kind.GAP,
    other_data: Kind.DIFFERENT_DATA,
    falsely_recovered: Kind.FALSE_RECOVERED,
    recovered_with_a_hole: Kind.FALSE_RECOVERED,
    recovered_across_epochs: Kind.FALSE_RECOVERED,
    epoch_not_told: Kind.EPOCH_NOT_TOLD,
    epoch_returned: Kind.EPOCH_RETURNED,
    late: Kind.SILENCE,
    outside: Kind.OUTSIDE,
    removed_member_listens: Kind.AFTER_REMOVAL,
    removed_member_returns: Kind.AFTER_REMOVAL,
    revoked_user_connects: Kind.AFTER_REMOVAL,
    end_twice: Kind.END_TWICE,
    after_the_end: Kind.AFTER_END,
    no_end: Kind.RUN_WITHOUT_END,
    end_not_told: Kind.END_NOT_TOLD,
    failed_without_error: Kind.END_OTHERWISE,
    another_end: Kind.END_OTHERWISE,
    seq_skips: Kind.RUN_ORDER,
    wrong_digest: Kind.DIGEST,
    wrong_count: Kind.DIGEST,
    agent_twice: Kind.AGENT_TWICE,
    calls_mixed: Kind.CALLS_MIXED,
    given_up_without_cause: Kind.RUN_GIVEN_UP,
    cancel_without_effect: Kind.CANCEL_LATE,
    no_reply: Kind.NO_REPLY,
    already_subscribed: Kind.COMMAND_ORDER,
    presence_refused: Kind.COMMAND_ORDER,
    unsubscribed_by_an_overtaken_command: Kind.OUTSIDE,
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_is_found_and_named(lie: Callable[[list[Record]], list[Record]]) -> None:
    """Each seeded lie is found under its name."""
    findings = check(lie(truth()), BOUNDS)
    assert LIES[lie] in {finding.kind for finding in findings}, report(findings)


def test_every_kind_has_a_lie() -> None:
    """Every kind of finding has a history that must show it."""
    assert set(LIES.values()) == set(Kind)


def test_a_fault_excuses_what_it_names_and_no_more() -> None:
    """During a fault that excuses silence an event may come late; once it is over, the bound counts again."""
    history = late(truth())
    shown = at(history, Delivered, -1, conn="alice-phone#1")
    acked = at(history, Acknowledged, key="last")
    recorder = Recorder(lambda: history[acked].at)
    recorder.fault_began("route", (Kind.SILENCE,))
    began = recorder.history()[0]
    for over_at, found in ((history[shown].at - 6, True), (history[shown].at - 4, False)):
        over = Recorder(lambda over_at=over_at: over_at)  # type: ignore[misc]  # bound at once
        over.fault_ended("route")
        told = [*history[:acked], began, *history[acked:shown], over.history()[0], *history[shown:]]
        told.sort(key=lambda record: record.at)
        assert (Kind.SILENCE in {finding.kind for finding in check(told, BOUNDS)}) is found


@pytest.mark.parametrize("lie", [message_lost, removed_member_returns, no_end], ids=lambda lie: lie.__name__)
def test_a_store_that_went_back_may_have_lost_what_it_was_told_since(
    lie: Callable[[list[Record]], list[Record]],
) -> None:
    """A copy from before all writes excuses the lie, one from the last instant does not."""
    history = lie(truth())
    place = at(history, ThreadRead) if lie is message_lost else len(history) - 2
    moment = history[place].at
    plain = {found.kind for found in check(history, BOUNDS)}
    late, early = (
        check([*history[:place], Restored(moment, since), *history[place:]], BOUNDS)
        for since in (moment, 0.0)
    )
    assert {found.kind for found in late} == plain
    assert {found.kind for found in early} < plain


@pytest.mark.parametrize("epoch", [EPOCH, "e2"])
def test_when_a_run_ended_is_not_known_from_a_read_behind_a_lost_log(epoch: str) -> None:
    """A cancelled run that is read as ended a minute later is late, unless its followers learned of a new epoch."""
    story = Story()
    phone = story.opened("alice-phone", "alice")
    story.recorder.run_started(story.at, run_id="r9", channel=CHANNEL)
    story.asked(
        phone, "rpc", {"method": "run.cancel", "data": {"run_id": "r9"}}, {"data": {"state": "running"}}
    )
    story.closed(phone)
    story.recorder.log_read(CHANNEL, epoch, 0, [], story.at)
    story.later(60)
    story.recorder.run_read("r9", "cancelled")
    kinds = {found.kind for found in check(story.recorder.history(), BOUNDS)}
    assert (Kind.CANCEL_LATE in kinds) == (epoch == EPOCH)


def test_a_run_that_waits_behind_another_has_its_time_from_that_ones_end() -> None:
    """A queue that advances is not stuck, however long it is."""
    kinds = []
    for first in ("r8", "r9"):  # the one ahead, and the one that waits: whose end comes first
        story = Story()
        story.opened("alice-phone", "alice")
        for run_id in ("r8", "r9"):
            story.recorder.run_started(story.at, run_id=run_id, channel=CHANNEL)
            story.later()
        story.later(15)
        story.append({"type": "RUN_STARTED", "runId": first, "threadId": "t1", "seq": 1})
        end: dict[str, Any] = {"type": "RUN_ERROR", "runId": first, "threadId": "t1", "seq": 2, "count": 2}
        story.append(end | {"digest": digest([story.log[-1], end])})
        story.later(10)
        kinds.append({found.kind for found in check(story.recorder.history(), BOUNDS)})
    assert kinds == [set(), {Kind.RUN_WITHOUT_END}]


def test_a_run_that_is_cancelled_in_the_queue_does_not_wait_its_turn() -> None:
    """Whether or not the cancel was acknowledged to a client: the run's end shows it."""
    history = exchanged_in_the_queue(truth())
    end = {
        "type": "RUN_FINISHED",
        "runId": "r9",
        "threadId": "t1",
        "seq": 2,
        "outcome": {"type": "cancelled"},
    }
    place = at(history, Delivered, -1) + 1
    shown = history[place - 1]
    assert isinstance(shown, Delivered)
    told = msgspec.structs.replace(shown, offset=shown.offset + 1, data=end)
    kinds = {found.kind for found in check([*history[:place], told, *history[place:]], BOUNDS)}
    assert Kind.ORDER not in kinds


def test_a_merged_delta_is_its_parts() -> None:
    """A delta that was merged for a slow client passes, and a merged one with another text does not."""
    history = truth()
    first = next(
        index
        for index, record in enumerate(history)
        if isinstance(record, Delivered)
        and record.conn == "bob-laptop#3"
        and record.data.get("delta") == "one "
    )
    second = next(
        index
        for index, record in enumerate(history)
        if index > first and isinstance(record, Delivered) and record.conn == "bob-laptop#3"
    )
    told = history[second]
    assert isinstance(told, Delivered)
    for text, found in (("one two", set()), ("one too", {Kind.DIFFERENT_DATA, Kind.DIGEST})):
        merged = {**told.data, "delta": text, "seq_from": told.data["seq"] - 1}
        lied = changed(list(history), second, data=merged)
        del lied[first]
        assert {finding.kind for finding in check(lied, BOUNDS)} == found


def test_the_digest_agrees_with_the_vectors() -> None:
    """The second implementation gives the digests that the documents publish."""
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "digest.json").read_text())
    for case in vectors["cases"]:
        assert digest(case["events"]) == case["digest"], case["name"]


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    """A saved history loads unchanged and gets the same findings."""
    story = true_story()
    story.recorder.save(tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == story.recorder.history()


def test_records_out_of_order_are_refused() -> None:
    """A history in the wrong order is refused."""
    history = truth()
    with pytest.raises(ValueError, match="order of time"):
        check([*history, Closed(0.0, "alice-phone#1", 1000)], BOUNDS)


def test_the_checker_shares_no_code_with_the_product() -> None:
    """No file below tests/history imports narthex, directly or through another test module."""
    for file in Path(__file__).parent.glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                module = line.split()[1]
                assert module.split(".")[0] != "narthex", f"{file.name}: {line}"
                assert not module.startswith("tests.") or module.startswith("tests.history"), line
