"""Features of the SQLite broker alone: retention, keys' expiry, epochs after a crash, the file's ownership."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from narthex.adapters.brokers.sqlite import ChannelRetention, SqliteBroker, schema
from narthex.adapters.brokers.sqlite.log import Log
from narthex.adapters.sqlite import file
from narthex.errors import ConfigError, DependencyError, NarthexError, Overloaded
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, Member, Position, Published
from tests.contracts.recorder import Recorder
from tests.timing import within

THREAD = "default/thread:t1"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(broker: SqliteBroker, recorder: Recorder | None = None) -> AsyncIterator[SqliteBroker]:
    """The broker, started and stopped."""
    await broker.start(recorder or Recorder(), "n1")
    try:
        yield broker
    finally:
        await broker.stop()


async def swept(broker: SqliteBroker, condition: Callable[[], object]) -> None:
    """Let the writer's housekeeping run until `condition` holds."""
    log = broker._work
    for _ in range(5):
        await broker._change(lambda _log: _log.sweep(log._clock()))
        if condition():
            return


async def test_handler_is_told_in_the_tick_in_which_publish_returns(tmp_path: Path) -> None:
    """By the time `publish` returns, the handler has been called for it and every earlier offset."""
    recorder = Recorder()
    async with running(SqliteBroker(tmp_path / "log.db"), recorder) as broker:
        broker.subscribe(THREAD)

        async def publish(number: int) -> None:
            placed = await broker.publish(THREAD, str(number).encode())
            assert placed.offset in [publication.offset for publication in recorder.of(THREAD)]

        await asyncio.gather(*(publish(number) for number in range(100)))


