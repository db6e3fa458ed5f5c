"""Tasks between `start` and `stop`, and repeated work: how often, from when on, and that both ends can be repeated."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from narthex.app.periodic import BackgroundTask, Periodic
from tests.timing import within


async def test_one_task_runs_between_start_and_stop() -> None:
    """A second start begins no second task, a second stop does nothing, a later start begins anew."""
    began: list[int] = []
    running: set[int] = set()

    async def work() -> None:
        number = len(began)
        began.append(number)
        running.add(number)
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(number)

    task = BackgroundTask(work, "t")
    await task.stop()
    for _ in range(2):
        await task.start()
        await task.start()
        await asyncio.sleep(0)
        assert len(running) == 1
        await task.stop()
        assert not running, "its clean-up has ended when `stop` returns"
        await task.stop()
    assert began == [0, 1]


async def test_the_first_time_is_soon_and_the_others_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a twentieth of the interval, then after the whole, each with a jitter of half to both sides."""
    pauses: list[float] = []
    sleep = asyncio.sleep
    enough = asyncio.Event()

    async def noted(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 60:
            enough.set()
        await sleep(0)

    async def work() -> None:
        worked.append(len(pauses))

    worked: list[int] = []
    monkeypatch.setattr(asyncio, "sleep", noted)
    task = Periodic(work, every_s=100.0)
    await task.start()
    await asyncio.wait_for(enough.wait(), within(5))
    await task.stop()
    assert 2.5 <= pauses[0] <= 7.5
    assert all(50.0 <= pause <= 150.0 for pause in pauses[1:])
    assert min(pauses[1:]) < 90.0 < 110.0 < max(pauses[1:])
    assert worked[:3] == [1, 2, 3]


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()])
async def test_an_exception_that_ends_a_task_is_logged_at_once(error: BaseException) -> None:
    """With its traceback and the work's name, because no caller awaits the task; a cancellation is no fault."""

    async def work() -> None:
        raise error

    task = Periodic(work, every_s=0.001)
    with capture_logs() as logged:
        await task.start()
        assert task._task is not None
        await asyncio.wait({task._task}, timeout=within(10))
        await asyncio.sleep(0)  # its callbacks run
        await task.stop()
    if isinstance(error, asyncio.CancelledError):
        assert logged == []
    else:
        (line,) = logged
        assert (line["event"], line["log_level"], line["exc_info"]) == (
            "background_task_raised",
            "error",
            error,
        )
        assert line["task"].endswith("work")
