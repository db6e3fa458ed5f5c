"""Staging 8: lifecycle events of runs, threads and connections.

The scenarios are in `narthex.e2e.scenarios.lifecycle_events`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("lifecycle_events"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_lifecycle_events(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
