"""The batching thread over a work that records, blocks and fails on demand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from narthex.adapters.sqlite.batching import BatchThread, Job
from narthex.errors import Bug, DependencyError


class Recording:
    """Resolves every job with the size of its batch; waits for `gate` first; raises `failure` if set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.taken = threading.Event()
        self.failure: Exception | None = None
        self.batches: list[int] = []
        self.closed = False

    def open(self) -> None:
        if self.failure is not None:
            raise self.failure

    def run(self, batch: Sequence[Job]) -> Callable[[], None]:
        self.taken.set()
        self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        self.batches.append(len(batch))

        def deliver() -> None:
            for job in batch:
                if not job.future.done():
                    job.future.set_result(len(batch))

        return deliver

    def idle(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def thread_over(work: Recording, **options: float) -> BatchThread[Job]:
    """A thread with a short time-out."""
    return BatchThread(work, name="test thread", dependency="store", timeout_s=options.get("timeout_s", 5.0))


async def test_a_stopped_thread_leaves_no_timer() -> None:
    """Its watch over hanging jobs would keep it, and the loop, alive for ever; an idle thread has none."""
    work = Recording()
    thread = thread_over(work)
    await thread.start()
    idle, _ = thread._watchdog, await submit(thread)
    assert idle is None
    watching = thread._watchdog
    assert watching is not None
    assert not watching.cancelled()
    await thread.stop()
    assert watching.cancelled()


def submit(thread: BatchThread[Job]) -> asyncio.Future[int]:
    """One job's future."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    thread.submit(Job(future, time.monotonic()))
    return future


async def test_jobs_pile_up_into_one_batch() -> None:
    """Jobs that arrive while a batch runs form the next one together."""
    work = Recording()
    thread = thread_over(work)
    await thread.start()
    work.gate.clear()
    first = submit(thread)
    await asyncio.to_thread(work.taken.wait, 10)
    others = [submit(thread) for _ in range(50)]
    work.gate.set()
    assert await asyncio.gather(first, *others) == [1] + [50] * 50
    assert thread.pending == 0
    await thread.stop()
    assert work.closed


async def test_bug_in_the_work_answers_its_jobs() -> None:
    """The thread survives and the next batch runs."""
    work = Recording()
    thread = thread_over(work)
    await thread.start()
    work.failure = ValueError("broken")
    with pytest.raises(Bug, match="broken"):
        await submit(thread)
    work.failure = None
    assert await submit(thread) == 1
    await thread.stop()


async def test_open_failure_is_raised_by_start() -> None:
    """And nothing runs afterwards."""
    work = Recording()
    work.failure = DependencyError("store", "cannot open", "do something")
    thread = thread_over(work)
    with pytest.raises(DependencyError, match="cannot open"):
        await thread.start()
    with pytest.raises(DependencyError, match="not running"):
        submit(thread)
    await thread.stop()


async def test_waiting_too_long_is_an_error() -> None:
    """A job whose resource hangs fails; later ones work once it moves again."""
    work = Recording()
    thread = thread_over(work, timeout_s=0.1)
    await thread.start()
    work.gate.clear()
    with pytest.raises(DependencyError, match="did not answer"):
        await submit(thread)
    work.gate.set()
    assert await submit(thread) >= 1
    await thread.stop()


async def test_stop_finishes_what_was_submitted() -> None:
    """Every job before `stop` is done."""
    thread = thread_over(Recording())
    await thread.start()
    futures = [submit(thread) for _ in range(500)]
    await thread.stop()
    assert all(future.done() for future in futures)
    assert {future.result() for future in futures} <= set(range(1, 501))
