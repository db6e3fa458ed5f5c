"""The log's write side: numbers publications, finds repeated keys, drops what is no longer kept. One thread.

Not here: threads and futures (`writer.py`), reading (`reader.py`). Rules: what changes rows runs between
`begin` and `commit`. Rows go in with multi-row statements, because each statement releases and re-takes the
interpreter lock, which a busy loop makes dear.
"""
# ruff: noqa: S608 - only placeholders, a sort order and the digits 0 and 1 are put into statements

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from narthex.adapters.brokers.sqlite.schema import Retention, new_epoch, put
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, Position

CACHED_CHANNELS: Final = 200_000  # about 300 bytes each
ROWS_A_STATEMENT: Final = (256, 64, 16, 4, 1)  # few distinct statements, so that all stay prepared
TRIM_SLACK: Final = 256  # a full channel is cut once per so many publications
SWEPT_CHANNELS: Final = 500  # looked at per housekeeping turn: 5 ms of work a second

_encode_tags = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """What a publisher asked for."""

    channel: str
    data: bytes
    key: str | None
    tags: dict[str, str] | None


class Appended(NamedTuple):
    """Where a request landed; `at` is 0.0 for a repeat."""

    offset: int
    epoch: str
    duplicate: bool
    at: float


class _Channel:
    __slots__ = ("epoch", "floor", "id", "kept", "top")

    def __init__(self, number: int, epoch: str, floor: int, top: int, kept: int) -> None:
        self.id = number
        self.epoch = epoch
        self.floor = floor
        self.top = top
        self.kept = kept


