"""Links of virtual time: calls to an engine with a delay either way, and ordered pipes between two ends.

Rules: a call is executed at one moment between its being sent and its answer's arrival; a link that is down loses
what passes it while it is down; a pipe keeps its order, as TCP does, and loses all that is under way when it breaks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tests.simulation.loop import NODE, WORLD, VirtualLoop

T = TypeVar("T")
LOOK_S: Final = 0.5
"""How often what waits for a hanging engine looks whether that goes on."""
FAST_S: Final = 0.0002
"""Loopback, and a fast engine."""


class Unreachable(Exception):
    """No answer came within the time-out."""


class Delays:
    """How long things take here, drawn from the history's noise: mostly short, now and then long."""

    def __init__(self, noise: random.Random, typical_s: float, long_s: float, long_share: float) -> None:
        self._noise = noise
        self._typical_s = typical_s
        self._long_s = long_s
        self._long_share = long_share

    def draw(self) -> float:
        """Seconds."""
        random_ = self._noise.random
        if random_() < self._long_share:
            return FAST_S + self._long_s * random_()
        return FAST_S + self._typical_s * random_()


class Link:
    """One node's way to one engine.

    Attributes:
        up: whether anything passes.
        stalled_until: an engine that hangs executes nothing before.
    """

    def __init__(self, loop: VirtualLoop, delays: Delays) -> None:
        self._loop = loop
        self._delays = delays
        self.requests_pass = True
        self.answers_pass = True
        self.stalled_until = 0.0

    async def call(self, execute: Callable[[], T], timeout_s: float) -> T:
        """Execute at the engine; what it raises is raised. Raises Unreachable.

        A timer for the time-out is set only when it is certain that no answer will come.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        token = NODE.set(
            WORLD
        )  # what is under way belongs to the network: it arrives although its sender died
        try:
            due = self._loop.time() + timeout_s
            self._loop.call_later(self._delays.draw(), self._arrive, execute, answer, due)
        finally:
            NODE.reset(token)
        return await answer  # type: ignore[no-any-return]  # T: what `execute` returned

    def _arrive(self, execute: Callable[[], Any], answer: asyncio.Future[Any], due: float) -> None:
        if not self.requests_pass:
            self._lost(answer, due)
            return
        now = self._loop.time()
        if now < self.stalled_until:
            if not answer.done() and now + LOOK_S > due:
                self._lost(answer, due)  # its caller gives up; it will be executed all the same
            self._loop.call_later(min(LOOK_S, self.stalled_until - now), self._arrive, execute, answer, due)
            return
        outcome: Any = None
        fault: Exception | None = None
        try:
            outcome = execute()
        except Exception as error:  # the caller's to judge
            fault = error
        self._loop.call_later(self._delays.draw(), self._answer, answer, outcome, fault, due)

    def _answer(self, answer: asyncio.Future[Any], outcome: Any, fault: Exception | None, due: float) -> None:
        if answer.done():
            return
        if not self.answers_pass:
            self._lost(answer, due)
        elif fault is None:
            answer.set_result(outcome)
        else:
            answer.set_exception(fault)
            answer._log_traceback = False  # its caller may be dead

    def _lost(self, answer: asyncio.Future[Any], due: float) -> None:
        self._loop.call_at(max(due, self._loop.time()), self._time_out, answer)

    def _time_out(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(Unreachable())
            answer._log_traceback = False  # as above


class Pipe:
    """One direction of a connection: what is put in comes out in order, each a moment later."""

    def __init__(self, loop: VirtualLoop, delays: Delays, deliver: Callable[[Any], None], life: str) -> None:
        self._loop = loop
        self._delays = delays
        self._deliver = deliver
        self._life = life
        self._last_at = 0.0
        self.broken = False
        self.stalled_until = 0.0

    def put(self, item: Any) -> None:
        """Send."""
        if self.broken:
            return
        at = max(self._loop.time() + self._delays.draw(), self._last_at, self.stalled_until)
        self._last_at = at
        token = NODE.set(self._life)  # it is the receiver that handles it
        try:
            self._loop.call_at(at, self._out, item)
        finally:
            NODE.reset(token)

    def _out(self, item: Any) -> None:
        if not self.broken:
            self._deliver(item)
