"""Sends this process's snapshots to all others, takes theirs, and shows both to the operators who are connected here.

Not here: what a snapshot holds (`snapshots`), keeping figures over time (`history`). Rules: while operators watch
somewhere, a snapshot is sent every second, else every 10 s; a broker that is away costs the other processes' news and
nothing else; operators get snapshots on the channel `operator:live`, which is in no log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog

from narthex.app.fleet.snapshots import Snapshot, SnapshotBuilder
from narthex.app.fleet.view import FleetView
from narthex.app.periodic import BackgroundTask
from narthex.domain.channels import OPERATOR_LIVE, operator_key
from narthex.errors import NarthexError
from narthex.ports.broker import Control, ControlBus
from narthex.protocol.replies import encode_json

WATCHED_EVERY_S: Final = 1.0
SPARSE_EVERY_S: Final = 10.0
WATCH_S: Final = 12.0  # for which one announcement of watching operators counts
ANNOUNCE_EVERY_S: Final = 4.0

log = structlog.get_logger("narthex.fleet", log_name="narthex.fleet")


class LocalOperators(Protocol):
    """The operators that are connected to this process (of `app.hub.Hub`)."""

    def subscribers(self, key: str) -> list[Any]:
        """Local subscribers of a channel."""

    def control(self, message: Control) -> None:
        """Takes `ephemeral`: a push to local subscribers that is in no history."""


class SnapshotPublisher(BackgroundTask):
    """See the module.

    Args:
        builder: of this process's snapshots.
        view: takes everyone's.
        broker: sends to the other processes.
        operators: connected here; None in a process without clients.
        on_tick: called with the clock's time at every tick, at least each 10 s (history).
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        builder: SnapshotBuilder,
        view: FleetView,
        broker: ControlBus,
        operators: LocalOperators | None = None,
        on_tick: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(self._run, "snapshots")
        self._builder = builder
        self._view = view
        self._broker = broker
        self._operators = operators
        self._on_tick = on_tick
        self._clock = clock
        self._woken = asyncio.Event()
        self._asked_until = 0.0
        self._announced_at = 0.0
        self._away = False

    async def stop(self) -> None:
        """Send a last snapshot, so that the process counts as gone and not as dead."""
        running = self._task is not None
        await super().stop()
        if running:
            snapshot = self._builder.build(0.0)
            snapshot.state = "stopped"
            await self._send("snapshot", {"snapshot": msgspec.to_builtins(snapshot)})

    def wake(self) -> None:
        """Send the next snapshot now: something changed that operators should see."""
        self._woken.set()

    def watch(self) -> None:
        """An operator asks this process: snapshots come every second for a while, from all processes."""
        self._asked_until = self._clock() + WATCH_S
        if self._view.watch(WATCH_S):
            self._woken.set()

    def control(self, message: Control) -> None:
        """Handle the control messages `snapshot` and `watch` of other processes."""
        if message.kind == "watch":
            if self._view.watch(WATCH_S):
                self._woken.set()
            return
        try:
            snapshot = msgspec.convert(message.data["snapshot"], Snapshot)
        except (msgspec.ValidationError, KeyError):  # of a version with another form
            return
        if snapshot.node != self._builder.node:
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        self._view.take(snapshot)
        self.show({"type": "snapshot", "snapshot": snapshot})

    def show(self, event: Mapping[str, object], channel: str = OPERATOR_LIVE) -> None:
        """Push an event to the operators that are connected here."""
        key = operator_key(channel)
        if self._operators is not None and self._operators.subscribers(key):
            data: dict[str, object] = {"channel": key, "data": encode_json(event).decode()}
            self._operators.control(Control("ephemeral", data))

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
            except Exception:  # a bug: operators would see nothing any more
                log.exception("snapshot_raised")
            now = self._clock()
            every_s = self._every_s()
            try:
                async with asyncio.timeout(every_s - now % every_s):
                    await self._woken.wait()
            except TimeoutError:
                continue
            finally:
                self._woken.clear()

    async def _tick(self) -> None:
        now = self._clock()
        if self._operators is not None and self._operators.subscribers(operator_key(OPERATOR_LIVE)):
            self._asked_until = now + WATCH_S
            self._view.watch(WATCH_S)
        if now < self._asked_until and now - self._announced_at >= ANNOUNCE_EVERY_S:
            self._announced_at = now
            await self._send("watch", {})
        self._on_tick(now)
        snapshot = self._builder.build(self._every_s())
        self._take(snapshot)
        await self._send("snapshot", {"snapshot": msgspec.to_builtins(snapshot)})

    def _every_s(self) -> float:
        return WATCHED_EVERY_S if self._view.watched else SPARSE_EVERY_S

    async def _send(self, kind: str, data: dict[str, object]) -> None:
        try:
            await self._broker.control(Control(kind, data))
        except NarthexError as fault:
            if not self._away:
                log.warning("snapshot_not_sent", code=fault.code)
            self._away = True
        else:
            self._away = False
