"""Lets a test that measures time or memory run with no other test beside it, when a run has several processes.

Not here: which tests those are (the marker `alone` on the test). Rules: with one process nothing is locked; a test
waits for its turn before its time-out begins to count; tests that come later wait behind an `alone` test.

There are two lock files, since a reader could otherwise overtake a waiting writer for ever: each test passes the
entrance, and an `alone` test keeps the entrance closed while it waits for the tests that run to end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from tempfile import gettempdir
from typing import Final

import pytest

MARKER: Final = "alone"
RUN: Final = "PYTEST_XDIST_TESTRUNUID"
"""Names the run in each process of pytest-xdist; absent in a run of one process."""


def install(config: pytest.Config) -> None:
    """Take turns if this process is one of several."""
    run = os.environ.get(RUN)
    if run and hasattr(config, "workerinput"):
        config.pluginmanager.register(Turns(Path(gettempdir()) / f"narthex-tests-{run}"), "narthex-turns")


class Turns:
    """Holds the lock files `<path>.entrance` and `<path>.running` of one run."""

    def __init__(self, path: Path) -> None:
        self._entrance = path.with_suffix(".entrance").open("wb")
        self._running = path.with_suffix(".running").open("wb")

    @pytest.hookimpl(
        wrapper=True, tryfirst=True
    )  # around pytest-timeout, whose clock must not run while a test waits
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the test when its turn has come."""
        alone = item.get_closest_marker(MARKER) is not None
        fcntl.flock(self._entrance, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._entrance, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(self._running, fcntl.LOCK_UN)

    def pytest_unconfigure(self) -> None:
        """Close the files; the last process's names may stay behind in the temporary directory, empty."""
        for file in (self._entrance, self._running):
            file.close()
            Path(file.name).unlink(missing_ok=True)