async def test_positions_are_known_without_reading(tmp_path: Path) -> None:
    """Also of channels that were never published to, and after a restart."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        placed = await broker.publish(THREAD, b"1")
        assert broker.known_position(THREAD) == Position(1, placed.epoch)
        assert broker.known_position("default/thread:other") == Position(0, placed.epoch)
        await broker.remove(THREAD)
        removed = broker.known_position(THREAD)
        assert removed == (await broker.history(THREAD, limit=0)).top
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        assert broker.known_position(THREAD) == removed


async def test_unknown_positions_beyond_the_bound(tmp_path: Path) -> None:
    """Beyond `known_limit` positions are unknown rather than wrong, and reading still answers."""
    async with running(SqliteBroker(tmp_path / "log.db", known_limit=2)) as broker:
        for name in "abcd":
            await broker.publish(f"default/thread:{name}", b"1")
        known = [broker.known_position(f"default/thread:{name}") for name in "abcd"]
        assert known[:2] == [None, None]
        assert known[3] is not None
        assert broker.known_position("default/thread:never") is None
    async with running(SqliteBroker(tmp_path / "log.db", known_limit=2)) as broker:
        assert broker.known_position("default/thread:never") is None
        assert (await broker.history("default/thread:a", limit=0)).top.offset == 1
        assert (await broker.publish("default/thread:a", b"2")).offset == 2


async def test_churn_takes_no_position_from_a_followed_channel(tmp_path: Path) -> None:
    """Positions are bounded; a quiet channel that is followed keeps its own, or each comparison would read the log."""
    async with running(SqliteBroker(tmp_path / "log.db", known_limit=20)) as broker:
        await broker.publish(THREAD, b"1")
        broker.subscribe(THREAD)
        for number in range(100):
            await broker.publish(f"default/thread:{number}", b"1")
        assert broker.known_position(THREAD) is not None
        assert broker.known_position("default/thread:0") is None
        assert len(broker._positions) <= 21


async def test_keys_expire_after_the_window(tmp_path: Path) -> None:
    """A key counts for 120 s and not longer, and expired keys leave the file."""
    clock = Clock()
    async with running(SqliteBroker(tmp_path / "log.db", clock=clock)) as broker:
        await broker.publish(THREAD, b"1", key="k")
        clock.now += IDEMPOTENCY_WINDOW_S - 1
        assert (await broker.publish(THREAD, b"1", key="k")).duplicate
        clock.now += 2
        assert not (await broker.publish(THREAD, b"1", key="k")).duplicate
        assert (await broker.publish(THREAD, b"1", key="k")).offset == 2
        clock.now += IDEMPOTENCY_WINDOW_S + 1
        await swept(broker, lambda: False)
        assert broker._work._log is not None
        assert len(broker._work._log._keys) == 0


async def test_trimmed_rows_keep_their_keys_for_the_window(tmp_path: Path) -> None:
    """A retry after a trim and a restart finds its publication; after its time the row is deleted."""
    clock = Clock()
    async with running(SqliteBroker(tmp_path / "log.db", clock=clock)) as broker:
        placed = await broker.publish(THREAD, b"1", key="k")
        await broker.publish(THREAD, b"2")
        await broker.trim(THREAD, Position(2, placed.epoch))
        assert (await broker.history(THREAD)).publications == []
    async with running(SqliteBroker(tmp_path / "log.db", clock=clock)) as broker:
        again = await broker.publish(THREAD, b"1", key="k")
        assert (again.offset, again.epoch, again.duplicate) == (1, placed.epoch, True)
        clock.now += IDEMPOTENCY_WINDOW_S + 1
        await swept(broker, lambda: False)
        assert (await broker.publish(THREAD, b"3")).offset == 3
    connection = sqlite3.connect(tmp_path / "log.db")
    assert connection.execute("SELECT offset FROM log").fetchall() == [(3,)]
    connection.close()


async def test_too_many_keys_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a publish with a key fails and writes nothing; one without succeeds."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.publish(THREAD, b"1", key="k1")
        assert broker._work._log is not None
        broker._work._log._keys._limit = 1
        outcomes = await asyncio.gather(
            broker.publish(THREAD, b"2", key="k2"),
            broker.publish(THREAD, b"3"),
            broker.publish(THREAD, b"1", key="k1"),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], Overloaded)
        assert [outcome.offset for outcome in outcomes[1:] if isinstance(outcome, Published)] == [2, 1]


async def test_retention_by_count(tmp_path: Path) -> None:
    """A channel keeps at least its newest `count`, and not many more."""
    broker = SqliteBroker(tmp_path / "log.db", retention=lambda name: ChannelRetention(count=100))
    async with running(broker):
        await asyncio.gather(*(broker.publish(THREAD, b"1") for _ in range(1_000)))
        for _ in range(300):
            last = await broker.publish(THREAD, b"1")
        page = await broker.history(THREAD)
        assert last.offset == 1_300
        assert 100 <= len(page.publications) <= 100 + 257
        assert page.publications[-1].offset == 1_300
        assert not (await broker.history(THREAD, since=Position(0, last.epoch))).complete


async def test_retention_by_age(tmp_path: Path) -> None:
    """Rows older than `age_s` are deleted by the housekeeping; the position stays."""
    clock = Clock()
    broker = SqliteBroker(
        tmp_path / "log.db", retention=lambda name: ChannelRetention(age_s=3600), clock=clock
    )
    async with running(broker):
        for _ in range(5):
            placed = await broker.publish(THREAD, b"1")
        clock.now += 1800
        await broker.publish(THREAD, b"2")
        await broker.publish("default/thread:young", b"2")
        clock.now += 1801
        await swept(broker, lambda: False)
        assert [p.offset for p in (await broker.history(THREAD)).publications] == [6]
        assert not (await broker.history(THREAD, since=Position(4, placed.epoch))).complete
        clock.now += 3600
        await swept(broker, lambda: False)
        page = await broker.history(THREAD)
        assert (page.publications, page.top) == ([], Position(6, placed.epoch))
        assert (await broker.publish(THREAD, b"3")).offset == 7


async def test_data_that_is_not_utf_8_comes_back_unchanged(tmp_path: Path) -> None:
    """Brokers never parse data, even when a publisher breaks its promise of JSON."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.publish(THREAD, b"1")
        await broker.publish(THREAD, b"\xff\xfe\x00raw", tags={"a": "b"})
        page = await broker.history(THREAD)
        assert [(p.data, p.tags) for p in page.publications] == [
            (b"1", None),
            (b"\xff\xfe\x00raw", {"a": "b"}),
        ]


