"""Keeps figures over time, at falling resolution: 10 s for an hour, a minute for a day, an hour for 90 days.

Every process writes rows of its own, one each 10 s, with the growth of its counters: a node's id is new at each start,
so no counter is ever reset. Rows of all nodes are summed to minutes, and those to hours, by the process that comes
first; a sum is computed from the rows alone and replaces itself, so it does not matter how many processes do it. Not
here: reading a meter (`adapters/telemetry`), the arithmetic (`domain/figures.py`). Rules: figures that the store did
not take are kept for `MAX_UNWRITTEN` intervals; the size of the history is bounded by its ages.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
import structlog

from narthex.app.periodic import BackgroundTask
from narthex.domain.figures import Figures, increase, total
from narthex.errors import NarthexError
from narthex.ports.history import History, HistoryRow

FINE_S: Final = 10
MINUTE_S: Final = 60
HOUR_S: Final = 3_600
KEPT_S: Final = {FINE_S: 2 * HOUR_S, MINUTE_S: 26 * HOUR_S, HOUR_S: 92 * 24 * HOUR_S}
MAX_UNWRITTEN: Final = 30  # five minutes without the store
LATE_S: Final = 15  # after an interval's end, by which every node has written its row
MAX_ROWS: Final = 30_000
WRITTEN_S: Final = 3  # after an interval's end, by which its rows can be read
LEAST_SHARE: Final = 0.2  # of a step under way, below which it is left out
SUM_EVERY_S: Final = 30.0
PRUNE_EVERY_S: Final = 600.0

log = structlog.get_logger("narthex.fleet", log_name="narthex.fleet")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Figures).decode


class TimeRange(NamedTuple):
    """A range that can be shown: its length, the resolution of its rows, and the step between its points."""

    length_s: int
    resolution: int
    step_s: int


RANGES: Final[dict[str, TimeRange]] = {
    "15m": TimeRange(900, FINE_S, FINE_S),
    "1h": TimeRange(3_600, FINE_S, FINE_S),
    "6h": TimeRange(6 * 3_600, MINUTE_S, MINUTE_S),
    "24h": TimeRange(24 * 3_600, MINUTE_S, 2 * MINUTE_S),
    "7d": TimeRange(7 * 86_400, HOUR_S, HOUR_S),
    "30d": TimeRange(30 * 86_400, HOUR_S, HOUR_S),
    "90d": TimeRange(90 * 86_400, HOUR_S, 3 * HOUR_S),
}


class HistoryAnswer(msgspec.Struct, kw_only=True):
    """Figures over a range, by columns: each list has one value for each of `at`, null where there is no data.

    Attributes:
        range: its name.
        step_s: between two points.
        at: seconds since the epoch.
        counters: growth within each step, by key.
        gauges: mean of the whole fleet, by key.
        peaks: the largest of the fleet, by key.
        histograms: counts by bucket within each step, by key.
    """

    range: str
    step_s: int
    at: list[int]
    counters: dict[str, list[float | None]] = {}
    gauges: dict[str, list[float | None]] = {}
    peaks: dict[str, list[float | None]] = {}
    histograms: dict[str, list[list[int] | None]] = {}


class HistoryRecorder(BackgroundTask):
    """Writes this process's rows, sums and prunes those of all.

    Args:
        node: this node's id.
        history: of the store.
        figures: returns this process's figures since its start.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        node: str,
        history: History,
        figures: Callable[[], Figures],
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(self._run, "history")
        self._node = node
        self._history = history
        self._figures = figures
        self._clock = clock
        self._last = Figures()
        self._interval = 0
        self._unwritten: deque[HistoryRow] = deque(maxlen=MAX_UNWRITTEN)
        self._late: set[int] = set()  # minutes that were summed before a row of ours was written
        self._due = asyncio.Event()
        self._pruned_at = 0.0
        self._away = False

    @property
    def unwritten(self) -> int:
        """Rows that the store has not taken yet."""
        return len(self._unwritten)

    async def start(self) -> None:
        """Begin; counts from before belong to no interval."""
        self._interval = self._now() // FINE_S
        await super().start()

    async def stop(self) -> None:
        """Write the interval that is under way."""
        running = self._task is not None
        await super().stop()
        if running:
            self._close(self._interval)
            await self._write()

    def tick(self, now: float) -> None:
        """Time has passed: close the interval when it has ended."""
        interval = int(now) // FINE_S
        if interval > self._interval:
            self._close(self._interval)
            self._interval = interval
            self._due.set()

    def _now(self) -> int:
        return int(self._clock())

    def _close(self, interval: int) -> None:
        found = self._figures()
        grown = increase(self._last, found)
        self._last = found
        connections = sum(
            value for key, value in found.gauges.items() if key.startswith("connections_active|")
        )
        gauges = {key: value for key, value in grown.gauges.items() if value}
        gauges |= {f"node|{self._node}": connections, "nodes": 1.0}
        row = msgspec.structs.replace(grown, gauges=gauges)
        self._unwritten.append(
            HistoryRow(resolution=FINE_S, at=interval * FINE_S, node=self._node, data=_encode(row).decode())
        )

    async def _run(self) -> None:
        summed_at = self._clock() + random.uniform(0, SUM_EVERY_S)  # noqa: S311 - nodes must not meet
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINE_S):
                    await self._due.wait()
            self._due.clear()
            await self._attempt(self._write)
            if self._clock() >= summed_at:
                summed_at = self._clock() + SUM_EVERY_S * random.uniform(0.8, 1.2)  # noqa: S311 - as above
                await self._attempt(self.sum_up)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except NarthexError as fault:
            if not self._away:
                log.warning("history_not_written", code=fault.code, detail=fault.message)
            self._away = True
        except Exception:  # a bug: the dashboard would have no data any more
            log.exception("history_raised")
        else:
            self._away = False

    async def _write(self) -> None:
        rows = list(self._unwritten)
        if not rows:
            return
        await self._history.put_history(rows)
        for row in rows:
            if self._unwritten and self._unwritten[0] is row:
                self._unwritten.popleft()
        late_before = self._now() - MINUTE_S - LATE_S
        self._late.update(row.at // MINUTE_S * MINUTE_S for row in rows if row.at < late_before)

    # -- sums ----------------------------------------------------------------------------------------------

    async def sum_up(self) -> None:
        """Sum complete minutes and hours that have no sum yet, and prune. Raises DependencyError."""
        now = self._now()
        late, self._late = self._late, set()
        try:
            await self._sum(FINE_S, MINUTE_S, now, late)
            await self._sum(MINUTE_S, HOUR_S, now, {minute // HOUR_S * HOUR_S for minute in late})
        except BaseException:
            self._late |= late
            raise
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = now
            for resolution, kept_s in KEPT_S.items():
                await self._history.prune_history(resolution, now - kept_s)

    async def _sum(self, fine: int, coarse: int, now: int, again: set[int]) -> None:
        until = (now - LATE_S) // coarse * coarse
        newest = await self._history.newest_history(coarse)
        since = max(newest + coarse if newest else 0, (now - KEPT_S[fine]) // coarse * coarse)
        spans = {(since, until), *((at, at + coarse) for at in again if at < since)}
        for first, end in sorted(spans):
            while first < end:  # bounded reads: a whole day of a large fleet does not fit into one answer
                upto = min(end, first + 10 * coarse)
                rows = await self._history.history(fine, first, upto, MAX_ROWS)
                sums = await asyncio.to_thread(summed, rows, coarse)
                if sums:
                    await self._history.put_history(sums)
                first = upto


def summed(rows: Iterable[HistoryRow], coarse: int) -> list[HistoryRow]:
    """Rows of the coarser resolution, each from the rows within it."""
    grouped: dict[int, list[HistoryRow]] = defaultdict(list)
    for row in rows:
        grouped[row.at // coarse * coarse].append(row)
    return [
        HistoryRow(resolution=coarse, at=at, node="", data=_encode(_total(found)).decode())
        for at, found in sorted(grouped.items())
    ]


def _total(rows: list[HistoryRow]) -> Figures:
    return total((_decode(row.data) for row in rows), len({row.at for row in rows}))


class HistoryReader:
    """Answers questions about the past, each at most once in `CACHED_S`.

    Args:
        history: of the store.
        clock: seconds since the epoch.
    """

    CACHED_S: Final = 4.0

    def __init__(self, history: History, clock: Callable[[], float] = time.time) -> None:
        self._history = history
        self._clock = clock
        self._cached: dict[str, tuple[float, bytes]] = {}
        self._lock = asyncio.Lock()

    async def read(self, name: str) -> bytes:
        """`HistoryAnswer` of a range, as JSON. Raises DependencyError, and KeyError for an unknown range."""
        span = RANGES[name]
        async with self._lock:
            now = self._clock()
            cached = self._cached.get(name)
            if cached is not None and now - cached[0] < self.CACHED_S:
                return cached[1]
            written_until = int(now - WRITTEN_S) // FINE_S * FINE_S
            until = -(-written_until // span.step_s) * span.step_s
            since = until - span.length_s
            rows = await self._history.history(span.resolution, since, until, MAX_ROWS)
            if span.resolution > FINE_S:  # the newest minutes or hours have no sum yet
                newest = rows[-1].at + span.resolution if rows else since
                rows += await self._finer(span.resolution, max(newest, since), until)
            answer = await asyncio.to_thread(_answer, name, span, since, rows, written_until)
            self._cached[name] = (self._clock(), answer)
            return answer

    async def _finer(self, resolution: int, since: int, until: int) -> list[HistoryRow]:
        """Sums that are not stored yet, from the finer rows of at most two intervals."""
        fine = FINE_S if resolution == MINUTE_S else MINUTE_S
        since = max(since, until - 3 * resolution)
        return summed(await self._history.history(fine, since, until, MAX_ROWS), resolution)


def _answer(name: str, span: TimeRange, since: int, rows: list[HistoryRow], written_until: int) -> bytes:
    grouped: dict[int, list[HistoryRow]] = defaultdict(list)
    points = span.length_s // span.step_s
    for row in rows:
        if 0 <= (index := (row.at - since) // span.step_s) < points:
            grouped[index].append(row)
    # The newest step is under way: its counters are extrapolated, or it is left out while little of it is known.
    newest = since + (points - 1) * span.step_s
    known_s = min(span.step_s, written_until - newest)
    if known_s < span.step_s * LEAST_SHARE:
        grouped.pop(points - 1, None)
    answer = HistoryAnswer(
        range=name, step_s=span.step_s, at=[since + index * span.step_s for index in range(points)]
    )
    for index, found in grouped.items():
        figures = _total(found)
        if index == points - 1 and known_s < span.step_s:
            figures.counters = {key: value * span.step_s / known_s for key, value in figures.counters.items()}
        _place(answer.counters, figures.counters, index, points)
        _place(answer.gauges, figures.gauges, index, points)
        _place(answer.peaks, figures.peaks, index, points)
        for key, histogram in figures.histograms.items():
            answer.histograms.setdefault(key, [None] * points)[index] = histogram.counts
    for index in grouped:  # a known interval without a value is a zero, one without a row is unknown
        for column in (*answer.counters.values(), *answer.gauges.values()):
            if column[index] is None:
                column[index] = 0
    return _encode(answer)


def _place(
    columns: dict[str, list[float | None]], values: Mapping[str, float], index: int, points: int
) -> None:
    for key, value in values.items():
        column = columns.get(key)
        if column is None:
            column = columns[key] = [None] * points
        column[index] = round(value, 3)
