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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from narthex.app.periodic import BackgroundTask
from narthex.domain.availability import JOURNEYS
from narthex.domain.refusals import TABLE
from narthex.errors import ConfigError, DependencyError
from narthex.status.measurements import Sample

INTERVAL_S: Final = 3.0  # with a second for which a document is kept: a change is seen within 5 s
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

Record = Callable[[Sequence[Sample]], Awaitable[object]]
"""Keeps samples. Raises DependencyError or ConfigError when it cannot now."""


class HealthReport(Protocol):
    """`app.health.Health`, as far as it is asked."""

    async def report(self) -> dict[str, Any]:
        """The body of `/ws/health`."""


class Counters(Protocol):
    """The meter, as far as it is read."""

    def counts(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a counter by its labels, since the process began."""


class Sampler:
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
        self._health = health
        self._fault = fault
        self._counters = counters
        self._node = node
        self._record = record
        self._log = log
        self._logged = ""
        self._interval_s = interval_s
        self._handshakes: dict[tuple[str, ...], float] = {}
        self._runs: dict[tuple[str, ...], float] = {}
        self._task = BackgroundTask(self._repeat, "narthex status samples")

    async def start(self) -> None:
        """Begin."""
        await self._task.start()

    async def stop(self) -> None:
        """End."""
        await self._task.stop()

    async def _repeat(self) -> None:
        while True:
            samples = await self.round()
            if samples:
                try:
                    await self._record(samples)
                    self._fault_seen("")
                except (DependencyError, ConfigError) as fault:  # the time stays unknown
                    self._fault_seen(f"{fault.message} {fault.remedy}")
            await asyncio.sleep(self._interval_s)

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
        checks: Mapping[str, Any] = (await self._health.report())["checks"]
        found = [*self._of_health(checks), *self._of_traffic()]
        if not checks and self._fault() is not None:
            found += [self._sample(journey, "health", failed=1) for journey in JOURNEYS]
        return found

    def _of_health(self, checks: Mapping[str, Any]) -> list[Sample]:
        found = []
        for journey, names in DEPENDS_ON.items():
            if not all(name in checks for name in names):
                continue
            results = [checks[name] for name in names]
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

    def _of_traffic(self) -> list[Sample]:
        """The requests since the last round, from the counters."""
        handshakes, self._handshakes = _since(self._counters.counts("handshakes"), self._handshakes)
        runs, self._runs = _since(self._counters.counts("runs"), self._runs)
        good = failed = 0
        for (_, code, traffic), count in handshakes.items():
            if traffic in ("user", "guest") and code not in NOT_OURS:
                fault = code in TABLE and (TABLE[code].http or 0) >= 500
                failed, good = (failed + count, good) if fault else (failed, good + count)
        found = [self._sample("connect", "traffic", good=good, failed=failed)] if good or failed else []
        ended = dict.fromkeys(("good", "failed"), 0)
        for (_, error), count in runs.items():
            ended["failed" if error in RUN_FAULTS else "good"] += count
        if any(ended.values()):
            found.append(self._sample("stream", "traffic", good=ended["good"], failed=ended["failed"]))
        return found

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


def _since(
    now: dict[tuple[str, ...], float], before: Mapping[tuple[str, ...], float]
) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], float]]:
    """By labels the difference to the last reading; and this reading, for the next."""
    return {labels: int(value - before.get(labels, 0)) for labels, value in now.items()}, now