async def test_second_process_is_refused(tmp_path: Path) -> None:
    """The error names the file's owner; after it stopped, the file is free."""
    async with running(SqliteBroker(tmp_path / "log.db")):
        second = SqliteBroker(tmp_path / "log.db")
        with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
            await second.start(Recorder(), "n2")
    async with running(second):
        await second.publish(THREAD, b"1")


async def test_newer_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """A newer schema, another program's database, and no database at all are each named."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.publish(THREAD, b"1")
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        await SqliteBroker(tmp_path / "log.db").start(Recorder(), "n1")
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(ConfigError, match="another program"):
        await SqliteBroker(tmp_path / "other.db").start(Recorder(), "n1")
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(DependencyError, match="is damaged"):
        await SqliteBroker(tmp_path / "text.db").start(Recorder(), "n1")
    with pytest.raises(DependencyError, match="Create the data directory"):
        await SqliteBroker(tmp_path / "absent" / "log.db").start(Recorder(), "n1")


def empty(directory: Path) -> None:
    """Delete every file."""
    for path in directory.iterdir():
        path.unlink()


async def test_another_file_is_another_epoch(tmp_path: Path) -> None:
    """A lost log is noticed by its readers."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        placed = await broker.publish(THREAD, b"1")
    empty(tmp_path)
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        page = await broker.history(THREAD, since=Position(placed.offset, placed.epoch))
        assert not page.complete
        assert page.top.epoch != placed.epoch


async def crashed_copy(source: Path, target: Path, synchronous: file.Synchronous) -> Position:
    """A data directory as after its process was killed: copied while a broker has it open."""
    await asyncio.to_thread(source.mkdir)
    async with running(SqliteBroker(source / "log.db", synchronous=synchronous)) as broker:
        placed = await broker.publish(THREAD, b"1")
        await asyncio.to_thread(shutil.copytree, source, target)
    return Position(placed.offset, placed.epoch)


@pytest.mark.parametrize(
    ("synchronous", "rebooted", "changes"),
    [("NORMAL", False, False), ("NORMAL", True, True), ("FULL", True, False)],
)
async def test_epoch_after_a_crash(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    synchronous: file.Synchronous,
    rebooted: bool,
    changes: bool,
) -> None:
    """It changes only where acknowledged publications may be missing: unsynced commits and another boot."""
    before = await crashed_copy(tmp_path / "a", tmp_path / "b", synchronous)
    if rebooted:
        monkeypatch.setattr(schema, "boot_id", lambda: "another boot")
    async with running(SqliteBroker(tmp_path / "b" / "log.db", synchronous=synchronous)) as broker:
        page = await broker.history(THREAD, since=before)
        assert page.complete is not changes
        assert (page.top.epoch != before.epoch) is changes
        assert page.top.offset == 1


async def test_clean_stop_keeps_the_epoch_across_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed file lacks nothing, whatever the machine did since."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        placed = await broker.publish(THREAD, b"1")
    monkeypatch.setattr(schema, "boot_id", lambda: "another boot")
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        assert (await broker.history(THREAD, since=Position(1, placed.epoch))).complete


async def test_full_queue_is_an_error(tmp_path: Path) -> None:
    """Beyond `max_pending` a publish fails at once and writes nothing; the others go through."""
    async with running(SqliteBroker(tmp_path / "log.db", max_pending=10)) as broker:
        outcomes = await asyncio.gather(
            *(broker.publish(THREAD, b"1") for _ in range(15)), return_exceptions=True
        )
        assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
        assert (await broker.history(THREAD, limit=0)).top.offset == 10


def impatient(log: Log) -> None:
    """Let the writer give up on the file's lock after 50 ms."""
    log._sql.execute("PRAGMA busy_timeout=50")


