"""Staging 10: what must work or nobody can work.

The scenarios are in `narthex.e2e.scenarios.critical_path`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("scenario", named("critical_path"), ids=lambda found: found.name.rpartition(".")[2])
async def test_critical_path(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or it is skipped with leave."""
    await play(scenario)
