"""The rules of the status page: from samples to a state, from minutes to an uptime. docs/status-page.md explains them.

    samples ──a minute──▶ state of each source ──majority──▶ state of each kind ──worst──▶ state of the minute
    minutes ──sum──▶ hour ──sum──▶ day ──▶ uptime over the known time, and how much of the time is known

Not here: keeping samples (`status`), incidents (`domain/incidents.py`). Rules: no clock; time without a sample is
unknown and never counts as up; maintenance is announced before it begins and counts neither as up nor as down.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal, NamedTuple

Kind = Literal["health", "traffic", "probe"]
"""Origin of a sample: a gateway's own health checks, its real traffic, a probe outside."""


class ServiceState(StrEnum):
    """The state of a component of the page."""

    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    OUTAGE = "outage"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"


JOURNEYS: Final = ("connect", "send", "stream", "sign_in")
"""The components that every page has, in its order: what a user of a chat does."""

MAX_COMPONENTS: Final = 24  # journeys and the operator's own: a page that a person can read
MIN_TRAFFIC: Final = 10  # requests in a minute, below which their failures say nothing about the service
TRAFFIC_DEGRADED: Final = 0.05  # share of failures
TRAFFIC_OUTAGE: Final = 0.5
DAY_OUTAGE: Final = 0.05  # share of the known time of a day, 72 min of a whole one
DAY_DEGRADED: Final = 0.05
MINUTE_S: Final = 60
HOUR_S: Final = 3_600

_SEVERITY: Final = {
    ServiceState.UNKNOWN: 0,
    ServiceState.OPERATIONAL: 1,
    ServiceState.MAINTENANCE: 2,
    ServiceState.DEGRADED: 3,
    ServiceState.OUTAGE: 4,
}


class Evidence(NamedTuple):
    """Counts of one source within a minute. A check or a probe counts as `good`, `degraded` or `failed`; a request
    of real traffic as `good` or, where the service is at fault, `failed`.
    """

    kind: Kind
    source: str
    good: int = 0
    degraded: int = 0
    failed: int = 0


def worst(states: Iterable[ServiceState]) -> ServiceState:
    """The most severe state; unknown when there is none."""
    return max(states, key=_SEVERITY.__getitem__, default=ServiceState.UNKNOWN)


def state_of_source(evidence: Evidence) -> ServiceState:
    """The state that one source reports."""
    total = evidence.good + evidence.degraded + evidence.failed
    if total == 0:
        return ServiceState.UNKNOWN
    share = evidence.failed / total
    if evidence.kind == "traffic":
        if total < MIN_TRAFFIC:  # one failed request of two is no outage, and one good request is a good sign
            return ServiceState.UNKNOWN if evidence.failed else ServiceState.OPERATIONAL
        if share >= TRAFFIC_OUTAGE:
            return ServiceState.OUTAGE
        return ServiceState.DEGRADED if share >= TRAFFIC_DEGRADED else ServiceState.OPERATIONAL
    if share >= TRAFFIC_OUTAGE:
        return ServiceState.OUTAGE
    return ServiceState.DEGRADED if evidence.failed or evidence.degraded else ServiceState.OPERATIONAL


def majority(states: Iterable[ServiceState]) -> ServiceState:
    """The state of sources of one kind: an outage if at least half of them report it, degraded if any is not well."""
    known = [state for state in states if state is not ServiceState.UNKNOWN]
    if not known:
        return ServiceState.UNKNOWN
    if 2 * known.count(ServiceState.OUTAGE) >= len(known):
        return ServiceState.OUTAGE
    return (
        ServiceState.OPERATIONAL
        if all(state is ServiceState.OPERATIONAL for state in known)
        else ServiceState.DEGRADED
    )


