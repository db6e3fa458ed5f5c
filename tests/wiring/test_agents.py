"""Agents and the limits of runs come from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.errors import ConfigError
from narthex.settings import load
from narthex.wiring.agents import load_agents, run_limits


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


async def no_facts() -> dict[str, object]:
    """No facts are known."""
    return {}


def test_a_secret_for_nobody_is_a_mistake(tmp_path: Path) -> None:
    """A secret that is sent to no agent would be noticed only at the first message, as another server's 401."""
    flags = {"data_dir": tmp_path, "agents": ["openai+https://models.example/v1#gpt-9"]}
    settings = load(flags, {"NARTHEX_AGENT_SECRETS": "gpt-9=sk-one"})
    assert list(load_agents(settings, no_facts)) == ["gpt-9"]
    settings = load(flags, {"NARTHEX_AGENT_SECRETS": "gpt=sk-one"})
    with pytest.raises(ConfigError, match=r"a secret for 'gpt', but no agent has that name \(gpt-9\)"):
        load_agents(settings, no_facts)
