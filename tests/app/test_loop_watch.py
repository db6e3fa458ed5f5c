"""Cases in which the watch of the event loop reports nothing."""

from __future__ import annotations

import asyncio
import threading
import time

from narthex.app.loop_watch import LoopWatch
from tests.app.runs.fakes import FakeMeter


def test_a_loop_that_its_program_does_not_run_is_not_held() -> None:
    """Notebooks and tests run a loop call by call; once it is closed the thread ends without a stop."""
    meter = FakeMeter()
    loop = asyncio.new_event_loop()
    watch = LoopWatch(meter, held_s=0.2)
    loop.run_until_complete(watch.start())
    time.sleep(0.8)  # the loop is not run: that is what is tested
    assert "loop_held" not in meter.counts

    async def hold() -> None:
        await asyncio.sleep(0.2)
        time.sleep(0.8)  # noqa: ASYNC251 - a loop that is held

    loop.run_until_complete(hold())
    assert meter.counts["loop_held"] >= 1
    loop.close()
    (thread,) = [one for one in threading.enumerate() if one.name == "narthex loop watch"]
    thread.join(5)
    assert not thread.is_alive()
