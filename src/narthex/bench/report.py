"""Prints a report for people: a table with bars, the ratios, and notes for reading it.

Rules: bars compare targets within one scenario, never scenarios; a figure that was not measured is blank, not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from narthex.bench.baseline import FigureChange
from narthex.bench.results import BenchReport, Figure

BAR: Final = 24
BUSY: Final = 0.9  # of the wall time: above it the generator, not the server, limits the rate
UNITS: Final = {
    "handshakes": "handshake",
    "echo": "message",
    "fanout": "delivery",
    "idle": "socket",
    "storm": "reconnect",
    "runs": "event delivered",
}


def show(report: BenchReport, console: Console) -> None:
    """Print the whole report."""
    console.print(
        f"[bold]narthex bench[/] {report.version} · Python {report.python} · {report.cores} cores · {report.machine} · "
        f"median of {report.rounds} round{'s' if report.rounds > 1 else ''}"
        f"{' · quick: a first impression, not for publication' if report.quick else ''}"
    )
    for scenario in dict.fromkeys(figure.scenario for figure in report.figures):
        _scenario(report, scenario, [f for f in report.figures if f.scenario == scenario], console)
    if report.ratios:
        table = Table(title="Ratios (median of the rounds' own)", title_justify="left", box=None)
        table.add_column("what")
        table.add_column("ratio", justify="right")
        for label, value in report.ratios.items():
            table.add_row(label, f"{value:.2f} ×")
        console.print(table)


def _scenario(report: BenchReport, scenario: str, figures: Sequence[Figure], console: Console) -> None:
    unit = unit_of(scenario)
    table = Table(title=f"\n{scenario}", title_justify="left", box=None, pad_edge=False)
    table.add_column("target", no_wrap=True)
    table.add_column(f"server CPU, µs per {unit}", no_wrap=True)
    for name in ("±", "kernel", "per s", "p50 ms", "p99 ms", "max ms", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    top = max((figure.cpu_us or 0.0 for figure in figures), default=0.0)
    for figure in figures:
        spread = report.spread.get(f"{scenario}: {figure.target}", 0.0)
        table.add_row(
            figure.target,
            _bar(figure.cpu_us, top),
            f"{50 * spread:.0f} %" if spread else "",
            f"{100 * figure.system_share:.0f} %" if figure.cpu_us else "",
            f"{figure.per_s:,.0f}",
            *(f"{value:.1f}" if value else "" for value in (figure.p50_ms, figure.p99_ms, figure.max_ms)),
            f"[red]{figure.failures}[/]" if figure.failures else "0",
        )
    console.print(table)
    for figure in figures:
        _details(figure, unit, console)


def unit_of(scenario: str) -> str:
    """What an operation of a scenario is."""
    return UNITS.get(scenario.partition("-")[0], "operation")


def _bar(value: float | None, top: float) -> str:
    if value is None:
        return "not read (no pid)"
    filled = round(BAR * value / top) if top else 0
    return f"{'█' * max(1, filled):<{BAR}} {value:,.2f}"


def _details(figure: Figure, unit: str, console: Console) -> None:
    words = [f"{name} {value:,.4g}" for name, value in figure.values.items()]
    ceiling = 1e6 / figure.generator_us if figure.generator_us else 0.0
    words.append(f"generator {figure.generator_us:.2f} µs per {unit}: its ceiling is {ceiling:,.0f}/s")
    console.print(f"  [dim]{figure.target}: {' · '.join(words)}[/]", highlight=False)
    if figure.generator_busy > BUSY:
        console.print(
            f"  [yellow]{figure.target}: the generator was the limit of the rate, not the server[/]"
        )
    for note in figure.notes:
        console.print(f"  [yellow]{figure.target}: {note}[/]", highlight=False)


def show_changes(changes: Sequence[FigureChange], tolerance: float, console: Console) -> None:
    """Print a comparison with a baseline."""
    table = Table(
        title=f"\nAgainst the baseline (worse than {tolerance:.2f} × fails)", title_justify="left", box=None
    )
    for name in ("scenario", "target", "what", "then", "now", "ratio"):
        table.add_column(name, justify="left" if name in ("scenario", "target", "what") else "right")
    for change in changes:
        colour = "red" if change.worse(tolerance) else "green" if change.ratio < 1 / tolerance else ""
        ratio = f"{change.ratio:.2f} ×"
        table.add_row(
            change.scenario,
            change.target,
            change.what,
            f"{change.then:,.2f}",
            f"{change.now:,.2f}",
            f"[{colour}]{ratio}[/]" if colour else ratio,
        )
    console.print(table)
