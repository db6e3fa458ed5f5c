"""All checks over one history."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from tests.history import connections, positions, runs
from tests.history.findings import Bounds, Finding
from tests.history.reading import Reading
from tests.history.records import Record, Subscribed

JUDGES: Final[tuple[Callable[[Reading], Iterable[Finding]], ...]] = (
    positions.offsets,
    positions.contents,
    positions.publishes,
    positions.epochs,
    positions.logs,
    positions.recoveries,
    positions.deliveries,
    runs.views,
    runs.ends,
    runs.agents,
    runs.calls,
    runs.given_up,
    runs.cancels,
    runs.queues,
    runs.repeats,
    runs.threads,
    connections.rights,
    connections.replies,
    connections.command_order,
)


def check(history: Sequence[Record], bounds: Bounds | None = None) -> list[Finding]:
    """Every broken guarantee of a history, the earliest first. The records must be in the order of `at`."""
    for before, after in itertools.pairwise(history):
        if after.at < before.at:
            raise ValueError(f"a history must be in the order of time: {before} stands before {after}")
    reading = Reading(history, bounds or Bounds())
    found = [*reading.findings, *_judged(reading)]
    return sorted(found, key=lambda finding: finding.at)


def _judged(reading: Reading) -> Iterator[Finding]:
    for judge in JUDGES:
        yield from judge(reading)


def summary(history: Sequence[Record]) -> dict[str, int]:
    """How much was judged: records by kind, deliveries, recoveries of either outcome, epochs beyond the first."""
    counts: Counter[str] = Counter(type(record).__name__.lower() for record in history)
    epochs: dict[str, set[str]] = {}
    for record in history:
        if isinstance(record, Subscribed):
            counts["delivered"] += len(record.publications)
            counts["recovered"] += record.recover and record.recovered
            counts["unrecovered"] += record.recover and not record.recovered
            epochs.setdefault(record.channel, set()).add(record.epoch)
    counts["epoch_changes"] = sum(len(known) - 1 for known in epochs.values())
    return dict(counts)
