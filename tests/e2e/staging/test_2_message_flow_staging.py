"""Staging 2: a message's path from a user to the thread and back to all members.

The scenarios are in `narthex.e2e.scenarios.message_flow`.
"""

from __future__ import annotations

import pytest

from narthex.e2e.scenario import Scenario
from tests.e2e.staging.entries import Play, named

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("scenario", named("message_flow"), ids=lambda found: found.name.rpartition(".")[2])
async def test_message_flow(scenario: Scenario, play: Play) -> None:
    """Each scenario against the staging: it passes, or is skipped with permission."""
    await play(scenario)
