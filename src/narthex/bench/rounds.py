"""Runs scenarios on targets in rounds, and computes medians and ratios.

Rules: with several targets they take turns within each round (A B, A B, …), so that other load on the machine
affects all of them; the figure is the median of the rounds, and so is the ratio, round by round.
Servers that the bench starts are started anew for each scenario: a heap that an earlier one has grown would
hide the cost of a socket.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from narthex._version import __version__
from narthex.bench.generator import GeneratorJob, measure
from narthex.bench.load.dialects import BenchTarget, Protocol
from narthex.bench.results import BenchReport, Figure, combine, spread

P99_MS: Final = 250.0  # the bound of "keeps up" for runs: people do not notice a smaller delay
AGENT: Final = ("--agent", "narthex.bench.agents:stream")


@dataclass(frozen=True)
class Contender:
    """A target before it is opened.

    Attributes:
        name: for display.
        protocol: see `load.dialects`.
        opened: gives the running target; closed again after each scenario.
        fresh: whether `opened` starts a new server (an attached one keeps running).
    """

    name: str
    protocol: Protocol
    opened: Callable[[], AbstractContextManager[BenchTarget]]
    fresh: bool = True


@dataclass(frozen=True)
class BenchScenario:
    """One scenario to measure.

    Attributes:
        name: on the command line; its part before a `-` is the generator's job.
        about: one line.
        options: its numbers.
        protocols: of the targets that can do it.
    """

    name: str
    about: str
    options: dict[str, Any]
    protocols: tuple[Protocol, ...] = ("raw", "narthex", "centrifugo")


SCENARIOS: Final[tuple[BenchScenario, ...]] = (
    BenchScenario(
        "handshakes",
        "connect, upgrade, token, reply to connect",
        {"count": 3000, "in_flight": 20},
    ),
    BenchScenario(
        "echo",
        "round trip of a message (narthex: RPC echo)",
        {"sockets": 50, "count": 20_000, "size": 64},
        protocols=("raw", "narthex"),
    ),
    *(
        BenchScenario(
            f"fanout-{subscribers}x{in_flight}",
            f"{in_flight} publish{'es' if in_flight > 1 else ''} at once to {subscribers:,} subscribers",
            {"subscribers": subscribers, "in_flight": in_flight, "publishes": publishes, "size": 128},
        )
        for subscribers, in_flight, publishes in (
            (1000, 1, 100),
            (1000, 8, 400),
            (5000, 1, 30),
            (5000, 8, 120),
        )
    ),
    BenchScenario(
        "publish",
        "one publication over the HTTP server API, without subscribers",
        {"publishes": 1000, "size": 128},
        protocols=("narthex", "centrifugo"),
    ),
    BenchScenario(
        "idle",
        "memory and event loop lag with idle sockets",
        {"sockets": 10_000, "hold_s": 30.0},
    ),
    BenchScenario("storm", "all sockets are cut and reconnect", {"sockets": 2000, "in_flight": 256}),
    BenchScenario(
        "runs",
        "runs that stream 50 deltas/s to two sockets each, all verified",
        {"count": 300, "rate": 50, "seconds": 20},
        ("narthex",),
    ),
)

QUICK: Final[dict[str, dict[str, Any]]] = {
    "handshakes": {"count": 500},
    "echo": {"count": 4000},
    "fanout-1000x1": {"publishes": 20},
    "fanout-1000x8": {"publishes": 80},
    "fanout-5000x1": {"publishes": 5},
    "fanout-5000x8": {"publishes": 40},
    "publish": {"publishes": 100},
    "idle": {"sockets": 1000, "hold_s": 3.0},
    "storm": {"sockets": 300},
    "runs": {"count": 20, "seconds": 5},
}
"""Numbers for a first impression within a minute; too few for a figure to be quoted."""


def run_all(
    contenders: Sequence[Contender],
    scenarios: Sequence[BenchScenario],
    rounds: int,
    progress: Callable[[str], None],
    *,
    quick: bool = False,
) -> BenchReport:
    """Measure every scenario on every contender that can do it; the report names the machine and the numbers.

    Raises:
        DependencyError: a server did not start, or the generator failed.
    """
    report = empty_report(rounds, quick=quick)
    for scenario in scenarios:
        able = [contender for contender in contenders if contender.protocol in scenario.protocols]
        if able:
            _run_one(scenario, able, report, progress)
    return report


def empty_report(rounds: int, *, quick: bool = False) -> BenchReport:
    """A report without figures, of this machine and now."""
    return BenchReport(
        version=__version__,
        machine=f"{platform.system()} {platform.release()} {_cpu_model()}",
        python=platform.python_version(),
        cores=os.cpu_count() or 0,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        rounds=rounds,
        quick=quick,
    )


def _run_one(
    scenario: BenchScenario,
    able: Sequence[Contender],
    report: BenchReport,
    progress: Callable[[str], None],
) -> None:
    found: dict[str, list[Figure]] = {contender.name: [] for contender in able}
    with ExitStack() as stack:
        targets = [stack.enter_context(contender.opened()) for contender in able]
        for number in range(report.rounds):
            for target in targets:
                progress(f"{scenario.name}: {target.name}, round {number + 1} of {report.rounds}")
                found[target.name].append(
                    measure(
                        GeneratorJob(
                            scenario=scenario.name.partition("-")[0], target=target, options=scenario.options
                        )
                    )
                )
    for name, figures in found.items():
        combined = combine(figures)
        combined.scenario = scenario.name
        report.figures.append(combined)
        report.spread[f"{scenario.name}: {name}"] = spread(figures)
    first = found[able[0].name]
    for contender in able[1:]:
        other = found[contender.name]
        report.ratios.update(_ratios(f"{scenario.name}: {able[0].name} / {contender.name}", first, other))


def _ratios(label: str, ours: Sequence[Figure], theirs: Sequence[Figure]) -> dict[str, float]:
    """Medians of the rounds' own ratios: of CPU per operation, and of memory where it was measured."""
    cpu = [a.cpu_us / b.cpu_us for a, b in zip(ours, theirs, strict=True) if a.cpu_us and b.cpu_us]
    memory = [
        a.values["uss_kb_per_socket"] / b.values["uss_kb_per_socket"]
        for a, b in zip(ours, theirs, strict=True)
        if b.values.get("uss_kb_per_socket", 0) > 0
    ]
    ratios = {label: median(cpu)} if cpu else {}
    if memory:
        ratios[f"{label}, memory"] = median(memory)
    return ratios


def most_runs(contender: Contender, seconds: int, report: Callable[[str], None]) -> tuple[int, list[Figure]]:
    """The most runs (in steps of 50) that lose nothing and keep p99 under `P99_MS`; with the figures of all attempts.

    Raises:
        DependencyError: as `run_all`.
    """
    figures: list[Figure] = []
    held, count, step = 0, 100, 100
    while count <= 3000:
        report(f"runs: {count} at once")
        with contender.opened() as target:
            figure = measure(
                GeneratorJob(
                    scenario="runs", target=target, options={"count": count, "rate": 50, "seconds": seconds}
                )
            )
        figures.append(figure)
        if figure.failures or figure.p99_ms > P99_MS:
            if step == 50:
                break
            step, count = 50, held + 50
            continue
        held = count
        count += step
        if step == 50 and any(other.scenario == f"runs-{count}" for other in figures):
            break
    return held, figures


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.machine()


def named(names: Sequence[str]) -> Iterator[BenchScenario]:
    """Scenarios by name; `fanout` stands for all four. Raises KeyError with an unknown name."""
    for name in names:
        found = [s for s in SCENARIOS if s.name == name or s.name.partition("-")[0] == name]
        if not found:
            raise KeyError(name)
        yield from found
