"""A publication to 5,000 subscribers never holds the loop over 20 ms: the real gateway, real sockets, on demand.

What is measured is the CPU time between two turns of the loop: other work on the machine stretches the wall's clock,
not this one. The clients are another process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import time
from pathlib import Path
from typing import Final

import pytest
import uvloop

from narthex.bench.generator import GeneratorJob, measure
from narthex.bench.load.dialects import BenchTarget
from narthex.bench.servers import LIMITS
from narthex.testing import Running, gateway

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

SUBSCRIBERS: Final = int(os.environ.get("NARTHEX_TEST_SUBSCRIBERS", "5000"))
HELD_S: Final = 0.020


class Turns:
    """Looks at the clock in every turn of the loop."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.counting = True

    async def look(self) -> None:
        last = time.thread_time()
        while self.counting:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_s = max(self.longest_s, now - last)
            last = now


def fanned_out(running: Running, secret: str, in_flight: int) -> int:
    """Failures of a fan-out that a process of its own measures."""
    target = BenchTarget(
        name="narthex",
        protocol="narthex",
        host="127.0.0.1",
        port=int(running.http.rpartition(":")[2]),
        pids=[os.getpid()],
        secret=secret,
    )
    options = {"subscribers": SUBSCRIBERS, "in_flight": in_flight, "publishes": 10 * in_flight, "size": 128}
    return measure(GeneratorJob(scenario="fanout", target=target, options=options)).failures


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_loop_is_never_held_for_long(tmp_path: Path, in_flight: int) -> None:
    """Handshakes, fan-out and the end of 5,000 clients at once included."""
    secret = secrets.token_urlsafe(48)

    async def story() -> tuple[int, float]:
        async with gateway(tmp_path, environ={**LIMITS, "NARTHEX_JWT_SECRET": secret}) as running:
            gc.collect()
            gc.freeze()  # as the program does when it has started: pytest's objects are not the gateway's
            turns = Turns()
            looking = asyncio.create_task(turns.look())
            failures = await asyncio.to_thread(fanned_out, running, secret, in_flight)
            turns.counting = False
            await looking
            return failures, turns.longest_s

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failures, longest_s = runner.run(story())
    finally:
        gc.unfreeze()
    print(
        f"\n{SUBSCRIBERS} subscribers, {in_flight} in flight: the loop was held for {longest_s * 1000:.1f} ms"
    )
    assert failures == 0
    assert longest_s < HELD_S
