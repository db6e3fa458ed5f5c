"""The interface of the history of figures: rows at three resolutions, from which dashboards draw.

Guarantees: `put` replaces rows of the same resolution, moment and node, so that a repeat changes nothing; rows are
returned in the order of their moments; every failure raises `DependencyError("store", …)`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one interval.

    Attributes:
        resolution: the interval's length in seconds.
        at: its beginning, seconds since the epoch, a multiple of the resolution.
        node: whose figures they are; empty: of all nodes.
        data: `domain.figures.Figures` as JSON text.
    """

    resolution: int
    at: int
    node: str
    data: str


class History(Protocol):
    """Rows by resolution and moment."""

    async def put_history(self, rows: list[HistoryRow]) -> None:
        """Insert or replace."""

    async def history(self, resolution: int, since: int, until: int, limit: int) -> list[HistoryRow]:
        """The rows with `since` ≤ `at` < `until`, oldest first."""

    async def newest_history(self, resolution: int) -> int:
        """The moment of the newest row; 0 without one."""

    async def prune_history(self, resolution: int, before: int) -> int:
        """Delete the rows before a moment; returns their number."""
