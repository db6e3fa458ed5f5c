"""The one list of scenarios that may be skipped, each with its condition and its reason.

Rules: a skip that is not listed, or whose condition does not hold, is a failure: a suite that was skipped has proved
nothing. A condition looks at the target and the proof only, so that no scenario skips by mistake on a local staging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from narthex.e2e.system_under_test import SystemUnderTest

Condition = Callable[[SystemUnderTest | None], bool]


class Allowed(NamedTuple):
    """One entry: `name` may be skipped where `when` holds."""

    name: str
    when: Condition
    reason: str


def _not_two_gateways(system: SystemUnderTest | None) -> bool:
    return system is not None and len(system.gateways) < 2


def _no_key(system: SystemUnderTest | None) -> bool:
    return system is not None and not system.proof.key


def _one_person(system: SystemUnderTest | None) -> bool:
    return system is not None and bool(system.proof.token)


def _no_issuer(system: SystemUnderTest | None) -> bool:
    return system is not None and not system.issuer_url


def _always(_: SystemUnderTest | None) -> bool:
    return True


_KILLS: Final = "it kills a gateway, which is allowed only in a local staging with two gateways"
_KEY: Final = "it tests the simulation key, and this run authenticates in another way"
_PEOPLE: Final = "it needs a second user, and one token is one user"
_ISSUER: Final = "it needs a user of another tenant, and only a local staging has an issuer that provides one"

ALLOWED: Final = (
    Allowed("unit.the_core", _always, "an installed wheel has no source checkout, and so no unit tests"),
    Allowed("startup_resilience.a_killed_gateway_loses_nothing", _not_two_gateways, _KILLS),
    Allowed("resilience.an_idle_device_comes_back_after_kill_9", _not_two_gateways, _KILLS),
    Allowed("resilience.an_orphaned_run_ends_by_name", _not_two_gateways, _KILLS),
    Allowed("integration.two_gateways_are_one_system", _not_two_gateways, "only one gateway is reachable"),
    Allowed("coordination.the_key_itself_is_a_way_in", _no_key, _KEY),
    Allowed("security.the_caller_cannot_choose_permissions", _no_key, _KEY),
    Allowed("security.the_key_beside_a_token_is_a_conflict", _no_key, _KEY),
    Allowed("auth.two_carriers_of_two_people_conflict", _one_person, _PEOPLE),
    Allowed("coordination.two_people_share_a_thread", _one_person, _PEOPLE),
    Allowed("coordination.a_stranger_sees_nothing", _one_person, _PEOPLE),
    Allowed("coordination.a_removed_member_loses_the_channel_at_once", _one_person, _PEOPLE),
    Allowed("coordination.twenty_people_at_once_get_their_own", _one_person, _PEOPLE),
    Allowed("integration.people_of_an_issuer_and_test_identities_never_meet", _no_issuer, _ISSUER),
)


def allowed(name: str, system: SystemUnderTest | None) -> str:
    """The reason why `name` may be skipped here; empty when it may not."""
    return next((entry.reason for entry in ALLOWED if entry.name == name and entry.when(system)), "")
