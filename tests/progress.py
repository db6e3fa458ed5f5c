"""What a run of many directories shows while it lasts: one line a directory, and each failure at once.

Not here: the summary (pytest's own). Rules: only in the ordinary mode of a terminal reporter (neither `-q` nor `-v`),
where it replaces the dots; what failed is named when it fails, not eighteen minutes later.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import PurePosixPath
from typing import Any

import pytest


def install(config: pytest.Config) -> None:
    """Replace the dots of pytest's reporter, unless the caller asked for another verbosity."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() == 0:
        reporter.showfspath = False
        reporter._show_progress_info = False  # there is no public switch: it would end each line with a share
        config.pluginmanager.register(DirectoryProgress(reporter), "narthex-progress")


class DirectoryProgress:
    """Counts and times the tests of each directory, in one process or in several (pytest-xdist); `reporter` prints."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._began = time.monotonic()
        self._total = 0
        self._finished = 0
        self._left: Counter[str] = Counter()
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known (with several processes: to each of them, and not here)."""
        self._collected([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """One of several processes knows all tests; each of them knows the same."""
        if not self._total:
            self._collected(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """No letter for any test: the lines below replace it. Category and word stay, for the summary."""
        status = yield
        return (status[0], "", status[2]) if status else status

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count, name a failure at once, and print the line of a directory after its last test."""
        directory = _directory(report.nodeid)
        outcomes = self._outcomes[directory]
        self._seconds[directory] += report.duration
        if report.failed:
            outcomes["failed"] += 1
            self._reporter.ensure_newline()
            self._reporter.write_line(f"FAILED  {report.nodeid} ({report.when})", red=True)
        elif report.skipped:
            outcomes["skipped"] += 1
        elif report.when == "call":
            outcomes["passed"] += 1
        if report.when == "teardown":
            self._finished += 1
            self._left[directory] -= 1
            if not self._left[directory]:
                self._print(directory)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The lines of directories that an interruption or `-x` left unfinished."""
        for directory in [name for name, left in self._left.items() if left and self._outcomes[name]]:
            self._print(directory)

    def _collected(self, ids: list[str]) -> None:
        self._total = len(ids)
        self._left = Counter(map(_directory, ids))
        self._began = time.monotonic()

    def _print(self, directory: str) -> None:
        outcomes = self._outcomes[directory]
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        share = 100 * self._finished // max(1, self._total)
        self._reporter.ensure_newline()
        self._reporter.write_line(
            f"{share:3d} %  {_minutes(time.monotonic() - self._began)}  {directory}: "
            f"{counts} in {self._seconds[directory]:.1f} s"
        )


def _directory(nodeid: str) -> str:
    return str(PurePosixPath(nodeid.partition("::")[0]).parent)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:2d}:{int(seconds) % 60:02d}"
