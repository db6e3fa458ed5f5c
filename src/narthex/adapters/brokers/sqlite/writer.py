"""Runs a batch of jobs on the writer thread: one transaction for all of it, then one call to the loop.

Not here: the log's rows (`log.py`), the answers to publishers (`broker.py`). Rules: outcomes reach the loop only after
the commit; appends and other changes keep the order of their requests; when a transaction fails, every job of the batch
fails, and the state in memory is read again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from narthex.adapters.brokers.sqlite.log import AppendRequest, Log
from narthex.adapters.brokers.sqlite.schema import ChannelRetention, close_cleanly, prepare
from narthex.adapters.machine import steady_time
from narthex.adapters.sqlite.batching import Job
from narthex.adapters.sqlite.file import Synchronous, connect, dependency_error
from narthex.ports.broker import Position


class Append(Job):
    """A publication to append; its future gets an `Appended`."""

    request: AppendRequest


class LogChange(Job):
    """Any other change; its future gets what `apply` returns."""

    apply: Callable[[Log], Any]


Outcome = Any  # Any: an `Appended`, what `apply` returned, or the exception that the future gets
Deliver = Callable[[Sequence[Append | LogChange], list[Outcome]], None]


class LogWriter:
    """`batching.Work` over a `Log`. `deliver` is called on the loop with a batch and its outcomes."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous,
        retention: Callable[[str], ChannelRetention],
        known_limit: int,
        deliver: Deliver,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self._path = path
        self._synchronous: Synchronous = synchronous
        self._retention = retention
        self._known_limit = known_limit
        self._deliver = deliver
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._log: Log | None = None
        self.epoch = ""
        self.positions: dict[str, Position] = {}  # read once by the broker after start
        self.complete = False

    def open(self) -> None:
        """Open the file and read the ends of its channels. Raises ConfigError or DependencyError."""
        try:
            connection = self._connection = connect(self._path, synchronous=self._synchronous)
            self.epoch = prepare(connection, self._path, self._synchronous)
            self._log = Log(connection, self.epoch, self._retention)
            found = dict(self._log.channels_at_start(self._known_limit + 1))
            self.complete = len(found) <= self._known_limit
            self.positions = dict(list(found.items())[: self._known_limit])
        except sqlite3.Error as error:
            raise dependency_error("broker", self._path, error) from error

    def run(self, batch: Sequence[Append | LogChange]) -> Callable[[], None]:
        """One transaction for the batch."""
        outcomes = self._outcomes(batch)
        return lambda: self._deliver(batch, outcomes)

    def idle(self) -> None:
        """Drop publications that are too old; a failure shows at the next publish, which uses the same disk."""
        assert self._log is not None
        try:
            self._log.begin()
            self._log.sweep(self._clock())
            self._log.commit()
        except sqlite3.Error:
            self._roll_back()

    def close(self) -> None:
        """Sync and close."""
        assert self._connection is not None
        try:
            close_cleanly(self._connection)
        except sqlite3.Error:
            pass  # the file stays marked as in use: the next start decides by the boot id
        finally:
            self._connection.close()

    def _outcomes(self, batch: Sequence[Append | LogChange]) -> list[Outcome]:
        assert self._log is not None
        try:
            self._log.begin()
            outcomes = self._apply(self._log, batch)
            self._log.commit()
            return outcomes
        except sqlite3.Error as error:
            self._roll_back()
            failure = dependency_error("broker", self._path, error)
            failure.__cause__ = error
            return [failure] * len(batch)
        except BaseException:
            self._roll_back()
            raise

    def _apply(self, log: Log, batch: Sequence[Append | LogChange]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        requests: list[AppendRequest] = []
        for job in batch:
            if isinstance(job, Append):
                requests.append(job.request)
            else:
                outcomes += log.append(requests, self._clock()) if requests else ()
                requests = []
                outcomes.append(job.apply(log))
        if requests:
            outcomes += log.append(requests, self._clock())
        return outcomes

    def _roll_back(self) -> None:
        assert self._log is not None
        with contextlib.suppress(sqlite3.Error):  # the next batch fails in the same way at its BEGIN
            self._log.roll_back()
