"""An agent that is not restartable runs once, whatever the log or the store forgot; a run that lost its log
reports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from narthex.adapters.stores.sql.operation import Operation
from narthex.app.runs.journal import LOST_RACES
from narthex.domain import events as ev
from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import ANY_OFFSET, Position, Published
from narthex.ports.runs import Run
from tests.app.runs.fakes import FakeBroker
from tests.app.runs.rig import ALICE, QUICK, Rig, agent, kinds, text_of
from tests.app.runs.test_takeover import kill

Items = AsyncIterator[Event | str]


class Counted:
    """An agent that counts its calls; it sends words, then waits for `go_on`."""

    def __init__(self) -> None:
        self.times = 0
        self.go_on = asyncio.Event()

    async def talk(self, run: RunInput) -> Items:
        """The agent."""
        self.times += 1
        for number in range(5):
            yield f"{number} "
            await asyncio.sleep(QUICK.join_window_s * 2)
        await self.go_on.wait()
        yield "done"


async def at_work(rig: Rig, work: Counted, *, restartable: bool = False) -> Run:
    """A run whose five words are in the log, and whose owner is dead."""
    node = await rig.node(agent(work.talk, restartable=restartable), name="n1")
    run = await rig.say(node, await rig.thread())
    await rig.until(run, lambda events: len(events) >= 7)
    kill(node)
    row = await rig.store.runs.get("acme", run.run_id)
    assert row is not None
    return row


async def next_owner(rig: Rig, work: Counted, run: Run, *, restartable: bool = False) -> Run:
    """The outcome on a node that starts now."""
    await rig.node(agent(work.talk, restartable=restartable), name="n2")
    return await rig.over(run)


async def test_the_log_is_gone_and_the_owner_dead(fake_rig: Rig) -> None:
    """Its text was shown and its agent had started: it ends `log_lost` and does not run again."""
    work = Counted()
    run = await at_work(fake_rig, work)
    fake_rig.fake_broker.lose()
    row = await next_owner(fake_rig, work, run)
    assert (row.state, row.error, work.times) == ("failed", "log_lost", 1)
    events = await fake_rig.events(run)
    assert kinds(events) == ["RUN_STARTED", "RUN_ERROR"]
    assert "digest" not in events[-1]


async def test_the_owner_that_ends_it_dies_too(fake_rig: Rig) -> None:
    """It had noted a position of the new log, in which the run has no event: that is no proof that it had not begun."""
    work = Counted()
    run = await at_work(fake_rig, work)
    fake_rig.fake_broker.lose()
    fake_rig.fake_broker.fail_publishes = 1_000_000
    second = await fake_rig.node(agent(work.talk), name="n2")
    await fake_rig.comes(lambda: fake_rig.meter.counts.get("run_publish_retries", 0) > 0)
    kill(second)
    fake_rig.fake_broker.fail_publishes = 0
    row = await next_owner(fake_rig, work, run)
    assert (row.state, row.error, work.times) == ("failed", "log_lost", 1)


async def test_a_restartable_one_runs_again(fake_rig: Rig) -> None:
    """And reports it; its digest is left out, because no client has all of its events."""
    work = Counted()
    run = await at_work(fake_rig, work, restartable=True)
    fake_rig.fake_broker.lose()
    work.go_on.set()
    row = await next_owner(fake_rig, work, run, restartable=True)
    assert (row.state, row.text, row.digest, work.times) == ("finished", "0 1 2 3 4 done", "", 2)
    assert "narthex.restarted" in str(await fake_rig.events(run))


async def test_half_of_the_log_is_gone(fake_rig: Rig) -> None:
    """Earlier events are missing: `log_lost`, and no digest over the rest."""
    work = Counted()
    run = await at_work(fake_rig, work)
    (channel,) = fake_rig.fake_broker.logs
    del fake_rig.fake_broker.logs[channel][:4]
    row = await next_owner(fake_rig, work, run)
    assert (row.error, row.digest, work.times) == ("log_lost", "", 1)


async def test_a_restartable_one_runs_again_behind_half_of_its_log(fake_rig: Rig) -> None:
    """Its RUN_STARTED is gone, later events are not: the new owner restarts it, without a digest."""
    work = Counted()
    run = await at_work(fake_rig, work, restartable=True)
    (channel,) = fake_rig.fake_broker.logs
    del fake_rig.fake_broker.logs[channel][:4]
    work.go_on.set()
    row = await next_owner(fake_rig, work, run, restartable=True)
    assert (row.state, row.error, row.text, work.times) == ("finished", "", "0 1 2 3 4 done", 2)
    assert row.digest == ""
    assert "narthex.restarted" in str(await fake_rig.events(run))


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_store_and_log_were_restored_by_the_book(fake_rig: Rig, state: str) -> None:
    """An older copy of the store, in which the run had not or hardly begun, and no log at all."""
    work = Counted()
    run = await at_work(fake_rig, work)
    fake_rig.fake_broker.lose()
    rows = fake_rig.fake_store.fake_runs.rows
    before = msgspec.structs.replace(run, state=state, started_at=0.0, start_offset=0, owner="")
    if state == "queued":
        before = msgspec.structs.replace(before, attempt=0)
    rows[run.run_id] = before
    row = await next_owner(fake_rig, work, run)
    assert (row.error, work.times) == ("log_lost", 1)


async def test_the_store_went_back_to_before_the_run_began(rig: Rig) -> None:
    """The log has the whole run: its row is completed, nothing is published and no agent runs again."""
    work = Counted()
    work.go_on.set()

    node = await rig.node(agent(work.talk), name="n1")
    thread = await rig.thread()
    run = await rig.say(node, thread)
    first, events = await rig.ended(run)
    await node.close()
    await _forget(rig, run)
    again = msgspec.structs.replace(run, state="queued", attempt=0, owner="")
    await rig.store.runs.start(again, queue_limit=9)
    row = await next_owner(rig, work, run)
    assert (row.state, row.text, row.digest, row.count) == (
        first.state,
        first.text,
        first.digest,
        first.count,
    )
    assert await rig.events(run) == events
    assert work.times == 1


async def test_the_store_went_back_while_the_run_went_on(fake_rig: Rig) -> None:
    """A second node claims the run that is queued again: it reads that the agent had started, and ends the run."""
    work = Counted()
    run = await at_work(fake_rig, work)
    rows = fake_rig.fake_store.fake_runs.rows
    rows[run.run_id] = msgspec.structs.replace(run, state="queued", attempt=0, owner="", started_at=0.0)
    fake_rig.fake_broker.keys.clear()  # long after the window of idempotency
    row = await next_owner(fake_rig, work, run)
    assert (row.error, work.times) == ("owner_lost", 1)
    events = await fake_rig.events(run)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["digest"] == row.digest != ""


async def test_a_queued_run_outlives_a_trim(fake_rig: Rig) -> None:
    """Earlier messages were trimmed while it waited: that is not a loss, it begins."""
    work = Counted()
    work.go_on.set()

    waiting = await fake_rig.node(agent(work.talk), name="n0", claims=False)
    thread = await fake_rig.thread()
    channel = channel_key("acme", thread_channel(thread))
    for _ in range(9):
        await fake_rig.broker.publish(channel, b"{}")
    run = await fake_rig.say(waiting, thread)
    for _ in range(9):
        await fake_rig.broker.publish(channel, b"{}")
    await fake_rig.broker.trim(channel, Position(15, fake_rig.fake_broker.epoch))
    row = await next_owner(fake_rig, work, run)
    assert (row.state, work.times) == ("finished", 1)


async def test_the_log_is_lost_while_the_owner_lives(fake_rig: Rig) -> None:
    """No log has half of the run any more: it ends as it would have, without a digest."""
    work = Counted()

    node = await fake_rig.node(agent(work.talk))
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) >= 7)
    fake_rig.fake_broker.lose()
    work.go_on.set()
    row = await fake_rig.over(run)
    assert (row.state, row.text, row.digest) == ("finished", "0 1 2 3 4 done", "")
    last = (await fake_rig.events(run))[-1]
    assert (last["type"], "digest" in last) == ("RUN_FINISHED", False)


async def test_another_owner_ended_it_in_the_next_log_and_the_store_forgot(fake_rig: Rig) -> None:
    """A restored store names the frozen owner again: it finds the end in the log and publishes nothing behind it."""
    work = Counted()
    node = await fake_rig.node(agent(work.talk))
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) >= 7)
    (channel,) = fake_rig.fake_broker.logs
    fake_rig.fake_broker.lose()
    ends: list[Event] = [
        {"type": "RUN_STARTED", "runId": run.run_id, "seq": 1},
        {
            "type": "RUN_ERROR",
            "runId": run.run_id,
            "seq": 2,
            "code": "log_lost",
            "message": "lost",
            "count": 2,
        },
    ]
    for event in ends:
        await fake_rig.broker.publish(channel, msgspec.json.encode(event), key=f"{run.run_id}:{event['seq']}")
    work.go_on.set()
    row = await fake_rig.over(run)
    assert (row.state, row.error) == ("failed", "log_lost")
    assert kinds(await fake_rig.events(run)) == ["RUN_STARTED", "RUN_ERROR"]


@pytest.mark.parametrize("more", [0, 4, 60])
async def test_another_owner_began_it_in_the_next_log_and_the_store_forgot(fake_rig: Rig, more: int) -> None:
    """A restored store names the frozen owner again: it finds the next owner's events, which are numbered from 1 as its
    own were, and its agent goes no further. The run has one agent's output, and one end.
    """
    work = Counted()
    node = await fake_rig.node(agent(work.talk))
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) >= 7)
    (channel,) = fake_rig.fake_broker.logs
    fake_rig.fake_broker.lose()
    begun: list[Event] = [
        {"type": "RUN_STARTED", "runId": run.run_id},
        {"type": "TEXT_MESSAGE_START", "runId": run.run_id, "messageId": "x", "role": "assistant"},
        *(
            {"type": "TEXT_MESSAGE_CONTENT", "runId": run.run_id, "messageId": "x", "delta": f"other {n} "}
            for n in range(more)
        ),
    ]
    for seq, event in enumerate(begun, 1):
        data = msgspec.json.encode(event | {"threadId": run.thread_id, "seq": seq})
        await fake_rig.broker.publish(channel, data, key=f"{run.run_id}:{seq}")
    work.go_on.set()
    row = await fake_rig.over(run)
    assert (row.state, row.error, row.digest) == ("failed", "log_lost", "")
    events = await fake_rig.events(run)
    assert text_of(events) == "".join(f"other {n} " for n in range(more))
    assert kinds(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_the_log_is_lost_before_the_terminal_event(fake_rig: Rig) -> None:
    """Everything but the end was published: the end meets another log, before and after a failed publish."""

    async def brief(run: RunInput) -> Items:
        yield "all of it"
        await go_on.wait()

    for fails in (0, 1):
        go_on = asyncio.Event()
        node = await fake_rig.node(agent(brief), name=f"n{fails}")
        run = await fake_rig.say(node, await fake_rig.thread())
        await fake_rig.until(run, lambda events: "TEXT_MESSAGE_CONTENT" in kinds(events))
        fake_rig.fake_broker.lose()
        fake_rig.fake_broker.fail_publishes = fails
        go_on.set()
        events = await fake_rig.until(run, lambda events: "RUN_FINISHED" in kinds(events))
        assert "digest" not in events[-1]
        await node.close()


class LostAtTheEnd(FakeBroker):
    """Loses every log while the terminal event is in flight, `times` times, also where it keeps the epoch's events."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        if b"RUN_FINISHED" in data and self.times:
            self.times -= 1
            self.lose()
        return await super().publish(channel, data, key=key, tags=tags, expected=expected)


