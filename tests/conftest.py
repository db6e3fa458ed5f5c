"""Rules of the whole suite: one time unit, a clean environment, no silent skip in CI, slow suites only when asked for.

Not here: fixtures of a room (its own conftest). Rules: `NARTHEX_TEST_TIME_UNIT` scales every time-out (2 on a slow
machine); what decides policy is taken out of the environment once, so that no test depends on who runs it; a test that
configures the process's logging, as `narthex check` does, leaves none of it to the next one; in CI a skipped test is a
failed test, because a suite that was skipped has proved nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, Final

import hypothesis
import pytest
import structlog

from tests import alone, progress
from tests.timing import TIME_UNIT

IN_CI: Final = os.environ.get("CI", "").lower() in ("1", "true")
GIVEN: Final = dict(os.environ)
"""The environment as it was given, for suites that test a deployed system (tests/e2e/staging)."""
OPT_IN: Final = ("conformance", "soak", "bench")
"""Markers of suites that take minutes: run only when `-m` names them."""
_configure: Final = structlog.configure
ALLOWED_SKIP: Final = pytest.StashKey[bool]()
"""Of a test that plays a scenario which may be skipped on the system under test (`narthex.e2e.skips`)."""
POLICY_VARIABLES: Final = (
    *("ENVIRONMENT", "PORT", "K_SERVICE", "KUBERNETES_SERVICE_HOST"),
    *("E2E_TESTING", "PYTEST_RUNNING", "STAGING_E2E_TEST", "E2E_OAUTH_SIMULATION_KEY", "E2E_TEST_ENV"),
)


@pytest.hookimpl(trylast=True)  # after the terminal reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """Scale the time-out of a test, and take policy out of the environment (children inherit it)."""
    if config.getoption("timeout", None) is None:
        config.option.timeout = float(config.getini("timeout")) * TIME_UNIT
    for name in list(os.environ):
        if name in POLICY_VARIABLES or (name.startswith("NARTHEX_") and not name.startswith("NARTHEX_TEST_")):
            del os.environ[name]
    # asyncio's debug mode makes every callback ten times slower, and time-outs here are measured.
    os.environ.pop("PYTHONASYNCIODEBUG", None)
    # A shared machine stalls for longer than Hypothesis allows an example, or the drawing of a few, to take.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("shared machine", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("shared machine")
    # A logger that keeps its first configuration would keep that of a test for all later ones.
    structlog.configure = _uncached  # type: ignore[assignment]
    alone.install(config)
    progress.install(config)


def _uncached(**options: Any) -> None:
    _configure(**options | {"cache_logger_on_first_use": False})


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore the process's logging where the test has changed it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    restore = (
        partial(_configure, **structlog.get_config())
        if structlog.is_configured()
        else structlog.reset_defaults
    )
    processors = structlog.get_config()["processors"]
    yield
    if structlog.get_config()["processors"] is not processors:
        restore()
        root.handlers[:], root.level = handlers, level


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the opt-in suites unless `-m` names them."""
    asked = config.getoption("markexpr") or ""
    unasked = [marker for marker in OPT_IN if marker not in asked]
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in unasked)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip fails: there a missing service is a mistake of the pipeline. One that is listed is none."""
    del call
    report = yield
    return _unskipped(report) if IN_CI and not item.stash.get(ALLOWED_SKIP, False) else report


def _unskipped(report: pytest.TestReport) -> pytest.TestReport:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason: Any = report.longrepr
        why = reason[2] if isinstance(reason, tuple) else reason
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which fails there: {why}"
    return report
