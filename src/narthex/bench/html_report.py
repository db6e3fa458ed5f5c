"""Writes a benchmark as one HTML page with plots: costs, latencies over time and their distribution, the baseline.

Not here: how a plot is drawn (`narthex.reports.plots`). Rules: plots compare targets within one scenario, never
scenarios; the rounds of a scenario are drawn one after the other and never averaged into one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from narthex.bench.baseline import FigureChange
from narthex.bench.report import BUSY, unit_of
from narthex.bench.results import BenchReport, Figure
from narthex.reports import plots
from narthex.reports.latency import PERCENTILES, LatencyRecord, LatencySlice, bin_edge, merged
from narthex.reports.page import facts, page, table

SHOWN_ROUNDS: Final = 6
"""Rounds in a plot over time; of more a slice would be narrower than a pixel."""


def as_html(
    report: BenchReport,
    *,
    then: BenchReport | None = None,
    changes: Sequence[FigureChange] = (),
    tolerance: float = 1.25,
    most_runs: tuple[int, float] | None = None,
) -> str:
    """The page.

    Args:
        report: what was measured.
        then: the baseline; its distributions are drawn beside those of now.
        changes: the costs of then and now.
        tolerance: the factor that counts as worse.
        most_runs: the most runs that kept up, and the bound of their p99 in ms, where that was measured.
    """
    parts = [
        "<h1>narthex bench</h1>",
        f"<p>Server CPU per operation and the clients' waits. {_reading(report)}</p>",
        facts(
            (
                ("version", report.version),
                ("measured", report.at),
                ("machine", f"{report.machine}, {report.cores} cores"),
                ("Python", report.python),
                ("rounds", str(report.rounds)),
                ("baseline", f"{then.version}, {then.at}, {then.machine}" if then is not None else ""),
            )
        ),
    ]
    if changes:
        parts += ["<h2>Against the baseline</h2>", *_compared(report, then, changes, tolerance)]
    if most_runs is not None:
        parts += ["<h2>Runs at once</h2>", *_most_runs(report, *most_runs)]
    for scenario in dict.fromkeys(figure.scenario for figure in report.figures):
        figures = [figure for figure in report.figures if figure.scenario == scenario]
        before = (
            [figure for figure in then.figures if figure.scenario == scenario] if then is not None else []
        )
        parts += [f"<h2>{escape(scenario)}</h2>", *_scenario(scenario, figures, before)]
    if report.ratios:
        rows = [plots.Row(label, value, text=f"{value:.2f} ×") for label, value in report.ratios.items()]
        parts += [
            "<h2>Ratios</h2>",
            plots.bars("One target over another, median of the rounds' own", rows, unit="×"),
        ]
    return page(f"narthex bench {report.version}", parts)


def _reading(report: BenchReport) -> str:
    if report.quick:
        return "<strong>A quick run: a first impression, not for publication.</strong>"
    return f"Figures are medians of {report.rounds} round{'s' if report.rounds > 1 else ''}."


def _compared(
    report: BenchReport, then: BenchReport | None, changes: Sequence[FigureChange], tolerance: float
) -> Iterator[str]:
    worse = sum(change.worse(tolerance) for change in changes)
    verdict = (
        f'<span class="failed">{worse} worse</span>' if worse else '<span class="passed">none worse</span>'
    )
    yield f"<p>{verdict} of {len(changes)} costs, by more than {tolerance:g} ×.</p>"
    if then is not None and then.machine != report.machine:
        yield f"<p><strong>The baseline was measured on another machine:</strong> {escape(then.machine)}</p>"
    rows = [
        plots.Row(
            f"{change.scenario} {change.target}, {change.what}",
            change.ratio or 1.0,
            text=f"{change.ratio:.2f} ×{', worse' if change.worse(tolerance) else ''}",
            bad=change.worse(tolerance),
        )
        for change in changes
    ]
    figures = [
        [
            f"{change.scenario} {change.target}, {change.what}",
            f"{change.then:,.2f}",
            f"{change.now:,.2f}",
            f"{change.ratio:.2f} ×",
        ]
        for change in changes
    ]
    title = "Costs now over the baseline's: right of 1 × is dearer"
    yield plots.ratios(title, rows, limit=tolerance, table_of=(["cost", "then", "now", "ratio"], figures))


def _most_runs(report: BenchReport, held: int, bound_ms: float) -> Iterator[str]:
    yield f"<p>{held} runs at once kept p99 under {bound_ms:g} ms and lost nothing.</p>"
    attempts = sorted((int(figure.scenario.rpartition("-")[2]), figure) for figure in report.figures)
    yield plots.lines(
        "Latency of an event by the number of runs",
        [
            plots.Series(
                name, [(float(count), getattr(figure, member) or None) for count, figure in attempts]
            )
            for name, member in (("p50", "p50_ms"), ("p99", "p99_ms"), ("max", "max_ms"))
        ],
        unit="ms",
        x_name="runs at once",
        x_text=plots.number,
        limit=(f"bound of p99: {bound_ms:g} ms", bound_ms),
    )
    cpu = [
        plots.Row(f"{count} runs", figure.values.get("server_cpu_percent", 0.0), text=_failed(figure))
        for count, figure in attempts
    ]
    yield plots.bars("CPU of the server", cpu, unit="% of a core")


def _failed(figure: Figure) -> str:
    percent = f"{figure.values.get('server_cpu_percent', 0.0):.0f} %"
    return f"{percent}, {figure.failures} failed" if figure.failures else percent


def _scenario(scenario: str, figures: Sequence[Figure], before: Sequence[Figure]) -> Iterator[str]:
    unit = unit_of(scenario)
    rows = [plots.Row(one.target, one.cpu_us, one.cpu_us_rounds) for one in figures if one.cpu_us is not None]
    note = "A bar is the median, a dot a round." if any(row.dots for row in rows) else ""
    yield plots.bars(f"{scenario}: server CPU", rows, unit=f"µs per {unit}", dots="rounds", note=note)
    yield table(
        ("target", "CPU µs", "kernel %", "per s", "p50 ms", "p99 ms", "max ms", "failed", "generator µs"),
        (
            (
                one.target,
                plots.number(one.cpu_us),
                f"{100 * one.system_share:.0f}" if one.cpu_us else "",
                f"{one.per_s:,.0f}",
                *(plots.number(value or None) for value in (one.p50_ms, one.p99_ms, one.max_ms)),
                str(one.failures),
                f"{one.generator_us:.2f}{' (limited the rate)' if one.generator_busy > BUSY else ''}",
            )
            for one in figures
        ),
        label=f"{scenario}: figures",
    )
    for one in figures:
        said = [f"{name} {value:,.4g}" for name, value in one.values.items()] + one.notes
        if said:
            yield f"<p><small>{escape(one.target)}: {escape(' · '.join(said))}</small></p>"
    for name, found in _distributions(figures, before):
        yield plots.distributions(f"{name}: distribution of latency", found, bin_edge, unit="ms")
    for one in figures:
        if one.latency:
            yield from _over_time(f"{scenario}, {one.target}", one.latency)


def _distributions(
    figures: Sequence[Figure], before: Sequence[Figure]
) -> Iterator[tuple[str, list[plots.Distribution]]]:
    """The targets over each other; with a baseline each target over what it was then."""
    then = {one.target: one for one in before if one.latency}
    timed = [one for one in figures if one.latency]
    if then:
        for one in timed:
            old = [("baseline", then[one.target])] if one.target in then else []
            yield f"{one.scenario}, {one.target}", [_distribution(*named) for named in [("now", one), *old]]
        return
    for at in range(0, len(timed), plots.MOST_SERIES):
        part = timed[at : at + plots.MOST_SERIES]
        yield part[0].scenario, [_distribution(one.target, one) for one in part]


def _distribution(name: str, figure: Figure) -> plots.Distribution:
    slices = (part for record in figure.latency for part in record.slices)
    return plots.Distribution.of(name, merged(part.bins for part in slices))


def _over_time(name: str, rounds: Sequence[LatencyRecord]) -> Iterator[str]:
    shown = rounds[:SHOWN_ROUNDS]
    note = f"Round {' | '.join(str(at + 1) for at in range(len(shown)))}" if len(shown) > 1 else ""
    note += f" of {len(rounds)}" if len(shown) < len(rounds) else ""
    width = max(record.slice_s for record in shown)
    slices: list[tuple[float, LatencySlice | None]] = []
    breaks: list[float] = []
    start = 0.0
    for record in shown:
        breaks.append(start)
        slices += [(start + at * width, part) for at, part in enumerate(record.every())]
        start = slices[-1][0] + width
    x_name = "time" if len(shown) == 1 else "time, the rounds one after the other"
    yield plots.lines(
        f"{name}: latency over time",
        [
            plots.Series(label, [(at, getattr(part, member) if part else None) for at, part in slices])
            for label, member in PERCENTILES
        ],
        unit="ms",
        x_name=x_name,
        breaks=breaks[1:],
        note=note,
    )
    yield plots.heat_map(
        f"{name}: every operation, by time and latency",
        [(at, part.bins if part else {}) for at, part in slices],
        width,
        bin_edge,
        unit="ms",
        x_name=x_name,
        note=note,
    )
