"""The bounds of runs come from the settings."""

from __future__ import annotations

from pathlib import Path

from narthex.settings import load
from narthex.wiring.agents import run_limits


def test_operators_set_the_bounds_of_runs(tmp_path: Path) -> None:
    """Deadline, answer time and queue by variable; development shows an exception's words, staging does not."""
    flags = {"data_dir": tmp_path}
    environ = {
        "NARTHEX_RUN_DEADLINE_S": "30",
        "NARTHEX_RUN_ANSWER_S": "60",
        "NARTHEX_RUN_QUEUE_LIMIT": "3",
    }
    limits = run_limits(load(flags, environ))
    assert (limits.run_deadline_s, limits.answer_s, limits.thread_queue) == (30, 60, 3)
    assert limits.show_errors
    secret = {"NARTHEX_JWT_SECRET": "a-secret-that-is-long-enough-0123456789"}
    assert not run_limits(load(flags, secret | {"ENVIRONMENT": "staging"})).show_errors
    assert run_limits(load(flags, {})).run_deadline_s == 600
