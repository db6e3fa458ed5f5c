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
from tests.app.runs.house import ALICE, QUICK, House, agent, kinds
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


async def at_work(house: House, work: Counted, *, restartable: bool = False) -> Run:
    """A run whose five words are in the log, and whose owner is dead."""
    node = await house.node(agent(work.talk, restartable=restartable), name="n1")
    run = await house.say(node, await house.thread())
    await house.until(run, lambda events: len(events) >= 7)
    kill(node)
    row = await house.store.runs.get("acme", run.run_id)
    assert row is not None
    return row


async def next_owner(house: House, work: Counted, run: Run, *, restartable: bool = False) -> Run:
    """The outcome on a node that starts now."""
    await house.node(agent(work.talk, restartable=restartable), name="n2")
    return await house.over(run)


async def test_the_log_is_gone_and_the_owner_dead(fake_house: House) -> None:
    """Its text was shown and its agent had started: it ends `log_lost` and does not run again."""
    work = Counted()
    run = await at_work(fake_house, work)
    fake_house.fake_broker.lose()
    row = await next_owner(fake_house, work, run)
    assert (row.state, row.error, work.times) == ("failed", "log_lost", 1)
    events = await fake_house.events(run)
    assert kinds(events) == ["RUN_STARTED", "RUN_ERROR"]
    assert "digest" not in events[-1]


async def test_the_owner_that_ends_it_dies_too(fake_house: House) -> None:
    """It had noted a position of the new log, in which the run has no event: that is no proof that it had not begun."""
    work = Counted()
    run = await at_work(fake_house, work)
    fake_house.fake_broker.lose()
    fake_house.fake_broker.fail_publishes = 1_000_000
    second = await fake_house.node(agent(work.talk), name="n2")
    await fake_house.comes(lambda: fake_house.meter.counts.get("run_publish_retries", 0) > 0)
    kill(second)
    fake_house.fake_broker.fail_publishes = 0
    row = await next_owner(fake_house, work, run)
    assert (row.state, row.error, work.times) == ("failed", "log_lost", 1)


async def test_a_restartable_one_runs_again(fake_house: House) -> None:
    """And reports it; its digest is left out, because no client has all of its events."""
    work = Counted()
    run = await at_work(fake_house, work, restartable=True)
    fake_house.fake_broker.lose()
    work.go_on.set()
    row = await next_owner(fake_house, work, run, restartable=True)
    assert (row.state, row.text, row.digest, work.times) == ("finished", "0 1 2 3 4 done", "", 2)
    assert "narthex.restarted" in str(await fake_house.events(run))


async def test_half_of_the_log_is_gone(fake_house: House) -> None:
    """Earlier events are missing: `log_lost`, and no digest over the rest."""
    work = Counted()
    run = await at_work(fake_house, work)
    (channel,) = fake_house.fake_broker.logs
    del fake_house.fake_broker.logs[channel][:4]
    row = await next_owner(fake_house, work, run)
    assert (row.error, row.digest, work.times) == ("log_lost", "", 1)


async def test_a_restartable_one_runs_again_behind_half_of_its_log(fake_house: House) -> None:
    """Its RUN_STARTED is gone, later events are not: the new owner restarts it, without a digest."""
    work = Counted()
    run = await at_work(fake_house, work, restartable=True)
    (channel,) = fake_house.fake_broker.logs
    del fake_house.fake_broker.logs[channel][:4]
    work.go_on.set()
    row = await next_owner(fake_house, work, run, restartable=True)
    assert (row.state, row.error, row.text, work.times) == ("finished", "", "0 1 2 3 4 done", 2)
    assert row.digest == ""
    assert "narthex.restarted" in str(await fake_house.events(run))


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_store_and_log_were_restored_by_the_book(fake_house: House, state: str) -> None:
    """An older copy of the store, in which the run had not or hardly begun, and no log at all."""
    work = Counted()
    run = await at_work(fake_house, work)
    fake_house.fake_broker.lose()
    rows = fake_house.fake_store.fake_runs.rows
    before = msgspec.structs.replace(run, state=state, started_at=0.0, start_offset=0, owner="")
    if state == "queued":
        before = msgspec.structs.replace(before, attempt=0)
    rows[run.run_id] = before
    row = await next_owner(fake_house, work, run)
    assert (row.error, work.times) == ("log_lost", 1)


async def test_the_store_went_back_to_before_the_run_began(house: House) -> None:
    """The log has the whole run: its row is completed, nothing is published and no agent runs again."""
    work = Counted()
    work.go_on.set()

    node = await house.node(agent(work.talk), name="n1")
    thread = await house.thread()
    run = await house.say(node, thread)
    first, events = await house.ended(run)
    await node.close()
    await _forget(house, run)
    again = msgspec.structs.replace(run, state="queued", attempt=0, owner="")
    await house.store.runs.start(again, queue_limit=9)
    row = await next_owner(house, work, run)
    assert (row.state, row.text, row.digest, row.count) == (
        first.state,
        first.text,
        first.digest,
        first.count,
    )
    assert await house.events(run) == events
    assert work.times == 1


async def test_the_store_went_back_while_the_run_went_on(fake_house: House) -> None:
    """A second node claims the run that is queued again: it reads that the agent had started, and ends the run."""
    work = Counted()
    run = await at_work(fake_house, work)
    rows = fake_house.fake_store.fake_runs.rows
    rows[run.run_id] = msgspec.structs.replace(run, state="queued", attempt=0, owner="", started_at=0.0)
    fake_house.fake_broker.keys.clear()  # long after the window of idempotency
    row = await next_owner(fake_house, work, run)
    assert (row.error, work.times) == ("owner_lost", 1)
    events = await fake_house.events(run)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["digest"] == row.digest != ""


