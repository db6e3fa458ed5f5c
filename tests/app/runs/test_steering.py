"""Texts for agents at work: a message for a run of another node, and an agent that is faster than its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from narthex.app.runs import steering
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.execution import Execution
from narthex.app.runs.journal import MAX_PENDING
from narthex.app.runs.session import STEER_LIMIT
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import custom
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import Position
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, QUICK, Rig, agent, text_of
from tests.app.runs.test_journal import Gate
from tests.timing import within

PATIENT = msgspec.structs.replace(QUICK, run_deadline_s=within(60), lease_s=within(60))


async def listener(run: RunInput) -> AsyncIterator[str]:
    """Reads what users add, until they stop it."""
    yield "ready. "
    async for text in run.steer:
        yield f"[{text}]"
        if text == "stop":
            return


class Pair:
    """A run of one node, and another node that gives it messages."""

    def __init__(self, rig: Rig, owner: RunEngine, other: RunEngine, run: Run, at: Position) -> None:
        self.rig = rig
        self.owner = owner
        self.other = other
        self.run = run
        self.at = at

    async def told(self) -> asyncio.Task[bool]:
        """The other node gives the run a message: its control message is sent, and has not arrived."""
        controls = self.rig.fake_broker.controls
        sent = len(controls)
        task = asyncio.create_task(self.other.steering.take(ALICE, self.run, "m-1", "stop", self.at))
        await self.rig.comes(lambda: len(controls) > sent)
        return task


@pytest.fixture
async def pair(fake_rig: Rig) -> Pair:
    owner = await fake_rig.node(agent(listener), name="n1")
    run = await fake_rig.say(owner, await fake_rig.thread())
    await fake_rig.until(run, lambda events: text_of(events) == "ready. ")
    other = await fake_rig.node(agent(listener), name="n2")
    key = channel_key("acme", thread_channel(run.thread_id))
    top = (await fake_rig.broker.history(key, limit=0)).top
    kept = await fake_rig.store.runs.get("acme", run.run_id)
    assert kept is not None
    return Pair(fake_rig, owner, other, kept, top)


async def test_the_owner_on_another_node_takes_the_message(pair: Pair) -> None:
    """It is taken once the log has it, and a repeat finds the run on any node, also after its end."""
    assert await pair.other.steering.run_of(ALICE, pair.run.thread_id, "m-1", pair.at) is None
    task = await pair.told()
    pair.owner.control(pair.rig.fake_broker.controls[-1])
    async with asyncio.timeout(within(10)):
        assert await task
    row, _ = await pair.rig.ended(pair.run)
    assert row.text == "ready. [stop]"
    found = await pair.other.steering.run_of(ALICE, pair.run.thread_id, "m-1", pair.at)
    assert found is not None
    assert found.run_id == pair.run.run_id


async def test_a_message_that_comes_twice_is_taken_once(pair: Pair) -> None:
    """Two nodes give the run the same message: a repeated request, on its way to the run twice."""
    controls = pair.rig.fake_broker.controls
    sent = len(controls)
    takes = [
        asyncio.create_task(pair.other.steering.take(ALICE, pair.run, "m-1", "left", pair.at))
        for _ in range(2)
    ]
    await pair.rig.comes(lambda: len(controls) >= sent + 2)
    for control in controls[sent:]:
        pair.owner.control(control)
    async with asyncio.timeout(within(10)):
        assert await asyncio.gather(*takes) == [True, True]
    execution = pair.owner._local_runs.executions[pair.run.run_id]
    assert await execution.steer("left", ALICE, "m-1"), "long after it was taken"
    assert await execution.steer("stop", ALICE)
    row, _ = await pair.rig.ended(pair.run)
    assert row.text == "ready. [left][stop]"


async def test_a_cancellation_is_accepted_while_the_broker_is_away(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has the request, and the owner on the other node looks there; the user is told no failure."""

    async def away(_: object) -> None:
        raise DependencyError("broker", "It is away.", "Wait.")

    monkeypatch.setattr(pair.rig.fake_broker, "control", away)
    found = await pair.other.requests.cancel(ALICE, pair.run.run_id)
    assert found == {"run_id": pair.run.run_id, "state": "running"}
    row, _ = await pair.rig.ended(pair.run)
    assert row.state == "cancelled"


async def test_a_run_that_ends_first_did_not_take_the_message(pair: Pair) -> None:
    """The control message arrives too late: known as soon as the run's end is in the log."""
    task = await pair.told()
    late = pair.rig.fake_broker.controls[-1]
    await pair.owner.requests.cancel(ALICE, pair.run.run_id)
    await pair.rig.ended(pair.run)
    pair.owner.control(late)
    async with asyncio.timeout(within(10)):
        assert not await task


