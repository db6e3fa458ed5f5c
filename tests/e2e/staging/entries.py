"""Shared by the ten files: the scenarios of a group, and playing one. Not here: the staging (conftest)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from narthex.e2e.results import Status
from narthex.e2e.runner import Runner
from narthex.e2e.scenario import Scenario, every
from narthex.e2e.system_under_test import SystemUnderTest
from tests.conftest import ALLOWED_SKIP

Play = Callable[[Scenario], Awaitable[None]]


def named(group: str) -> list[Scenario]:
    """The scenarios of a group, in their order."""
    return [found for found in every() if found.group == group]


def player(system: SystemUnderTest, test: pytest.Item) -> Play:
    """Plays a scenario for `test` under the runner's rules: its own task and traffic count, no unlisted skip."""

    async def play(scenario: Scenario) -> None:
        (result,) = await Runner(system).run([scenario])
        if result.status is Status.SKIPPED:
            test.stash[ALLOWED_SKIP] = True
            pytest.skip(result.detail)
        assert result.status is Status.PASSED, f"{scenario.title}\n{result.detail}"

    return play
