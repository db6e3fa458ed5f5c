"""Live traces of the messages that one user's connections, or one of them, send and receive, on any process.

Not here: how a connection is tapped (`taps`). Rules: a trace is started by an operator for at most `MAX_S`, and its
start and end are audit records; at most `MAX_TRACES` at once and `PER_S` entries a second from each process, those left
out are counted; texts are masked unless the operator asks for payloads and `NARTHEX_TRACE_PAYLOADS` allows them;
without a trace it does no work.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog

from narthex.app.connection import Connection
from narthex.app.fleet.taps import Tap, TappedSocket
from narthex.app.tasks import end_tasks, log_error
from narthex.domain.ids import user_key
from narthex.errors import ClientError, NarthexError
from narthex.ports.broker import Control, ControlBus
from narthex.ports.store import AuditRecord, Records

MAX_S: Final = 600.0
MAX_TRACES: Final = 5
PER_S: Final = 50
KEPT: Final = 500  # entries of a trace that a later reader gets
LOOK_EVERY_S: Final = 0.25  # for new connections of the traced user, and between two messages to the others

log = structlog.get_logger("narthex.fleet", log_name="narthex.fleet")


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace. `client`: one connection; empty: all of the user. `until`: its end, seconds since the epoch."""

    trace_id: str
    tenant: str
    user: str
    client: str = ""
    payloads: bool = False
    started_at: float
    until: float
    by: str
    node: str


class TraceEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message, or (`direction` `note`) what the trace itself has to say."""

    at: float
    node: str
    client: str = ""
    direction: str
    kind: str = ""
    size: int = 0
    body: str = ""


class _Running:
    """A trace on this process."""

    def __init__(self, trace: Trace, *, own: bool) -> None:
        self.trace = trace
        self.taps: dict[str, Tap] = {}
        self.fresh: list[TraceEntry] = []  # not sent yet
        self.kept: deque[TraceEntry] = deque(maxlen=KEPT)
        self.omitted = 0
        self.left = float(PER_S)
        self.ended = False
        self.recorded = not own


class Registry(Protocol):
    """The live connections (of `app.registry`)."""

    def of_user(self, user: str) -> list[Connection]:
        """Those of `Identity.user`."""


class Tracing:
    """See the module.

    Args:
        node: this node's id.
        registry: the live connections.
        broker: reaches the other processes.
        records: takes audit records.
        show: pushes an event to the operators who follow a channel here.
        allow_payloads: whether `NARTHEX_TRACE_PAYLOADS` is set.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        node: str,
        registry: Registry,
        broker: ControlBus,
        records: Records,
        show: Callable[[Mapping[str, object], str], None],
        *,
        allow_payloads: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._registry = registry
        self._broker = broker
        self._records = records
        self._show = show
        self._allow_payloads = allow_payloads
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._task: asyncio.Task[None] | None = None

    # -- operators -----------------------------------------------------------------------------------------

    async def start_trace(
        self, *, tenant: str, user: str, client: str, seconds: float, payloads: bool, by: str
    ) -> Trace:
        """Start a trace on every process. Raises ClientError (payloads, too many) or DependencyError (no audit)."""
        if payloads and not self._allow_payloads:
            raise ClientError(
                "payloads_not_allowed",
                "This gateway shows no payloads in traces.",
                "Trace with masked payloads, or set NARTHEX_TRACE_PAYLOADS.",
                number=403,
            )
        if sum(not one.ended for one in self._running.values()) >= MAX_TRACES:
            raise ClientError(
                "too_many_traces", f"{MAX_TRACES} traces are running.", "End one of them first.", number=409
            )
        now = self._clock()
        trace = Trace(
            trace_id=secrets.token_hex(8),
            tenant=tenant,
            user=user,
            client=client,
            payloads=payloads,
            started_at=now,
            until=now + max(1.0, min(seconds, MAX_S)),
            by=by,
            node=self._node,
        )
        await self._audit("trace_started", trace)
        self._begin(trace)
        await self._send("trace", {"trace": msgspec.to_builtins(trace)})
        return trace

    async def end_trace(self, trace_id: str) -> bool:
        """End a trace on every process; False: there is none of this id."""
        running = self._running.get(trace_id)
        if running is None:
            return False
        await self._send("trace_end", {"trace_id": trace_id})
        self._end(running)
        return True

    def traces(self) -> list[Trace]:
        """Those that are running."""
        return [running.trace for running in self._running.values() if not running.ended]

    def entries(self, trace_id: str, after: float) -> tuple[list[TraceEntry], bool] | None:
        """The kept entries of a trace after a moment, and whether it goes on; None: there is none of this id."""
        running = self._running.get(trace_id)
        if running is None:
            return None
        return [entry for entry in running.kept if entry.at > after], not running.ended

    # -- other processes -----------------------------------------------------------------------------------

    def control(self, message: Control) -> None:
        """Handle the control messages `trace`, `trace_end` and `trace_entries`."""
        data = message.data
        try:
            if message.kind == "trace":
                self._begin(msgspec.convert(data["trace"], Trace))
                return
            running = self._running.get(str(data["trace_id"]))
            if running is None:
                return
            if message.kind == "trace_end":
                self._end(running)
            elif data.get("node") != self._node:
                self._publish(running, msgspec.convert(data["entries"], list[TraceEntry]))
        except (msgspec.ValidationError, KeyError):  # of a version with another form
            return

    # -- this process --------------------------------------------------------------------------------------

    def _begin(self, trace: Trace) -> None:
        if trace.trace_id in self._running or (trace.payloads and not self._allow_payloads):
            return
        for old in [name for name, one in self._running.items() if one.ended][: -MAX_TRACES or None]:
            del self._running[old]
        self._running[trace.trace_id] = _Running(trace, own=trace.node == self._node)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="traces")
            self._task.add_done_callback(log_error)

    def _end(self, running: _Running) -> None:
        if running.ended:
            return
        running.ended = True
        for tap in running.taps.values():
            tap.remove()
        running.taps.clear()
        self._publish(running, [self._note("The trace ended.")])

    async def stop(self) -> None:
        """End every trace."""
        for running in list(self._running.values()):
            self._end(running)
            await self._record_end(running)
        task, self._task = self._task, None
        await end_tasks(task)

    async def _run(self) -> None:
        while any(not running.ended or not running.recorded for running in self._running.values()):
            for running in list(self._running.values()):
                try:
                    if not running.ended:
                        await self._look(running)
                    else:
                        await self._record_end(running)
                except Exception:  # a bug: this trace ends, the others go on
                    log.exception("trace_raised")
                    self._end(running)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, running: _Running) -> None:
        trace = running.trace
        running.left = min(PER_S, running.left + PER_S * LOOK_EVERY_S)
        for connection in self._registry.of_user(user_key(trace.tenant, trace.user)):
            meant = trace.client in ("", connection.client)
            if (
                meant
                and connection.client not in running.taps
                and not connection.is_closed
                and not _tapped(connection)
            ):
                running.taps[connection.client] = Tap(
                    connection, lambda *seen: self._seen(running, *seen), payloads=trace.payloads
                )
                running.fresh.append(self._note("The connection is traced from here.", connection.client))
        for client in [client for client, tap in running.taps.items() if tap.connection.is_closed]:
            running.taps.pop(client).remove()
            running.fresh.append(self._note("The connection is closed.", client))
        if running.omitted:
            running.fresh.append(self._note(f"{running.omitted} more messages are not shown."))
            running.omitted = 0
        fresh, running.fresh = running.fresh, []
        if fresh:
            self._publish(running, fresh)
            entries = {"trace_id": trace.trace_id, "node": self._node, "entries": msgspec.to_builtins(fresh)}
            await self._send("trace_entries", entries)
        if self._clock() >= trace.until:
            self._end(running)

    async def _record_end(self, running: _Running) -> None:
        """The process that started a trace records its end."""
        if running.recorded:
            return
        running.recorded = True
        try:
            await self._audit("trace_ended", running.trace)
        except NarthexError as fault:  # the record of its start has `until`
            log.warning("trace_end_not_recorded", code=fault.code)

    def _seen(
        self, running: _Running, connection: Connection, direction: str, kind: str, size: int, body: str
    ) -> None:
        if running.left < 1:
            running.omitted += 1
            return
        running.left -= 1
        running.fresh.append(
            TraceEntry(
                at=self._clock(),
                node=self._node,
                client=connection.client,
                direction=direction,
                kind=kind,
                size=size,
                body=body,
            )
        )

    def _note(self, text: str, client: str = "") -> TraceEntry:
        return TraceEntry(at=self._clock(), node=self._node, client=client, direction="note", body=text)

    def _publish(self, running: _Running, entries: list[TraceEntry]) -> None:
        running.kept.extend(entries)
        channel = f"operator:trace-{running.trace.trace_id}"
        self._show({"type": "trace", "entries": entries, "ended": running.ended}, channel)

    async def _audit(self, kind: str, trace: Trace) -> None:
        detail: dict[str, Any] = {
            "by": trace.by,
            "client": trace.client,
            "payloads": trace.payloads,
            "until": trace.until,
            "trace": trace.trace_id,
        }
        await self._records.audit(
            AuditRecord(
                at=self._clock(),
                kind=kind,
                tenant=trace.tenant,
                subject=trace.user,
                detail=msgspec.json.encode(detail).decode(),
            )
        )

    async def _send(self, kind: str, data: dict[str, object]) -> None:
        try:
            await self._broker.control(Control(kind, data))
        except NarthexError as fault:  # the connections of this process are traced all the same
            log.warning("trace_not_sent", code=fault.code)


def _tapped(connection: Connection) -> bool:
    """Whether another trace has the connection; taps would be removed in the wrong order."""
    return isinstance(connection.socket, TappedSocket)
