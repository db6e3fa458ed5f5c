"""Shared by all parts of the run engine: ports, limits, clock, notices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec

from narthex.app.delivery_traces import DeliveryTraces
from narthex.app.runs.agent_coverage import AgentCoverage
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.domain.identity import Identity
from narthex.domain.runs import RUN_ERRORS
from narthex.ports.agents import Agent
from narthex.ports.broker import Broker, Position
from narthex.ports.runs import Run, Runs
from narthex.ports.telemetry import Meter
from narthex.ports.threads import Threads
from narthex.ports.tracing import NO_TRACING, Tracer


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the run engine.

    Attributes:
        run_deadline_s: a run that takes longer is ended with `agent_timeout`.
        join_window_s: the longest wait of a delta for others (docs/design.md#runs: 40 ms).
        silence_s: after this time without an event the gateway announces that the agent still works.
        thread_queue: queued runs of one thread.
        max_running: runs at a time on this node.
        max_waiting: agents of this node that wait for a user's answer (a parked coroutine costs some kB).
        max_event_bytes: one event; a quarter of a client's limit of pending bytes (1 MB).
        max_run_bytes: all output of an agent in one run; it is kept in memory until the run is compacted.
        max_run_events: published events of one run (25 a second, the joined rate, for half an hour).
        lease_s: ownership without renewal. With `poll_s` it bounds how long a dead owner's run stays open:
            8 s + 1 s + the ending itself, within the 15 s of docs/design.md#runs.
        renew_s: time between renewals; three may fail.
        poll_s: time between looks for queued and orphaned runs without a control message.
        look_s: time between looks for queued runs that no node claims (`agent_coverage`).
        answer_s: how long an approval waits.
        stop_grace_s: a cancelled agent's time to clean up.
        broker_patience_s: how long an event's publish is retried before the run is given up.
        max_attempts: attempts of a restartable agent, the first one included.
        keep_events: publications of a thread's channel kept for recovery after a run was compacted.
        show_errors: whether RUN_ERROR carries an exception's own text (development and testing only).
    """

    run_deadline_s: float = 600.0
    join_window_s: float = 0.04
    silence_s: float = 10.0
    thread_queue: int = 20
    max_running: int = 2_000
    max_waiting: int = 1_000
    max_event_bytes: int = 256 * 1024
    max_run_bytes: int = 4 * 1024 * 1024
    max_run_events: int = 45_000
    lease_s: float = 8.0
    renew_s: float = 2.0
    poll_s: float = 1.0
    look_s: float = 3.0
    answer_s: float = 900.0
    stop_grace_s: float = 1.0
    broker_patience_s: float = 30.0
    max_attempts: int = 3
    keep_events: int = 10_000
    show_errors: bool = False


class NotifyMembers(Protocol):
    """`app.chat.Chat.notify_members`: a CUSTOM notice to every device of every member of a thread."""

    def __call__(
        self, tenant: str, thread_id: str, name: str, value: Mapping[str, object], *, key: str = ""
    ) -> Awaitable[None]:
        """Publish; `key` makes a repeat harmless."""


class Say(Protocol):
    """`app.chat.Chat.say`: store and publish a user's message, once."""

    def __call__(
        self, identity: Identity, thread_id: str, message_id: str, text: str
    ) -> Awaitable[tuple[Position, bool]]:
        """The channel's position after the message, and whether it is new in the thread."""


class RunServices:
    """The shared services. `owner` names this process's life (node id and a random part), `node` the node,
    `serves_users` whether users are connected here, `coverage` which agents' runs begin here.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        runs: Runs,
        threads: Threads,
        agents: Mapping[str, Agent],
        node: str,
        owner: str,
        now: Callable[[], float],
        meter: Meter,
        limits: RunLimits,
        notify_members: NotifyMembers,
        say: Say,
        concurrent_runs: Callable[[Identity], int],
        tracer: Tracer = NO_TRACING,
        deliveries: DeliveryTraces | None = None,
        claims: bool = True,
        serves_users: Callable[[], bool] = lambda: True,
        presence: WorkerPresence | None = None,
    ) -> None:
        self.broker = broker
        self.runs = runs
        self.threads = threads
        self.agents = agents
        self.node = node
        self.owner = owner
        self.now = now
        self.meter = meter
        self.limits = limits
        self.notify_members = notify_members
        self.say = say
        self.concurrent_runs = concurrent_runs
        self.tracer = tracer
        self.deliveries = deliveries
        self.serves_users = serves_users
        self.coverage = AgentCoverage(
            broker, runs, agents, node, claims=claims, serves_users=serves_users, presence=presence
        )
        meter.count("bugs", 0, where="runs")
        meter.count("runs", 0, state="finished", error="")
        for error in (*RUN_ERRORS, "agent"):
            meter.count("runs", 0, state="failed", error=error)


_TOKEN_FIELDS: Final = {"issuer": "", "token_id": "", "issued_at": None, "expires_at": None}


def identity_json(identity: Identity) -> str:
    """An identity for `Run.identity`: without the parts that belong to its token."""
    return msgspec.json.encode(msgspec.structs.replace(identity, **_TOKEN_FIELDS)).decode()


def identity_of(run: Run) -> Identity:
    """The identity that started a run."""
    return msgspec.json.decode(run.identity, type=Identity)


def node_of(owner: str) -> str:
    """The node id of a run's owner."""
    return owner.rpartition("/")[0]
