"""Staging 5: streaming of the answer.

The scenarios are in `narthex.e2e.scenarios.response_streaming`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("response_streaming"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_response_streaming(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
