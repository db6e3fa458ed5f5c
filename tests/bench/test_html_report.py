"""A benchmark as a page: every figure of it, plots of its latencies, and the comparison with a baseline."""

from __future__ import annotations

import re

from narthex.bench import baseline
from narthex.bench.html_report import SHOWN_ROUNDS, as_html
from narthex.bench.results import Figure
from tests.reports.outline import figures
from tests.reports.samples import bench_report


def test_each_scenario_has_its_plots_and_figures() -> None:
    """Cost, distribution, percentiles over time and heat map of each target, all with tables."""
    report = bench_report()
    page = as_html(report)
    found = figures(page)
    for scenario in ("handshakes", "fanout-1000x8"):
        cost = found[f"{scenario}: server CPU"]
        assert [row[0] for row in cost.table[1:]] == ["narthex", "other <b>"]
        assert len(cost.table[1][2].split(", ")) == 3, "each round is a dot"
        assert found[f"{scenario}: distribution of latency"].table[0][1:] == ["narthex, %", "other <b>, %"]
        for target in ("narthex", "other <b>"):
            over_time = found[f"{scenario}, {target}: latency over time"]
            assert over_time.table[0][1:] == ["p50, ms", "p90, ms", "p99, ms", "max, ms"]
            assert len(over_time.paths("break")) == 2, "three rounds, side by side"
            assert max(float(row[4].replace(",", "")) for row in over_time.table[1:] if row[4]) >= 200, (
                "the stall is there"
            )
            heat = found[f"{scenario}, {target}: every operation, by time and latency"]
            cells = [int(cell.replace(",", "")) for row in heat.table[1:] for cell in row[1:] if cell]
            assert sum(cells) == 3 * 600, "no operation is missing"


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    """Self-contained; names of targets and machines are escaped; the policy allows the style and nothing else."""
    page = as_html(bench_report(), then=bench_report())
    assert "<script" not in page
    assert "<b>" not in page
    assert not re.search(r"""(?:src|href|style)=|@import|url\(""", page)
    assert "default-src 'none'; style-src 'sha256-" in page


def test_a_baseline_is_compared() -> None:
    """A cost that is worse is named; the distribution of now lies over that of then."""
    then, now = bench_report(), bench_report(slower=1.5, seed=9)
    page = as_html(now, then=then, changes=baseline.compare(then, now), tolerance=1.25)
    assert '<span class="failed">4 worse</span> of 8 costs' in page
    found = figures(page)
    costs = found["Costs now over the baseline's: right of 1 × is dearer"]
    assert len(costs.boxes("worse")) == 4
    assert costs.table[0] == ["cost", "then", "now", "ratio"]
    assert found["handshakes, narthex: distribution of latency"].table[0][1:] == ["now, %", "baseline, %"]
    assert "none worse" in as_html(then, then=then, changes=baseline.compare(then, then))


def test_a_baseline_without_latencies_compares_costs() -> None:
    """One that an earlier version saved, and one of another machine."""
    then, now = bench_report(), bench_report()
    for figure in then.figures:
        figure.latency, figure.cpu_us_rounds = [], []
    then.machine = "another <i>"
    page = as_html(now, then=then, changes=baseline.compare(then, now))
    assert "another machine:</strong> another &lt;i&gt;" in page
    assert figures(page)["handshakes: distribution of latency"].table[0][1:] == ["narthex, %", "other <b>, %"]


def test_what_was_not_measured_is_left_out() -> None:
    """A server without a pid has no cost, and an idle scenario may have timed nothing."""
    report = bench_report(rounds=1)
    report.ratios = {}
    report.figures = [
        Figure(scenario="echo", target="remote", operations=5, failures=2, notes=["2 × no answer"])
    ]
    page = as_html(report)
    assert figures(page) == {}
    assert "2 × no answer" in page


def test_many_rounds_are_cut_and_said() -> None:
    """A plot over time holds the first rounds and says of how many."""
    page = as_html(bench_report(rounds=SHOWN_ROUNDS + 2))
    assert f"| {SHOWN_ROUNDS} of {SHOWN_ROUNDS + 2}" in page


def test_the_most_runs_have_a_plot_with_the_bound() -> None:
    """Latency by the number of runs, in their order, with the attempts that failed."""
    report = bench_report(rounds=1)
    report.figures = [
        Figure(
            scenario=f"runs-{count}",
            target="narthex",
            operations=9,
            p50_ms=p50,
            p99_ms=p99,
            max_ms=p99,
            failures=lost,
        )
        for count, p50, p99, lost in ((200, 40.0, 90.0, 0), (100, 30.0, 50.0, 0), (300, 80.0, 400.0, 3))
    ]
    page = as_html(report, most_runs=(200, 250.0))
    found = figures(page)["Latency of an event by the number of runs"]
    assert [row[0] for row in found.table[1:]] == ["100", "200", "300"]
    assert len(found.paths("limit")) == 1
    assert "200 runs at once kept p99 under 250 ms" in page
    assert "3 failed" in figures(page)["CPU of the server"].table[3][1]
