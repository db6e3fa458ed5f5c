"""A gateway's samples for the status page: its own health checks and its real traffic, every few seconds.

    health.report() ─┐
                     ├─▶ samples ─▶ the page's database, or NARTHEX_STATUS_URL
    counters ────────┘

Not here: the checks (`app/health.py`), keeping samples (`measurements`). Rules: a gateway's counters are read, so
that no request pays for the page; a refusal that is the client's fault (a bad credential, a limit of its own) is
traffic that went well; a gateway that starts or drains says nothing, because others answer meanwhile, unless an
engine keeps it from starting.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from narthex.app.periodic import BackgroundTask
from narthex.app.provider import UNAVAILABLE
from narthex.domain.refusals import TABLE
from narthex.errors import ConfigError, DependencyError
from narthex.protocol.codes import INTERNAL
from narthex.status.measurements import Sample

INTERVAL_S: Final = 2.5  # with the time-out of a check, 2 s, a change is seen within 5 s
DEPENDS_ON: Final[Mapping[str, tuple[str, ...]]] = {
    "connect": ("handshake",),
    "send": ("broker", "store"),
    "stream": ("broker", "agents"),
    "sign_in": ("auth",),
}
"""By journey the health checks that it needs. A process without one of them (a guard) does not sample it."""

NOT_OURS: Final = frozenset({"draining", "starting"})
"""Refusals of an instance that comes or goes: its clients are admitted by another, or at their next try."""
RUN_FAULTS: Final = frozenset(
    {
        *("agent_failed", "agent_timeout", "agent_unknown", "agent_unavailable", "agent_silent"),
        *("agent_event_order", "agent_event_invalid", "agent", "agent_flood"),
        *("owner_lost", "log_lost", "log_unavailable", "internal"),
    }
)
"""Codes of failed runs that are the service's fault, from `domain.runs.RUN_ERRORS`."""

SENDING: Final = frozenset({"publish", "rpc:run.start", "rpc:run.steer", "rpc:run.resume"})
"""Commands with which a user sends something."""

IsGood = Callable[[tuple[str, ...]], bool | None]
"""Whether a request with these labels went well; None: it does not count."""


def _handshake(labels: tuple[str, ...]) -> bool | None:
    _, code, traffic = labels
    if traffic not in ("user", "guest") or code in NOT_OURS:
        return None
    return not _at_fault(code)


def _at_fault(code: str) -> bool:
    """Whether a refusal is the service's fault."""
    return code in TABLE and (TABLE[code].http or 0) >= 500


def _run(labels: tuple[str, ...]) -> bool:
    _, error = labels
    return error not in RUN_FAULTS


def _command(labels: tuple[str, ...]) -> bool | None:
    method, result = labels
    if method not in SENDING:
        return None
    return result != str(INTERNAL.code) and not result.startswith("5")  # as HTTP's; 5xx are an engine's


def _sign_in(labels: tuple[str, ...]) -> bool:
    return labels[-1] != UNAVAILABLE and not _at_fault(labels[-1])


TRAFFIC: Final[Sequence[tuple[str, str, IsGood]]] = (
    ("connect", "handshakes", _handshake),
    ("send", "commands", _command),
    ("stream", "runs", _run),
    ("sign_in", "sign_ins", _sign_in),
    ("sign_in", "token_refreshes", _sign_in),
)
"""By journey the counters that show it, and which of their requests failed."""

Record = Callable[[Sequence[Sample]], Awaitable[object]]
"""Keeps samples. Raises DependencyError or ConfigError when it cannot now."""


class HealthReport(Protocol):
    """`app.health.Health`, as far as it is asked."""

    @property
    def names(self) -> Collection[str]:
        """The checks that this process has."""

    async def report(self, *, fresh: bool = False) -> dict[str, Any]:
        """The body of `/ws/health`; `fresh`: of checks made now."""


class Counters(Protocol):
    """The meter, as far as it is read."""

    def counts(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a counter by its labels, since the process began."""


class Sampler(BackgroundTask):
    """See the module.

    Args:
        health: of the gateway.
        fault: why the gateway cannot start; None: it has started, or nothing keeps it from that.
        counters: its meter.
        node: its name, as the source of its samples.
        record: see `Record`.
        log: a structlog logger.
        interval_s: between two rounds.
    """

    def __init__(
        self,
        health: HealthReport,
        fault: Callable[[], object | None],
        counters: Counters,
        node: str,
        record: Record,
        log: Any,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        super().__init__(self._repeat, "narthex status samples")
        self._health = health
        self._fault = fault
        self._counters = counters
        self._node = node
        self._record = record
        self._log = log
        self._logged = ""
        self._interval_s = interval_s
        self._seen: dict[str, dict[tuple[str, ...], float]] = {}

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            next_at = loop.time() + self._interval_s  # also where a check takes its time-out
            samples = await self.round()
            if samples:
                try:
                    await self._record(samples)
                    self._fault_seen("")
                except (DependencyError, ConfigError) as fault:  # the time stays unknown
                    self._fault_seen(f"{fault.message} {fault.remedy}")
            await asyncio.sleep(max(0.0, next_at - loop.time()))

    def _fault_seen(self, fault: str) -> None:
        """Log once why samples are not kept, and once that they are again."""
        if fault != self._logged:
            self._logged = fault
            if fault:
                self._log.warning("status samples", detail=fault)
            else:
                self._log.info("status samples", detail="they are kept again")

    async def round(self) -> list[Sample]:
        """The samples of one round."""
        checks: Mapping[str, Any] = (await self._health.report(fresh=True))["checks"]
        found = [*self._of_health(checks), *self._of_traffic()]
        if not checks and self._fault() is not None:
            found += [self._sample(journey, "health", failed=1) for journey in self._journeys()]
        return found

    def _of_health(self, checks: Mapping[str, Any]) -> list[Sample]:
        found = []
        for journey in self._journeys() if checks else ():
            results = [checks[name] for name in DEPENDS_ON[journey]]
            statuses = {result["status"] for result in results}
            good = statuses == {"healthy"}
            found.append(
                self._sample(
                    journey,
                    "health",
                    good=int(good),
                    degraded=int(not good and "unhealthy" not in statuses),
                    failed=int("unhealthy" in statuses),
                    latency_ms=max(result["latency_ms"] for result in results) if good else None,
                )
            )
        return found

    def _journeys(self) -> list[str]:
        """The journeys whose checks this process has."""
        return [
            journey
            for journey, names in DEPENDS_ON.items()
            if all(name in self._health.names for name in names)
        ]

    def _of_traffic(self) -> list[Sample]:
        """The requests since the last round, from the counters."""
        found: dict[str, Counter[bool]] = {}
        for journey, name, is_good in TRAFFIC:
            now, before = self._counters.counts(name), self._seen.get(name, {})
            self._seen[name] = now
            for labels, value in now.items():
                good = is_good(labels)
                if good is not None and (count := int(value - before.get(labels, 0))):
                    found.setdefault(journey, Counter())[good] += count
        return [
            self._sample(journey, "traffic", good=counts[True], failed=counts[False])
            for journey, counts in found.items()
        ]

    def _sample(
        self,
        journey: str,
        kind: Any,
        *,
        good: int = 0,
        degraded: int = 0,
        failed: int = 0,
        latency_ms: float | None = None,
    ) -> Sample:
        return Sample(
            component=journey,
            kind=kind,
            source=self._node,
            good=good,
            degraded=degraded,
            failed=failed,
            latency_ms=latency_ms,
            every_s=max(1.0, self._interval_s),
        )
