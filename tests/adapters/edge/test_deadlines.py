"""The wheel: never early, at most two slots late, cheap to clear, quiet when empty."""

from __future__ import annotations

import asyncio

from narthex.adapters.edge.deadlines import GRANULARITY_S, Deadlines


class Waiter:
    """Notes when it expired."""

    def __init__(self, *, fails: bool = False) -> None:
        self.due = 0
        self.fails = fails
        self.expired_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def expired(self) -> None:
        self.expired_at.set_result(asyncio.get_running_loop().time())
        if self.fails:
            raise RuntimeError("a bug")

    def end(self) -> None:
        """Not used here."""


async def test_a_deadline_is_never_early_and_hardly_late() -> None:
    """Between its moment and two slots after it."""
    loop = asyncio.get_running_loop()
    wheel = Deadlines(loop)
    waiters = [(after, Waiter()) for after in (0.0, 0.3, 0.6)]
    start = loop.time()
    for after, waiter in waiters:
        wheel.set(waiter, after)
    for after, waiter in waiters:
        async with asyncio.timeout(10):
            at = await waiter.expired_at
        assert after <= at - start <= after + 2 * GRANULARITY_S + 0.25
    assert len(wheel) == 0


async def test_cleared_and_moved_deadlines() -> None:
    """Clearing forgets, moving hands on, setting again replaces."""
    wheel = Deadlines(asyncio.get_running_loop())
    first, second, third = Waiter(), Waiter(), Waiter()
    wheel.set(first, 0.1)
    wheel.clear(first)
    wheel.clear(first)
    wheel.set(second, 0.1)
    wheel.move(second, third)
    assert (first.due, second.due) == (0, 0)
    assert list(wheel) == [third]
    wheel.set(third, 0.2)
    async with asyncio.timeout(10):
        await third.expired_at
    assert not first.expired_at.done()
    assert not second.expired_at.done()


async def test_one_failing_handler_costs_nobody_else() -> None:
    """An exception in a handler is logged and the rest expire."""
    wheel = Deadlines(asyncio.get_running_loop())
    failing, after = Waiter(fails=True), Waiter()
    wheel.set(failing, 0.0)
    wheel.set(after, 0.0)
    async with asyncio.timeout(10):
        await asyncio.gather(failing.expired_at, after.expired_at)


async def test_stopping_forgets_all() -> None:
    """After `stop` nothing expires and nothing ticks."""
    wheel = Deadlines(asyncio.get_running_loop())
    waiter = Waiter()
    wheel.set(waiter, 0.0)
    wheel.stop()
    assert len(wheel) == 0
    assert waiter.due == 0
