"""Staging 3: one run through the whole pipeline.

The scenarios are in `narthex.e2e.scenarios.agent_pipeline`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("scenario", named("agent_pipeline"), ids=lambda found: found.name.rpartition(".")[2])
async def test_agent_pipeline(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
