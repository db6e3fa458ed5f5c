"""Links of virtual time: calls to an engine with a delay either way, and ordered pipes between two ends.

Rules: a call is executed at one time between its sending and the arrival of its answer; a link that is down loses its
traffic; a pipe keeps its order, as TCP does, and loses everything in flight when it breaks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from narthex.errors import DependencyError
from tests.simulation.loop import WORLD, VirtualLoop

FAST_S: Final = 0.0002
"""Loopback, and a fast engine."""


class Delays:
    """Delays, drawn from the history's noise: mostly short, sometimes long."""

    def __init__(self, noise: random.Random, typical_s: float, long_s: float, long_share: float) -> None:
        self._draw = noise.random
        self._typical_s = typical_s
        self._long_s = long_s
        self._long_share = long_share

    def draw(self) -> float:
        """Seconds."""
        draw = self._draw
        if draw() < self._long_share:
            return FAST_S + self._long_s * draw()
        return FAST_S + self._typical_s * draw()


class Link:
    """One node's link to one engine.

    Args:
        engine: what a DependencyError names when no answer came.
        timeout_s: after which a call raises it.

    Attributes:
        requests_pass: whether the engine executes requests.
        answers_pass: whether its answers and live messages arrive.
        stalled_until: an engine that hangs executes nothing before this time.
    """

    def __init__(self, loop: VirtualLoop, delays: Delays, engine: str, timeout_s: float) -> None:
        self._loop = loop
        self._delays = delays
        self._engine = engine
        self._timeout_s = timeout_s
        # Data in flight belongs to the network: it arrives although its sender died.
        self._context = loop.context_of(WORLD)
        self.requests_pass = True
        self.answers_pass = True
        self.stalled_until = 0.0
        self._waiting: list[_Call] = []

    def call(self, execute: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        """Execute at the engine; the future has its result or exception, or DependencyError when no answer arrived.

        A timer for the time-out is set only when no answer may come in time.
        """
        loop = self._loop
        answer: asyncio.Future[Any] = asyncio.Future(loop=loop)
        call = _Call(execute, arguments, answer, loop.time() + self._timeout_s)
        loop.call_later(self._delays.draw(), self._arrive, call, context=self._context)
        return answer

    def _arrive(self, call: _Call) -> None:
        if not self.requests_pass:
            self._lost(call)
            return
        if self._loop.time() < self.stalled_until:
            self._lost(call)  # its caller may give up meanwhile; it is executed all the same
            self._waiting.append(call)
            self._loop.call_at(self.stalled_until, self.go_on, context=self._context)
            return
        self._execute(call)

    def go_on(self) -> None:
        """Execute the calls that arrived while the engine hung, in order and at once, before any later one."""
        if self._loop.time() < self.stalled_until:  # it hangs longer than was known
            self._loop.call_at(self.stalled_until, self.go_on, context=self._context)
            return
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._execute(call)

    def _execute(self, call: _Call) -> None:
        outcome: Any = None
        fault: Exception | None = None
        try:
            outcome = call.execute(*call.arguments)
        except Exception as error:  # left to the caller
            fault = error
        self._loop.call_later(self._delays.draw(), self._answer, call, outcome, fault, context=self._context)

    def _answer(self, call: _Call, outcome: Any, fault: Exception | None) -> None:
        answer = call.answer
        if answer.done():
            return
        if not self.answers_pass:
            self._lost(call)
        elif fault is None:
            answer.set_result(outcome)
        else:
            _fail(answer, fault)

    def _lost(self, call: _Call) -> None:
        due = max(call.due, self._loop.time())
        self._loop.call_at(due, self._time_out, call.answer, context=self._context)

    def _time_out(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            _fail(answer, DependencyError(self._engine, f"The simulated {self._engine} did not answer."))


class _Call(NamedTuple):
    execute: Callable[..., Any]
    arguments: tuple[object, ...]
    answer: asyncio.Future[Any]
    due: float


def _fail(answer: asyncio.Future[Any], fault: Exception) -> None:
    answer.set_exception(fault)
    answer._log_traceback = False  # its caller may be dead


class Pipe:
    """One direction of a connection: data comes out in order, each item after a delay."""

    def __init__(self, loop: VirtualLoop, delays: Delays, deliver: Callable[[Any], None], life: str) -> None:
        self._loop = loop
        self._delays = delays
        self._deliver = deliver
        self._context = loop.context_of(life)  # the receiver handles the data that comes out
        self._last_at = 0.0
        self.broken = False
        self.stalled_until = 0.0

    def put(self, item: Any) -> None:
        """Send."""
        if self.broken:
            return
        at = max(self._loop.time() + self._delays.draw(), self._last_at, self.stalled_until)
        self._last_at = at
        self._loop.call_at(at, self._out, item, context=self._context)

    def _out(self, item: Any) -> None:
        if not self.broken:
            self._deliver(item)
