"""The lifespan of a guarded application: the guard starts before it and stops after it; signals begin a drain.

Servers act on SIGTERM before an application learns of it: uvicorn closes every socket with 1012 and only then ends the
lifespan. So the guard puts its own handler in front of the server's: drain first, then the server's handler. Rules: an
application without lifespan stays one; a second signal is the server's at once; the handler is put back at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from narthex.adapters.telemetry.logging import get_logger
from narthex.guard.scopes import Message, Scope
from narthex.guard.sockets import Receive, Send

if TYPE_CHECKING:
    from narthex.guard.asgi import Guard

log = get_logger("narthex.guard")


class Lifespan:
    """One run of the lifespan protocol.

    Args:
        guard: what starts and stops.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._signals = Signals(guard.drain)
        self._started = False  # the application answered the start-up, or has no lifespan

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI's lifespan protocol."""
        event = await receive()
        await self._guard.start()
        self._signals.install()
        told = False

        async def app_receive() -> Message:
            nonlocal told
            if not told:
                told = True
                return event
            return await receive()

        async def app_send(message: Message) -> None:
            self._started = True
            if message["type"].startswith("lifespan.shutdown") or message["type"].endswith(".failed"):
                await self._stop()
            await send(message)

        try:
            await self._guard.app(scope, app_receive, app_send)
        except Exception as fault:
            if self._started:
                await self._stop()
                raise
            # The application knows no lifespan (it raises for the scope's type): the guard has one all the same. An
            # application whose start-up failed without the protocol's message looks the same, so the log says it.
            log.info("the application has no lifespan", fault=f"{type(fault).__name__}: {fault}"[:200])
        if not self._started:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._stop()
            await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self) -> None:
        self._signals.restore()
        await self._guard.stop()


class Signals:
    """Drains on SIGTERM and SIGINT before the server's own handler acts.

    Args:
        drain: ends when all sockets are closed.
    """

    def __init__(self, drain: Callable[[], Any]) -> None:
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[int, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._over = False  # the server is shutting down already

    def install(self) -> None:
        """Put the handlers in front, where this is the main thread and the server has handlers of its own."""
        self._loop = asyncio.get_running_loop()
        try:
            if self._loop.remove_signal_handler(signal.SIGTERM):
                # hypercorn and granian: the loop keeps the server's callback to itself; SIGINT has the same one.
                self._loop.add_signal_handler(signal.SIGTERM, self._signalled, signal.SIGTERM, None)
                return
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._signalled)
        except (ValueError, RuntimeError):  # not the main thread
            self._before.clear()

    def restore(self) -> None:
        """Give the signals back to the server, where that is possible."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._signalled:
                signal.signal(number, before)
        self._over = True

    def _signalled(self, number: int, frame: Any) -> None:
        assert self._loop is not None
        if self._task is not None:
            self._pass_on(number, frame)
            return
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        assert self._loop is not None
        if self._task is None:
            log.info("drain", signal=signal.Signals(number).name)
            self._task = self._loop.create_task(self._drain_then(number))

    async def _drain_then(self, number: int) -> None:
        try:
            await self._drain()
        finally:
            self._pass_on(number, None)

    def _pass_on(self, number: int, frame: Any) -> None:
        """Let the server act."""
        before = self._before.get(number)
        if before is not None and not self._over:
            before(number, frame)
        elif not self._over:
            os.kill(os.getpid(), signal.SIGINT)