def measured_state(evidence: Iterable[Evidence]) -> ServiceState:
    """The state of a component by all evidence of a minute: the worst of the kinds.

    A probe outside that fails outweighs any number of gateways that find themselves healthy: the fault may lie between.
    """
    by_kind: defaultdict[str, list[Evidence]] = defaultdict(list)
    for one in evidence:
        by_kind[one.kind].append(one)
    states = [majority(map(state_of_source, found)) for kind, found in by_kind.items() if kind != "traffic"]
    if traffic := by_kind.get(
        "traffic"
    ):  # requests of all gateways together: a load balancer mixes them anyway
        states.append(
            state_of_source(
                Evidence(
                    "traffic", "", sum(one.good for one in traffic), 0, sum(one.failed for one in traffic)
                )
            )
        )
    return worst(states)


def shown_state(measured: ServiceState, *, maintenance: bool, impact: ServiceState) -> ServiceState:
    """The state that a visitor sees now.

    Args:
        measured: by samples.
        maintenance: whether a window of maintenance is under way for the component.
        impact: the worst that open incidents name for the component; unknown when there is none.
    """
    if maintenance:
        return ServiceState.MAINTENANCE
    return worst((measured, impact))


def overall(states: Iterable[ServiceState]) -> ServiceState:
    """The state of the whole page: the worst of its components; unknown if nothing is known of any."""
    return worst(states)


def minute_of(state: ServiceState, *, maintenance: bool) -> ServiceState:
    """The state as which a past minute counts: within a window of maintenance only a good minute stays one."""
    return ServiceState.MAINTENANCE if maintenance and state is not ServiceState.OPERATIONAL else state


class Minutes(NamedTuple):
    """Minutes by state within a period, and the latency measured in it."""

    operational: int = 0
    degraded: int = 0
    outage: int = 0
    maintenance: int = 0
    latency_ms_sum: float = 0.0
    latency_count: int = 0
    latency_ms_max: float = 0.0

    def plus(self, other: Minutes) -> Minutes:
        """The sum of two periods."""
        return Minutes(
            self.operational + other.operational,
            self.degraded + other.degraded,
            self.outage + other.outage,
            self.maintenance + other.maintenance,
            self.latency_ms_sum + other.latency_ms_sum,
            self.latency_count + other.latency_count,
            max(self.latency_ms_max, other.latency_ms_max),
        )

    @property
    def known(self) -> int:
        """Minutes that count for the uptime: measured, and not within maintenance."""
        return self.operational + self.degraded + self.outage

    @property
    def uptime(self) -> float | None:
        """Share of the known minutes without an outage; None when nothing is known."""
        return None if not self.known else (self.known - self.outage) / self.known

    @property
    def latency_ms(self) -> float | None:
        """Mean latency of checks and probes; None without any."""
        return None if not self.latency_count else self.latency_ms_sum / self.latency_count

    def coverage(self, minutes: float) -> float:
        """Share of a period of so many minutes that is measured or was maintenance."""
        return min(1.0, (self.known + self.maintenance) / minutes) if minutes > 0 else 0.0

    def state(self) -> ServiceState:
        """The state as which a day is drawn."""
        if not self.known:
            return ServiceState.MAINTENANCE if self.maintenance else ServiceState.UNKNOWN
        if self.outage >= DAY_OUTAGE * self.known:
            return ServiceState.OUTAGE if self.outage else ServiceState.OPERATIONAL
        if self.outage or self.degraded >= DAY_DEGRADED * self.known:
            return ServiceState.DEGRADED
        return ServiceState.OPERATIONAL


NO_MINUTES: Final = Minutes()


def counted(state: ServiceState) -> Minutes:
    """One minute of a state."""
    return {
        ServiceState.OPERATIONAL: Minutes(operational=1),
        ServiceState.DEGRADED: Minutes(degraded=1),
        ServiceState.OUTAGE: Minutes(outage=1),
        ServiceState.MAINTENANCE: Minutes(maintenance=1),
    }.get(state, NO_MINUTES)


def percent(share: float) -> str:
    """A share as per cent, two decimals, cut off: 100.00 only where nothing is missing."""
    return f"{math.floor(share * 10_000 + 1e-9) / 100:.2f}"
