"""A snapshot: the state of one process at one moment, as it sees itself, small enough to be sent every second.

Not here: sending (`publishing`), the view of all processes (`view`). Rules: no address and no secret is in a
snapshot, and a user only in a refusal (`refusals`); the figures are those of `SHOWN`; walking the connections costs at
most `WALK_SHARE` of a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from narthex.app.connection import Connection
from narthex.app.fleet.refusals import RecentRefusal, RecentRefusals
from narthex.domain.figures import Figures

SHOWN: Final[dict[str, int]] = {
    "handshakes": 3,
    "handshake_seconds": 0,
    "credential_extractions": 1,
    "connections_active": 1,
    "connections_evicted": 1,
    "disconnects": 1,
    "token_refreshes": 2,
    "revocations": 1,
    "e2e_admissions": 1,
    "e2e_tests": 1,
    "breaker_state": 2,
    "health_status": 1,
    "auth_bypass_active": 0,
    "key_expiry_timestamp_seconds": 1,
    "deliveries": 0,
    "delivered_bytes": 0,
    "commands": 2,
    "command_seconds": 0,
    "clients_lagging": 0,
    "client_backlog_bytes": 0,
    "client_lag_max_seconds": 0,
    "slow_closes": 1,
    "subscriptions": 0,
    "channels": 0,
    "recoveries": 1,
    "channels_behind": 0,
    "events_lost": 0,
    "runs": 2,
    "runs_active": 0,
    "runs_queued": 0,
    "run_queue_seconds": 0,
    "runs_waiting": 0,
    "run_start_seconds": 0,
    "run_cancel_seconds": 0,
    "run_seconds": 0,
    "runs_taken_over": 0,
    "runs_lost": 0,
    "engine_seconds": 1,
    "engine_failures": 1,
    "loop_lag_seconds": 0,
    "drain_remaining": 1,
    "bugs": 0,
}
"""Metrics of the catalogue that the dashboard shows, and how many of their labels: a snapshot stays small."""
WALK_SHARE: Final = 0.005


class Snapshot(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See the module.

    Attributes:
        node: id of the process, new at each start.
        kind: `gateway` or `worker`.
        version: of narthex.
        environment: where it runs.
        state: of its lifecycle; the last snapshot of a process that ends in order says `stopped`.
        started_at: seconds since the epoch.
        at: of the snapshot.
        every_s: when the next one is due.
        figures: since the start.
        facts: of the process, in words (durability of its engines).
        refusals: since the last snapshot, oldest first.
        refusals_omitted: more refusals since then.
    """

    node: str
    kind: str = "gateway"
    version: str = ""
    environment: str = ""
    state: str = "ready"
    started_at: float = 0.0
    at: float = 0.0
    every_s: float = 1.0
    figures: Figures = msgspec.field(default_factory=Figures)
    facts: dict[str, str] = {}
    refusals: list[RecentRefusal] = []
    refusals_omitted: int = 0


class SnapshotBuilder:
    """Builds this process's snapshots.

    Args:
        node: its id.
        kind: `gateway` or `worker`.
        version: of narthex.
        environment: where it runs.
        read: returns the figures of the meter, of `SHOWN`.
        state: of the lifecycle.
        refusals: the newest ones.
        connections: the live ones.
        gauges: more gauges, by key.
        facts: see `Snapshot`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        node: str,
        kind: str,
        version: str,
        environment: str,
        read: Callable[[], Figures],
        state: Callable[[], str],
        refusals: RecentRefusals | None = None,
        connections: Iterable[Connection] = (),
        gauges: Callable[[], Mapping[str, float]] = dict,
        facts: Callable[[], dict[str, str]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self._kind = kind
        self._version = version
        self._environment = environment
        self._read = read
        self._state = state
        self._refusals = refusals
        self._connections = connections
        self._gauges = gauges
        self._facts = facts
        self._clock = clock
        self._started_at = clock()
        self._walked: dict[str, float] = {}
        self._walk_at = 0.0

    def figures(self) -> Figures:
        """The figures of now."""
        found = self._read()
        found.counters["cpu_seconds"] = round(time.process_time(), 3)
        found.gauges |= {**self._walk(), **self._gauges()}
        found.gauges |= {f"version|{self._version}": 1.0, f"state|{self._state()}": 1.0}
        return found

    def build(self, every_s: float) -> Snapshot:
        """The snapshot of now; the refusals in it are in no later one."""
        refusals, omitted = self._refusals.take() if self._refusals is not None else ([], 0)
        return Snapshot(
            node=self.node,
            kind=self._kind,
            version=self._version,
            environment=self._environment,
            state=self._state(),
            started_at=self._started_at,
            at=round(self._clock(), 3),
            every_s=every_s,
            figures=self.figures(),
            facts=self._facts(),
            refusals=refusals,
            refusals_omitted=omitted,
        )

    def _walk(self) -> dict[str, float]:
        """Connections by plan. With many connections a walk stays valid for a while."""
        began = time.perf_counter()
        if began < self._walk_at:
            return self._walked
        plans: dict[str, float] = {}
        for connection in self._connections:
            identity = connection.identity
            plan = identity.plan if identity is not None else "unproven"
            plans[plan] = plans.get(plan, 0) + 1
        self._walked = {f"connections_by_plan|{plan}": count for plan, count in plans.items()}
        ended = time.perf_counter()
        self._walk_at = ended + (ended - began) / WALK_SHARE
        return self._walked
