"""Saves a report and compares with a saved one.

Rules: only figures that are costs are compared (lower is better), scenario by scenario and target by target; a
scenario that only one side has is no difference. A baseline of another machine is compared all the same, with a note;
one with other numbers (`--quick`) is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from narthex.bench.results import BenchReport, Figure
from narthex.errors import ClientError

COSTS: Final = ("uss_kb_per_socket", "all_back_s")
NOISE_US: Final = 0.05  # a smaller difference is within the clock's resolution


class FigureChange(NamedTuple):
    """One figure then and now; `ratio` above 1 is worse."""

    scenario: str
    target: str
    what: str
    then: float
    now: float

    @property
    def ratio(self) -> float:
        """The ratio of now to then."""
        return self.now / self.then if self.then else 1.0

    def worse(self, tolerance: float) -> bool:
        """Whether it is worse by more than `tolerance` (1.25: a quarter)."""
        return self.ratio > tolerance and self.now - self.then > NOISE_US


def save(report: BenchReport, path: Path) -> None:
    """Write a report as JSON, without spaces: most of it are counts of latencies, for programs to read."""
    path.write_bytes(msgspec.json.encode(report) + b"\n")


def load(path: Path) -> BenchReport:
    """Read a saved report.

    Raises:
        ClientError: there is none, or it is not one.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchReport)
    except (OSError, msgspec.DecodeError) as fault:
        raise ClientError(
            "bad_baseline",
            f"{path} is not a saved benchmark: {fault}.",
            "Make one with narthex bench --save FILE.",
        ) from fault


def must_fit(then: BenchReport, *, quick: bool) -> None:
    """Raises ClientError when one of the two is quick and the other is not: their figures mean different things."""
    if then.quick != quick:
        old, new = ("quick", "a full one") if then.quick else ("full", "a quick one")
        raise ClientError(
            "bad_baseline",
            f"The baseline comes from a {old} run and this run is {new}; their figures cannot be compared.",
            "Measure both in the same way: with --quick, or without it.",
        )


def figures_of(report: BenchReport) -> dict[str, float]:
    """The costs of a report's first target by name with the unit, for a dashboard."""
    found: dict[str, float] = {}
    target = report.figures[0].target if report.figures else ""
    for figure in report.figures:
        if figure.target != target:
            continue
        values = {"CPU µs": figure.cpu_us, "p99 ms": figure.p99_ms} | {
            name: figure.values.get(name) for name in COSTS
        }
        found |= {f"{figure.scenario}: {name}": round(value, 3) for name, value in values.items() if value}
    return found


def compare(then: BenchReport, now: BenchReport) -> list[FigureChange]:
    """Every cost that both have, in the order of the new report."""
    before = {(figure.scenario, figure.target): figure for figure in then.figures}
    changes: list[FigureChange] = []
    for figure in now.figures:
        old = before.get((figure.scenario, figure.target))
        if old is not None:
            changes += _changes(old, figure)
    return changes


def _changes(then: Figure, now: Figure) -> list[FigureChange]:
    found: list[FigureChange] = []
    if then.cpu_us and now.cpu_us:
        found.append(FigureChange(now.scenario, now.target, "CPU µs", then.cpu_us, now.cpu_us))
    found.extend(
        FigureChange(now.scenario, now.target, name, then.values[name], now.values[name])
        for name in COSTS
        if then.values.get(name) and now.values.get(name)
    )
    return found
