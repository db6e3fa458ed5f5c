"""Writes the log: numbers publications, finds repeated keys, drops rows past their retention. One thread.

Not here: threads and futures (`writer.py`), reading (`reader.py`), the state in memory (`state.py`). Rules: methods
that change rows run between `begin` and `commit`; rows are inserted with multi-row statements, because each statement
releases and re-takes the interpreter lock, which is expensive beside a busy loop.
"""
# ruff: noqa: S608 - only placeholders and constants are put into statements

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from narthex.adapters.brokers.sqlite.schema import ChannelRetention, new_epoch
from narthex.adapters.brokers.sqlite.state import MAX_KEYS, ChannelState, RecentKeys
from narthex.errors import Overloaded
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, LogMoved, Position, fulfils

CACHED_CHANNELS: Final = 50_000  # about 400 bytes each; a channel that left costs its next append one row
ROWS_A_STATEMENT: Final = (256, 64, 16, 4, 1)  # few distinct statements, so that all stay prepared
TRIM_SLACK: Final = 256  # a full channel is cut once per this many publications
SWEPT_CHANNELS: Final = 500  # per housekeeping turn: 5 ms of work a second

_TOP: Final = "coalesce((SELECT max(offset) FROM log WHERE channel = id), floor)"

_encode_tags = msgspec.json.Encoder().encode


class AppendRequest(NamedTuple):
    """A publisher's request."""

    channel: str
    data: bytes
    key: str | None
    tags: dict[str, str] | None
    expected: Position | None


class Appended(NamedTuple):
    """The position of an appended request; `at` is 0.0 for a repeat."""

    offset: int
    epoch: str
    duplicate: bool
    at: float


