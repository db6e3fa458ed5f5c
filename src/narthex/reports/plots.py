"""Draws plots as SVG inside HTML, each with the same figures as a table beside it.

Not here: what is measured, and the page (`page`). Rules: a line has a dash pattern and a name at its end beside its
colour, so that colour is never the only sign; a value that is missing is a gap and not a zero; every plot is one
image to a screen reader, and its table has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple, TypeAlias

from narthex.reports.page import scrolling, table

WIDTH: Final = 760
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 160, 10, 44
MOST_SERIES: Final = 4  # in one plot: so many dash patterns can be told apart
_ROW: Final = 26  # of a plot with one row for each figure
_MOST_ROWS: Final = 24  # of a heat map

Point: TypeAlias = tuple[float, float | None]


class Series(NamedTuple):
    """One line: points in the order of x; `None` is a gap."""

    name: str
    points: Sequence[Point]


class Band(NamedTuple):
    """A part of the x axis to point out, such as a failed round."""

    start: float
    end: float
    name: str


class Row(NamedTuple):
    """One row of a plot with rows: its value, and single measurements behind it."""

    name: str
    value: float
    dots: Sequence[float] = ()
    text: str = ""
    bad: bool = False


def number(value: float | None) -> str:
    """A figure as people read it: three digits that matter, thousands apart; empty where there is none."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds since the beginning of a measurement."""
    return f"{number(value)} s"


def clock_text(span_s: float) -> Callable[[float], str]:
    """How the times within a span of this length are written, UTC."""
    form = "%H:%M:%S" if span_s < 900 else "%H:%M" if span_s < 86_400 else "%b %d %H:%M"
    return lambda at: datetime.fromtimestamp(at, UTC).strftime(form)


class _Scale(NamedTuple):
    """From values to places in the image."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, steps: Sequence[float] = ()) -> list[float]:
        """Round values within the scale, seven or so."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [10.0**decade * digit for decade in decades for digit in digits]
                found = [value for value in found if self.low <= value <= self.high]
                if 3 <= len(found) <= 7:
                    return found
        span = (self.high - self.low) or 1.0
        step = next((step for step in steps if span / step <= 6), _nice(span / 6))
        first = math.ceil(self.low / step - 1e-9)
        return [step * at for at in range(first, first + 9) if step * at <= self.high + step * 1e-6]


_CLOCK_STEPS: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    86_400,
)


def _nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)


def _log_scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    return _Scale(low / 1.15, high * 1.15, start, end, log=True)


# -- lines -------------------------------------------------------------------------------------------------


def lines(
    title: str,
    series: Sequence[Series],
    *,
    unit: str,
    x_name: str,
    x_text: Callable[[float], str] = seconds,
    bands: Sequence[Band] = (),
    limit: tuple[str, float] | None = None,
    breaks: Sequence[float] = (),
    note: str = "",
) -> str:
    """Lines over one axis, with a logarithmic scale of values: latencies differ by factors.

    Args:
        title: what is shown.
        series: at most `MOST_SERIES`.
        unit: of the values.
        x_name: of the axis, which `x_text` writes.
        x_text: how a value of the axis is written.
        bands: parts of the axis that are pointed out.
        limit: a name and a value to stay below.
        breaks: places on the axis at which one measurement ends and the next begins.
        note: a sentence below the title.
    """
    xs = [x for one in series for x, _ in one.points] + [
        edge for band in bands for edge in (band.start, band.end)
    ]
    ys = [y for one in series for _, y in one.points if y is not None and y > 0]
    if not xs or not ys:
        return ""
    across = _Scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    up = _log_scale([*ys, *([limit[1]] if limit else [])], HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(across, up, unit, x_name, x_text)]
    parts += (
        _box(
            "band",
            across.at(band.start) - 1,
            across.at(band.end) + 1,
            _TOP,
            HEIGHT - _BOTTOM,
            title=band.name,
        )
        for band in bands
    )
    parts += (f'<path class="break" d="M{across.at(at)} {_TOP}V{HEIGHT - _BOTTOM}"/>' for at in breaks)
    if limit is not None:
        y = up.at(limit[1])
        parts.append(
            f'<path class="limit" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"/>'
            f'<text class="limit" x="{WIDTH - _RIGHT - 4}" y="{y - 5}" text-anchor="end">{escape(limit[0])}</text>'
        )
    parts += (
        f'<path class="line s{at}" d="{_path(one.points, across, up)}"/>' for at, one in enumerate(series)
    )
    parts.append(_names(series, up))
    every = sorted({x for one in series for x, _ in one.points})
    by_series = [dict(one.points) for one in series]
    rows = [[x_text(x), *(number(values.get(x)) for values in by_series)] for x in every]
    head = [x_name, *(f"{one.name}, {unit}" for one in series)]
    return _figure(title, parts, head, rows, note=note)