class Log:
    """Appends to `log.db`. `epoch` is the file's; times are seconds since the epoch."""

    def __init__(
        self, connection: sqlite3.Connection, epoch: str, retention: Callable[[str], Retention]
    ) -> None:
        self._sql = connection
        self.epoch = epoch
        self._retention = retention
        self._channels: dict[str, _Channel] = {}
        self._next_id = 0
        self._swept = 0
        self._last_at = 0.0
        self._generation = 0
        self._rotate_at = 0.0
        self._stale = True

    def begin(self) -> None:
        """Open the transaction that every other method runs in."""
        self._sql.execute("BEGIN IMMEDIATE")
        if self._stale:
            self._next_id = self._read_next_id()
            self._load_generation()
            self._stale = False

    def commit(self) -> None:
        """Make it durable."""
        self._sql.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo, and forget what memory knows: it may be ahead of the file."""
        self._channels.clear()
        self._stale = True
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def append(self, requests: Sequence[Request], now: float) -> list[Appended]:
        """Append in order; one outcome per request."""
        # Milliseconds: SQLite's JSON gives 15 digits. A clock set back must not disorder `at`.
        now = self._last_at = max(round(now, 3), self._last_at)
        self._load({request.channel for request in requests})
        known = self._known_keys(requests, now)
        outcomes: list[Appended] = []
        rows: list[object] = []
        keys: list[object] = []
        channels = self._channels
        for channel_name, data, key, tags in requests:
            channel = channels[channel_name]
            if key is not None:
                before = known.get((channel.id, key))
                if before is not None:
                    outcomes.append(Appended(before, channel.epoch, True, 0.0))
                    continue
                known[channel.id, key] = channel.top + 1
                keys += (channel.id, key, channel.top + 1, now)
            channel.top += 1
            rows += (
                channel.id,
                channel.top,
                now,
                None if tags is None else _encode_tags(tags).decode(),
                data,
            )
            outcomes.append(Appended(channel.top, channel.epoch, False, now))
        self._insert("INSERT INTO log (channel, offset, at, tags, data) VALUES ", "(?,?,?,?,?)", 5, rows)
        self._insert(
            f"INSERT OR REPLACE INTO keys{self._generation} (channel, key, offset, at) VALUES ",
            "(?,?,?,?)",
            4,
            keys,
        )
        for name in {request.channel for request in requests}:
            channel = channels[name]
            if channel.top - channel.floor > channel.kept + TRIM_SLACK:
                self._drop(channel, channel.top - channel.kept)
        return outcomes

    def trim(self, name: str, through: int) -> None:
        """Drop offsets ≤ `through`."""
        self._load({name})
        channel = self._channels[name]
        self._drop(channel, min(through, channel.top))

    def remove(self, name: str) -> Position:
        """Drop everything; the row stays as the memory of the new epoch, which is returned."""
        self._load({name})
        channel = self._channels.pop(name)
        epoch = new_epoch()
        self._sql.execute("DELETE FROM log WHERE channel = ?", (channel.id,))
        for generation in (0, 1):
            self._sql.execute(f"DELETE FROM keys{generation} WHERE channel = ?", (channel.id,))
        self._sql.execute("UPDATE channels SET epoch = ?, floor = 0 WHERE id = ?", (epoch, channel.id))
        return Position(0, epoch)

    def sweep(self, now: float) -> None:
        """Housekeeping: expire keys, and drop what is too old in the next few channels."""
        if now >= self._rotate_at:
            self._rotate(now)
        found = self._sql.execute(
            "SELECT id, name FROM channels WHERE id > ? ORDER BY id LIMIT ?", (self._swept, SWEPT_CHANNELS)
        ).fetchall()
        self._swept = found[-1][0] if len(found) == SWEPT_CHANNELS else 0
        for number, name in found:
            self._drop_old(number, name, now)

    def channels_at_start(self, limit: int) -> Iterator[tuple[str, Position]]:
        """The ends of up to `limit` channels."""
        for name, epoch, top in self._sql.execute(
            "SELECT name, epoch, coalesce((SELECT max(offset) FROM log WHERE channel = id), floor)"
            " FROM channels ORDER BY id DESC LIMIT ?",
            (limit,),
        ):
            yield name, Position(top, epoch)

    def _drop(self, channel: _Channel, through: int) -> None:
        if through <= channel.floor:
            return
        self._sql.execute("DELETE FROM log WHERE channel = ? AND offset <= ?", (channel.id, through))
        self._sql.execute("UPDATE channels SET floor = ? WHERE id = ?", (through, channel.id))
        channel.floor = through

    def _drop_old(self, number: int, name: str, now: float) -> None:
        cutoff = now - self._retention(name).age_s
        # Walks the old rows only: `at` ascends with the offset.
        floor, first_kept, top = self._sql.execute(
            "SELECT floor, (SELECT offset FROM log WHERE channel = id AND at >= ? ORDER BY offset LIMIT 1),"
            " (SELECT max(offset) FROM log WHERE channel = id) FROM channels WHERE id = ?",
            (cutoff, number),
        ).fetchone()
        through = (first_kept - 1) if first_kept is not None else (top or 0)
        if through > floor:
            self._load({name})
            self._drop(self._channels[name], through)

    def _rotate(self, now: float) -> None:
        self._generation = 1 - self._generation
        self._rotate_at = now + IDEMPOTENCY_WINDOW_S
        self._sql.execute(f"DELETE FROM keys{self._generation}")
        put(self._sql, "keys", f"{self._generation} {self._rotate_at}")

    def _load_generation(self) -> None:
        row = self._sql.execute("SELECT value FROM meta WHERE name = 'keys'").fetchone()
        if row is not None:
            generation, at = row[0].split()
            self._generation, self._rotate_at = int(generation), float(at)

    def _known_keys(self, requests: Sequence[Request], now: float) -> dict[tuple[int, str], int]:
        wanted: list[object] = []
        for request in requests:
            if request.key is not None:
                wanted += (self._channels[request.channel].id, request.key)
        known: dict[tuple[int, str], int] = {}
        for part, count in _parts(wanted, 2):
            values = ",".join(("(?,?)",) * count)
            # CROSS JOIN fixes the order: each wanted pair is one look-up in the primary key.
            lookups = " UNION ALL ".join(
                f"SELECT k.channel, k.key, k.offset FROM wanted w CROSS JOIN keys{generation} k"
                " ON k.channel = w.c AND k.key = w.k WHERE k.at > ?"
                for generation in (0, 1)
            )
            cutoff = now - IDEMPOTENCY_WINDOW_S
            query = f"WITH wanted (c, k) AS (VALUES {values}) {lookups}"
            for channel, key, offset in self._sql.execute(query, [*part, cutoff, cutoff]).fetchall():
                known[channel, key] = offset
        return known

    def _load(self, names: set[str]) -> None:
        """Make sure that `_channels` has these names, creating rows for new ones."""
        channels = self._channels
        missing = [name for name in names if name not in channels]
        if not missing:
            return
        if len(channels) + len(missing) > CACHED_CHANNELS:
            for name in [name for name, _ in zip(channels, range(CACHED_CHANNELS // 10), strict=False)]:
                if name not in names:
                    del channels[name]
        for part, count in _parts(missing, 1):
            query = (
                "SELECT name, id, epoch, floor, coalesce((SELECT max(offset) FROM log WHERE channel = id), floor)"
                f" FROM channels WHERE name IN ({','.join('?' * count)})"
            )
            for name, number, epoch, floor, top in self._sql.execute(query, part).fetchall():
                channels[name] = _Channel(number, epoch, floor, top, self._retention(name).count)
        fresh: list[object] = []
        for name in missing:
            if name not in channels:
                channels[name] = _Channel(self._next_id, self.epoch, 0, 0, self._retention(name).count)
                fresh += (self._next_id, name, self.epoch, 0)
                self._next_id += 1
        self._insert("INSERT INTO channels (id, name, epoch, floor) VALUES ", "(?,?,?,?)", 4, fresh)

    def _insert(self, head: str, group: str, width: int, values: list[object]) -> None:
        for part, count in _parts(values, width):
            self._sql.execute(head + ",".join((group,) * count), part)

    def _read_next_id(self) -> int:
        found: int = self._sql.execute("SELECT coalesce(max(id), 0) + 1 FROM channels").fetchone()[0]
        return found


def _parts(values: Sequence[object], width: int) -> Iterator[tuple[Sequence[object], int]]:
    """Cut flat `values` of rows of `width` into runs of a size in `ROWS_A_STATEMENT`, with that size."""
    start = 0
    left = len(values) // width
    for size in ROWS_A_STATEMENT:
        while left >= size:
            yield values[start : start + size * width], size
            start += size * width
            left -= size