async def test_an_owner_that_says_nothing_is_not_waited_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost control message costs a bounded wait."""
    monkeypatch.setattr(steering, "PROOF_S", 0.1)
    task = await pair.told()
    async with asyncio.timeout(within(10)):
        assert not await task


async def test_an_agent_that_never_pauses_is_steered_all_the_same(fake_rig: Rig) -> None:
    """The text waits for its own place in the log, and for nothing that the agent says after it."""

    async def talker(run: RunInput) -> AsyncIterator[str]:
        reading = asyncio.ensure_future(anext(run.steer))
        while not may_end.is_set():
            yield "bla "
            await asyncio.sleep(0.0005)
        yield f"[{reading.result()}]"

    may_end = asyncio.Event()
    fake_rig.fake_broker.delay_s = 0.002
    engine = await fake_rig.node(agent(talker), limits=PATIENT)
    run = await fake_rig.say(engine, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) > 5)
    execution = engine._local_runs.executions[run.run_id]
    async with asyncio.timeout(within(10)):
        assert await execution.steer("stop", ALICE)
    may_end.set()
    row, _ = await fake_rig.ended(run)
    assert row.text.endswith("[stop]")


class Crowded:
    """A run whose journal is full: its agent waits for room, and so does every later event."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.may_flood = asyncio.Event()
        self.gate: Gate

    async def flood(self) -> AsyncIterator[Event]:
        """What an agent yields to fill the journal; it goes on as soon as there is room again."""
        await self.may_flood.wait()
        for number in range(MAX_PENDING + 1):  # the first is under way, and the agent waits for room
            yield custom("x", number)

    async def begun(
        self, function: Callable[[RunInput], AsyncIterator[Event | str]]
    ) -> tuple[Run, Execution]:
        """A run of an agent that flooded."""
        self.engine = await self.rig.node(agent(function), limits=PATIENT)
        run = await self.rig.say(self.engine, await self.rig.thread())
        await self.rig.until(run, lambda events: text_of(events) == "ready")
        execution = self.engine._local_runs.executions[run.run_id]
        await execution.journal.flush()
        self.gate = Gate(self.rig.fake_broker)
        self.may_flood.set()
        await self.rig.comes(lambda: len(execution.journal._pending) == MAX_PENDING)
        return run, execution


async def test_no_more_texts_wait_than_may_where_the_log_is_slow(fake_rig: Rig) -> None:
    """All of them come before the first is durable."""
    crowded = Crowded(fake_rig)

    async def deaf(run: RunInput) -> AsyncIterator[Event | str]:
        if run.messages[-1].content != "hi":
            return
        yield "ready"
        async for event in crowded.flood():
            yield event

    _, execution = await crowded.begun(deaf)
    steers = [asyncio.create_task(execution.steer(str(number), ALICE)) for number in range(STEER_LIMIT + 8)]
    for _ in range(5):
        await asyncio.sleep(0)
    crowded.gate.let(1_000)
    async with asyncio.timeout(within(10)):
        assert await asyncio.gather(*steers) == [True] * STEER_LIMIT + [False] * 8


async def test_a_text_stays_with_the_run_that_accepted_it(fake_rig: Rig) -> None:
    """The agent asks while the acceptance waits for room: it does not get in the next run what is answered beside."""
    crowded = Crowded(fake_rig)

    async def asking(run: RunInput) -> AsyncIterator[Event | str]:
        if run.messages[-1].content != "hi":
            yield f"({run.messages[-1].content})"
            return
        yield "ready"
        async for event in crowded.flood():
            yield event
        await run.ask({"type": "object"}, "Go on?")
        reading = asyncio.ensure_future(anext(run.steer))
        for _ in range(5):
            await asyncio.sleep(0)
        yield "twice" if reading.done() else "once"
        reading.cancel()

    run, execution = await crowded.begun(asking)
    steered = asyncio.create_task(execution.steer("hurry", ALICE))
    for _ in range(5):
        await asyncio.sleep(0)
    crowded.gate.let(1_000)
    assert await steered
    row = await fake_rig.over(run)
    assert row.state == "interrupted"
    (interrupt,) = await fake_rig.store.runs.open_interrupts("acme", run.thread_id)
    found = await crowded.engine.requests.resume(ALICE, run.run_id, interrupt.interrupt_id, {})
    resumed = await fake_rig.store.runs.get("acme", found["run_id"])
    assert resumed is not None
    row = await fake_rig.over(resumed)
    assert row.text == "once"


async def test_an_agent_that_stops_reading_where_the_log_is_slow_loses_no_text(fake_rig: Rig) -> None:
    """The log says that the agent took the text only where it has it."""
    crowded = Crowded(fake_rig)
    may_read, may_stop = asyncio.Event(), asyncio.Event()

    async def impatient(run: RunInput) -> AsyncIterator[Event | str]:
        if run.messages[-1].content != "hi":
            yield f"({run.messages[-1].content})"
            return

        async def read() -> str:
            await may_read.wait()
            reading = asyncio.ensure_future(anext(run.steer))
            await may_stop.wait()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return "" if reading.cancelled() else reading.result()

        beside = asyncio.ensure_future(read())
        yield "ready"
        async for event in crowded.flood():
            yield event
        yield f"[{await beside}]"

    run, execution = await crowded.begun(impatient)
    steered = asyncio.create_task(execution.steer("now", ALICE))
    for event in (may_read, may_stop):
        event.set()
        for _ in range(5):
            await asyncio.sleep(0)
    crowded.gate.let(MAX_PENDING)
    for _ in range(5):
        await asyncio.sleep(0)
    crowded.gate.let(1_000)
    assert await steered
    await fake_rig.ended(run)
    runs = await fake_rig.store.runs.list_in_thread("acme", run.thread_id, 10)
    texts = [(await fake_rig.over(one)).text for one in runs]
    assert any("now" in one for one in texts), texts