async def test_a_queued_run_outlives_a_trim(fake_house: House) -> None:
    """Earlier messages were trimmed while it waited: that is not a loss, it begins."""
    work = Counted()
    work.go_on.set()

    waiting = await fake_house.node(agent(work.talk), name="n0", claims=False)
    thread = await fake_house.thread()
    channel = channel_key("acme", thread_channel(thread))
    for _ in range(9):
        await fake_house.broker.publish(channel, b"{}")
    run = await fake_house.say(waiting, thread)
    for _ in range(9):
        await fake_house.broker.publish(channel, b"{}")
    await fake_house.broker.trim(channel, Position(15, fake_house.fake_broker.epoch))
    row = await next_owner(fake_house, work, run)
    assert (row.state, work.times) == ("finished", 1)


async def test_the_log_is_lost_while_the_owner_lives(fake_house: House) -> None:
    """No log has half of the run any more: it ends as it would have, without a digest."""
    work = Counted()

    node = await fake_house.node(agent(work.talk))
    run = await fake_house.say(node, await fake_house.thread())
    await fake_house.until(run, lambda events: len(events) >= 7)
    fake_house.fake_broker.lose()
    work.go_on.set()
    row = await fake_house.over(run)
    assert (row.state, row.text, row.digest) == ("finished", "0 1 2 3 4 done", "")
    last = (await fake_house.events(run))[-1]
    assert (last["type"], "digest" in last) == ("RUN_FINISHED", False)


async def test_the_log_is_lost_before_the_terminal_event(fake_house: House) -> None:
    """Everything but the end was published: the end meets another log, before and after a failed publish."""

    async def brief(run: RunInput) -> Items:
        yield "all of it"
        await go_on.wait()

    for fails in (0, 1):
        go_on = asyncio.Event()
        node = await fake_house.node(agent(brief), name=f"n{fails}")
        run = await fake_house.say(node, await fake_house.thread())
        await fake_house.until(run, lambda events: "TEXT_MESSAGE_CONTENT" in kinds(events))
        fake_house.fake_broker.lose()
        fake_house.fake_broker.fail_publishes = fails
        go_on.set()
        events = await fake_house.until(run, lambda events: "RUN_FINISHED" in kinds(events))
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
    house = House(broker=LostAtTheEnd(times))

    async def brief(run: RunInput) -> Items:
        yield "all of it"

    node = await house.node(agent(brief))
    run = await house.say(node, await house.thread())
    row = await house.over(run)
    assert (row.state, row.text, row.digest) == ("finished", "all of it", "")
    assert [("digest" in event, event["seq"]) for event in await house.events(run)] == [(False, 5)]
    await house.close()


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
    house = House(broker=broker)

    async def brief(run: RunInput) -> Items:
        yield "all of it"

    node = await house.node(agent(brief))
    row, events = await house.ended(await house.say(node, await house.thread()))
    assert (row.state, row.text) == ("finished", "all of it")
    assert broker.refused == LOST_RACES * len(events)
    await house.close()


async def test_a_message_amid_a_run_is_read_once(house: House) -> None:
    """A user writes while an agent works: the run continues behind the message, with its digest."""
    work = Counted()
    node = await house.node(agent(work.talk))
    run = await house.say(node, await house.thread())
    await house.until(run, lambda events: len(events) >= 7)
    channel = channel_key("acme", thread_channel(run.thread_id))
    said = await house.broker.publish(channel, b'{"said":1}')
    work.go_on.set()
    _, events = await house.ended(run)
    page = await house.broker.history(channel, since=Position(said.offset, said.epoch))
    assert len(page.publications) == len(events) - 7


async def test_a_lost_acknowledgement_of_the_end_keeps_its_digest(fake_house: House) -> None:
    """The first attempt is in the log with its digest; the repeat learns that, and the row agrees."""
    go_on = asyncio.Event()

    async def brief(run: RunInput) -> Items:
        yield ev.custom("hello", 1)
        await go_on.wait()

    node = await fake_house.node(agent(brief))
    run = await fake_house.say(node, await fake_house.thread())
    await fake_house.until(run, lambda events: len(events) == 2)
    fake_house.fake_broker.lose_acks = 1
    go_on.set()
    row, events = await fake_house.ended(run)
    assert row.digest == events[-1]["digest"] != ""


async def _forget(house: House, run: Run) -> None:
    """The store loses the run's row."""
    if house.store is house.fake_store:
        del house.fake_store.fake_runs.rows[run.run_id]
        return
    engine = house.store._engine  # type: ignore[attr-defined]  # a store that goes back in time has no port

    def forget() -> Operation[None]:
        yield "DELETE FROM runs WHERE run_id = ?", (run.run_id,)

    await engine.write(forget())


async def test_positions_before_an_unknown_log(fake_house: House) -> None:
    """A run that a version before started names no epoch: only its offset decides, and it begins."""
    work = Counted()
    work.go_on.set()

    node = await fake_house.node(agent(work.talk))
    thread = await fake_house.thread()
    run, _ = await node.start(ALICE, thread, "m", "hi", "c", after=Position(0, ""))
    row, _ = await fake_house.ended(run)
    assert (row.state, work.times) == ("finished", 1)
