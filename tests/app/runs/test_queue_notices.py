"""A waiting user is notified of their queue position, and again when the queue advances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from narthex.app.runs.queue_notices import NAME
from narthex.ports.agents import RunInput
from tests.app.runs.rig import ALICE, Rig, agent
from tests.timing import within


async def test_places_in_the_queue_are_told_as_they_change(rig: Rig) -> None:
    """Two wait behind one: 0 and 1; the first is cancelled while it waits: the second is next."""
    go = asyncio.Event()

    async def busy(run: RunInput) -> AsyncIterator[str]:
        yield "x"
        await go.wait()

    def places(run_id: str) -> list[object]:
        return [value["position"] for name, value in rig.notices if name == NAME and value["runId"] == run_id]

    async def told(run_id: str, place: int) -> None:
        async with asyncio.timeout(within(5)):
            while place not in places(run_id):  # noqa: ASYNC110 - the rig keeps notices in a list
                await asyncio.sleep(0.005)

    engine = await rig.node(agent(busy))
    thread = await rig.thread()
    first = await rig.say(engine, thread)
    await rig.until(first, bool)
    second = await rig.say(engine, thread)
    await told(second.run_id, 0)
    third = await rig.say(engine, thread)
    await told(third.run_id, 1)
    assert 0 not in places(third.run_id)
    await engine.requests.cancel(ALICE, second.run_id)
    await told(third.run_id, 0)
    assert places(first.run_id) == []
    go.set()
    await rig.ended(first)
    await rig.ended(third)
