"""Figures of several rounds, percentiles, and the comparison with a baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.bench import baseline
from narthex.bench.results import BenchReport, Figure, combine, latencies, spread
from narthex.errors import ClientError
from narthex.reports.latency import percentile


def figure(cpu_us: float | None, **more: object) -> Figure:
    """A figure of one round."""
    return Figure(scenario="echo", target="narthex", operations=10, cpu_us=cpu_us, **more)  # type: ignore[arg-type]  # tests mix


def report(*figures: Figure) -> BenchReport:
    """A report of these."""
    return BenchReport(
        version="1", machine="m", python="3", cores=2, at="now", rounds=1, figures=list(figures), ratios={}
    )


def test_the_median_of_the_rounds_counts() -> None:
    """One disturbed round does not move the figure; failures are not averaged away."""
    found = combine([figure(2.0), figure(9.0, failures=1, values={"kb": 3.0}), figure(3.0)])
    assert (found.cpu_us, found.operations, found.failures, found.values) == (3.0, 30, 1, {"kb": 3.0})
    assert spread([figure(2.0), figure(4.0), figure(3.0)]) == pytest.approx(2 / 3)
    assert spread([figure(2.0)]) == 0.0
    assert combine([figure(None)]).cpu_us is None


def test_percentiles() -> None:
    """Of a hundred values p99 is the hundredth; of none it is 0."""
    values = [float(i) for i in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (50.0, 99.0, 0.0)
    found = latencies([(0.0, 0.003), (1.0, 0.001)])
    assert (found["p50_ms"], found["p99_ms"], found["max_ms"]) == (3.0, 3.0, 3.0)
    assert latencies([]) == {"p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0, "latency": []}


def test_a_baseline_is_saved_and_compared(tmp_path: Path) -> None:
    """Worse past the tolerance is named; better, and what is on one side only, is not."""
    then = report(figure(10.0, values={"uss_kb_per_socket": 4.0}))
    baseline.save(then, tmp_path / "b.json")
    loaded = baseline.load(tmp_path / "b.json")
    assert loaded == then
    other = Figure(scenario="storm", target="narthex", operations=1, cpu_us=1.0)
    changes = baseline.compare(loaded, report(figure(13.0, values={"uss_kb_per_socket": 3.0}), other))
    assert [(change.what, round(change.ratio, 2)) for change in changes] == [
        ("CPU µs", 1.3),
        ("uss_kb_per_socket", 0.75),
    ]
    assert [change.worse(1.25) for change in changes] == [True, False]
    assert not changes[0].worse(1.5)


def test_what_is_no_baseline_is_said(tmp_path: Path) -> None:
    """A file that is none, and none at all."""
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.json", "y.json"):
        with pytest.raises(ClientError, match="is not a saved benchmark"):
            baseline.load(tmp_path / name)


def test_a_difference_of_the_clock_is_none() -> None:
    """0.02 µs instead of 0.01 µs is twice as much and nothing."""
    assert not baseline.FigureChange("s", "t", "CPU µs", 0.01, 0.02).worse(1.25)
