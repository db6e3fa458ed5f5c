"""Reads the numbers of a gateway's parts for the metrics: sizes, states, and the fill of every bounded buffer.

Not here: counts of events, which the parts keep (`app/traffic`, `app/command_meter`, `app/engine_meter`). Rule: a
reading touches plain attributes only, because it runs on the event loop at every scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from narthex.app.attempts import MAX_ENTRIES
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.control_log import MAX_UNSENT
from narthex.app.core import MAX_COMMANDS, NodeCore
from narthex.app.hub.hub import HELD_LIMIT
from narthex.app.lifecycle import Lifecycle, LifecycleState
from narthex.app.owner_plans import MAX_KNOWN
from narthex.app.provider import Provider
from narthex.app.quotas import MAX_BUCKETS
from narthex.domain.limits import Limits
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.telemetry import Reading

ENGINE_QUEUE: Final = 20_000  # `MAX_PENDING` of all three brokers
STORE_QUEUE: Final = 5_000  # `MAX_WAITING` of both stores

_STATES: Final = {state: number for number, state in enumerate(LifecycleState)}

Buffer = tuple[str, Callable[[], int], int]
"""A buffer's name, its fill, and its limit. The name of one that drops its oldest entry when it is full, and refuses
nothing, ends in `_table` or `_cache`: no alert watches those.
"""


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
        limits, runs = core.config.limits, core.config.run_limits
        self._buffers: tuple[Buffer, ...] = (
            *connection_buffers(core.limiter, limits),
            ("commands", lambda: len(core.tasks), MAX_COMMANDS),
            ("runs", lambda: core.engine.active, runs.max_running),
            ("agents_waiting", lambda: core.engine.waiting, runs.max_waiting),
            ("channel_reread", core.hub.held, HELD_LIMIT),
            ("control_unsent", lambda: core.broker.unsent, MAX_UNSENT),
            # The brokers have it, the port does not: an embedding program's own engine may have no queue.
            ("broker_queue", lambda: int(getattr(engine, "pending", 0)), ENGINE_QUEUE),
            ("store_queue", lambda: int(getattr(store, "pending", 0)), STORE_QUEUE),
            ("message_rate_table", core.quotas.__len__, MAX_BUCKETS),
            ("owner_plan_table", core.chat.owner_plans.__len__, MAX_KNOWN),
        )

    def readings(self) -> Iterable[Reading]:
        """See the module."""
        core, state = self._core, self._lifecycle.state
        yield "lifecycle_state", (), _STATES[state]
        draining = state is LifecycleState.DRAINING
        yield "drain_remaining", ("connections",), core.limiter.total if draining else 0
        yield "drain_remaining", ("runs",), core.engine.active if draining else 0
        yield "subscriptions", (), core.hub.subscriptions()
        yield "channels", (), core.hub.channels()
        yield "runs_active", (), core.engine.active
        yield "runs_waiting", (), core.engine.waiting
        yield "revocations_active", (), len(core.revocations)
        for kind, count in core.revocations.made.items():
            yield "revocations", (kind,), count
        yield from buffer_readings(self._buffers)


def buffer_readings(buffers: Iterable[Buffer]) -> Iterable[Reading]:
    """The fill and the limit of each."""
    for name, fill, limit in buffers:
        yield "buffer_fill", (name,), fill()
        yield "buffer_limit", (name,), limit


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
