"""The stopwatch around a phase: server CPU, wall time and the generator's own CPU, read at the same moments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from narthex.bench.cpu import Cpu, used
from narthex.bench.results import Figure


class Measurement:
    """`with Measurement(pids) as phase: …`, then `phase.figure(…)`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.wall_s = 0.0
        self.own_s = 0.0
        self.server = Cpu(0.0, 0.0, 0.0)

    def __enter__(self) -> Self:
        self._before = used(self._pids)
        self._own = time.process_time()
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s = time.perf_counter() - self._began
        self.own_s = time.process_time() - self._own
        self.server = used(self._pids).since(self._before)

    def figure(
        self,
        scenario: str,
        target: str,
        operations: int,
        *,
        latency: dict[str, Any] | None = None,
        failures: int = 0,
        values: dict[str, float] | None = None,
        notes: list[str] | None = None,
    ) -> Figure:
        """The figure of this phase for `operations` operations."""
        count = max(1, operations)
        ticks = self.server.user + self.server.system
        return Figure(
            scenario=scenario,
            target=target,
            operations=operations,
            cpu_us=self.server.total * 1e6 / count if self._pids and operations else None,
            system_share=self.server.system / ticks if ticks > 0 else 0.0,
            per_s=operations / self.wall_s if self.wall_s else 0.0,
            generator_us=self.own_s * 1e6 / count,
            generator_busy=self.own_s / self.wall_s if self.wall_s else 0.0,
            failures=failures,
            values=values or {},
            notes=notes or [],
            rounds=1,
            **(latency or {}),
        )
