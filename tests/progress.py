"""What a run of many directories shows while it lasts: one line a directory, and each failure at once.

Not here: the summary (pytest's own). Rules: only in the ordinary mode of a terminal reporter (neither `-q` nor `-v`),
where it replaces the dots; what failed is named when it fails, not eighteen minutes later.
"""

from __future__ import annotations

import time
from collections import Counter
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
    """Counts and times the tests of each directory; `reporter` prints."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._began = time.monotonic()
        self._total = 0
        self._finished = 0
        self._directory = ""
        self._entered = self._began
        self._outcomes: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known."""
        self._total = len(session.items)
        self._began = self._entered = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """No letter for any test: the lines below say it. Category and word stay, for the summary."""
        status = yield
        return (status[0], "", status[2]) if status else status

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Close a directory's line when the first test of the next one starts."""
        directory = str(PurePosixPath(nodeid.partition("::")[0]).parent)
        if directory != self._directory:
            self._close()
            self._directory, self._entered = directory, time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count, and name what failed."""
        if report.failed:
            self._outcomes["failed"] += 1
            self._reporter.ensure_newline()
            self._reporter.write_line(f"FAILED  {report.nodeid} ({report.when})", red=True)
        elif report.skipped:
            self._outcomes["skipped"] += 1
        elif report.when == "call":
            self._outcomes["passed"] += 1

    def pytest_runtest_logfinish(self) -> None:
        """One test more."""
        self._finished += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The last directory's line."""
        self._close()

    def _close(self) -> None:
        outcomes, self._outcomes = self._outcomes, Counter()
        if not outcomes:
            return
        now = time.monotonic()
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        share = 100 * self._finished // max(1, self._total)
        self._reporter.ensure_newline()
        self._reporter.write_line(
            f"{share:3d} %  {_minutes(now - self._began)}  {self._directory}: "
            f"{counts} in {now - self._entered:.1f} s"
        )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:2d}:{int(seconds) % 60:02d}"
