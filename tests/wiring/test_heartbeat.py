"""Whether a worker's event loop runs."""

from __future__ import annotations

import asyncio
import multiprocessing

from narthex.wiring.heartbeat import HUNG_S, UNBORN_S, Heartbeat, Watchdog
from tests.timing import within


async def test_a_pulse_beats() -> None:
    """From the time the loop runs."""
    heartbeat = Heartbeat(multiprocessing.get_context("spawn"))
    assert heartbeat.count == 0
    beating = asyncio.create_task(heartbeat.beat())
    async with asyncio.timeout(within(5)):
        while heartbeat.count == 0:  # noqa: ASYNC110 - shared memory tells nobody
            await asyncio.sleep(0.01)
    beating.cancel()


def test_silence_is_what_the_parent_saw_of_it() -> None:
    """Half a second per iteration: over 30 s of iterations without a heartbeat are too long; one heartbeat ends it."""
    watchdog = Watchdog(1.0)
    turns = int(HUNG_S * 2)
    now = 1_000.0
    assert not watchdog.stalled_for_s(7, now)
    assert not any(watchdog.stalled_for_s(7, now + 0.5 * turn) for turn in range(1, turns + 1))
    assert watchdog.stalled_for_s(7, now + 0.5 * (turns + 1))
    assert not watchdog.stalled_for_s(8, now + 0.5 * (turns + 2))


def test_a_machine_that_stood_still_condemns_nobody() -> None:
    """An hour between two iterations counts as one iteration."""
    watchdog = Watchdog(1.0)
    watchdog.stalled_for_s(7, 1_000.0)
    assert not watchdog.stalled_for_s(7, 4_600.0)
    assert watchdog.seconds == 1.0


def test_a_worker_that_never_begins_is_too_long_as_well() -> None:
    """An agent's module that blocks for ever at its import: two minutes, then another attempt."""
    watchdog = Watchdog(1.0)
    turns = int(UNBORN_S * 2)
    assert not any(watchdog.stalled_for_s(0, 0.5 * turn) for turn in range(turns + 1)), "it is still starting"
    assert watchdog.stalled_for_s(0, 0.5 * (turns + 1))
    assert not watchdog.stalled_for_s(1, 0.5 * (turns + 2))
