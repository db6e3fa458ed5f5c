"""Ending tasks that resist cancellation."""

from __future__ import annotations

import asyncio

from narthex.adapters.brokers.cancellation import cancel_and_wait


async def test_a_task_that_drops_cancellations_ends() -> None:
    """Two dropped cancellations do not keep it alive, and its exception is dropped."""
    dropped = 0

    async def stubborn() -> None:
        nonlocal dropped
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                dropped += 1
                if dropped > 2:
                    raise ValueError("enough") from None

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert task.done()
    assert dropped == 3


async def test_finished_tasks_are_fine() -> None:
    """Nothing to do."""
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel_and_wait(task)
    await cancel_and_wait()
