"""Staging 4: control of runs by users: cancel, steer, approve, queue.

The scenarios are in `narthex.e2e.scenarios.agent_orchestration`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("agent_orchestration"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_agent_orchestration(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
