"""Staging 10: the functions that every user depends on.

The scenarios are in `narthex.e2e.scenarios.critical_path`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("scenario", named("critical_path"), ids=lambda found: found.name.rpartition(".")[2])
async def test_critical_path(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
