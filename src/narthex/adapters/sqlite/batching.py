"""A thread that owns a blocking resource and works through jobs in batches. Its `Work` defines a batch's work.

Group commit falls out of it: jobs that arrive while a batch runs pile up and become the next batch, so one
commit (and one hand-over to the loop) pays for all of them. Rules: jobs finish in the order they were
submitted; the number waiting is bounded; a job whose resource hangs fails after `timeout_s`, never silently.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from narthex.errors import ENGINE_HUNG, Bug, DependencyError, Overloaded

IDLE_S: Final = 1.0  # how often housekeeping gets its turn; its work is in minutes and days
MAX_BATCH: Final = 1_024  # bounds the time of one transaction (about 15 ms) and of one delivery on the loop
MAX_PENDING: Final = (
    20_000  # about 0.3 s of work at the measured rate: a longer queue would only delay the error
)
STOP_S: Final = 10.0


class Job(msgspec.Struct):
    """Something to do. `future` belongs to the loop: only `deliver` callbacks may resolve it."""

    future: asyncio.Future[Any]
    asked_at: float


J = TypeVar("J", bound=Job)
J_contra = TypeVar("J_contra", contravariant=True)


class Work(Protocol[J_contra]):
    """The work of the thread. Every method is called on the thread."""

    def open(self) -> None:
        """Acquire the resource; `start` raises its exceptions."""

    def run(self, batch: Sequence[J_contra]) -> Callable[[], None]:
        """Do the batch; the returned callable is called on the loop and resolves every job's future."""

    def idle(self) -> None:
        """Housekeeping, about once a second; must not raise."""

    def close(self) -> None:
        """Release the resource; must not raise."""


class BatchThread(Generic[J]):
    """Runs `work` on a thread of its own; submit from the loop that called `start`."""

    def __init__(
        self,
        work: Work[J],
        *,
        name: str,
        dependency: str,
        max_batch: int = MAX_BATCH,
        max_pending: int = MAX_PENDING,
        timeout_s: float = 5.0,
    ) -> None:
        self._work = work
        self._name = name
        self._dependency = dependency
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._timeout_s = timeout_s
        self._queue: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        self._waiting: deque[J] = deque()  # in submission order; the head is what runs longest
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._accepting = False

    @property
    def pending(self) -> int:
        """Jobs submitted and not yet delivered."""
        return len(self._waiting)

    async def start(self) -> None:
        """Start the thread and wait for `work.open`; raises what that raises."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        opened: asyncio.Future[None] = loop.create_future()
        self._ended = loop.create_future()
        # Daemon: a disk that hangs must not keep the process from exiting.
        self._thread = threading.Thread(
            target=self._main, args=(opened, self._ended), name=self._name, daemon=True
        )
        self._thread.start()
        await opened
        self._accepting = True

    async def stop(self) -> None:
        """Finish what was submitted, then end the thread; idempotent. Raises DependencyError if it hangs."""
        if self._ended is None:
            return
        ended, self._ended = self._ended, None
        self._accepting = False
        self._queue.put(None)
        try:
            await asyncio.wait_for(asyncio.shield(ended), STOP_S)
        except TimeoutError as error:
            raise DependencyError(
                self._dependency, f"{self._name} did not finish within {STOP_S:.0f} s.", "Check the disk."
            ) from error
        finally:
            if self._watchdog is not None:
                self._watchdog.cancel()
                self._watchdog = None
            self._fail_waiting("stopped before the job was done")

    def submit(self, job: J) -> None:
        """Queue a job.

        Raises:
            Overloaded: `max_pending` jobs wait already; nothing was queued.
            DependencyError: not started, or stopped.
        """
        if len(self._waiting) >= self._max_pending:
            raise Overloaded(
                self._dependency,
                f"{self._name} has {self._max_pending} waiting jobs, its limit.",
                "Retry later; if the problem persists, the disk is too slow for this load.",
            )
        if not self._accepting:
            raise DependencyError(self._dependency, f"{self._name} is not running.", "Call start() first.")
        self._waiting.append(job)
        self._queue.put(job)
        if self._watchdog is None:
            assert self._loop is not None
            self._watchdog = self._loop.call_later(IDLE_S, self._watch)

    def ask(self, kind: Callable[..., J], *values: object) -> asyncio.Future[Any]:
        """Queue a job `kind(future, asked_at, *values)`; returns its future. Raises as `submit`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit(kind(future, time.monotonic(), *values))
        return future

    def _main(self, opened: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        try:
            self._work.open()
        except BaseException as error:  # passed to the caller of start()
            self._post(resolve, opened, error)
            self._post(resolve, ended, None)
            return
        self._post(resolve, opened, None)
        try:
            self._serve()
        finally:
            self._work.close()
            self._post(resolve, ended, None)

    def _serve(self) -> None:
        housekeeping_at = time.monotonic() + IDLE_S
        going = True
        while going:
            batch: list[J] = []
            try:
                job = self._queue.get(timeout=IDLE_S)
                while job is not None:
                    batch.append(job)
                    if len(batch) >= self._max_batch:
                        break
                    job = self._queue.get_nowait()
                else:
                    going = False
            except queue.Empty:
                pass
            if batch:
                self._run(batch)
            if time.monotonic() >= housekeeping_at:
                self._work.idle()
                housekeeping_at = time.monotonic() + IDLE_S

    def _run(self, batch: list[J]) -> None:
        try:
            deliver = self._work.run(batch)
        except Exception as error:  # a bug in the work must answer its callers, not kill the thread
            bug = Bug("batch_failed", f"{self._name} raised {type(error).__name__}: {error}")
            bug.__cause__ = error

            def deliver() -> None:
                for job in batch:
                    resolve(job.future, bug)

        self._post(self._delivered, len(batch), deliver)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: no caller waits any more
            self._accepting = False

    def _delivered(self, count: int, deliver: Callable[[], None]) -> None:
        waiting = self._waiting
        for _ in range(min(count, len(waiting))):
            waiting.popleft()
        deliver()

    def _watch(self) -> None:
        """Fail jobs that have waited for too long; the thread may still finish one, and its result is dropped."""
        assert self._loop is not None
        # An idle thread is not watched: each wake of an idle process costs 0.1 ms of CPU.
        self._watchdog = self._loop.call_later(IDLE_S, self._watch) if self._waiting else None
        limit = time.monotonic() - self._timeout_s
        for job in self._waiting:
            if job.asked_at > limit:
                break
            if not job.future.done():
                resolve(job.future, self._timed_out())

    def _timed_out(self) -> DependencyError:
        return DependencyError(
            self._dependency,
            f"{self._name} did not answer within {self._timeout_s:g} s.",
            "Check the disk; retry with the same key.",
            sign=ENGINE_HUNG,
        )

    def _fail_waiting(self, why: str) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            resolve(job.future, DependencyError(self._dependency, f"{self._name} {why}.", "Start it again."))


def resolve(future: asyncio.Future[Any], outcome: object) -> None:
    """Answer a job with its result, or with the exception that it ended with. Call it on the loop."""
    if future.done():  # cancelled, or timed out meanwhile
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def resolve_all(batch: Sequence[Job], outcomes: Sequence[object]) -> None:
    """`resolve` every job of a batch with its outcome."""
    for job, outcome in zip(batch, outcomes, strict=True):
        resolve(job.future, outcome)
