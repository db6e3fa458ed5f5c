"""The suite detects faults: with each of these in the gateway it fails and names the fault.

A gateway is started with the fault (tests/e2e/mutants), and the runner runs the scenario that guards the broken
guarantee. Without a fault the same scenarios pass, so the fault is what they notice.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from narthex.e2e.results import Result, Status
from narthex.e2e.runner import Runner
from narthex.e2e.scenario import every
from narthex.e2e.staging import staging
from tests.e2e.mutants.sitecustomize import FAULTS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

MUTANTS: Final = Path(__file__).with_name("mutants")


class Guard(NamedTuple):
    """The scenario that notices a fault, and its failure text (a regular expression)."""

    scenario: str
    says: str
    real: bool = False


GUARDS: Final = {
    "swallowed_event": Guard("websocket_events.event_flow", "expected seq|offset is missing"),
    "duplicate_event": Guard("websocket_events.event_flow", "expected seq|arrived twice"),
    "wrong_digest": Guard("websocket_events.event_flow", "digest does not match"),
    "cancel_ignored": Guard("agent_orchestration.cancel_stops_a_run", "did not see the end|cancelled"),
    "steering_ignored": Guard("agent_orchestration.steering_reaches_a_running_agent", "did not receive"),
    "wrong_close_code": Guard("smoke.no_token_is_nobody", "closed with 1000"),
    "explain_without_reason": Guard("critical_path.browsers_are_told_why", "close_reason"),
    "bypass_left_open": Guard("smoke.a_wrong_key_is_nobodys", "a wrong key was admitted"),
    "health_that_lies": Guard("smoke.the_bypass_is_as_it_should_be", "bypass False, key True"),
    "health_over_a_dead_store": Guard(
        "startup.health_is_consistent_with_its_checks", "healthy in spite of.*away"
    ),
    "leaked_channel": Guard("coordination.a_stranger_sees_nothing", "a user who is not a member got access"),
    "removed_member_stays": Guard(
        "coordination.a_removed_member_loses_the_channel_at_once", "did not see the unsubscription"
    ),
    "tenant_check_off": Guard(
        "integration.people_of_an_issuer_and_test_identities_never_meet", "across tenants", real=True
    ),
    "signature_unchecked": Guard(
        "smoke.another_tenant_is_out_of_reach", "changed by its holder was admitted"
    ),
    "ticket_reusable": Guard("auth.a_spent_ticket_is_no_ticket", "accepted twice"),
    "recovery_skips": Guard("failure_recovery.a_dropped_line_resumes_without_a_gap", "expected seq|missing"),
    "recovery_in_part": Guard("failure_recovery.a_foreign_position_is_not_recovered_in_part", "recovered"),
    "origin_unchecked": Guard("security.a_foreign_page_is_refused", "another origin was admitted"),
    "client_may_publish": Guard("security.a_client_cannot_write_into_a_channel", "published into"),
    "twice_is_two": Guard("message_flow.the_same_message_twice_is_one_run", "five sends made|once"),
    "notices_lost": Guard("websocket_events.notices_reach_the_users_own_channel", "did not see both notices"),
    "unicode_mangled": Guard("message_flow.unicode_survives", "came back"),
}


async def outcomes(names: set[str], *, fault: str = "", real: bool = False) -> dict[str, Result]:
    """Run scenarios by name on a staging, with a fault or without one."""
    path = os.pathsep.join(filter(None, (str(MUTANTS), os.environ.get("PYTHONPATH"))))
    patch = {"PYTHONPATH": path, "SEEDED_FAULT": fault} if fault else {}
    async with staging("staging", real=real, patch=patch) as made:
        system = made.system_under_test()
        await system.open()
        try:
            results = await Runner(system).run([found for found in every() if found.name in names])
        finally:
            await system.close()
    assert {result.name for result in results} == names, "a scenario has another name now"
    return {result.name: result for result in results}


def test_every_fault_has_its_guard() -> None:
    """At least the fifteen promised faults exist."""
    assert set(GUARDS) == set(FAULTS)
    assert len(GUARDS) >= 15


@pytest.mark.parametrize("real", [False, True])
async def test_without_a_fault_all_is_well(real: bool) -> None:
    """Every guard passes on an intact gateway."""
    names = {guard.scenario for guard in GUARDS.values() if guard.real == real}
    found = await outcomes(names, real=real)
    assert [result for result in found.values() if result.status is not Status.PASSED] == []


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_a_seeded_fault_is_noticed_and_named(fault: str) -> None:
    """Its guard fails with a text that names the fault."""
    guard = GUARDS[fault]
    found = (await outcomes({guard.scenario}, fault=fault, real=guard.real))[guard.scenario]
    assert found.status is Status.FAILED, f"{guard.scenario} did not notice {fault}"
    assert re.search(guard.says, found.detail, re.DOTALL), f"it says only: {found.detail}"
