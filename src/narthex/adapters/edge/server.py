"""Runs the server process: uvicorn, and the drain at SIGTERM.

Stock uvicorn closes its listener first and then waits for WebSockets for ever or sends 1012 to all at once.
Here the first signal starts `drain` while the listener stays open, so that the upgrade handler answers new upgrades
with 503 `draining`; then the server closes the listener and the remaining connections, all within `grace_s`. A
second signal ends the process at once. Rules: no access log (query strings hold tickets); only `domain`'s one function
reads forwarding headers, so uvicorn's own reading is off; standard output belongs to the caller (`on_started`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import uvicorn

from narthex.adapters.edge.edge import Edge, log
from narthex.adapters.edge.head_stage import ProtocolFactory
from narthex.adapters.edge.listeners import url_of_listener
from narthex.adapters.edge.upstream.relay import Relay
from narthex.adapters.edge.websocket import WebSocket
from narthex.app.tasks import end_tasks
from narthex.domain.refusals import Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGIApplication

T = TypeVar("T")

Drain = Callable[[], Awaitable[None]]
"""Finishes or hands over runs and closes sockets, in paced batches. Cancelled when the grace is over."""

BACKLOG: Final = (
    65_535  # more than the kernel's own limit, net.core.somaxconn, so that operators can raise that
)
# uvloop's libuv accepts one connection per listening descriptor and loop iteration, so that each of many concurrent
# clients costs an iteration. With four copies of the listener a handshake among many takes a quarter less time, with
# eight another 7 %, with sixteen 5 %; for a single client each doubling adds 4 to 10 %, for checks of an empty queue.
_LISTENER_COPIES: Final = 8
_DATE_EVERY_S: Final = 1.0  # the `Date` of answers
_CLOSE_SHARE: Final = 0.2  # of the grace is reserved for closing the connections that `drain` left
# Measured with 10,000 sockets: with the default thresholds, full collections of every live object run repeatedly
# while connections arrive; reference counts free the loop's allocations per event. The young objects are checked
# while they are still in the cache (2,000 of them are some 100 connections), which makes a handshake 2 % faster
# than with 20,000. The next generation is collected after 40,000 objects, which holds the loop for some 50 ms when
# they are all alive; after 400,000, as at first, a flood of 20,000 connections held it for half a second each time.
# Full collections stay as rare as they were (after 20 million objects).
_GC_THRESHOLDS: Final = (2_000, 20, 500)


class EdgeServer(uvicorn.Server):
    """uvicorn with our protocol in its `http` slot.

    Args:
        app: the web application; it gets every request that is no upgrade.
        edge: upgrade handler, rules and limits.
        drain: called once on the first signal, while the listener is still open.
        on_started: called with the URLs once the port is open, for example `http://127.0.0.1:8000`.
        grace_s: from the signal to the end of the process, in seconds.
        lifespan: as uvicorn's: whether the application gets start-up and shutdown events.
        own_signals: handle SIGTERM and SIGINT; off when other code calls `stop`.

    Attributes:
        forced: whether a second signal cut the drain short.
    """

    def __init__(
        self,
        app: ASGIApplication,
        edge: Edge,
        *,
        drain: Drain | None = None,
        on_started: Callable[[list[str]], None] | None = None,
        grace_s: float = 10.0,
        lifespan: Literal["auto", "on", "off"] = "auto",
        own_signals: bool = True,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=ProtocolFactory(edge),  # type: ignore[arg-type]  # uvicorn calls the class; a callable serves
                ws="none",
                loop="none",
                lifespan=lifespan,
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                root_path=edge.root_path,
                backlog=BACKLOG,
                timeout_keep_alive=edge.limits.keep_alive_s,
            )
        )
        self.edge = edge
        self.forced = False
        self._drain = drain
        self._drain_task: asyncio.Task[None] | None = None
        self._on_started = on_started
        self._grace_s = grace_s
        self._own_signals = own_signals
        self._stop_by: float | None = None  # monotonic; set by the first signal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def stop(self) -> None:
        """Begin to stop, as a first signal does. A second call ends at once."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._grace_s
        else:
            self.forced = self.force_exit = self.should_exit = True
        self._wake()

    @property
    def stopping(self) -> bool:
        """Whether a signal or `stop` has begun the drain."""
        return self._stop_by is not None

    def stop_once(self) -> None:
        """Begin to stop unless that has begun. For commands, so that a repeated one does not cut the drain short."""
        if not self.stopping:
            self.stop()

    # uvicorn's hooks.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. It is not raised again at the end, so that a drained process exits 0."""
        del sig, frame
        self.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:  # uvicorn's own annotation is a generator that mypy cannot narrow
        """Handle SIGTERM and SIGINT while serving, if `own_signals` is set."""
        if not self._own_signals:
            yield
            return
        with super().capture_signals():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and report the URLs."""
        self._loop = loop = asyncio.get_running_loop()
        self.edge.start(loop)
        await super().startup(sockets and _listeners(sockets, loop))
        if self.should_exit:
            return
        if self._own_signals:  # then the process is ours to tune
            _settle_collector()
        if self._on_started is not None:
            self._on_started([url_of_listener(listener) for listener in sockets or []])

    async def main_loop(self) -> None:
        """Wait for a signal and for the end of the drain. uvicorn's own loop wakes ten times a second to ask."""
        while not await self.on_tick(0):  # 0: with the second's `Date`
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DATE_EVERY_S):
                    await self._woken.wait()
            self._woken.clear()

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn: whether the server is over."""
        if self._stop_by is not None and not self.should_exit:
            if self._drain_task is None:
                self._drain_task = asyncio.create_task(self._run_drain(), name="narthex-drain")
                self._drain_task.add_done_callback(lambda _: self._woken.set())
            elif self._drain_task.done():
                self.should_exit = True
        return await super().on_tick(counter)

    def _wake(self) -> None:
        """End the wait of `main_loop`; also from a signal handler, which may interrupt the loop at any place."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # a signal after the end of the loop
                self._loop.call_soon_threadsafe(self._woken.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and the remaining connections, within the grace."""
        if self._drain_task is not None and not self._drain_task.done():
            await end_tasks(self._drain_task)
        for server in self.servers:
            server.close()
        await self._close_sockets()
        for connection in self.edge.connections:
            connection.stage.end()
        self.config.timeout_graceful_shutdown = max(1, math.ceil(self._left()))
        await super().shutdown(sockets)
        self.edge.timers.stop()

    def _left(self) -> float:
        if self.force_exit:
            return 0.0
        return self._grace_s if self._stop_by is None else self._stop_by - time.monotonic()

    async def _run_drain(self) -> None:
        if self._drain is None:
            return
        try:
            async with asyncio.timeout(max(0.0, self._left() - self._grace_s * _CLOSE_SHARE)):
                await self._drain()
        except TimeoutError:
            log.warning("the drain took longer than its grace period of %s s", self._grace_s)
        except Exception:
            log.exception("the drain failed")

    async def _close_sockets(self) -> None:
        """Send close frames to the remaining clients, and wait a moment for their answers."""
        for socket_ in self._sockets():
            socket_.close(*Refusal(code="draining").close())
        until = time.monotonic() + min(self._left(), self._grace_s) * 0.5
        while self._sockets() and time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110  (a signal ends it too)
            await asyncio.sleep(0.02)

    def _sockets(self) -> list[WebSocket | Relay]:
        return [one.stage for one in self.edge.connections if isinstance(one.stage, WebSocket | Relay)]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:  # not on PyPy and Windows: slower, otherwise the same
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def _listeners(listeners: list[socket.socket], loop: asyncio.AbstractEventLoop) -> list[socket.socket]:
    """The listeners, with several copies of each if the loop accepts one connection per iteration from each (see
    `_LISTENER_COPIES`). The copies belong to uvicorn's servers, which close them.
    """
    if isinstance(loop, asyncio.BaseEventLoop):  # asyncio's own accepts until the queue is empty
        return listeners
    return [
        copy
        for listener in listeners
        for copy in (listener, *(listener.dup() for _ in range(_LISTENER_COPIES - 1)))
    ]


def _settle_collector() -> None:
    gc.collect()
    gc.freeze()  # objects so far stay for ever: the collector can skip them
    gc.set_threshold(*_GC_THRESHOLDS)