def _path(points: Sequence[Point], across: _Scale, up: _Scale) -> str:
    path, gap = [], True
    for at, (x, y) in enumerate(points):
        if y is not None:
            path.append(f"{'M' if gap else 'L'}{across.at(x)} {up.at(y)}")
            if gap and (at + 1 == len(points) or points[at + 1][1] is None):
                path.append("h.1")  # a single value is a dot
        gap = y is None
    return "".join(path)


def _names(series: Sequence[Series], up: _Scale) -> str:
    """The series' names at the ends of their lines, moved apart where the lines end together."""
    ends = [
        (up.at(known[-1]), at)
        for at, one in enumerate(series)
        if (known := [y for _, y in one.points if y is not None])
    ]
    found, lowest = [], HEIGHT - _BOTTOM + 14.0
    for y, at in sorted(ends, key=lambda end: (-end[0], end[1])):
        lowest = min(y + 4, lowest - 14)
        x = WIDTH - _RIGHT
        found.append(
            f'<path class="line s{at}" d="M{x + 4} {round(lowest - 4, 2)}h18"/>'
            f'<text x="{x + 26}" y="{round(lowest, 2)}">{escape(_short(series[at].name, 20))}</text>'
        )
    return "".join(found)


def _grid(across: _Scale, up: _Scale, unit: str, x_name: str, x_text: Callable[[float], str]) -> str:
    steps = () if x_text in (seconds, number) else _CLOCK_STEPS  # else it writes a time of day
    return (
        "".join(
            f'<path class="grid" d="M{_LEFT} {up.at(tick)}H{WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{up.at(tick) + 4}" text-anchor="end">{number(tick)}</text>'
            for tick in up.ticks()
        )
        + "".join(_x_tick(across.at(tick), x_text(tick)) for tick in across.ticks(steps))
        + f'<text class="dim" x="{_LEFT}" y="{HEIGHT - 6}">{escape(x_name)}</text>'
        + f'<text class="dim" transform="translate(14 {HEIGHT - _BOTTOM}) rotate(-90)">{escape(unit)}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    y = HEIGHT - _BOTTOM
    return f'<path class="grid" d="M{x} {y}v4"/><text x="{x}" y="{y + 18}" text-anchor="middle">{escape(text)}</text>'


# -- distributions -----------------------------------------------------------------------------------------


class Distribution(NamedTuple):
    """The shares of a histogram by bin: the share is that of all values."""

    name: str
    shares: dict[int, float]

    @classmethod
    def of(cls, name: str, bins: dict[int, int]) -> Distribution:
        """That of counts."""
        total = sum(bins.values()) or 1
        return cls(name, {at: count / total for at, count in bins.items()})


def distributions(
    title: str, found: Sequence[Distribution], edge: Callable[[int], float], *, unit: str, note: str = ""
) -> str:
    """Histograms over each other as outlines, the first one filled; bins as wide as `edge` says, on a log scale."""
    bins = sorted({at for one in found for at in one.shares})
    if not bins:
        return ""
    every = range(bins[0], bins[-1] + 1)
    top = max(share for one in found for share in one.shares.values())
    across = _Scale(edge(every[0]), edge(every[-1] + 1), _LEFT, WIDTH - _RIGHT, log=True)
    up = _Scale(0.0, 100 * top, HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(across, up, "% of all", unit, number)]
    for at, one in enumerate(found):
        path = f"M{_LEFT} {HEIGHT - _BOTTOM}" + "".join(
            f"V{up.at(100 * one.shares.get(bin_, 0.0))}H{across.at(edge(bin_ + 1))}" for bin_ in every
        )
        path += f"V{HEIGHT - _BOTTOM}"
        parts.append(f'<path class="line s{at}{"" if at else " filled"}" d="{path}"/>')
    parts += (
        f'<path class="line s{at}" d="M{WIDTH - _RIGHT + 4} {_TOP + 10 + 16 * at}h18"/>'
        f'<text x="{WIDTH - _RIGHT + 26}" y="{_TOP + 14 + 16 * at}">{escape(_short(one.name, 20))}</text>'
        for at, one in enumerate(found)
    )
    rows = [
        [_span(edge, bin_, bin_ + 1, unit), *(f"{100 * one.shares.get(bin_, 0.0):.2f}" for one in found)]
        for bin_ in every
    ]
    return _figure(title, parts, ["latency", *(f"{one.name}, %" for one in found)], rows, note=note)


def heat_map(
    title: str,
    columns: Sequence[tuple[float, dict[int, int]]],
    column_width: float,
    edge: Callable[[int], float],
    *,
    unit: str,
    x_name: str,
    x_text: Callable[[float], str] = seconds,
    note: str = "",
) -> str:
    """Counts by time (columns) and value (rows of bins on a log scale); the darker a field, the more are in it."""
    bins = sorted({at for _, counts in columns for at in counts})
    if not bins:
        return ""
    joined = -(-(bins[-1] - bins[0] + 1) // _MOST_ROWS)  # bins in one row
    first = bins[0]
    cells: dict[tuple[int, int], int] = {}
    for at, (_, counts) in enumerate(columns):
        for bin_, count in counts.items():
            place = (at, (bin_ - first) // joined)
            cells[place] = cells.get(place, 0) + count
    rows = range((bins[-1] - first) // joined + 1)
    names = [_span(edge, first + joined * row, first + joined * (row + 1), unit) for row in rows]
    most = max(cells.values())
    across = _Scale(columns[0][0], columns[-1][0] + column_width, _LEFT, WIDTH - _RIGHT)
    up = _Scale(edge(first), edge(first + joined * len(rows)), HEIGHT - _BOTTOM, _TOP, log=True)
    parts = [_grid(across, up, unit, x_name, x_text)]
    for (at, row), count in sorted(cells.items()):
        left, right = across.at(columns[at][0]), across.at(columns[at][0] + column_width)
        text = f"{x_text(columns[at][0])}, {names[row]}: {count:,}"
        top, bottom = up.at(edge(first + joined * (row + 1))), up.at(edge(first + joined * row))
        parts.append(_box("heat", left, right, top, bottom, _shade(count, most), title=text))
    for at, count in enumerate(sorted({1, max(1, round(most**0.5)), most}, reverse=True)):
        x, y = WIDTH - _RIGHT + 8, _TOP + 22 * at
        parts.append(_box("heat", x, x + 16, y, y + 16, _shade(count, most)))
        parts.append(f'<text x="{x + 22}" y="{y + 13}">{count:,}</text>')
    head = [x_name, *names]
    lines_of = [
        [x_text(start), *(number(cells.get((at, row))) for row in rows)]
        for at, (start, _) in enumerate(columns)
    ]
    return _figure(title, parts, head, lines_of, note=note)


def _box(
    kind: str, left: float, right: float, top: float, bottom: float, opacity: float = 1, title: str = ""
) -> str:
    """A rectangle at least a pixel wide."""
    size = f'width="{max(1.0, round(right - left, 2))}" height="{round(bottom - top, 2)}"'
    shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    return (
        f'<rect class="{kind}" x="{round(left, 2)}" y="{round(top, 2)}" {size}{shade}>'
        f"{f'<title>{escape(title)}</title>' if title else ''}</rect>"
    )


def _shade(count: int, most: int) -> float:
    """How dark: by the logarithm, so that a single slow operation among thousands is seen."""
    return 0.18 + 0.82 * (math.log(count) / math.log(most) if most > 1 else 1.0)


def _span(edge: Callable[[int], float], start: int, end: int, unit: str) -> str:
    return f"{number(edge(start))}-{number(edge(end))} {unit}"


# -- rows --------------------------------------------------------------------------------------------------


def bars(title: str, rows: Sequence[Row], *, unit: str, dots: str = "", note: str = "") -> str:
    """A bar for each row from zero, and a dot for each single measurement, which `dots` names."""
    if not rows:
        return ""
    top = max(max((row.value, *row.dots)) for row in rows) or 1.0
    left = _names_width(rows)
    across = _Scale(0.0, top, left, WIDTH - 90)
    parts = []
    for at, row in enumerate(rows):
        y, end = _ROW * at, across.at(row.value)
        dots_at = [across.at(dot) for dot in row.dots]
        parts.append(_row_name(row, left, y) + _box("bar", left, end, y + 5, y + 21))
        parts += (f'<circle cx="{x}" cy="{y + 13}" r="3.5"/>' for x in dots_at)
        text = escape(row.text or number(row.value))
        parts.append(f'<text x="{max(end, *dots_at, 0) + 8}" y="{y + 18}">{text}</text>')
    head = ["", unit, *([dots] if dots else [])]
    lines_of = [
        [row.name, row.text or number(row.value), *([", ".join(map(number, row.dots))] if dots else [])]
        for row in rows
    ]
    return _figure(title, parts, head, lines_of, height=_ROW * len(rows) + 6, note=note)


def ratios(
    title: str, rows: Sequence[Row], *, limit: float, table_of: tuple[Sequence[str], Sequence[Sequence[str]]]
) -> str:
    """A row for each ratio, drawn from 1 to the left (less) or right (more) on a log scale; `limit` is marked."""
    if not rows:
        return ""
    reach = max(limit, *(max(row.value, 1 / row.value) for row in rows)) * 1.1
    left = _names_width(rows)
    across = _Scale(1 / reach, reach, left, WIDTH - 90, log=True)
    one, height = across.at(1.0), _ROW * len(rows)
    marks = (("axis", "dim", one, 16, "1 ×"), ("limit", "limit", across.at(limit), 32, f"limit {limit:g} ×"))
    parts = [
        f'<path class="{line}" d="M{x} 0V{height}"/>'
        f'<text class="{kind}" x="{x}" y="{height + below}" text-anchor="middle">{text}</text>'
        for line, kind, x, below, text in marks
    ]
    for at, row in enumerate(rows):
        y, end = _ROW * at, across.at(row.value)
        kind = "worse" if row.bad else "better" if row.value < 1 else "bar"
        parts.append(_row_name(row, left, y) + _box(kind, min(one, end), max(one, end), y + 6, y + 20))
        parts.append(f'<text x="{max(end, one) + 8}" y="{y + 18}">{escape(row.text)}</text>')
    return _figure(title, parts, *table_of, height=height + 38)


def _names_width(rows: Sequence[Row]) -> float:
    """Where bars begin: after the longest name."""
    return 16.0 + 7 * max(len(_short(row.name)) for row in rows)


def _row_name(row: Row, left: float, y: float) -> str:
    return f'<text x="{left - 8}" y="{y + 18}" text-anchor="end">{escape(_short(row.name))}</text>'


def _short(name: str, most: int = 36) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _figure(
    title: str,
    parts: Iterable[str],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    height: int = HEIGHT,
    note: str = "",
) -> str:
    label = f"{escape(title)}. The table below has the figures."
    image = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    told = f"<p>{escape(note)}</p>" if note else ""
    figures = table(head, rows, label=f"Table: {title}")
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{told}{scrolling(image, title)}"
        f"<details><summary>Table: {escape(title)}</summary>{figures}</details></figure>"
    )
