"""Plots show the values that they were given, each with the same figures as a table."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from narthex.reports import plots
from narthex.reports.latency import bin_edge
from tests.reports.outline import DrawnFigure, figures

NASTY = "<b> & \"q\" 'a'"


def only(html: str) -> DrawnFigure:
    """The plot of a text that holds one."""
    (found,) = figures(html).values()
    return found


def places(path: str) -> list[tuple[float, float]]:
    """The points of a path of M and L."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_line_goes_up_with_its_values_and_breaks_where_there_is_none() -> None:
    """A missing value is a gap in the line and an empty cell, not a zero."""
    found = only(
        plots.lines(
            NASTY,
            [plots.Series("p50", [(0.0, 1.0), (1.0, None), (2.0, 10.0), (3.0, 100.0)])],
            unit="ms",
            x_name="time",
        )
    )
    line = found.paths("line")[0]
    assert line.count("M") == 2
    (x0, y0), (x2, y2), (x3, y3) = places(line)
    assert x0 < x2 < x3
    assert y0 > y2 > y3, "upwards is more"
    assert y0 - y2 == pytest.approx(y2 - y3, abs=0.1), "the scale is logarithmic"
    assert found.table == [["time", "p50, ms"], ["0 s", "1"], ["1 s", ""], ["2 s", "10"], ["3 s", "100"]]


def test_lines_are_told_apart_without_colour() -> None:
    """Each has a class with a dash pattern of its own and its name at its end, and no two names overlap."""
    series = [plots.Series(name, [(0.0, 5.0), (1.0, 5.0)]) for name in ("p50", "p90", "p99", "max")]
    found = only(plots.lines("t", series, unit="ms", x_name="time"))
    assert [len(found.paths(f"s{at}")) for at in range(4)] == [2, 2, 2, 2], (
        "the line, and the key beside its name"
    )
    names = [one for one in found.image.iter("text") if one.text in ("p50", "p90", "p99", "max")]
    heights = sorted(float(one.get("y", "")) for one in names)
    assert all(later - earlier >= 14 for earlier, later in pairwise(heights))


def test_bands_limits_and_breaks_are_drawn() -> None:
    """A band has a width also where it is a moment; the limit is within the scale though no value reaches it."""
    found = only(
        plots.lines(
            "t",
            [plots.Series("p50", [(0.0, 1.0), (10.0, 2.0)])],
            unit="ms",
            x_name="time",
            bands=[plots.Band(5.0, 5.0, NASTY)],
            limit=("bound", 250.0),
            breaks=[5.0],
        )
    )
    (band,) = found.boxes("band")
    assert float(band.get("width", "0")) >= 2
    assert band.findtext("title") == NASTY
    assert len(found.paths("limit")) == len(found.paths("break")) == 1
    line, limit = places(found.paths("line")[0]), found.paths("limit")[0]
    assert float(limit.split()[1].partition("H")[0]) < min(y for _, y in line)


@pytest.mark.parametrize("points", [[], [(0.0, None)], [(0.0, 0.0)]])
def test_a_plot_of_nothing_is_left_out(points: list[plots.Point]) -> None:
    """No empty frame, and no logarithm of zero."""
    assert plots.lines("t", [plots.Series("p50", points)], unit="ms", x_name="time") == ""
    assert plots.distributions("t", [], bin_edge, unit="ms") == ""
    assert plots.heat_map("t", [(0.0, {})], 1.0, bin_edge, unit="ms", x_name="time") == ""
    assert plots.bars("t", [], unit="µs") == ""


def test_one_value_is_a_plot() -> None:
    """A measurement of one operation has scales of no width."""
    found = only(plots.lines("t", [plots.Series("p50", [(7.0, 3.0)])], unit="ms", x_name="time"))
    assert found.paths("line")[0].endswith("h.1")
    single = [plots.Distribution.of("a", {4: 1})]
    assert only(plots.distributions("t", single, bin_edge, unit="ms")).table[1][1] == "100.00"
    assert only(plots.heat_map("t", [(0.0, {4: 1})], 1.0, bin_edge, unit="ms", x_name="time")).boxes("heat")