async def test_failed_transaction_tells_every_publisher_and_recovers(tmp_path: Path) -> None:
    """While another program holds the write lock nothing is acknowledged; afterwards offsets have no gap."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.publish(THREAD, b"1")
        await broker._change(impatient)
        blocker = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(
            *(broker.publish(THREAD, b"2", key=f"k{n}") for n in range(5)), return_exceptions=True
        )
        assert all(isinstance(outcome, DependencyError) for outcome in outcomes)
        assert "SQLITE_BUSY" in str(outcomes[0])
        blocker.execute("ROLLBACK")
        blocker.close()
        placed = [await broker.publish(THREAD, b"2", key=f"k{n}") for n in range(5)]
        assert [entry.offset for entry in placed] == [2, 3, 4, 5, 6]


async def test_hanging_disk_is_an_error(tmp_path: Path) -> None:
    """A publish that waits for longer than `timeout_s` fails; its key finds it if it was stored."""
    async with running(SqliteBroker(tmp_path / "log.db", timeout_s=0.2)) as broker:
        await broker.publish(THREAD, b"1")
        blocker = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(DependencyError, match="did not answer"):
            await broker.publish(THREAD, b"2", key="k")
        blocker.execute("ROLLBACK")
        blocker.close()
        assert (await broker.publish(THREAD, b"2", key="k")).offset == 2


async def test_ping_notices_a_replaced_file(tmp_path: Path) -> None:
    """A removed or replaced file is an error although writing still works."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.ping()
        (tmp_path / "log.db").rename(tmp_path / "moved.db")
        with pytest.raises(DependencyError, match="removed or replaced"):
            await broker.ping()


async def test_presence_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that does not return is no longer listed, and its leaving is announced."""
    recorder = Recorder()
    async with running(SqliteBroker(tmp_path / "log.db"), recorder) as broker:
        broker.subscribe(THREAD)
        broker._presence._ttl_s = 0.0
        await broker.join(THREAD, Member("c1", "u1"))
        assert await broker.members(THREAD) == {}
        broker._expire_presence()
        assert recorder.presences == [(THREAD, "c1", True), (THREAD, "c1", False)]


async def test_a_start_that_fails_gives_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's thread ends and the file is free: another broker takes it in the same process."""
    first = SqliteBroker(tmp_path / "log.db")

    async def fails() -> None:
        raise DependencyError("broker", "The reader cannot start.")

    monkeypatch.setattr(first._reader, "start", fails)
    with pytest.raises(DependencyError, match="reader"):
        await first.start(Recorder(), "n1")
    for thread in [found for found in threading.enumerate() if found.name == "log.db writer"]:
        await asyncio.to_thread(thread.join, within(2))  # it says that it ends a moment before it has ended
        assert not thread.is_alive()
    async with running(SqliteBroker(tmp_path / "log.db")) as second:
        assert (await second.publish(THREAD, b"1")).offset == 1


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """An error of the port with the remedy, not the library's."""
    with pytest.raises(DependencyError, match="Cannot open") as missing:
        await SqliteBroker(tmp_path / "nowhere" / "log.db").start(Recorder(), "n1")
    assert "data directory" in missing.value.remedy


async def test_a_bug_in_a_change_undoes_its_transaction(tmp_path: Path) -> None:
    """The next publication finds no open transaction, and no effect of the change."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        await broker.publish(THREAD, b"1")

        def breaks(log: Log) -> None:
            log.remove(THREAD, 1.0)
            raise RuntimeError("a bug")

        with pytest.raises(NarthexError):
            await broker._change(breaks)
        assert (await broker.publish(THREAD, b"2")).offset == 2
        assert len((await broker.history(THREAD)).publications) == 2


@pytest.mark.parametrize(("channels", "known"), [(2, True), (3, False)])
async def test_positions_are_known_up_to_the_limit(tmp_path: Path, channels: int, known: bool) -> None:
    """With as many channels as may be known all are; with one more, an unknown channel may still exist."""
    async with running(SqliteBroker(tmp_path / "log.db")) as broker:
        for number in range(channels):
            await broker.publish(f"default/thread:{number}", b"1")
    async with running(SqliteBroker(tmp_path / "log.db", known_limit=2)) as broker:
        assert (broker.known_position("default/thread:new") is not None) is known
