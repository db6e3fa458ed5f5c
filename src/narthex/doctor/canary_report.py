"""Writes the rounds of `narthex probe` as one HTML page with plots.

Not here: a round (`canary`), how a plot is drawn (`narthex.reports.plots`). Rules: the page holds a bounded number
of rounds; latencies are those of rounds that worked, and a failed round is drawn as such.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from narthex.doctor.canary import CanaryRound
from narthex.doctor.reports import harmless
from narthex.reports import plots
from narthex.reports.latency import PERCENTILES, LatencyRecord, bin_edge, merged, percentile, record
from narthex.reports.page import facts, page, table

KEPT_ROUNDS: Final = 2_880
"""A day of one round every 30 s: the page and the prober's memory stay small."""
SLICES: Final = 60
SHOWN_STEPS: Final = 4
SHOWN_FAILURES: Final = 50
_day: Final = plots.clock_text(86_400)


def as_html(rounds: Sequence[CanaryRound], url: str) -> str:
    """The page of these rounds, oldest first; at least one."""
    last = rounds[-1]
    failed = [seen for seen in rounds if not seen.ok]
    verdict = ("passed", "works") if last.ok else ("failed", f"failed: {last.failed}")
    parts = [
        f'<h1>narthex probe <span class="{verdict[0]}">{escape(verdict[1])}</span></h1>',
        facts(
            (
                ("target", url),
                ("rounds", f"{len(rounds):,}, {len(failed):,} failed"),
                ("success", f"{1 - len(failed) / len(rounds):.2%}"),
                ("first round", f"{_day(rounds[0].at)} UTC"),
                ("last round", f"{_day(last.at)} UTC"),
            )
        ),
    ]
    parts += _latencies(rounds, failed)
    parts += ["<h2>Steps</h2>", _steps(rounds)]
    if failed:
        parts += [f"<h2>Failed rounds ({len(failed):,})</h2>", _failures(failed)]
    return page(f"narthex probe {url}: {verdict[1]}", parts)


def _latencies(rounds: Sequence[CanaryRound], failed: Sequence[CanaryRound]) -> Iterator[str]:
    whole = record([(seen.at, _ms(seen) / 1e3) for seen in rounds if seen.ok], SLICES)
    x_text = plots.clock_text(rounds[-1].at - rounds[0].at)
    bands = [plots.Band(seen.at, seen.at, f"{x_text(seen.at)}: {seen.failed} failed") for seen in failed]
    if whole is None:
        return
    began = next(seen.at for seen in rounds if seen.ok)
    note = f"Each failed round is a red line ({len(failed):,})." if failed else ""
    every = [(began + at * whole.slice_s, part) for at, part in enumerate(whole.every())]
    yield "<h2>Latency</h2>"
    yield plots.lines(
        "Time of a whole round",
        [
            plots.Series(
                name, [(at, getattr(part, member) if part else None) for at, part in every if part or failed]
            )
            for name, member in PERCENTILES
        ],
        unit="ms",
        x_name="time, UTC",
        x_text=x_text,
        bands=bands,
        note=note,
    )
    yield plots.lines(
        "Median of the slowest steps",
        _slowest(rounds, began, whole),
        unit="ms",
        x_name="time, UTC",
        x_text=x_text,
        bands=bands,
        note=note,
    )
    yield plots.heat_map(
        "Every round that worked, by time and latency",
        [(at, part.bins if part else {}) for at, part in every],
        whole.slice_s,
        bin_edge,
        unit="ms",
        x_name="time, UTC",
        x_text=x_text,
    )
    found = plots.Distribution.of("rounds", merged(part.bins for part in whole.slices))
    yield plots.distributions("Distribution of a round's time", [found], bin_edge, unit="ms")


def _slowest(rounds: Sequence[CanaryRound], began: float, whole: LatencyRecord) -> list[plots.Series]:
    """The slowest steps by their median, in the order of a round."""
    times = _times(rounds)
    medians = {name: percentile(sorted(ms for _, ms in found), 0.5) for name, found in times.items()}
    slowest = sorted(medians, key=lambda name: medians[name], reverse=True)[:SHOWN_STEPS]
    series = []
    for name in (name for name in times if name in slowest):
        by_slice: defaultdict[int, list[float]] = defaultdict(list)
        for at, ms in times[name]:
            by_slice[min(SLICES - 1, max(0, int((at - began) / whole.slice_s)))].append(ms)
        points = [
            (began + at * whole.slice_s, percentile(sorted(by_slice[at]), 0.5)) for at in sorted(by_slice)
        ]
        series.append(plots.Series(name, points))
    return series


def _times(rounds: Sequence[CanaryRound]) -> dict[str, list[tuple[float, float]]]:
    """When each step was done and how many ms it took, of those that worked."""
    times: dict[str, list[tuple[float, float]]] = {}
    for seen in rounds:
        for step in seen.steps:
            if step.ok:
                times.setdefault(step.name, []).append((seen.at, step.ms))
    return times


def _steps(rounds: Sequence[CanaryRound]) -> str:
    failures = Counter(step.name for seen in rounds for step in seen.steps if not step.ok)
    times = _times(rounds)
    rows = []
    for name in dict.fromkeys(step.name for seen in rounds for step in seen.steps):
        found = sorted(ms for _, ms in times.get(name, []))
        shares = (
            [percentile(found, share) for share in (0.5, 0.9, 0.99)] + found[-1:] if found else [None] * 4
        )
        rows.append([name, f"{len(found):,}", f"{failures[name]:,}", *map(plots.number, shares)])
    head = ["step", "worked", "failed", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    return table(head, rows, label="Steps of a round")


def _failures(failed: Sequence[CanaryRound]) -> str:
    """The last ones."""
    items = "".join(
        f"<li>{_day(seen.at)} UTC: <b>{escape(seen.failed)}</b> "
        f"{escape(harmless(next(step.detail for step in seen.steps if not step.ok)))}</li>"
        for seen in reversed(failed[-SHOWN_FAILURES:])
    )
    more = len(failed) - SHOWN_FAILURES
    return f"<ol reversed start={len(failed)}>{items}</ol>" + (
        f"<p>{more:,} more before these.</p>" if more > 0 else ""
    )


def _ms(seen: CanaryRound) -> float:
    return sum(step.ms for step in seen.steps)