def test_a_distribution_is_of_shares() -> None:
    """Two measurements of different length compare; the bins between are drawn as nothing."""
    both = [plots.Distribution.of("a", {0: 1, 2: 3}), plots.Distribution.of("b", {0: 100, 2: 300})]
    found = only(plots.distributions("t", both, bin_edge, unit="ms"))
    outlines = [path for path in found.paths("line") if path.endswith(f"V{plots.HEIGHT - 44}")]
    assert len(outlines) == 2
    assert outlines[0] == outlines[1]
    assert [row[1:] for row in found.table[1:]] == [["25.00", "25.00"], ["0.00", "0.00"], ["75.00", "75.00"]]


def test_a_heat_map_shows_one_among_thousands() -> None:
    """A single slow operation is faint but seen, names its count, and is in the table."""
    found = only(
        plots.heat_map(
            "t", [(0.0, {0: 5000}), (1.0, {0: 4000, 40: 1})], 1.0, bin_edge, unit="ms", x_name="time"
        )
    )
    by_text = {one.findtext("title"): float(one.get("fill-opacity", "1")) for one in found.boxes("heat")}
    single = [
        shade for text, shade in by_text.items() if text and text.startswith("1 s") and text.endswith(": 1")
    ]
    assert len(single) == 1
    assert (
        0.1 < single[0] < min(shade for text, shade in by_text.items() if text and not text.endswith(": 1"))
    )
    assert len(found.table[0]) <= 25, "bins are joined until the rows can be read"
    assert sorted(cell for row in found.table[1:] for cell in row[1:] if cell) == ["1", "4,000", "5,000"]


def test_bars_begin_at_zero_and_show_every_measurement() -> None:
    """Twice the value is twice the length; the dots are where the rounds were."""
    rows = [plots.Row("one", 10.0, (8.0, 12.0)), plots.Row(NASTY, 5.0, (5.0,))]
    found = only(plots.bars("t", rows, unit="µs", dots="rounds"))
    first, second = (float(one.get("width", "")) for one in found.boxes("bar"))
    assert first == pytest.approx(2 * second, rel=0.02)
    assert len(list(found.image.iter("circle"))) == 3
    assert found.table == [["", "µs", "rounds"], ["one", "10", "8, 12"], [NASTY, "5", "5"]]


def test_ratios_go_both_ways_from_one() -> None:
    """Half and twice are equally far from the middle; what is worse has a class and a word."""
    rows = [plots.Row("a", 2.0, text="2.00 ×, worse", bad=True), plots.Row("b", 0.5, text="0.50 ×")]
    found = only(
        plots.ratios("t", rows, limit=1.25, table_of=(["cost", "ratio"], [["a", "2.00 ×"], ["b", "0.50 ×"]]))
    )
    (worse,), (better,) = found.boxes("worse"), found.boxes("better")
    assert float(worse.get("width", "")) == pytest.approx(float(better.get("width", "")), abs=0.1)
    assert float(better.get("x", "")) < float(worse.get("x", ""))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.123456, "0.123"), (12.34, "12.3"), (999.0, "999"), (1234567.0, "1,234,567")],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    """Three digits that matter."""
    assert plots.number(value) == text


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.001, 1e6), (1.0, 1.1), (3.0, 3.0001), (1.0, 80.0), (1_798_000_000.0, 1_798_086_400.0)],
)
def test_ticks_are_within_the_scale(low: float, high: float) -> None:
    """Enough to read a value and few enough not to overlap, whatever the range."""
    for log in (True, False):
        ticks = plots._Scale(low, high, 0, 100, log=log).ticks()
        assert 2 <= len(ticks) <= 8
        assert ticks == sorted(set(ticks))
        assert all(low * 0.9999999 <= tick <= high * 1.0000001 for tick in ticks)
