"""Reads the log: pages of a channel, on a thread and connection of its own.

Not here: writing (`log.py`, `writer.py`). Rules: all reads of a batch share one snapshot, which is younger than every
request in it. Publications leave SQLite as one JSON text per block, not row by row: each row would release and re-take
the interpreter lock.
"""
# ruff: noqa: S608 - only placeholders, a sort order and the digits 0 and 1 are put into statements

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from narthex.adapters.sqlite.batching import Job, resolve_all
from narthex.adapters.sqlite.file import connect, dependency_error
from narthex.errors import DependencyError
from narthex.ports.broker import MAX_HISTORY_PAGE, Page, Position, Publication

BLOCK: Final = 512  # publications per statement: bounds the JSON text at 32 MB for the largest messages

_Row = tuple[int, float, str | None, str]
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_tags = msgspec.json.Decoder(dict[str, str]).decode


class Query(Job):
    """A page to read; its future gets a `Page`."""

    channel: str
    since: Position | None
    limit: int | None
    reverse: bool


class LogReader:
    """`batching.Work` over a read-only connection. `epoch` is that of channels that were never published to."""

    def __init__(self, path: Path, epoch: Callable[[], str]) -> None:
        self._path = path
        self._epoch = epoch
        self._sql: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, which the writer has created. Raises DependencyError."""
        try:
            self._sql = connect(self._path, read_only=True)
            self._sql.text_factory = bytes  # data that is not UTF-8 must not fail a page (see `_block`)
        except sqlite3.Error as error:
            raise dependency_error("broker", self._path, error) from error

    def run(self, batch: Sequence[Query]) -> Callable[[], None]:
        """Read every page of the batch in one snapshot."""
        assert self._sql is not None
        outcomes: list[Page | DependencyError] = []
        try:
            self._sql.execute("BEGIN")
            outcomes += [self._page(self._sql, query) for query in batch]
        except sqlite3.Error as error:
            failure = dependency_error("broker", self._path, error)
            failure.__cause__ = error
            outcomes = [failure] * len(batch)
        finally:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
        return lambda: resolve_all(batch, outcomes)

    def idle(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the connection."""
        assert self._sql is not None
        self._sql.close()

    def _page(self, sql: sqlite3.Connection, query: Query) -> Page:
        row = sql.execute(
            "SELECT id, epoch, floor, coalesce((SELECT max(offset) FROM log WHERE channel = id), floor)"
            " FROM channels WHERE name = ?",
            (query.channel,),
        ).fetchone()
        number, epoch, floor, top = row or (0, self._epoch().encode(), 0, 0)
        end = Position(top, epoch.decode())
        since, limit = query.since, MAX_HISTORY_PAGE if query.limit is None else query.limit
        limit = min(limit, MAX_HISTORY_PAGE)
        if since is not None and since.epoch not in ("", end.epoch):
            return Page([], end, complete=False)
        if query.reverse:
            below = top + 1 if since is None else min(since.offset, top + 1)
            wanted = range(below - 1, max(floor, below - 1 - limit), -1)
            complete = floor == 0 or below - 1 - limit >= floor
        else:
            after = floor if since is None else since.offset
            start = max(after, floor)
            wanted = range(start + 1, min(top, start + limit) + 1)
            complete = floor <= after <= top
        return Page(self._publications(sql, number, wanted), end, complete)

    def _publications(self, sql: sqlite3.Connection, channel: int, wanted: range) -> list[Publication]:
        """The publications at the offsets `wanted` (a step of 1 or -1): offsets have no holes."""
        found: list[Publication] = []
        for start in range(0, len(wanted), BLOCK):
            block = wanted[start : start + BLOCK]
            found += _block(sql, channel, min(block), max(block), "DESC" if wanted.step < 0 else "ASC")
        return found


def _block(sql: sqlite3.Connection, channel: int, low: int, high: int, order: str) -> list[Publication]:
    rows = (
        "SELECT offset, at, tags, data FROM log WHERE channel = ? AND offset BETWEEN ? AND ?"
        f" ORDER BY offset {order}"
    )
    bounds = (channel, low, high)
    (text,) = sql.execute(
        f"SELECT json_group_array(json_array(offset, at, tags, CAST(data AS TEXT))) FROM ({rows})",
        bounds,
    ).fetchone()
    try:
        return [
            Publication(offset, data.encode(), None if tags is None else _decode_tags(tags), at)
            for offset, at, tags, data in _decode_rows(text)
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError):  # data that is not UTF-8: slow, byte for byte
        return [
            Publication(offset, data, None if tags is None else _decode_tags(tags), at)
            for offset, at, tags, data in sql.execute(rows, bounds).fetchall()
        ]
