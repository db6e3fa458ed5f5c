"""The agent of `narthex bench runs`: a steady stream of deltas that contain the time of their making.

Loaded by the child server as `--agent narthex.bench.agents:stream`. Rules: the clock is CLOCK_MONOTONIC, which
all processes of a machine share; a late wake-up is made up for, so that the rate holds over the run.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Final

from narthex.ports.agents import RunInput, agent

_ASKED: Final = re.compile(r"rate=(\d{1,4}) seconds=(\d{1,4})")


@agent(name="stream", description="Yields a steady stream of timed deltas, for benchmarks.")
async def stream(run: RunInput) -> AsyncIterator[str]:
    """Answer `rate=50 seconds=10` with 500 deltas, each the nanoseconds of its making and a blank."""
    match = _ASKED.search(run.messages[-1].content if run.messages else "")
    rate, seconds = (int(match[1]), int(match[2])) if match else (50, 5)
    began = time.monotonic()
    for number in range(rate * seconds):
        wait_s = began + number / rate - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield f"{time.monotonic_ns()} "
