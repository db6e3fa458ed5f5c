"""Values of a measurement: they cross the pipe from the generator and are saved in baselines."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import msgspec

from narthex.reports.latency import LatencyRecord, Waits, percentile, record


class Figure(msgspec.Struct, kw_only=True):
    """One scenario on one target.

    Attributes:
        scenario: such as `handshakes` or `fanout-1000x8`.
        target: the target's name.
        operations: how many were measured (all rounds together).
        cpu_us: server CPU per operation, user and system, in µs; None where it could not be read.
        system_share: the kernel's part of it, 0 to 1; sampled by ticks.
        per_s: operations a second, by the wall clock.
        p50_ms: of one client's wait; 0 where nothing was timed. So are p99_ms and max_ms.
        generator_us: the generator's own CPU per operation.
        generator_busy: its share of the wall time, 0 to 1; near 1 the generator limited `per_s`.
        failures: operations that did not complete.
        rounds: number of measurements.
        cpu_us_rounds: `cpu_us` of each round; empty in a figure of one round.
        latency: the clients' waits over time, of each round that timed any.
        values: other figures of the scenario, by name with the unit (`uss_kb_per_socket`).
        notes: in words.
    """

    scenario: str
    target: str
    operations: int
    cpu_us: float | None = None
    system_share: float = 0.0
    per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    generator_us: float = 0.0
    generator_busy: float = 0.0
    failures: int = 0
    rounds: int = 1
    values: dict[str, float] = {}
    notes: list[str] = []
    cpu_us_rounds: list[float] = []
    latency: list[LatencyRecord] = []


MEDIANS: Final = ("system_share", "per_s", "p50_ms", "p99_ms", "generator_us", "generator_busy")


class BenchReport(msgspec.Struct, kw_only=True):
    """All figures of one `narthex bench`, with the machine on which they were measured.

    Attributes:
        quick: measured with the small numbers of `--quick`, which compare with nothing else.
    """

    version: str
    machine: str
    python: str
    cores: int
    at: str
    rounds: int
    figures: list[Figure] = []
    spread: dict[str, float] = {}
    ratios: dict[str, float] = {}
    quick: bool = False


def combine(figures: Sequence[Figure]) -> Figure:
    """One figure from the rounds of the same scenario on the same target: medians, and sums of counts."""
    first = figures[0]
    known = [figure.cpu_us for figure in figures if figure.cpu_us is not None]
    names = {name for figure in figures for name in figure.values}
    return Figure(
        scenario=first.scenario,
        target=first.target,
        operations=sum(figure.operations for figure in figures),
        cpu_us=median(known) if known else None,
        max_ms=max(figure.max_ms for figure in figures),
        **{name: median(getattr(figure, name) for figure in figures) for name in MEDIANS},
        failures=sum(figure.failures for figure in figures),
        rounds=len(figures),
        values={
            name: median(figure.values[name] for figure in figures if name in figure.values)
            for name in sorted(names)
        },
        notes=sorted({note for figure in figures for note in figure.notes}),
        cpu_us_rounds=known if len(figures) > 1 else [],
        latency=[one for figure in figures for one in figure.latency],
    )


def spread(figures: Sequence[Figure]) -> float:
    """The spread of the rounds: (highest - lowest) / median of `cpu_us`; 0 with less than two."""
    known = [figure.cpu_us for figure in figures if figure.cpu_us]
    return (max(known) - min(known)) / median(known) if len(known) > 1 else 0.0


def latencies(waits: Waits) -> dict[str, Any]:
    """`p50_ms`, `p99_ms`, `max_ms` and `latency` of a figure."""
    found = sorted(wait for _, wait in waits)
    over_time = record(waits)
    return {
        "p50_ms": percentile(found, 0.5) * 1e3,
        "p99_ms": percentile(found, 0.99) * 1e3,
        "max_ms": (found[-1] if found else 0.0) * 1e3,
        "latency": [over_time] if over_time is not None else [],
    }
