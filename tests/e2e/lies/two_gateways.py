"""Lies that need two gateways, real engines and an issuer to be noticed."""

from __future__ import annotations

from tests.e2e.lies.events import Event, Events
from tests.e2e.lies.recovery import NothingIsRecovered
from tests.e2e.lies.registry import lie
from tests.e2e.lies.replies import CancelIsSaidOnly, Refuses
from tests.e2e.lies.server import Line


@lie({"integration.two_gateways_are_one_system": "the end of run|cancelled"}, real=True)
class CancelIsSaidOnlyElsewhere(CancelIsSaidOnly):
    """A cancel through the other gateway is acknowledged but not executed."""


@lie({"integration.people_of_an_issuer_and_test_identities_never_meet": "reached across tenants"}, real=True)
class TenantsMeet(Refuses):
    """Threads of another tenant are read."""

    methods = ("thread.get", "subscribe", "run.start", "thread.members.add")


@lie(
    {
        "startup_resilience.a_killed_gateway_loses_nothing": "recovered|missing|expected seq",
        "resilience.an_idle_device_comes_back_after_kill_9": "recovered",
    },
    real=True,
)
class NothingIsRecoveredElsewhere(NothingIsRecovered):
    """No position of a killed gateway is recovered."""


@lie({"resilience.an_orphaned_run_ends_by_name": "ended with"}, real=True)
class OrphansEndWithoutAName(Events):
    """The run of a killed gateway ends with another code."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"code": "internal"} if event["type"] == "RUN_ERROR" else event
