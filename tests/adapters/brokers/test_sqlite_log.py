"""The embedded log by itself, on a file and without threads: offsets, keys, retention, each at its bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.brokers.sqlite import log as log_module
from narthex.adapters.brokers.sqlite.log import Appended, AppendRequest, Log
from narthex.adapters.brokers.sqlite.reader import LogReader, Query
from narthex.adapters.brokers.sqlite.schema import ChannelRetention, prepare
from narthex.adapters.brokers.sqlite.state import RecentKeys
from narthex.adapters.sqlite.file import connect
from narthex.errors import Overloaded
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, MAX_HISTORY_PAGE, LogMoved, Page, Position

NOW = 1_000_000.0
AGE_S = 1_000.0
KEPT = 3


class Logged:
    """A log on a file, each call in a transaction of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sql = connect(path, synchronous="NORMAL")
        self.epoch = prepare(self.sql, path, "NORMAL")
        self.again()

    def again(self) -> None:
        """As after a restart: nothing in memory."""
        self.log = Log(self.sql, self.epoch, lambda _: ChannelRetention(KEPT, AGE_S))

    def do(self, name: str, *args: Any) -> Any:
        """One call, committed."""
        self.log.begin()
        found = getattr(self.log, name)(*args)
        self.log.commit()
        return found

    def append(
        self,
        channel: str = "c",
        *,
        key: str | None = None,
        now: float = NOW,
        expected: Position | None = None,
    ) -> Appended | Overloaded | LogMoved:
        """Append one publication."""
        (found,) = self.do("append", [AppendRequest(channel, b"x", key, None, expected)], now)
        assert isinstance(found, Appended | Overloaded | LogMoved)
        return found

    def rows(self, channel: str = "c") -> list[int]:
        """The offsets that are in the file, seen by readers or not."""
        number = "SELECT id FROM channels WHERE name = ?"
        query = f"SELECT offset FROM log WHERE channel = ({number}) ORDER BY offset"
        return [offset for (offset,) in self.sql.execute(query, (channel,))]

    def page(
        self,
        channel: str = "c",
        since: Position | None = None,
        limit: int | None = None,
        *,
        reverse: bool = False,
    ) -> Page:
        """What a reader gets."""
        reader = LogReader(self.path, lambda: self.epoch)
        reader.open()
        assert reader._sql is not None
        try:
            return reader._page(reader._sql, Query(None, 0.0, channel, since, limit, reverse))  # type: ignore[arg-type]
        finally:
            reader.close()

    def offsets(self, channel: str = "c") -> list[int]:
        """The offsets that a reader sees."""
        return [one.offset for one in self.page(channel).publications]


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    """An empty log."""
    made = Logged(tmp_path / "log.db")
    yield made
    made.sql.close()


def test_offsets_count_from_one_per_channel_also_after_a_restart(logged: Logged) -> None:
    """Contiguous, and independent of other channels."""
    placed = [logged.append("a"), logged.append("b"), logged.append("a")]
    assert [one.offset for one in placed if isinstance(one, Appended)] == [1, 1, 2]
    logged.again()
    after = [logged.append("b"), logged.append("a"), logged.append("c")]
    assert [one.offset for one in after if isinstance(one, Appended)] == [2, 3, 1]


