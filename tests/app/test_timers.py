"""One wheel for all timers: never early, at most two slots late, cheap to cancel, idle when empty."""

from __future__ import annotations

import asyncio

from narthex.app.timers import TICK_S, TimerWheel


class Sleeper:
    """Notes its wake-up; may cancel another one then, or fail."""

    def __init__(self, wheel: TimerWheel, *, cancels: Sleeper | None = None, fails: bool = False) -> None:
        self.due = 0
        self.wheel = wheel
        self.cancels = cancels
        self.fails = fails
        self.woken: list[float] = []
        self.event = asyncio.Event()

    def wake(self, now: float) -> None:
        self.woken.append(now)
        self.event.set()
        if self.cancels is not None:
            self.wheel.cancel(self.cancels)
        if self.fails:
            raise RuntimeError("a bug")


async def woken(*sleepers: Sleeper) -> None:
    """Wait for all of them."""
    async with asyncio.timeout(10):
        for sleeper in sleepers:
            await sleeper.event.wait()


async def test_a_wake_is_never_early_and_hardly_late() -> None:
    """Between its time and two slots after it (plus the machine's delay)."""
    wheel = TimerWheel(asyncio.get_running_loop())
    now = wheel.now()
    sleepers = [(Sleeper(wheel), now + delay) for delay in (-1.0, 0.0, 0.1, 0.6)]
    for sleeper, at in sleepers:
        wheel.schedule(sleeper, at)
    await woken(*(sleeper for sleeper, _ in sleepers))
    for sleeper, at in sleepers:
        (woken_at,) = sleeper.woken
        assert at <= woken_at <= max(at, now) + 2 * TICK_S + 0.25
    assert len(wheel) == 0
    again = Sleeper(wheel)
    wheel.schedule(again, wheel.now() + TICK_S)
    await woken(again)


async def test_cancelled_and_replaced() -> None:
    """Cancelling removes, scheduling again replaces, also timers that are due in the same tick."""
    wheel = TimerWheel(asyncio.get_running_loop())
    cancelled, moved, victim, lone_victim = (Sleeper(wheel) for _ in range(4))
    killer, lone_killer = Sleeper(wheel, cancels=victim), Sleeper(wheel, cancels=lone_victim)
    now = wheel.now()
    wheel.schedule(cancelled, now)
    wheel.cancel(cancelled)
    wheel.cancel(cancelled)
    for sleeper in (lone_killer, killer, victim):
        wheel.schedule(sleeper, now - 1.0)
    wheel.schedule(lone_victim, now - 0.7)  # alone in a later slot of the same tick
    wheel.schedule(moved, now)
    wheel.schedule(moved, now + 2 * TICK_S)
    assert len(wheel) == 5
    await woken(killer, lone_killer, moved)
    assert len(moved.woken) == 1
    assert moved.woken[0] >= now + 2 * TICK_S
    assert [*cancelled.woken, *victim.woken, *lone_victim.woken] == []
    assert cancelled.due == victim.due == lone_victim.due == len(wheel) == 0


async def test_one_failing_wake_costs_the_others_nothing() -> None:
    """Its exception is reported, and the others are woken."""
    faults: list[Exception] = []
    wheel = TimerWheel(asyncio.get_running_loop(), faults.append)
    failing, after = Sleeper(wheel, fails=True), Sleeper(wheel)
    wheel.schedule(failing, 0.0)
    wheel.schedule(after, 0.0)
    await woken(failing, after)
    assert [str(fault) for fault in faults] == ["a bug"]


async def test_stopping_forgets_all() -> None:
    """After `stop` nothing is woken and the wheel does not tick."""
    wheel = TimerWheel(asyncio.get_running_loop())
    sleeper = Sleeper(wheel)
    wheel.schedule(sleeper, wheel.now())
    wheel.stop()
    assert (len(wheel), sleeper.due) == (0, 0)
    await asyncio.sleep(TICK_S * 2)
    assert sleeper.woken == []
