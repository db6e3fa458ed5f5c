"""An asyncio event loop with virtual time: it never waits, and it runs a whole cluster, node by node.

Not here: the nodes. Rules: callbacks that are ready run in the order in which they became ready, as asyncio's do;
when none is ready, time jumps to the next timer. Every callback belongs to the node in whose context it was made:
those of a dead node are dropped (`kill -9` runs no `finally`), those of a paused node wait until it goes on. Only what
asyncio's own tasks, futures, time-outs and queues need is implemented; anything else raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from heapq import heappop, heappush
from typing import Any, Final

WORLD: Final = ""
"""The node id of code outside nodes: clients, engines, the plan."""
NODE: contextvars.ContextVar[str] = contextvars.ContextVar("simulated node", default=WORLD)
MAX_TURNS: Final = 400_000
"""The limit of callbacks of one history: a hundred times the usual number, so only a busy loop reaches it."""


class Stuck(Exception):
    """The simulation cannot continue: a busy loop, or nothing left to run."""


class _Handle:
    """A callback and its context: only the parts of a handle that asyncio needs, because a history has thousands."""

    __slots__ = ("args", "callback", "cancelled", "context", "due_at")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        due_at: float,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.due_at = due_at
        self.cancelled = False

    def cancel(self) -> None:
        """As asyncio's."""
        self.cancelled = True

    def when(self) -> float:
        """As asyncio's."""
        return self.due_at


class VirtualLoop(asyncio.AbstractEventLoop):  # parts that are missing raise NotImplementedError
    """See the module.

    Attributes:
        turns: the number of callbacks run.
        faults: calls of asyncio's exception handler, as (life, context).
    """

    def __init__(self) -> None:
        self._time = 0.0
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._count = itertools.count()
        self._dead: set[str] = set()
        self._paused: dict[str, list[_Handle]] = {}
        self._some_do_not_run = False
        self._contexts: dict[str, contextvars.Context] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.turns = 0
        self.faults: list[tuple[str, dict[str, Any]]] = []

    # -- lives ---------------------------------------------------------------------------------------------

    def context_of(self, life: str) -> contextvars.Context:
        """The context for callbacks of this life that no task of it created."""
        found = self._contexts.get(life)
        if found is None:
            found = self._contexts[life] = contextvars.Context()
            found.run(NODE.set, life)
        return found

    def kill(self, life: str) -> None:
        """Drop all callbacks of this life."""
        self._some_do_not_run = True
        self._dead.add(life)
        self._paused.pop(life, None)

    def pause(self, life: str) -> None:
        """Due callbacks of this life wait for `resume`."""
        self._some_do_not_run = True
        self._paused.setdefault(life, [])

    def resume(self, life: str) -> None:
        """Callbacks that became due meanwhile run now, in order."""
        self._ready.extend(self._paused.pop(life, ()))

    def alive(self, life: str) -> bool:
        """Whether callbacks of this life will run, now or later."""
        return life not in self._dead

    # -- running -------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run until `main` has ended, then discard everything else without running it."""
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
        """Run the ready callbacks, or the next due ones; callbacks that these make ready wait for the next turn."""
        timers, ready = self._timers, self._ready
        if timers:
            if not ready and timers[0][0] > self._time:
                self._time = timers[0][0]
            now = self._time
            while timers and timers[0][0] <= now:
                ready.append(heappop(timers)[2])
        elif not ready:
            raise Stuck("no callback is left, and the history has not ended")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled:
                continue
            context = handle.context
            if self._some_do_not_run:
                life = context.get(NODE, WORLD)
                if life in self._dead:
                    continue
                if life in self._paused:
                    self._paused[life].append(handle)
                    continue
            self.turns += 1
            try:
                context.run(handle.callback, *handle.args)
            except Exception as fault:  # as asyncio's own loop does
                life = context.get(NODE, WORLD)
                self.faults.append((life, {"message": "a callback raised", "exception": fault}))
        if self.turns > MAX_TURNS:
            raise Stuck(f"{MAX_TURNS} callbacks, and virtual time is {self._time:.3f}")

    def _throw_away(self) -> None:
        """Close every coroutine that has not ended. Their `finally` blocks must have no effect any more."""
        self._ready.clear()
        self._timers.clear()
        self._paused.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # ends asyncio's complaint
                with contextlib.suppress(
                    BaseException
                ):  # a `finally` that awaits cannot run, because the simulation is over
                    task.get_coro().close()
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()

    # -- the interface that asyncio needs -------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._time

    def call_soon(  # type: ignore[override]  # a leaner handle; typeshed's TypeVarTuple
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        """As asyncio's."""
        handle = _Handle(callback, args, copy_context() if context is None else context, 0.0)
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
        when = self._time + delay
        timer = _Handle(callback, args, copy_context() if context is None else context, when)
        heappush(self._timers, (when, next(self._count), timer))
        return timer

    def call_at(  # type: ignore[override]  # as `call_soon`
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        """As asyncio's."""
        timer = _Handle(callback, args, copy_context() if context is None else context, when)
        heappush(self._timers, (when, next(self._count), timer))
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

    get_debug = staticmethod(bool)  # never; asyncio asks for each future

    def is_running(self) -> bool:
        """Always: it exists only while it runs."""
        return True

    def is_closed(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Recorded for the verdict: an exception in a callback, a task whose exception was never retrieved."""
        self.faults.append((NODE.get(), context))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """As `call_exception_handler`."""
        self.call_exception_handler(context)
