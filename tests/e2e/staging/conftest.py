"""One staging for the whole session: a local one, or a deployed one named by NARTHEX_E2E_BASE_URL.

    NARTHEX_E2E_BASE_URL=https://staging.example.com E2E_OAUTH_SIMULATION_KEY=… pytest tests/e2e/staging -v

Rules: it is started when the first test needs it and ended after the last; each test opens its own HTTP client,
because each runs in a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from narthex.e2e.staging import staging
from narthex.e2e.system_under_test import RunnerProof, SystemUnderTest
from narthex.errors import NarthexError
from tests.conftest import GIVEN
from tests.e2e.staging.entries import Play, player

Make = Callable[[], SystemUnderTest]


@pytest.fixture(scope="session")
def make_world() -> Iterator[Make]:
    """Makes the system under test of a test; all belong to one test run."""
    test_run = f"pytest-{uuid.uuid4().hex[:12]}"
    base_url = GIVEN.get("NARTHEX_E2E_BASE_URL", "")
    if base_url:
        proof = RunnerProof(
            key=GIVEN.get("E2E_OAUTH_SIMULATION_KEY", ""), ci_token=GIVEN.get("NARTHEX_CI_OIDC_TOKEN", "")
        )
        if proof.kind == "none":
            pytest.exit(
                "Set E2E_OAUTH_SIMULATION_KEY or NARTHEX_CI_OIDC_TOKEN beside NARTHEX_E2E_BASE_URL.", 2
            )
        try:
            asyncio.run(_may_be_tested(SystemUnderTest(base_url, "staging", proof, test_run=test_run)))
        except NarthexError as fault:
            pytest.exit(str(fault), 2)  # once, not sixty-four times
        yield lambda: SystemUnderTest(base_url, "staging", proof, test_run=test_run)
        return
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, contextlib.ExitStack() as stack:
        entered = staging("staging", real=True)
        made = runner.run(entered.__aenter__())
        stack.callback(lambda: runner.run(entered.__aexit__(None, None, None)))
        yield lambda: made.system_under_test(test_run)


async def _may_be_tested(system: SystemUnderTest) -> None:
    """It responds, is not production, and accepts the credential: the checks of `narthex test` before its first
    scenario.
    """
    await system.open()
    try:
        system.leave_production_alone()
        await system.check_proof()
    finally:
        await system.close()


@pytest.fixture
async def play(make_world: Make, request: pytest.FixtureRequest) -> AsyncIterator[Play]:
    """Plays a scenario against the staging; its threads are deleted afterwards."""
    system = make_world()
    await system.open()
    try:
        yield player(system, request.node)
        await system.tidy()
    finally:
        await system.close()
