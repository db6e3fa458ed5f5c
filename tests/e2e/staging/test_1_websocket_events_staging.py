"""Staging 1: the messages that a client receives around one run.

The scenarios are in `narthex.e2e.scenarios.websocket_events`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "scenario", named("websocket_events"), ids=lambda found: found.name.rpartition(".")[2]
)
async def test_websocket_events(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