def test_moments_ascend_also_when_the_clock_is_set_back(logged: Logged) -> None:
    """To the millisecond; readers page by offset and by age, so that an earlier moment must not follow a later."""
    moments = [NOW + 0.0004, NOW + 0.0016, NOW - 3_600.0, NOW + 0.0034]
    found = [logged.append(now=now) for now in moments]
    assert [one.at for one in found if isinstance(one, Appended)] == [
        NOW,
        NOW + 0.002,
        NOW + 0.002,
        NOW + 0.003,
    ]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_key_counts_for_its_window_and_not_longer(logged: Logged, *, restarted: bool) -> None:
    """Within it the first position is returned and nothing is stored; at its end the key may be used again."""
    assert logged.append(key="k") == Appended(1, logged.epoch, False, NOW)
    if restarted:
        logged.again()
    assert logged.append(key="k", now=NOW + IDEMPOTENCY_WINDOW_S - 0.001) == Appended(
        1, logged.epoch, True, 0.0
    )
    assert logged.rows() == [1]
    assert logged.append("other", key="k") == Appended(
        1, logged.epoch, False, NOW + IDEMPOTENCY_WINDOW_S - 0.001
    )
    again = logged.append(key="k", now=NOW + IDEMPOTENCY_WINDOW_S)
    assert again == Appended(2, logged.epoch, False, NOW + IDEMPOTENCY_WINDOW_S)


def test_a_key_that_was_used_again_outlives_its_first_use(logged: Logged) -> None:
    """The end of the first use must not forget the second."""
    logged.append(key="k")
    second = NOW + IDEMPOTENCY_WINDOW_S
    logged.append(key="k", now=second)
    repeat = logged.append(key="k", now=second + IDEMPOTENCY_WINDOW_S - 1)
    assert isinstance(repeat, Appended)
    assert (repeat.offset, repeat.duplicate) == (2, True)


def test_the_number_of_keys_is_bounded_and_those_of_the_file_always_count() -> None:
    """At the limit one more is refused; a key that is in the file already is taken beyond it."""
    keys, recent = {}, RecentKeys(limit=2)  # type: dict[str, int], RecentKeys
    assert recent.add(keys, "a", 1, NOW)
    assert recent.add(keys, "b", 2, NOW)
    assert not recent.add(keys, "c", 3, NOW)
    assert "c" not in keys
    assert recent.add(keys, "d", 4, NOW + 1, bounded=False)
    assert len(recent) == 3
    recent.expire(NOW)
    assert (keys, len(recent)) == ({"d": 4}, 1)


def test_an_expected_position_is_compared_with_the_end(logged: Logged) -> None:
    """Offset and epoch must both be those of now; a refused publication takes no offset."""
    logged.append()
    end = Position(1, logged.epoch)
    for wrong in (Position(0, logged.epoch), Position(2, logged.epoch), Position(1, "another")):
        moved = logged.append(expected=wrong)
        assert isinstance(moved, LogMoved)
        assert moved.end == end
    assert logged.append(expected=end) == Appended(2, logged.epoch, False, NOW)


