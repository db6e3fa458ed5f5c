"""One wheel for all: woken in time, once per schedule, and still when nobody waits."""

from __future__ import annotations

import asyncio

from narthex.app.timers import TICK_S, TimerWheel


class Sleeper:
    """Notes when it was woken."""

    def __init__(self) -> None:
        self.woken: list[float] = []
        self.event = asyncio.Event()

    def wake(self, now: float) -> None:
        self.woken.append(now)
        self.event.set()


async def test_everybody_is_woken_not_before_and_soon_after() -> None:
    """Late by at most a tick (and what the machine adds)."""
    wheel = TimerWheel(asyncio.get_running_loop())
    now = wheel.now()
    sleepers = [(Sleeper(), now + delay) for delay in (-1.0, 0.0, 0.1, 0.6)]
    for sleeper, at in sleepers:
        wheel.schedule(sleeper, at)
    async with asyncio.timeout(10):
        for sleeper, at in sleepers:
            await sleeper.event.wait()
            assert len(sleeper.woken) == 1
            assert sleeper.woken[0] >= at
    again = Sleeper()
    wheel.schedule(again, wheel.now() + TICK_S)
    async with asyncio.timeout(10):
        await again.event.wait()


async def test_nobody_is_woken_after_stop() -> None:
    """A stopped wheel forgets everybody."""
    wheel = TimerWheel(asyncio.get_running_loop())
    sleeper = Sleeper()
    wheel.schedule(sleeper, wheel.now())
    wheel.stop()
    await asyncio.sleep(TICK_S * 2)
    assert sleeper.woken == []
