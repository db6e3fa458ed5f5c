"""Staging 6: broken connections, and recovery.

The scenarios are in `narthex.e2e.scenarios.failure_recovery`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("failure_recovery"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_failure_recovery(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
