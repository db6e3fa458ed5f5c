"""An asyncio event loop with virtual time: it never waits, and a whole cluster lives in it, node by node.

Not here: what nodes do. Rules: callbacks that are ready run in the order in which they became ready, as asyncio's do;
when none is ready, time jumps to the next timer. Every callback belongs to the node in whose context it was made:
those of a dead node are dropped (`kill -9` runs no `finally`), those of a paused node wait until it goes on. Only what
asyncio's own tasks, futures, time-outs and queues need is implemented; anything else raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

WORLD: Final = ""
"""The node id of what is no node: clients, engines, the plan."""
NODE: contextvars.ContextVar[str] = contextvars.ContextVar("simulated node", default=WORLD)
MAX_TURNS: Final = 400_000
"""Callbacks of one history: a hundred times what one takes, so only a busy loop meets it."""


class Stuck(Exception):
    """The simulation cannot go on: a busy loop, or nothing left to do."""


class _Handle:
    """A callback, and whose it is: what asyncio needs of a handle and nothing else, because there are so many."""

    __slots__ = ("_args", "_callback", "_context", "_when", "cancelled", "life")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float = 0.0,
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = contextvars.copy_context() if context is None else context
        self._when = when
        self.life = self._context.get(NODE, WORLD)
        self.cancelled = False

    def cancel(self) -> None:
        """As asyncio's."""
        self.cancelled = True

    def when(self) -> float:
        """As asyncio's."""
        return self._when

    def run(self) -> None:
        """Call it, in its context."""
        self._context.run(self._callback, *self._args)


class VirtualLoop(asyncio.AbstractEventLoop):  # what is not here raises NotImplementedError
    """See the module.

    Attributes:
        turns: callbacks that were run.
        faults: what asyncio's exception handler was told, as (life, context).
    """

    def __init__(self) -> None:
        self._time = 0.0
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._count = itertools.count()
        self._dead: set[str] = set()
        self._paused: dict[str, list[_Handle]] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.turns = 0
        self.faults: list[tuple[str, dict[str, Any]]] = []

    # -- lives ---------------------------------------------------------------------------------------------

    def kill(self, life: str) -> None:
        """Nothing of this life runs any more."""
        self._dead.add(life)
        self._paused.pop(life, None)

    def pause(self, life: str) -> None:
        """What is due in this life waits for `resume`."""
        self._paused.setdefault(life, [])

    def resume(self, life: str) -> None:
        """What was due meanwhile runs now, in order."""
        self._ready.extend(self._paused.pop(life, ()))

    def alive(self, life: str) -> bool:
        """Whether callbacks of this life are run, now or later."""
        return life not in self._dead

    # -- running -------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run until `main` has ended, then throw everything else away without running it."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._turn()
            task.result()
        finally:
            self._throw_away()
            asyncio._set_running_loop(None)

    def _turn(self) -> None:
        timers, ready, dead, paused = self._timers, self._ready, self._dead, self._paused
        if not ready:
            if not timers:
                raise Stuck("no callback is left, and the history has not ended")
            self._time = max(self._time, timers[0][0])
        while timers and timers[0][0] <= self._time:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled or handle.life in dead:
                continue
            if paused and handle.life in paused:
                paused[handle.life].append(handle)
                continue
            self.turns += 1
            try:
                handle.run()
            except Exception as fault:  # as asyncio's own loop does
                self.faults.append((handle.life, {"message": "a callback raised", "exception": fault}))
        if self.turns > MAX_TURNS:
            raise Stuck(f"{MAX_TURNS} callbacks, and virtual time is {self._time:.3f}")

    def _throw_away(self) -> None:
        """Close every coroutine that has not ended. Their `finally` blocks must not reach anybody any more."""
        self._ready.clear()
        self._timers.clear()
        self._paused.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # ends asyncio's complaint
                with contextlib.suppress(
                    BaseException
                ):  # a `finally` that awaits cannot, and the world is over
                    task.get_coro().close()
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()

    # -- what asyncio needs --------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._time

    def call_soon(  # type: ignore[override]  # a leaner handle; typeshed's TypeVarTuple
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        """As asyncio's."""
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no threads

    def call_later(  # type: ignore[override]  # as `call_soon`
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        """As asyncio's."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as `call_soon`
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        """As asyncio's."""
        timer = _Handle(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        """As asyncio's."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # typeshed's overloads
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        """As asyncio's."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > 2_000:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Always: it exists only while it runs."""
        return True

    def is_closed(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Kept for the judge: an exception in a callback, a task whose exception nobody looked at."""
        self.faults.append((NODE.get(), context))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """As `call_exception_handler`."""
        self.call_exception_handler(context)
