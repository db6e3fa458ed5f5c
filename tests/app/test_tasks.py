"""A set of background tasks: its limit, the report of failures, and its end."""

from __future__ import annotations

import asyncio

import pytest

from narthex.app.tasks import Tasks
from narthex.errors import Overloaded


async def until(event: asyncio.Event) -> None:
    """A task that ends with an event."""
    await event.wait()


async def fails(error: BaseException) -> None:
    """A task that ends with an error."""
    raise error


async def test_the_limit_is_the_number_of_tasks_at_once() -> None:
    """One more is refused and its coroutine closed; a task that has ended makes space for another."""
    go_on = asyncio.Event()
    tasks = Tasks("runs", 2, lambda fault: pytest.fail(str(fault)))
    first = [tasks.spawn(until(go_on)) for _ in range(2)]
    late = until(go_on)
    with pytest.raises(Overloaded, match="runs already runs 2 tasks"):
        tasks.spawn(late)
    with pytest.raises(
        RuntimeError, match="reuse"
    ):  # closed, so that nothing warns of a coroutine never awaited
        late.send(None)
    assert len(tasks) == 2
    go_on.set()
    await asyncio.gather(*first)
    await asyncio.sleep(0)
    assert len(tasks) == 0
    await tasks.spawn(until(go_on))


async def test_every_failure_is_reported_and_no_cancellation() -> None:
    """`on_error` takes the exception itself, once; a cancelled task failed at nothing."""
    faults: list[BaseException] = []
    tasks = Tasks("runs", 10, faults.append)
    error = ValueError("broken")
    await asyncio.wait({tasks.spawn(fails(error))})
    cancelled = tasks.spawn(until(asyncio.Event()))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    await asyncio.sleep(0)
    assert faults == [error]
    assert len(tasks) == 0


async def test_a_stop_cancels_all_and_waits_for_their_clean_up() -> None:
    """When `stop` returns, no task of the set runs, and each has had its turn to clean up."""
    cleaned: list[int] = []

    async def cleans_up(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    tasks = Tasks("runs", 10, lambda fault: pytest.fail(str(fault)))
    running = [tasks.spawn(cleans_up(number)) for number in range(3)]
    await asyncio.sleep(0)
    await tasks.stop()
    assert cleaned == [0, 1, 2]
    assert all(task.cancelled() for task in running)
    await tasks.stop()  # of an empty set: nothing to wait for


async def test_a_drain_waits_for_the_quick_and_cancels_the_rest() -> None:
    """A task that ends within the time ends by itself; one that does not is cancelled."""
    tasks = Tasks("runs", 10, lambda fault: pytest.fail(str(fault)))
    go_on = asyncio.Event()
    quick, slow = tasks.spawn(until(go_on)), tasks.spawn(until(asyncio.Event()))
    asyncio.get_running_loop().call_soon(go_on.set)
    await tasks.drain(0.05)
    assert (quick.done(), quick.cancelled()) == (True, False)
    assert slow.cancelled()
    await tasks.drain(0.05)  # nothing runs
