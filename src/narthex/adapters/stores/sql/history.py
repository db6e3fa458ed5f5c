"""The history of figures in SQL. See `ports/history.py`."""

from __future__ import annotations

from typing import Final

from narthex.adapters.stores.sql.operation import Adapter, Operation, Shape, number, reads, writes
from narthex.ports.history import HistoryRow

MAX_ROWS: Final = 30_000  # of an answer: an hour of 80 nodes at 10 s

_ROW: Final = Shape(HistoryRow)


class SqlHistory(Adapter):
    """The History port over an engine."""

    @writes
    def put_history(self, rows: list[HistoryRow]) -> Operation[None]:
        """See the port."""
        upsert = (
            f'{_ROW.into("history")} ON CONFLICT (resolution, "at", node) DO UPDATE SET data = excluded.data'
        )
        for row in rows:
            yield upsert, _ROW.values(row)

    @reads
    def history(self, resolution: int, since: int, until: int, limit: int) -> Operation[list[HistoryRow]]:
        """See the port; at most `MAX_ROWS`."""
        rest = 'FROM history WHERE resolution = ? AND "at" >= ? AND "at" < ? ORDER BY "at", node LIMIT ?'
        return _ROW.many(rest, resolution, since, until, max(0, min(limit, MAX_ROWS)))

    @reads
    def newest_history(self, resolution: int) -> Operation[int]:
        """See the port."""
        return number('SELECT COALESCE(max("at"), 0) FROM history WHERE resolution = ?', resolution)

    @writes
    def prune_history(self, resolution: int, before: int) -> Operation[int]:
        """See the port."""
        rows = yield 'DELETE FROM history WHERE resolution = ? AND "at" < ? RETURNING 1', (resolution, before)
        return len(rows)
