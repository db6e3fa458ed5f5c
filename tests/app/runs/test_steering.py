"""A message for a run of another node: taken by its agent, as the log proves, or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from narthex.app.runs import steering
from narthex.app.runs.engine import RunEngine
from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.agents import RunInput
from narthex.ports.broker import Position
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, Rig, agent, text_of
from tests.timing import within


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
