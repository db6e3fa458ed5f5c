"""Agents written without `async`: a generator function, or a function that returns its answer, in a thread of its own.

So the commonest mistake, an agent that waits in a plain call (`requests.get`, `time.sleep`), blocks only its own run.
Rules: one thread a run, and every step of a generator in that one (SQLite connections and other things belong to a
thread); a thread cannot be stopped from outside: a cancelled run ends at once, its generator is closed at its next
`yield`; threads are daemons, so that one that never comes back does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from narthex.ports.agents import RunInput

MAX_THREADS: Final = 256  # runs of such agents on one node; the next waits for a thread, within its deadline
_END: Final = object()


class ThreadedRun:
    """`RunInput` for a function that cannot await: `ask` and `steer` wait in its own thread."""

    def __init__(self, run: RunInput, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def ask(self, *arguments: Any, **options: Any) -> Any:
        """See `RunInput.ask`; returns the answer."""
        return asyncio.run_coroutine_threadsafe(self._run.ask(*arguments, **options), self._loop).result()

    def ask_all(self, *arguments: Any) -> Any:
        """See `RunInput.ask_all`; returns the answers."""
        return asyncio.run_coroutine_threadsafe(self._run.ask_all(*arguments), self._loop).result()

    @property
    def steer(self) -> Iterator[str]:
        """See `RunInput.steer`; each step waits for the next text."""
        steered = self._run.steer

        async def following() -> str:
            return await anext(steered)

        while True:
            yield asyncio.run_coroutine_threadsafe(following(), self._loop).result()


class _Thread:
    """Runs calls one after the other in one thread, each awaited."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], Any]) -> Any:
        """The function's result or exception."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.put((future, function))
        return await future

    def end(self, last: Callable[[], Any]) -> None:
        """Call this after what is under way, then end; waits for nothing."""
        self._calls.put((self._loop.create_future(), last))
        self._calls.put(None)

    def _main(self) -> None:
        while (item := self._calls.get()) is not None:
            future, function = item
            try:
                result, fault = self._context.run(function), None
            except BaseException as error:
                result, fault = None, error
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, fault)
            except RuntimeError:  # the loop is closed: no caller waits
                return


def _settle(future: asyncio.Future[Any], result: Any, fault: BaseException | None) -> None:
    if future.done():
        return
    if fault is None:
        future.set_result(result)
    elif isinstance(fault, StopIteration):
        future.set_exception(RuntimeError("The agent raised StopIteration."))
    else:
        future.set_exception(fault)
        future.exception()  # retrieved: a caller that was cancelled meanwhile does not


class _Threads:
    """How many threads run, across all such agents of a loop.

    Attributes:
        running: of all loops of the process.
    """

    def __init__(self) -> None:
        self.running = 0
        self._room: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def room(self) -> asyncio.Semaphore:
        """The running loop's; those of closed loops are forgotten."""
        loop = asyncio.get_running_loop()
        for other in [one for one in self._room if one.is_closed()]:
            del self._room[other]
        return self._room.setdefault(loop, asyncio.Semaphore(MAX_THREADS))


_threads: Final = _Threads()


def running_threads() -> int:
    """The threads that run such agents now."""
    return _threads.running


def threaded(name: str, function: Callable[..., Any]) -> Callable[[RunInput], AsyncIterator[Any]]:
    """An agent function that runs `function` in a thread.

    Args:
        name: for the thread.
        function: takes a `RunInput`; a generator function, or one that returns a text or an iterable of texts and
            events; None is no text.
    """

    async def agent(run: RunInput) -> AsyncIterator[Any]:
        async with _threads.room():
            thread = _Thread(f"agent {name}")
            _threads.running += 1
            made: list[Iterator[Any]] = []

            def begin() -> Any:
                found = function(ThreadedRun(run, asyncio_loop))
                if found is None or isinstance(found, str | dict):
                    found = () if found is None else (found,)
                if not isinstance(found, Iterable):
                    raise TypeError(f"The agent returned a {type(found).__name__}, not text.")
                made.append(iter(found))

            def step() -> Any:
                return next(made[0], _END)

            def close() -> None:
                for iterator in made:
                    ending = getattr(iterator, "close", None)
                    if ending is not None:
                        ending()

            asyncio_loop = asyncio.get_running_loop()
            try:
                await thread.call(begin)
                while (item := await thread.call(step)) is not _END:
                    yield item
            finally:
                _threads.running -= 1
                thread.end(close)

    return agent
