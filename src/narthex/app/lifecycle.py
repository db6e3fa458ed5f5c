"""Start, readiness and drain of one node: the order of opening and closing components, and the state meanwhile.

    starting ──(engines, keys and runs are there)──▶ ready ──(SIGTERM, drain)──▶ draining ──▶ stopped

Not here: the components (`app/core` and wiring). Rules: nothing is admitted before `ready`; `draining` is final; a
component that cannot be opened yet is closed and tried again alone, those before it stay open meanwhile, so that an
engine which comes late costs no more than its own time; every opened component is closed in the opposite order at the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from narthex.app.drain import Closable, close_paced

RUNS_SHARE: Final = (
    0.5  # of the grace that runs get to finish: their ends must reach clients before the last closes
)


class LifecycleState(StrEnum):
    """The states of the module's diagram."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


async def _nothing(*_: object) -> None:
    return None


class Component(NamedTuple):
    """A part that is opened and closed. `close` must be safe after a failed `open`, and `open` after that."""

    name: str
    open: Callable[[], Awaitable[None]] = _nothing
    close: Callable[[], Awaitable[None]] = _nothing


class Lifecycle:
    """Opens and closes the components in order; see the module.

    Args:
        components: in the order of opening.
        registry: the live connections; none in a process without WebSockets.
        drain_runs: finishes, moves or ends this node's runs within the given seconds.
        busy: returns a test, as of now, whether a connection follows an active run.
        grace_s: of the whole drain.
        on_state: takes every change (log, metric).

    Attributes:
        fault: why the last `start` failed: the name of the component, and its error.
    """

    def __init__(
        self,
        components: list[Component],
        registry: Iterable[Closable] = (),
        drain_runs: Callable[[float], Awaitable[None]] = _nothing,
        busy: Callable[[], Callable[[Any], bool]] = lambda: lambda _: False,
        *,
        grace_s: float,
        on_state: Callable[[LifecycleState], None],
    ) -> None:
        self._components = components
        self._registry = registry
        self._drain_runs = drain_runs
        self._busy = busy
        self._grace_s = grace_s
        self._on_state = on_state
        self._opened: list[Component] = []
        self._draining: asyncio.Task[None] | None = None
        self.state = LifecycleState.STARTING
        self.fault: tuple[str, Exception] | None = None

    def add(self, components: list[Component], *, first: bool = False) -> None:
        """More components, opened after the others, or with `first` before them."""
        at = 0 if first else len(self._components)
        self._components[at:at] = components

    def _enter(self, state: LifecycleState) -> None:
        self.state = state
        self._on_state(state)

    async def start(self) -> None:
        """Open every component that is not open yet, then be ready.

        A component's error is raised after that component was closed again; an error of its closing is ignored.
        `start` may then be called again and continues there, or `stop` closes the open ones.
        """
        for component in self._components[len(self._opened) :]:
            self._opened.append(component)
            try:
                await component.open()
            except BaseException as fault:
                if self._opened:  # else `stop` came meanwhile and has closed it
                    self._opened.pop()
                    with contextlib.suppress(
                        Exception
                    ):  # of a component that was not opened; the first error is the cause
                        await component.close()
                if isinstance(fault, Exception):
                    self.fault = (component.name, fault)
                raise
        self.fault = None
        # A SIGTERM may have come meanwhile, and `draining` is final
        if self.state is LifecycleState.STARTING:
            self._enter(LifecycleState.READY)

    async def drain(self) -> None:
        """Drain within the grace; a second call waits for the first."""
        if self._draining is None:
            self._enter(LifecycleState.DRAINING)
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        runs_ended = asyncio.Event()
        closing = loop.create_task(
            close_paced(
                list(self._registry),
                self._busy(),
                grace_s=self._grace_s,
                runs_ended=runs_ended,
                now=loop.time,
            )
        )
        try:
            async with asyncio.timeout(self._grace_s * RUNS_SHARE + 0.5):
                await self._drain_runs(self._grace_s * RUNS_SHARE)
        except TimeoutError:
            pass  # their leases run out and another node takes them over
        finally:  # an engine that is down must not keep sockets from being closed
            runs_ended.set()
            await closing

    async def stop(self) -> None:
        """Close every opened component, last opened first. One component's error does not keep the others open."""
        faults = await self._close_components()
        if self.state is not LifecycleState.STOPPED:
            self._enter(LifecycleState.STOPPED)
        if faults:
            raise ExceptionGroup("closing failed", faults)

    async def _close_components(self) -> list[Exception]:
        faults: list[Exception] = []
        while self._opened:
            component = self._opened.pop()
            try:
                await component.close()
            except Exception as fault:  # the others must be closed all the same; raised below
                faults.append(fault)
        return faults