class Log:
    """Appends to `log.db`. `epoch` is the file's; times are seconds since the epoch."""

    def __init__(
        self, connection: sqlite3.Connection, epoch: str, retention: Callable[[str], ChannelRetention]
    ) -> None:
        self._sql = connection
        self.epoch = epoch
        self._retention = retention
        self._channels: dict[str, ChannelState] = {}
        self._keys = RecentKeys()
        self._next_id = 0  # unknown: read at the next `begin`
        self._swept = 0
        self._last_at = 0.0

    def begin(self) -> None:
        """Open the transaction that every other method runs in."""
        self._sql.execute("BEGIN IMMEDIATE")
        if self._next_id == 0:
            self._next_id = self._sql.execute("SELECT coalesce(max(id), 0) + 1 FROM channels").fetchone()[0]

    def commit(self) -> None:
        """Make it durable."""
        self._sql.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo, and drop the state in memory, which may be ahead of the file."""
        self._channels.clear()
        self._keys = RecentKeys()
        self._next_id = 0
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def append(self, requests: Sequence[AppendRequest], now: float) -> list[Appended | Overloaded | LogMoved]:
        """Append in order; one outcome per request."""
        # Milliseconds: SQLite's JSON gives 15 digits. `at` must ascend also when the clock is set back.
        now = self._last_at = max(round(now, 3), self._last_at)
        self._keys.expire(now - IDEMPOTENCY_WINDOW_S)
        touched = {request.channel for request in requests}
        self._load(touched, now)
        outcomes: list[Appended | Overloaded | LogMoved] = []
        rows: list[object] = []
        for name, data, key, tags, expected in requests:
            channel = self._channels[name]
            if key is not None and (before := channel.keys.get(key)) is not None:
                outcomes.append(Appended(before, channel.epoch, True, 0.0))
                continue
            end = Position(channel.top, channel.epoch)
            if expected is not None and not fulfils(end, expected):
                outcomes.append(LogMoved(end))
                continue
            offset = channel.top + 1
            if key is not None and not self._keys.add(channel.keys, key, offset, now):
                outcomes.append(_too_many_keys())
                continue
            channel.top = offset
            rows += (
                channel.id,
                offset,
                now,
                key,
                None if tags is None else _encode_tags(tags).decode(),
                data,
            )
            outcomes.append(Appended(offset, channel.epoch, False, now))
        self._insert(
            "INSERT INTO log (channel, offset, at, key, tags, data) VALUES ", "(?,?,?,?,?,?)", 6, rows
        )
        for name in touched:
            channel = self._channels[name]
            if channel.top - channel.floor > channel.kept + TRIM_SLACK:
                self._drop(channel, channel.top - channel.kept, now)
        return outcomes

    def trim(self, name: str, through: Position, now: float) -> None:
        """Drop the publications up to `through`, if the log is that one."""
        self._load({name}, now)
        channel = self._channels[name]
        if channel.epoch == through.epoch:
            self._drop(channel, min(through.offset, channel.top), now)

    def remove(self, name: str, now: float) -> Position:
        """Drop everything; the channel's row stays and keeps the new epoch, which is returned."""
        self._load({name}, now)
        channel = self._channels.pop(name)
        channel.keys.clear()
        epoch = new_epoch()
        self._sql.execute("DELETE FROM log WHERE channel = ?", (channel.id,))
        self._sql.execute("UPDATE channels SET epoch = ?, floor = 0 WHERE id = ?", (epoch, channel.id))
        return Position(0, epoch)

    def sweep(self, now: float) -> None:
        """Housekeeping: drop publications that are too old, and delete dropped rows, in the next few channels."""
        self._keys.expire(now - IDEMPOTENCY_WINDOW_S)
        found = self._sql.execute(
            "SELECT id, name, floor FROM channels WHERE id > ? ORDER BY id LIMIT ?",
            (self._swept, SWEPT_CHANNELS),
        ).fetchall()
        self._swept = found[-1][0] if len(found) == SWEPT_CHANNELS else 0
        for number, name, floor in found:
            self._drop_old(number, name, floor, now)

    def channels_at_start(self, limit: int) -> Iterator[tuple[str, Position]]:
        """The ends of up to `limit` channels, the newest channels first."""
        for name, epoch, top in self._sql.execute(
            f"SELECT name, epoch, {_TOP} FROM channels ORDER BY id DESC LIMIT ?", (limit,)
        ):
            yield name, Position(top, epoch)

    def _drop(self, channel: ChannelState, through: int, now: float) -> None:
        """Move the floor up. Rows whose keys still count stay below it for a while, unseen by readers."""
        if through <= channel.floor:
            return
        self._sql.execute("UPDATE channels SET floor = ? WHERE id = ?", (through, channel.id))
        self._delete(channel.id, through, now)
        channel.floor = through

    def _delete(self, number: int, floor: int, now: float) -> None:
        """Delete the rows up to `floor` whose keys no longer count: a beginning of the channel, as `at` ascends."""
        self._sql.execute(
            "DELETE FROM log WHERE channel = ? AND offset <= ? AND at <= ?",
            (number, floor, now - IDEMPOTENCY_WINDOW_S),
        )

    def _drop_old(self, number: int, name: str, floor: int, now: float) -> None:
        cutoff = now - self._retention(name).age_s
        # Walks the old rows only: `at` ascends with the offset.
        oldest, first_kept, top = self._sql.execute(
            "SELECT (SELECT min(offset) FROM log WHERE channel = ?1),"
            " (SELECT offset FROM log WHERE channel = ?1 AND at >= ?2 ORDER BY offset LIMIT 1),"
            " (SELECT max(offset) FROM log WHERE channel = ?1)",
            (number, cutoff),
        ).fetchone()
        if oldest is None:
            return
        through = (first_kept - 1) if first_kept is not None else top
        if through > floor:
            self._load({name}, now)
            self._drop(self._channels[name], through, now)
        elif oldest <= floor:
            self._delete(number, floor, now)

    def _load(self, names: set[str], now: float) -> None:
        """Load these names into `_channels`, with rows created for new ones."""
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
                f"SELECT name, id, epoch, floor, {_TOP},"
                " (SELECT at FROM log WHERE channel = id ORDER BY offset DESC LIMIT 1)"
                f" FROM channels WHERE name IN ({','.join('?' * count)})"
            )
            for name, number, epoch, floor, top, last_at in self._sql.execute(query, part).fetchall():
                channel = ChannelState(number, epoch, floor, top, self._retention(name).count)
                channels[name] = channel
                if last_at is not None and last_at > now - IDEMPOTENCY_WINDOW_S:
                    self._load_keys(channel, now - IDEMPOTENCY_WINDOW_S)
        fresh: list[object] = []
        for name in missing:
            if name not in channels:
                channels[name] = ChannelState(self._next_id, self.epoch, 0, 0, self._retention(name).count)
                fresh += (self._next_id, name, self.epoch, 0)
                self._next_id += 1
        self._insert("INSERT INTO channels (id, name, epoch, floor) VALUES ", "(?,?,?,?)", 4, fresh)

    def _load_keys(self, channel: ChannelState, cutoff: float) -> None:
        """Load the keys of a channel's rows since `cutoff`: after a restart, or after the channel left the cache."""
        old = self._sql.execute(
            "SELECT offset FROM log WHERE channel = ? AND at <= ? ORDER BY offset DESC LIMIT 1",
            (channel.id, cutoff),
        ).fetchone()
        for key, offset, at in self._sql.execute(
            "SELECT key, offset, at FROM log WHERE channel = ? AND offset > ? AND key IS NOT NULL ORDER BY offset",
            (channel.id, old[0] if old else 0),
        ).fetchall():
            self._keys.add(channel.keys, key, offset, at, bounded=False)

    def _insert(self, head: str, group: str, width: int, values: list[object]) -> None:
        for part, count in _parts(values, width):
            self._sql.execute(head + ",".join((group,) * count), part)


def _too_many_keys() -> Overloaded:
    return Overloaded(
        "broker",
        f"The limit of {MAX_KEYS} idempotency keys in {IDEMPOTENCY_WINDOW_S} s is reached.",
        "Publish more slowly, or set NARTHEX_BROKER_URL: one process cannot serve this rate.",
    )


def _parts(values: Sequence[object], width: int) -> Iterator[tuple[Sequence[object], int]]:
    """Cut flat `values` of rows of `width` into runs of a size in `ROWS_A_STATEMENT`, with that size."""
    start = 0
    left = len(values) // width
    for size in ROWS_A_STATEMENT:
        while left >= size:
            yield values[start : start + size * width], size
            start += size * width
            left -= size
