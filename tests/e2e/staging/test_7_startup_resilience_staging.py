"""Staging 7: what the system reports before, during and after the restart of one of its parts.

The scenarios are in `narthex.e2e.scenarios.startup_resilience`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("startup_resilience"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_startup_resilience(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
