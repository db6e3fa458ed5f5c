"""The loop's lag, with a loop that is really blocked."""

from __future__ import annotations

import asyncio
import time

from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.loop_lag import EVERY_S, LoopLag


def over_a_twentieth(meter: PrometheusMeter) -> tuple[int, int]:
    """Samples in all, and those of more than 50 ms."""
    lines = meter.render().decode().splitlines()
    found = {
        line.partition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("narthex_loop")
    }
    total = found["narthex_loop_lag_seconds_count"]
    return int(total), int(total - found['narthex_loop_lag_seconds_bucket{le="0.05"}'])


async def test_a_held_loop_shows() -> None:
    """Blocked across the next sample: that sample is late by the rest; after `stop` no sample is taken."""
    meter = PrometheusMeter()
    lag = LoopLag(meter)
    await lag.start()
    time.sleep(EVERY_S * 3)  # noqa: ASYNC251 - holding the loop is what is tested
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert over_a_twentieth(meter) == (1, 1)
    await lag.stop()
    await lag.stop()
    await asyncio.sleep(EVERY_S * 2)
    assert over_a_twentieth(meter) == (1, 1)
