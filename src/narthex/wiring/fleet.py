"""The fleet's objects of one process: snapshots, history, and what operators may ask of its connections.

Not here: the objects themselves (`app/fleet`), routes (`web/api/operators`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from narthex._version import __version__
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.buffers import Buffer, buffer_readings
from narthex.app.connection import Connection
from narthex.app.controls import ControlDispatcher
from narthex.app.fleet import FleetView, RecentRefusals, SnapshotBuilder
from narthex.app.fleet.connection_list import ConnectionLists
from narthex.app.fleet.history import MAX_UNWRITTEN, HistoryRecorder
from narthex.app.fleet.publishing import LocalOperators, SnapshotPublisher
from narthex.app.fleet.questions import MAX_OPEN, FleetQuestions
from narthex.app.fleet.snapshots import SHOWN
from narthex.app.fleet.tracing import Tracing
from narthex.app.lifecycle import Component
from narthex.app.registry import ConnectionRegistry
from narthex.ports.broker import Broker, Control
from narthex.ports.store import Store

FLEET_KINDS: Final = (
    *("snapshot", "watch", "fleet_ask", "fleet_answer"),
    *("trace", "trace_end", "trace_entries"),
)
"""Kinds of control messages that `Fleet.control` takes."""


class Fleet:
    """See the module; made inside the running loop.

    Args:
        node: this process's node id.
        kind: `gateway` or `worker`.
        environment: where it runs.
        meter: of this process.
        state: of its lifecycle.
        broker: reaches the other processes.
        store: keeps history.
        registry: the live connections; None: the process has no clients.
        operators: those that are connected here.
        trace_payloads: whether traces may show payloads.
        gauges: more gauges of snapshots.
    """

    def __init__(
        self,
        node: str,
        *,
        kind: str,
        environment: str,
        meter: PrometheusMeter,
        state: Callable[[], str],
        broker: Broker,
        store: Store,
        registry: ConnectionRegistry[Connection] | None = None,
        operators: LocalOperators | None = None,
        trace_payloads: bool = False,
        gauges: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.view = FleetView()
        self.refusals = RecentRefusals(node)
        builder = SnapshotBuilder(
            node=node,
            kind=kind,
            version=__version__,
            environment=environment,
            read=lambda: meter.figures(SHOWN),
            state=state,
            refusals=self.refusals,
            connections=registry if registry is not None else (),
            gauges=gauges,
            facts=lambda: {"broker": broker.durability, "store": store.durability},
        )
        self.history = HistoryRecorder(node, store.history, builder.figures)
        self.publisher = SnapshotPublisher(builder, self.view, broker, operators, self.history.tick)
        self.questions = FleetQuestions(node, broker)
        buffers: list[Buffer] = [
            ("history_rows_table", lambda: self.history.unwritten, MAX_UNWRITTEN),
            ("operator_questions", lambda: self.questions.open, MAX_OPEN),
        ]
        meter.read_from(partial(buffer_readings, buffers))
        found = registry if registry is not None else ConnectionRegistry[Connection]()
        self.connections = ConnectionLists(node, found, found.of_user, self.view, self.questions)
        self.tracing = Tracing(
            node,
            found,
            broker,
            store.records,
            self.publisher.show,
            allow_payloads=trace_payloads,
        )

    def handle(self, controls: ControlDispatcher) -> None:
        """Register the handlers of control messages."""
        for kind in FLEET_KINDS:
            controls.on(kind, self.control)

    def control(self, message: Control) -> None:
        """Handle a control message about the fleet."""
        if message.kind.startswith("trace"):
            self.tracing.control(message)
        elif message.kind.startswith("fleet"):
            self.questions.control(message)
        else:
            self.publisher.control(message)

    def components(self) -> list[Component]:
        """For the lifecycle, after the engines."""
        return [
            Component("history", self.history.start, self.history.stop),
            Component("snapshots", self.publisher.start, self.publisher.stop),
            Component("traces", close=self.tracing.stop),
        ]
