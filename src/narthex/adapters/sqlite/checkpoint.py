"""Moves the write-ahead log into the database file, off the commit path. One thread per file.

Without it a commit now and then pays for a checkpoint's fsyncs (measured: tens of milliseconds on a busy
disk). Rules: passive checkpoints wait for no reader or writer; only a log that outgrew `HARD_BYTES` is worth making
writers wait, because passive ones cannot restart it while commits keep coming.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Final

import structlog

from narthex.adapters.sqlite.file import CHECKPOINT_CACHE_KIB, Synchronous, connect

EVERY_S: Final = 0.25  # a commit waits while the log is synced: little and often keeps that wait short
QUIET_S: Final = 1.0  # while nothing is written; the first second of a load writes a few megabytes at most
SOFT_BYTES: Final = 1 << 20
HARD_BYTES: Final = 64 << 20

_log = structlog.get_logger("narthex.sqlite")


class Checkpointer:
    """Starts with `start`, ends with `stop`.

    Attributes:
        failure: why the last checkpoint failed, empty when it did not. The log has its beginning and its end:
            meanwhile the write-ahead log grows, until the disk is full.
    """

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self._path = path
        self._synchronous = synchronous
        self._wal = path.with_name(path.name + "-wal")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"checkpoint {path.name}", daemon=True)
        self.failure = ""

    def start(self) -> None:
        """Begin; the file must exist."""
        self._thread.start()

    def stop(self) -> None:
        """End and wait, at most for one checkpoint (bounded at 10 s). Call it off the loop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _main(self) -> None:
        try:
            connection = connect(self._path, synchronous=self._synchronous, cache_kib=CHECKPOINT_CACHE_KIB)
        except sqlite3.Error as error:
            self._failed(error)
            return
        try:
            seen, wait_s = self._written(), EVERY_S
            while not self._stopping.wait(wait_s):
                self._step(connection)
                before, seen = seen, self._written()
                wait_s = QUIET_S if seen == before else EVERY_S
        finally:
            connection.close()

    def _written(self) -> tuple[int, int]:
        """Changes with each commit to the log."""
        try:
            found = self._wal.stat()
        except OSError:  # missing, or `_step` reports it
            return 0, 0
        return found.st_size, found.st_mtime_ns

    def _step(self, connection: sqlite3.Connection) -> None:
        try:
            size = self._wal.stat().st_size
            if size >= HARD_BYTES:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            elif size >= SOFT_BYTES:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except FileNotFoundError:  # no commit yet, or the log was moved whole
            pass
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            return
        if self.failure:
            _log.info("checkpoint_succeeded", file=self._path.name)
        self.failure = ""

    def _failed(self, error: Exception) -> None:
        if not self.failure:
            _log.warning(
                "checkpoint_failed",
                file=self._path.name,
                error=str(error),
                remedy="Look at the disk's room and the file's permissions: the write-ahead log grows until a "
                "checkpoint succeeds.",
            )
        self.failure = str(error)