@pytest.mark.parametrize("times", [1, 3])
async def test_the_log_is_lost_while_the_terminal_event_is_on_its_way(times: int) -> None:
    """No check of the log can be late enough: the append itself is refused, and the event has no digest."""
    rig = Rig(broker=LostAtTheEnd(times))

    async def brief(run: RunInput) -> Items:
        yield "all of it"

    node = await rig.node(agent(brief))
    run = await rig.say(node, await rig.thread())
    row = await rig.over(run)
    assert (row.state, row.text, row.digest) == ("finished", "all of it", "")
    assert [("digest" in event, event["seq"]) for event in await rig.events(run)] == [(False, 5)]
    await rig.close()


class Crowded(FakeBroker):
    """Another publisher is faster than every conditional append that names an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        if expected is not None and expected.offset != ANY_OFFSET:
            await super().publish(channel, b"{}")
        self.refused += 1
        placed = await super().publish(channel, data, key=key, tags=tags, expected=expected)
        self.refused -= 1
        return placed


async def test_a_crowded_thread_does_not_hold_up_a_run() -> None:
    """Others are always faster: after a few attempts only the epoch is named, and the run ends with its digest."""
    broker = Crowded()
    rig = Rig(broker=broker)

    async def brief(run: RunInput) -> Items:
        yield "all of it"

    node = await rig.node(agent(brief))
    row, events = await rig.ended(await rig.say(node, await rig.thread()))
    assert (row.state, row.text) == ("finished", "all of it")
    assert broker.refused == LOST_RACES * len(events)
    await rig.close()


async def test_a_message_amid_a_run_is_read_once(rig: Rig) -> None:
    """A user writes while an agent works: the run continues behind the message, with its digest."""
    work = Counted()
    node = await rig.node(agent(work.talk))
    run = await rig.say(node, await rig.thread())
    await rig.until(run, lambda events: len(events) >= 7)
    channel = channel_key("acme", thread_channel(run.thread_id))
    said = await rig.broker.publish(channel, b'{"said":1}')
    work.go_on.set()
    _, events = await rig.ended(run)
    page = await rig.broker.history(channel, since=Position(said.offset, said.epoch))
    assert len(page.publications) == len(events) - 7


async def test_a_lost_acknowledgement_of_the_end_keeps_its_digest(fake_rig: Rig) -> None:
    """The first attempt is in the log with its digest; the repeat learns that, and the row agrees."""
    go_on = asyncio.Event()

    async def brief(run: RunInput) -> Items:
        yield ev.custom("hello", 1)
        await go_on.wait()

    node = await fake_rig.node(agent(brief))
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) == 2)
    fake_rig.fake_broker.lose_acks = 1
    go_on.set()
    row, events = await fake_rig.ended(run)
    assert row.digest == events[-1]["digest"] != ""


async def _forget(rig: Rig, run: Run) -> None:
    """The store loses the run's row."""
    if rig.store is rig.fake_store:
        del rig.fake_store.fake_runs.rows[run.run_id]
        return
    engine = rig.store._engine  # type: ignore[attr-defined]  # a store that goes back in time has no port

    def forget() -> Operation[None]:
        yield "DELETE FROM runs WHERE run_id = ?", (run.run_id,)

    await engine.write(forget())


async def test_positions_before_an_unknown_log(fake_rig: Rig) -> None:
    """A run that a version before started names no epoch: only its offset decides, and it begins."""
    work = Counted()
    work.go_on.set()

    node = await fake_rig.node(agent(work.talk))
    thread = await fake_rig.thread()
    run, _ = await node.start(ALICE, thread, "m", "hi", "c", after=Position(0, ""))
    row, _ = await fake_rig.ended(run)
    assert (row.state, work.times) == ("finished", 1)
