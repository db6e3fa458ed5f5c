"""A node that drains begins no agent: what it has claimed goes back to the queue, and other nodes begin it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from narthex.app.runs.engine import RunEngine
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import Control
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, QUICK, Rig, agent
from tests.timing import within

GRACE_S = within(20)
SELDOM = msgspec.structs.replace(QUICK, poll_s=3_600, look_s=3_600)
"""Only a control message makes it look for runs."""


class Gate:
    """A call of a port that waits until the test lets it go on."""

    def __init__(self, owner: object, name: str, patch: pytest.MonkeyPatch, *, before: bool = True) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        real = getattr(owner, name)

        async def call(*args: Any, **options: Any) -> Any:
            found = None if before else await real(*args, **options)
            if before or found:  # a claim that found nothing is not the one
                self.entered.set()
                await self.opened.wait()
            return await real(*args, **options) if before else found

        patch.setattr(owner, name, call)

    async def reached(self) -> None:
        """Wait for the call."""
        async with asyncio.timeout(within(10)):
            await self.entered.wait()


async def says_where(run: RunInput) -> AsyncIterator[Event | str]:
    """Says one word."""
    yield "hello"


async def draining(engine: RunEngine) -> asyncio.Task[None]:
    """Begin a drain."""
    task = asyncio.get_running_loop().create_task(engine.drain(GRACE_S))
    await asyncio.sleep(0)
    return task


async def begun_elsewhere(rig: Rig, run: Run) -> None:
    """Another node runs it as if it had not been claimed before."""
    await rig.node(agent(says_where), name="n2")
    row, _ = await rig.ended(run)
    assert (row.state, row.attempt, row.text) == ("finished", 1, "hello")


@pytest.mark.parametrize(
    ("port", "name"), [("broker", "history"), ("runs", "given"), ("runs", "started"), ("threads", "messages")]
)
async def test_a_claimed_run_that_has_not_begun_is_given_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, port: str, name: str
) -> None:
    """Wherever it waits for an engine; the drain does not wait for its grace."""
    owner = {"broker": rig.broker, "runs": rig.store.runs, "threads": rig.store.threads}[port]
    engine = await rig.node(agent(says_where), limits=SELDOM)
    thread_id = await rig.thread()
    claimed = Gate(rig.store.runs, "claim", monkeypatch, before=False)
    run = await rig.say(engine, thread_id)  # reads the log too, so the gate comes after it
    await claimed.reached()
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(owner, name, patch)
        claimed.opened.set()
        await gate.reached()
        drain = await draining(engine)
        gate.opened.set()
        async with asyncio.timeout(within(10)):
            await drain
    row = await rig.store.runs.get(run.tenant, run.run_id)
    assert row is not None
    assert (row.state, row.owner, row.attempt, row.started_at) == ("queued", "", 0, 0.0)
    if rig.broker is rig.fake_broker:
        assert rig.fake_broker.controls[-1] == Control("runs_available", {})
    await begun_elsewhere(rig, run)


async def test_a_claim_under_way_is_not_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has given the run to this node, whose answer comes after the drain began."""
    engine = await rig.node(agent(says_where), limits=SELDOM)
    gate = Gate(rig.store.runs, "claim", monkeypatch, before=False)
    run = await rig.say(engine, await rig.thread())
    await gate.reached()
    drain = await draining(engine)
    gate.opened.set()
    async with asyncio.timeout(within(10)):
        await drain
    await begun_elsewhere(rig, run)


async def test_a_run_that_has_begun_has_the_whole_grace(rig: Rig) -> None:
    """It ends as it would have without the drain."""
    go_on = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[Event | str]:
        yield "begun"
        await go_on.wait()
        yield " and done"

    engine = await rig.node(agent(waits))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) > 2)
    drain = await draining(engine)
    behind = await rig.say(engine, run.thread_id)
    go_on.set()
    await drain
    row, _ = await rig.ended(run)
    assert (row.state, row.text) == ("finished", "begun and done")
    kept = await rig.store.runs.get(behind.tenant, behind.run_id)
    assert kept is not None
    assert kept.state == "queued"


async def test_a_run_that_resumes_a_waiting_agent_begins_all_the_same(fake_rig: Rig) -> None:
    """Its coroutine is in the memory of the draining node: no other node could go on with it."""
    rig = fake_rig

    async def asks(run: RunInput) -> AsyncIterator[Event | str]:
        answer = await run.ask({"type": "boolean"}, "go on?")
        yield f"answered {answer}"

    engine = await rig.node(agent(asks))
    run = await rig.say(engine, await rig.thread())
    row, events = await rig.ended(run)
    assert row.state == "interrupted"
    asked = events[-1]["outcome"]["interrupts"][0]["id"]
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(rig.store.runs, "given", patch)
        resumed = (await engine.requests.resume(ALICE, run.run_id, asked, True))["run_id"]
        await gate.reached()
        drain = await draining(engine)
        gate.opened.set()
        await drain
    ended = rig.fake_store.fake_runs.rows[resumed]
    assert (ended.state, ended.text) == ("finished", "answered True")


async def test_a_store_that_is_away_leaves_the_run_to_the_lease(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be given back now; the release at the end frees it, and another node begins it."""
    rig = fake_rig
    engine = await rig.node(agent(says_where), limits=SELDOM)

    async def away(_: Run) -> bool:
        raise DependencyError("store", "It is away.")

    monkeypatch.setattr(rig.fake_store.fake_runs, "give_back", away)
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(rig.store.runs, "given", patch)
        run = await rig.say(engine, await rig.thread())
        await gate.reached()
        drain = await draining(engine)
        gate.opened.set()
        await drain
    row = rig.fake_store.fake_runs.rows[run.run_id]
    assert (row.state, row.owner) == ("running", "")
    await rig.node(agent(says_where), name="n2")
    done, _ = await rig.ended(run)
    assert (done.state, done.text) == ("finished", "hello")
