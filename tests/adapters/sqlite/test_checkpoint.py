"""The write-ahead logs of the embedded engines are moved into their files while the engines run."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
import structlog

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.sqlite import checkpoint
from narthex.adapters.sqlite.checkpoint import Checkpointer
from narthex.adapters.sqlite.file import connect
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.store import AuditRecord
from tests.contracts.recorder import Recorder
from tests.timing import within

PIECE = "x" * 100_000


def size_of(path: Path) -> int:
    """In bytes."""
    return path.stat().st_size


async def moved(path: Path) -> None:
    """Wait until most of 3 MB is in the file itself: SQLite's own checkpoints are off."""
    async with asyncio.timeout(within(10)):
        while size_of(path) < 1_500_000:  # noqa: ASYNC110 - another thread's work on a file
            await asyncio.sleep(0.02)


async def test_the_stores_log_is_moved_while_it_serves(tmp_path: Path) -> None:
    """Without it the log would grow for as long as the process lives."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    for number in range(30):
        await store.records.audit(
            AuditRecord(at=float(number), kind="k", tenant="a", subject="s", detail=PIECE)
        )
    await moved(tmp_path / "store.db")
    await store.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint store.db")]


async def test_the_brokers_log_is_moved_while_it_serves(tmp_path: Path) -> None:
    """The same for publications."""
    broker = SqliteBroker(tmp_path / "log.db")
    await broker.start(Recorder(), "n1")
    for _ in range(30):
        await broker.publish("default/thread:t", PIECE.encode())
    await moved(tmp_path / "log.db")
    await broker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint log.db")]


@pytest.mark.parametrize(
    ("size", "moves"), [(checkpoint.SOFT_BYTES - 1, False), (checkpoint.SOFT_BYTES, True)]
)
def test_a_short_log_is_left_alone(tmp_path: Path, size: int, moves: bool) -> None:
    """A checkpoint costs commits a wait for the disk: below a megabyte there is none."""
    path = tmp_path / "x.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t (a)")
    writer.execute("INSERT INTO t VALUES (?)", (PIECE,))
    log = path.with_name("x.db-wal")
    with log.open("r+b") as file:
        file.truncate(size)
    before = path.stat().st_size
    checkpointer = Checkpointer(path, "NORMAL")
    connection = connect(path)
    checkpointer._step(connection)
    assert (path.stat().st_size > before) is moves
    assert checkpointer.failure == ""
    for one in (connection, writer):
        one.close()


def test_a_log_that_commits_keep_long_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader holds a part of it: beyond the hard bound writers wait for it to leave."""
    modes: list[str] = []

    class Noting(sqlite3.Connection):
        def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
            modes.append(sql)
            return super().execute(sql, *rest)  # type: ignore[arg-type]  # passed on

    path = tmp_path / "x.db"
    with connect(path) as writer:
        writer.execute("CREATE TABLE t (a)")
    monkeypatch.setattr(checkpoint, "SOFT_BYTES", 1)
    connection = sqlite3.connect(path, factory=Noting)
    checkpointer = Checkpointer(path, "NORMAL")
    for hard in (1 << 30, path.with_name("x.db-wal").stat().st_size):
        monkeypatch.setattr(checkpoint, "HARD_BYTES", hard)
        checkpointer._step(connection)
    assert modes == ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(RESTART)"]
    connection.close()
    writer.close()


def test_a_failure_is_logged_until_a_checkpoint_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once at its beginning and once at its end: meanwhile the log grows. A log that is not there yet is no failure."""
    monkeypatch.setattr(checkpoint, "SOFT_BYTES", 1)
    path = tmp_path / "x.db"
    checkpointer = Checkpointer(path, "NORMAL")
    connection = connect(path)
    with structlog.testing.capture_logs() as logged:
        checkpointer._step(connection)
        assert checkpointer.failure == ""
        connection.execute("CREATE TABLE t (a)")
        closed = connect(path)
        closed.close()
        for one in (closed, closed):
            checkpointer._step(one)
        assert "closed" in checkpointer.failure
        for _ in range(2):
            checkpointer._step(connection)
        assert checkpointer.failure == ""
    assert [(one["event"], one["file"], one["log_level"]) for one in logged] == [
        ("checkpoint_failed", "x.db", "warning"),
        ("checkpoint_succeeded", "x.db", "info"),
    ]
    connection.close()


def test_a_file_that_cannot_be_opened_ends_the_thread(tmp_path: Path) -> None:
    """The log says why."""
    path = tmp_path / "x.db"
    path.write_bytes(b"no database" * 200)
    broken = Checkpointer(path, "NORMAL")
    with structlog.testing.capture_logs() as logged:
        broken.start()
        broken._thread.join(within(5))
    assert "not a database" in broken.failure
    assert [one["event"] for one in logged] == ["checkpoint_failed"]
    broken.stop()
