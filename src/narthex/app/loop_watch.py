"""Reports the code that blocks the event loop while it is blocked: the agent, the line, and the remedy.

A thread checks whether a timer of the loop still ticks. Not here: how late timers are in general (`loop_lag`). Rules:
the thread only reads (frames, the current task's name) and logs; its log is bounded: a line at `HELD_S`, then at ten
times that, then at a hundred times, and once when the loop is free again.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any, Final

import structlog

from narthex.ports.telemetry import Meter

HELD_S: Final = 1.0  # clients notice; a garbage collection or a busy machine takes less
TICK_S: Final = 0.25  # as `loop_lag`'s, so that one wake of an idle process serves both
FRAMES: Final = 12  # the innermost ones: the agent's own, and its calls
AGENT_TASK: Final = "agent "
"""The name of an agent's task: `agent <name> <run id>`."""
REMEDY: Final = (
    "Do not block the loop: use an async client, asyncio.sleep or asyncio.to_thread. An agent declared "
    "`def` runs in a thread of its own; `narthex worker` runs agents in processes of their own."
)

log = structlog.get_logger("narthex.loop", log_name="narthex.loop")


class LoopWatch:
    """See the module.

    Args:
        meter: counts each time that the loop was blocked, by the blocking agent.
        held_s: see `HELD_S`.
    """

    def __init__(self, meter: Meter, *, held_s: float = HELD_S) -> None:
        self._meter = meter
        self._held_s = held_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0

    async def start(self) -> None:
        """Watch the loop that runs this call."""
        self._ended.clear()
        loop = asyncio.get_running_loop()
        self._tick(loop)
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="narthex loop watch", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """Stop watching; idempotent."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticked_at = time.monotonic()
        self._timer = loop.call_later(TICK_S, self._tick, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        """The thread's work."""
        next_at_s, holder = self._held_s, ""
        before = time.monotonic()
        while not self._ended.wait(self._held_s / 4):
            now = time.monotonic()
            if (
                now - before > self._held_s
            ):  # this thread did not run either: the machine or the process was paused
                before = now
                continue
            before = now
            if not loop.is_running():  # an embedding program's, between two calls of run_until_complete
                if loop.is_closed():
                    return
                self._ticked_at = now
                continue
            held_s = now - self._ticked_at - TICK_S
            if held_s >= next_at_s:
                holder = self._say(loop, thread, held_s)
                next_at_s *= 10
            elif next_at_s > self._held_s and held_s < self._held_s:
                log.warning("event loop free again", holder=holder)
                next_at_s, holder = self._held_s, ""

    def _say(self, loop: asyncio.AbstractEventLoop, thread: int, held_s: float) -> str:
        """Log the code that blocks the loop; returns the name of the agent or task."""
        agent, run_id = "", ""
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - CPython documents it for debuggers
        task = asyncio.current_task(loop)
        name = task.get_name() if task is not None else ""
        if name.startswith(AGENT_TASK):
            agent, _, run_id = name.removeprefix(AGENT_TASK).rpartition(" ")
        holder = f"agent {agent}" if agent else "a handler"
        more: dict[str, Any] = {"agent": agent, "run_id": run_id} if agent else {}
        log.error(
            "event loop held",
            holder=holder,
            held_s=round(held_s, 1),
            where=_where(frame),
            stack="".join(traceback.format_stack(frame)[-FRAMES:]) if frame is not None else "",
            remedy=REMEDY,
            **more,
        )
        self._meter.count("loop_held", by="agent" if agent else "other")
        return holder


def _where(frame: FrameType | None) -> str:
    """The innermost frame as `file:line function`."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" if frame is not None else ""