def test_a_full_channel_is_cut_in_batches_to_what_it_keeps(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have the slack beside what it keeps; one more cuts it. Rows stay for as long as their keys count."""
    monkeypatch.setattr(log_module, "TRIM_SLACK", 2)
    for _ in range(KEPT + 2):
        logged.append()
    assert logged.offsets() == [1, 2, 3, 4, 5]
    logged.append()
    assert logged.offsets() == [4, 5, 6]
    assert logged.rows() == [1, 2, 3, 4, 5, 6]
    logged.do("sweep", NOW + IDEMPOTENCY_WINDOW_S - 0.001)
    assert logged.rows() == [1, 2, 3, 4, 5, 6]
    logged.do("sweep", NOW + IDEMPOTENCY_WINDOW_S)
    assert logged.rows() == [4, 5, 6]


def test_publications_past_their_age_are_dropped_and_the_offset_stays(logged: Logged) -> None:
    """A publication of exactly the greatest age is kept; a channel that lost all of them goes on counting."""
    logged.append(now=NOW)
    logged.append(now=NOW + 10)
    logged.do("sweep", NOW + AGE_S)
    assert logged.offsets() == [1, 2]
    logged.do("sweep", NOW + AGE_S + 0.5)
    assert (logged.offsets(), logged.rows()) == ([2], [2])
    logged.do("sweep", NOW + 10 + AGE_S + 0.5)
    assert (logged.offsets(), logged.rows()) == ([], [])
    assert logged.page().top == Position(2, logged.epoch)
    logged.do("sweep", NOW + 2 * AGE_S)
    logged.again()
    assert logged.append(now=NOW + 2 * AGE_S) == Appended(3, logged.epoch, False, NOW + 2 * AGE_S)


def test_a_turn_of_housekeeping_takes_some_channels_and_the_next_turn_the_next(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every channel has its turn, then the first ones again."""
    monkeypatch.setattr(log_module, "SWEPT_CHANNELS", 2)
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        logged.append(name)
    later = NOW + AGE_S + 1
    swept = []
    for _ in range(3):
        logged.do("sweep", later)
        swept.append([name for name in names if not logged.rows(name)])
    assert swept == [["a", "b"], ["a", "b", "c", "d"], names]
    logged.append("a", now=later)
    logged.do("sweep", later + AGE_S + 1)
    assert not logged.rows("a")


def test_a_cut_moves_the_beginning_of_its_own_log_only_and_never_back(logged: Logged) -> None:
    """A position of another epoch cuts nothing; one beyond the end cuts all there is."""
    for _ in range(3):
        logged.append()
    logged.do("trim", "c", Position(2, "another"), NOW)
    assert logged.offsets() == [1, 2, 3]
    logged.do("trim", "c", Position(2, logged.epoch), NOW)
    assert logged.offsets() == [3]
    logged.do("trim", "c", Position(1, logged.epoch), NOW)
    assert logged.offsets() == [3]
    logged.do("trim", "c", Position(9, logged.epoch), NOW)
    assert logged.offsets() == []
    assert logged.append() == Appended(4, logged.epoch, False, NOW)
    assert logged.offsets() == [4]


def test_a_removed_log_begins_again_in_an_epoch_of_its_own(logged: Logged) -> None:
    """Its keys are forgotten with it; other channels keep their epoch."""
    logged.append(key="k")
    logged.append("other")
    position = logged.do("remove", "c", NOW)
    assert position.offset == 0
    assert position.epoch not in ("", logged.epoch)
    assert logged.rows() == []
    assert logged.append(key="k") == Appended(1, position.epoch, False, NOW)
    logged.again()
    assert logged.append() == Appended(2, position.epoch, False, NOW)
    assert logged.append("other") == Appended(2, logged.epoch, False, NOW)


def test_a_transaction_that_is_undone_leaves_no_trace(logged: Logged) -> None:
    """Neither offsets nor keys nor rows of channels, also of channels that it made."""
    logged.append(key="k")
    logged.log.begin()
    logged.log.append(
        [AppendRequest("c", b"y", "l", None, None), AppendRequest("new", b"y", None, None, None)], NOW
    )
    logged.log.roll_back()
    logged.log.roll_back()  # of nothing
    assert logged.append(key="l") == Appended(2, logged.epoch, False, NOW)
    assert logged.append(key="k") == Appended(1, logged.epoch, True, 0.0)
    assert logged.append("new") == Appended(1, logged.epoch, False, NOW)


def test_a_channel_that_left_the_cache_is_read_again(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its end and its keys; the channels of the batch itself stay."""
    monkeypatch.setattr(log_module, "CACHED_CHANNELS", 10)
    for number in range(10):
        logged.append(f"c{number}", key="k")
    assert len(logged.log._channels) == 10
    batch = [AppendRequest(name, b"x", None, None, None) for name in ("c0", "c10")]
    logged.do("append", batch, NOW)
    assert sorted(logged.log._channels) == sorted(f"c{number}" for number in range(11))
    logged.append("c11")
    assert "c0" not in logged.log._channels, "the longest there"
    assert logged.append("c0", key="k") == Appended(1, logged.epoch, True, 0.0)
    assert logged.append("c0") == Appended(3, logged.epoch, False, NOW)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 255, 256, 257, 600])
def test_a_batch_of_any_size_is_stored_whole(logged: Logged, count: int) -> None:
    """Statements have fixed numbers of rows; no row falls between two of them."""
    requests = [AppendRequest(f"c{number}", b"x", None, {"n": str(number)}, None) for number in range(count)]
    outcomes = logged.do("append", requests, NOW)
    assert [one.offset for one in outcomes] == [1] * count
    stored = logged.sql.execute("SELECT name, tags FROM log JOIN channels ON id = channel").fetchall()
    assert sorted(stored) == sorted((f"c{number}", f'{{"n":"{number}"}}') for number in range(count))


def test_the_ends_at_a_start_are_those_of_the_newest_channels(logged: Logged) -> None:
    """Up to the limit; the end of an empty channel is its floor."""
    for name in ("a", "b", "c"):
        logged.append(name)
        logged.append(name)
    logged.do("trim", "b", Position(2, logged.epoch), NOW)
    logged.do("sweep", NOW + IDEMPOTENCY_WINDOW_S)
    assert logged.rows("b") == []
    two = Position(2, logged.epoch)
    assert list(logged.log.channels_at_start(2)) == [("c", two), ("b", two)]
    assert dict(logged.log.channels_at_start(9)) == {"a": two, "b": two, "c": two}


def test_pages_say_whether_they_are_complete(logged: Logged) -> None:
    """Forwards from a position, backwards from the end: with the beginning that is still there, and without."""
    for _ in range(6):
        logged.append()
    logged.do("trim", "c", Position(2, logged.epoch), NOW)

    def seen(
        offset: int | None, limit: int | None = None, *, reverse: bool = False
    ) -> tuple[list[int], bool]:
        since = None if offset is None else Position(offset, logged.epoch)
        page = logged.page(since=since, limit=limit, reverse=reverse)
        assert page.top == Position(6, logged.epoch)
        return [one.offset for one in page.publications], page.complete

    assert seen(None) == ([3, 4, 5, 6], True)
    assert seen(2) == ([3, 4, 5, 6], True)
    assert seen(1) == ([3, 4, 5, 6], False)
    assert seen(4, 1) == ([5], True)
    assert seen(6) == ([], True)
    assert seen(7) == ([], False)
    assert seen(None, 0) == ([], True)
    assert seen(None, 2, reverse=True) == ([6, 5], True)
    assert seen(6, 3, reverse=True) == ([5, 4, 3], True)
    assert seen(6, 4, reverse=True) == ([5, 4, 3], False)
    assert seen(99, 1, reverse=True) == ([6], True)
    assert logged.page(since=Position(3, "another")) == Page([], Position(6, logged.epoch), False)
    assert len(logged.page(since=Position(3, "")).publications) == 3
    assert logged.page("unknown") == Page([], Position(0, logged.epoch), True)


def test_a_page_is_bounded_whatever_is_asked(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port's greatest page, also when a caller asks for more or names no limit."""
    monkeypatch.setattr(log_module, "TRIM_SLACK", 10 * MAX_HISTORY_PAGE)
    requests = [AppendRequest("c", b"x", None, None, None)] * (MAX_HISTORY_PAGE + 1)
    logged.do("append", requests, NOW)
    for limit in (None, MAX_HISTORY_PAGE, MAX_HISTORY_PAGE + 1):
        page = logged.page(limit=limit)
        assert [one.offset for one in page.publications] == list(range(1, MAX_HISTORY_PAGE + 1))


def test_the_file_is_what_a_reader_gets(logged: Logged) -> None:
    """Data that is no UTF-8, and the moment, come back as they went in."""
    (placed,) = logged.do("append", [AppendRequest("c", b"\xff\x00", None, {"a": "b"}, None)], NOW + 0.123)
    (one,) = logged.page().publications
    assert (one.offset, one.data, one.tags, one.at) == (placed.offset, b"\xff\x00", {"a": "b"}, NOW + 0.123)
    assert isinstance(logged.sql, sqlite3.Connection)
