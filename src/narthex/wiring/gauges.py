"""Reads the numbers of a gateway's parts for the metrics: sizes, states, and the fill of every bounded buffer.

Not here: counts of events, which the parts keep (`app/traffic`, `app/command_meter`, `app/engine_meter`). Rule: a
reading touches plain attributes only, because it runs on the event loop at every scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from narthex.adapters.agents.threaded import MAX_THREADS, running_threads
from narthex.app.attempts import MAX_ENTRIES
from narthex.app.buffers import Buffer, buffer_readings
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.control_log import MAX_UNSENT, ControlLog
from narthex.app.core import MAX_COMMANDS, NodeCore
from narthex.app.hub.hub import HELD_LIMIT
from narthex.app.lifecycle import Lifecycle, LifecycleState
from narthex.app.owner_plans import MAX_KNOWN
from narthex.app.provider import Provider
from narthex.app.quotas import MAX_BUCKETS
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.services import RunLimits
from narthex.domain.limits import Limits
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.telemetry import Reading

ENGINE_QUEUE: Final = 20_000  # `MAX_PENDING` of all three brokers
STORE_QUEUE: Final = 5_000  # `MAX_WAITING` of both stores

_STATES: Final = {state: number for number, state in enumerate(LifecycleState)}


class Gauges:
    """See the module. `readings` fits `Meter.read_from`.

    Args:
        core: of the node.
        lifecycle: its state.
        engine: the broker itself.
        store: the store itself.
    """

    def __init__(self, core: NodeCore, lifecycle: Lifecycle, engine: Broker, store: Store) -> None:
        self._core = core
        self._lifecycle = lifecycle
        self._buffers: tuple[Buffer, ...] = (
            *connection_buffers(core.limiter, core.config.limits),
            ("commands", lambda: len(core.tasks), MAX_COMMANDS),
            *run_buffers(core.engine, core.config.run_limits),
            ("channel_reread", core.hub.held, HELD_LIMIT),
            *engine_buffers(core.broker, engine, store),
            ("message_rate_table", core.quotas.__len__, MAX_BUCKETS),
            ("owner_plan_table", core.chat.owner_plans.__len__, MAX_KNOWN),
        )

    def readings(self) -> Iterable[Reading]:
        """See the module."""
        core = self._core
        yield from lifecycle_readings(self._lifecycle.state, core.limiter.total, core.engine.active)
        yield "subscriptions", (), core.hub.subscriptions()
        yield "channels", (), core.hub.channels()
        yield "runs_active", (), core.engine.active
        yield "runs_waiting", (), core.engine.waiting
        yield "revocations_active", (), len(core.revocations)
        for kind, count in core.revocations.made.items():
            yield "revocations", (kind,), count
        yield from buffer_readings(self._buffers)


class WorkerGauges:
    """The same of a worker, which has runs and no connections.

    Args:
        runs: its engine.
        limits: of its runs.
        control: its control log.
        state: of its lifecycle.
        engine: the broker itself.
        store: the store itself.
    """

    def __init__(
        self,
        runs: RunEngine,
        limits: RunLimits,
        control: ControlLog,
        state: Callable[[], LifecycleState],
        engine: Broker,
        store: Store,
    ) -> None:
        self._runs = runs
        self._state = state
        self._buffers = (*run_buffers(runs, limits), *engine_buffers(control, engine, store))

    def readings(self) -> Iterable[Reading]:
        """See the module."""
        yield from lifecycle_readings(self._state(), 0, self._runs.active)
        yield "runs_active", (), self._runs.active
        yield "runs_waiting", (), self._runs.waiting
        yield from buffer_readings(self._buffers)


def lifecycle_readings(state: LifecycleState, connections: int, runs: int) -> Iterable[Reading]:
    """The state of a process and, while it drains, what it has left."""
    draining = state is LifecycleState.DRAINING
    yield "lifecycle_state", (), _STATES[state]
    yield "drain_remaining", ("connections",), connections if draining else 0
    yield "drain_remaining", ("runs",), runs if draining else 0


def run_buffers(runs: RunEngine, limits: RunLimits) -> tuple[Buffer, ...]:
    """The runs of a process, those of them whose agent waits for an answer, and the threads of agents without async."""
    return (
        ("runs", lambda: runs.active, limits.max_running),
        ("agents_waiting", lambda: runs.waiting, limits.max_waiting),
        ("agent_threads", running_threads, MAX_THREADS),
    )


def engine_buffers(control: ControlLog, engine: Broker, store: Store) -> tuple[Buffer, ...]:
    """What waits for the broker and the store."""
    return (
        ("control_unsent", lambda: control.unsent, MAX_UNSENT),
        # The brokers have it, the port does not: an embedding program's own engine may have no queue.
        ("broker_queue", lambda: int(getattr(engine, "pending", 0)), ENGINE_QUEUE),
        ("store_queue", lambda: int(getattr(store, "pending", 0)), STORE_QUEUE),
    )


def connection_buffers(limiter: ConnectionLimiter, limits: Limits) -> tuple[Buffer, ...]:
    """The connections of a process, and those of them whose user is not known yet."""
    return (
        ("connections", lambda: limiter.total, limits.max_connections),
        ("connections_unauthenticated", lambda: limiter.unproven, limits.max_connections_unauthenticated),
    )


def attempt_table(name: str, fill: Callable[[], int]) -> Callable[[], Iterable[Reading]]:
    """The fill and the limit of a table of failed attempts."""
    return partial(buffer_readings, [(name, fill, MAX_ENTRIES)])


def provider_counts(provider: Provider) -> Callable[[], Iterable[Reading]]:
    """The embedded provider's sign-ins and the refreshes of its sessions."""

    def readings() -> Iterable[Reading]:
        for result, count in provider.refreshes.items():
            yield "token_refreshes", ("session", result), count
        for labels, count in provider.sign_ins.items():
            yield "sign_ins", labels, count
        yield from buffer_readings([("failed_sign_in_table", provider.failed_sign_ins, MAX_ENTRIES)])

    return readings
