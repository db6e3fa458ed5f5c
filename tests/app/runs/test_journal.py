"""The journal and the lease of a run by themselves: what waits, what is joined, what is tried again, what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from narthex.app.runs.journal import MAX_PENDING, BrokerGone, Journal
from narthex.app.runs.lease import JUMP_S, Lease, OwnershipLost
from narthex.app.runs.run_log_state import RunLogState
from narthex.app.runs.services import RunLimits, RunServices
from narthex.domain import events as ev
from narthex.domain.digest import digest_of
from narthex.domain.merging import MAX_JOINED_CHARS
from narthex.ports.broker import Position
from narthex.ports.runs import Run
from tests.app.runs.fakes import FakeBroker, FakeMeter, FakeRuns, FakeThreads
from tests.timing import within

CHANNEL = "default/thread:t"
RUN = Run(
    run_id="r", thread_id="t", tenant="default", user_id="ada", agent="a", state="running", owner="n/1",
    client_message_id="c", message_id="m", created_at=0.0,
)  # fmt: skip
FOR_EVER = Lease(float("inf"))


class Written:
    """A journal over a broker in memory."""

    def __init__(self, lease: Lease = FOR_EVER, **limits: Any) -> None:
        self.broker = FakeBroker()
        self.meter = FakeMeter()
        services = RunServices(
            broker=cast("Any", self.broker),
            runs=FakeRuns(),
            threads=FakeThreads(),
            agents={},
            node="n",
            owner="n/1",
            now=lambda: 1_700_000_000.25,
            meter=self.meter,
            limits=RunLimits(**limits),
            notify_members=cast("Any", None),
            say=cast("Any", None),
            concurrent_runs=lambda _: 1,
        )
        self.log = RunLogState()
        self.log.top = Position(0, self.broker.epoch)
        self.journal = Journal(services, RUN, lease, self.log)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What is in the log."""
        return self.broker.events(CHANNEL)


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., Written]]:
    """Makes journals, and closes them."""
    written: list[Written] = []

    def make(*args: Any, **limits: Any) -> Written:
        written.append(Written(*args, **limits))
        return written[-1]

    yield make
    for one in written:
        await one.journal.close()


def text(delta: str, message: str = "m") -> ev.Event:
    """A piece of a message."""
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": delta}


async def test_an_agent_that_is_faster_than_the_log_waits(made: Callable[..., Written]) -> None:
    """It may have so many events pending; with one more it waits until the log has taken one."""
    written = made()
    written.broker.delay_s = 3_600.0
    for number in range(MAX_PENDING + 1):  # the first is under way
        await asyncio.wait_for(written.journal.put(ev.custom("x", number)), within(5))
        await asyncio.sleep(0)
    late = asyncio.create_task(written.journal.put(ev.custom("x", "late")))
    await asyncio.sleep(0.01)
    assert not late.done()
    late.cancel()


async def test_pieces_of_one_message_are_joined_up_to_the_bound(made: Callable[..., Written]) -> None:
    """The first goes at once; the others wait for company, and a text over the bound begins another event."""
    written = made(join_window_s=3_600.0)
    await written.journal.put(text("first"))
    await written.journal.flush()
    half = "x" * (MAX_JOINED_CHARS // 2)
    for piece in (half, half, "y", "z"):
        await written.journal.put(text(piece))
    await written.journal.flush()
    assert [len(event["delta"]) for event in written.events] == [5, MAX_JOINED_CHARS, 2]
    assert [event["seq"] for event in written.events] == [1, 2, 3]
    assert written.meter.counts["run_deltas_joined"] == 2
    assert written.meter.observed["journal_batch_size"] == [1, 2, 2]


async def test_a_full_event_waits_for_nothing(made: Callable[..., Written]) -> None:
    """No more text fits into it."""
    written = made(join_window_s=3_600.0)
    await written.journal.put(text("first"))
    await written.journal.put(text("x" * MAX_JOINED_CHARS))
    async with asyncio.timeout(within(5)):
        while len(written.events) < 2:
            await written.broker.published.wait()
            written.broker.published.clear()


@pytest.mark.parametrize("other", [text("b", "n"), ev.custom("x", 1)])
async def test_another_event_ends_the_wait(made: Callable[..., Written], other: ev.Event) -> None:
    """A piece of another message, or any other event: what waits before it goes at once, in order."""
    written = made(join_window_s=3_600.0)
    await written.journal.put(text("first"))
    await written.journal.flush()
    await written.journal.put(text("a"))
    await asyncio.sleep(0)
    assert len(written.events) == 1
    await written.journal.put(other)
    async with asyncio.timeout(within(5)):
        while len(written.events) < 2:
            await written.broker.published.wait()
            written.broker.published.clear()
    assert written.events[1]["delta"] == "a"


async def test_a_lone_piece_waits_for_the_window_only(made: Callable[..., Written]) -> None:
    """Then it goes, although nothing follows."""
    written = made(join_window_s=0.02)
    for piece in ("a", "b"):
        await written.journal.put(text(piece))
        async with asyncio.timeout(within(5)):
            while not written.events or written.events[-1]["delta"] != piece:
                await written.broker.published.wait()
                written.broker.published.clear()
    assert [event["seq"] for event in written.events] == [1, 2]


async def test_the_events_name_their_run_and_some_their_moment(made: Callable[..., Written]) -> None:
    """Milliseconds since the epoch, on those that a page shows with a time."""
    written = made()
    await written.journal.put(ev.run_started("t", "r"))
    await written.journal.put(ev.custom("x", 1))
    await written.journal.flush()
    started, custom = written.events
    assert (started["threadId"], started["runId"], started["seq"]) == ("t", "r", 1)
    assert started["timestamp"] == 1_700_000_000_250
    assert "timestamp" not in custom


async def test_the_last_event_proves_all_and_ends_the_journal(made: Callable[..., Written]) -> None:
    """`count` is its own number; what is put afterwards is dropped without an error."""
    written = made()
    for event in (ev.run_started("t", "r"), text("a"), text("b")):
        await written.journal.put(event)
    await written.journal.finish({"type": "RUN_FINISHED"})
    await written.journal.put(ev.custom("x", "late"))
    await written.journal.flush()
    last = written.events[-1]
    assert (last["type"], last["count"], last["seq"]) == (
        "RUN_FINISHED",
        len(written.events),
        len(written.events),
    )
    assert last["digest"] == digest_of(written.events)


async def test_over_a_log_that_lost_events_nothing_is_proved(made: Callable[..., Written]) -> None:
    """The end has its count, and no digest."""
    written = made()
    await written.journal.put(ev.run_started("t", "r"))
    await written.journal.flush()
    written.broker.lose()
    await written.journal.finish({"type": "RUN_FINISHED"})
    (last,) = written.events
    assert (last["count"], "digest" in last) == (2, False)


async def test_an_event_is_tried_again_for_as_long_as_there_is_patience(
    made: Callable[..., Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pauses that double up to a bound; each try is counted."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(pause_s: float) -> None:
        if pause_s:
            pauses.append(pause_s)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    written = made(broker_patience_s=60.0)
    written.broker.fail_publishes = 8
    await written.journal.put(ev.custom("x", 1))
    await asyncio.wait_for(written.journal.flush(), within(10))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert written.meter.counts["run_publish_retries"] == 8
    assert len(written.events) == 1


async def test_without_patience_the_run_is_given_up(made: Callable[..., Written]) -> None:
    """Every later call raises the same; nothing stays pending, and `failed` wakes the run's owner."""
    written = made(broker_patience_s=0.0)
    written.broker.fail_publishes = 1
    await written.journal.put(ev.custom("x", 1))
    await asyncio.wait_for(written.journal.failed, within(5))
    for call in (written.journal.put(ev.custom("x", 2)), written.journal.flush()):
        with pytest.raises(BrokerGone):
            await call
    assert written.events == []


async def test_an_append_whose_answer_was_lost_is_in_the_log_once(made: Callable[..., Written]) -> None:
    """The repeat is answered as a duplicate, and what is in the log counts."""
    written = made()
    written.broker.lose_acks = 1
    await written.journal.put(ev.custom("x", 1))
    await written.journal.put(ev.custom("x", 2))
    await written.journal.flush()
    assert [event["seq"] for event in written.events] == [1, 2]
    assert (written.log.seq, written.log.top) == (2, Position(2, "e"))


async def test_others_may_write_between_two_events(made: Callable[..., Written]) -> None:
    """A person's message in the same thread is read on the way; an event of another owner of this run stops it."""
    written = made()
    await written.journal.put(ev.custom("x", 1))
    await written.journal.flush()
    other = {"type": "CUSTOM", "runId": "another", "seq": 1}
    await written.broker.publish(CHANNEL, msgspec.json.encode(other))
    await written.journal.put(ev.custom("x", 2))
    await written.journal.flush()
    assert [event.get("runId") for event in written.events] == ["r", "another", "r"]
    await written.broker.publish(CHANNEL, msgspec.json.encode(other | {"runId": "r", "seq": 3}))
    await written.journal.put(ev.custom("x", 3))
    with pytest.raises(OwnershipLost):
        await written.journal.flush()
    assert len(written.events) == 4


async def test_nothing_is_written_while_the_lease_does_not_hold(made: Callable[..., Written]) -> None:
    """A lapsed lease makes the journal wait; its renewal lets it go on, its loss ends it."""
    lease = Lease(0.0)
    written = made(lease)
    await written.journal.put(ev.custom("x", 1))
    await asyncio.sleep(0.01)
    assert written.events == []
    lease.extend(float("inf"))
    await asyncio.wait_for(written.journal.flush(), within(5))
    assert len(written.events) == 1
    lease.lose()
    await written.journal.put(ev.custom("x", 2))
    with pytest.raises(OwnershipLost):
        await written.journal.flush()
    assert len(written.events) == 1


async def test_a_closed_journal_drops_what_was_pending(made: Callable[..., Written]) -> None:
    """Its task has ended when `close` returns, a second close is harmless, and `failed` wakes no task any more."""
    written = made()
    written.broker.delay_s = 3_600.0
    for number in range(3):
        await written.journal.put(ev.custom("x", number))
    await asyncio.sleep(0)
    await written.journal.close()
    await written.journal.close()
    assert written.journal.failed.cancelled()
    assert written.broker.in_flight == 0
    assert written.events == []


class Gate:
    """Holds back the publishes of a broker until they are let through."""

    def __init__(self, broker: FakeBroker) -> None:
        self._passes = asyncio.Semaphore(0)
        self._publish = broker.publish
        broker.publish = self._held  # type: ignore[method-assign]

    async def _held(self, *args: Any, **options: Any) -> Any:
        await self._passes.acquire()
        return await self._publish(*args, **options)

    def let(self, count: int) -> None:
        """Let so many through."""
        for _ in range(count):
            self._passes.release()


async def test_a_flush_does_not_wait_for_what_comes_after_it(made: Callable[..., Written]) -> None:
    """An agent that never pauses keeps no caller waiting that wants its own event to be durable."""
    written = made()
    gate = Gate(written.broker)
    await written.journal.put(ev.custom("x", "mine"))
    flush = asyncio.create_task(written.journal.flush())
    await asyncio.sleep(0)
    for number in range(3):
        await written.journal.put(ev.custom("x", number))
    gate.let(1)
    await asyncio.wait_for(flush, within(5))
    assert [event["value"] for event in written.events] == ["mine"]


async def test_pieces_are_joined_again_after_a_flush_was_given_up(made: Callable[..., Written]) -> None:
    """A caller that stops waiting leaves the journal as it was before."""
    written = made(join_window_s=3_600.0)
    await written.journal.put(text("first"))
    await written.journal.flush()
    gate = Gate(written.broker)
    await written.journal.put(ev.custom("x", 1))
    flush = asyncio.create_task(written.journal.flush())
    await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    gate.let(3)
    for piece in ("a", "b"):
        await written.journal.put(text(piece))
        for _ in range(5):
            await asyncio.sleep(0)
    await written.journal.flush()
    assert [event.get("delta") for event in written.events] == ["first", None, "ab"]


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_flush_of_a_closed_journal_ends(made: Callable[..., Written], *, under_way: bool) -> None:
    """Its caller learns that the event was dropped, whether its publish was under way or had not begun."""
    written = made()
    Gate(written.broker)
    await written.journal.put(ev.custom("x", 1))
    flush = asyncio.create_task(written.journal.flush())
    for _ in range(5 if under_way else 0):
        await asyncio.sleep(0)
    await written.journal.close()
    with pytest.raises(OwnershipLost):
        await asyncio.wait_for(flush, within(5))
    assert written.events == []


async def test_a_closed_journal_takes_no_end(made: Callable[..., Written]) -> None:
    """All of its events are durable, but it is no longer this owner's: neither a flush nor an end succeeds."""
    written = made()
    await written.journal.put(ev.custom("x", 1))
    await written.journal.flush()
    await written.journal.close()
    end: ev.Event = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    for call in (written.journal.flush(), written.journal.finish(end)):
        with pytest.raises(OwnershipLost):
            await call
    assert [event["type"] for event in written.events] == ["CUSTOM"]


async def test_a_lease_holds_until_its_moment_and_while_the_clocks_agree() -> None:
    """A wall clock that jumped shows that the machine slept; a renewal since then is believed."""
    now = asyncio.get_running_loop().time
    jump = 0.0
    lease = Lease(now() + 3_600.0, wall=lambda: now() + jump)
    await asyncio.wait_for(lease.hold(), within(5))
    for away in (JUMP_S + 0.5, -JUMP_S - 0.5):
        jump = away
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lease.hold(), 0.01)
    jump = JUMP_S - 0.5
    await asyncio.wait_for(lease.hold(), within(5))
    jump = 100.0
    lease.extend(0.0, ahead_s=lease.wall_ahead_s())  # an earlier moment does not shorten it
    await asyncio.wait_for(lease.hold(), within(5))
    lease.lose()
    with pytest.raises(OwnershipLost):
        await lease.hold()
