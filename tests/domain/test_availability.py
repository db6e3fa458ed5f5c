"""The rules of the status page, as tables: docs/status-page.md says the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.availability import (
    NO_MINUTES,
    Evidence,
    Minutes,
    ServiceState,
    counted,
    majority,
    measured_state,
    minute_of,
    overall,
    percent,
    shown_state,
    state_of_source,
)

UP, DEGRADED, OUTAGE, MAINTENANCE, UNKNOWN = (
    ServiceState.OPERATIONAL,
    ServiceState.DEGRADED,
    ServiceState.OUTAGE,
    ServiceState.MAINTENANCE,
    ServiceState.UNKNOWN,
)


def health(node: str, **counts: int) -> Evidence:
    return Evidence("health", node, **counts)


def probe(source: str, **counts: int) -> Evidence:
    return Evidence("probe", source, **counts)


def traffic(node: str, good: int, failed: int) -> Evidence:
    return Evidence("traffic", node, good, 0, failed)


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (health("a"), UNKNOWN),
        (health("a", good=20), UP),
        (health("a", good=19, degraded=1), DEGRADED),
        (health("a", good=19, failed=1), DEGRADED),
        (health("a", good=10, failed=10), OUTAGE),
        (probe("b", failed=1), OUTAGE),
        (traffic("a", 1, 0), UP),
        (traffic("a", 0, 1), UNKNOWN),  # one failed request says nothing about the service
        (traffic("a", 4, 5), UNKNOWN),
        (traffic("a", 5, 5), OUTAGE),
        (traffic("a", 95, 5), DEGRADED),
        (traffic("a", 96, 4), UP),
    ],
)
def test_the_state_that_one_source_reports(evidence: Evidence, state: ServiceState) -> None:
    """By its counts within a minute."""
    assert state_of_source(evidence) is state


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], UNKNOWN),
        ([UNKNOWN], UNKNOWN),
        ([UP, UNKNOWN], UP),
        ([OUTAGE, UP, UP], DEGRADED),
        ([OUTAGE, UP], OUTAGE),
        ([OUTAGE, OUTAGE, UP], OUTAGE),
        ([DEGRADED, UP], DEGRADED),
    ],
)
def test_sources_of_one_kind_decide_by_majority(states: Sequence[ServiceState], state: ServiceState) -> None:
    """One broken instance of three, or one prober with a broken line, is no outage of the service."""
    assert majority(states) is state


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        ([], UNKNOWN),
        ([health("a", good=20), health("b", good=20), probe("eu", failed=2)], OUTAGE),
        ([health("a", good=20), probe("eu", failed=2), probe("us", good=2), probe("asia", good=2)], DEGRADED),
        ([health("a", good=20), traffic("a", 3, 30)], OUTAGE),
        ([traffic("a", 0, 6), traffic("b", 200, 0)], UP),  # of all requests together 3 % failed
        ([health("a", good=20), traffic("a", 0, 3)], UP),
        ([traffic("a", 0, 3)], UNKNOWN),
    ],
)
def test_the_worst_kind_decides(evidence: Sequence[Evidence], state: ServiceState) -> None:
    """Gateways that find themselves healthy do not outvote a prober outside: the fault may lie between."""
    assert measured_state(evidence) is state


@pytest.mark.parametrize(
    ("measured", "maintenance", "impact", "shown"),
    [
        (UP, False, UNKNOWN, UP),
        (UP, False, DEGRADED, DEGRADED),
        (OUTAGE, False, DEGRADED, OUTAGE),
        (UNKNOWN, False, OUTAGE, OUTAGE),
        (OUTAGE, True, OUTAGE, MAINTENANCE),
        (UP, True, UNKNOWN, MAINTENANCE),
        (UNKNOWN, False, UNKNOWN, UNKNOWN),
    ],
)
def test_the_state_that_a_visitor_sees(
    measured: ServiceState, maintenance: bool, impact: ServiceState, shown: ServiceState
) -> None:
    """The worse of measurement and open incidents; maintenance is shown as such."""
    assert shown_state(measured, maintenance=maintenance, impact=impact) is shown


def test_the_page_is_as_bad_as_its_worst_component() -> None:
    """And unknown only where nothing is known."""
    assert overall([UP, UP, DEGRADED]) is DEGRADED
    assert overall([UP, UNKNOWN]) is UP
    assert overall([UNKNOWN]) is UNKNOWN
    assert overall([MAINTENANCE, UP]) is MAINTENANCE


def test_maintenance_takes_only_minutes_that_were_not_good() -> None:
    """A good minute within the window stays one; an outage in it is not counted."""
    assert minute_of(OUTAGE, maintenance=True) is MAINTENANCE
    assert minute_of(UNKNOWN, maintenance=True) is MAINTENANCE
    assert minute_of(UP, maintenance=True) is UP
    assert minute_of(OUTAGE, maintenance=False) is OUTAGE


@pytest.mark.parametrize(
    ("minutes", "uptime", "coverage", "state"),
    [
        (NO_MINUTES, None, 0.0, UNKNOWN),
        (Minutes(operational=1440), 1.0, 1.0, UP),
        (Minutes(operational=720), 1.0, 0.5, UP),  # half a day without data is not downtime, and is said
        (Minutes(operational=1430, outage=10), 1430 / 1440, 1.0, DEGRADED),
        (Minutes(operational=1340, outage=100), 1340 / 1440, 1.0, OUTAGE),
        (Minutes(operational=1300, degraded=140), 1.0, 1.0, DEGRADED),
        (Minutes(operational=1420, degraded=20), 1.0, 1.0, UP),
        (Minutes(operational=1320, maintenance=120), 1.0, 1.0, UP),
        (Minutes(maintenance=1440), None, 1.0, MAINTENANCE),
        (Minutes(outage=1), 0.0, 1 / 1440, OUTAGE),
    ],
)
def test_a_day(minutes: Minutes, uptime: float | None, coverage: float, state: ServiceState) -> None:
    """Uptime counts the known time only, and coverage says how much that is."""
    assert minutes.uptime == uptime
    assert minutes.coverage(1440) == coverage
    assert minutes.state() is state


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.00"), (0.999999, "99.99"), (0.9999, "99.99"), (0.5, "50.00"), (0.0, "0.00"), (0.29, "29.00")],
)
def test_a_share_is_never_rounded_up(share: float, text: str) -> None:
    """100.00 % stands only where there was no outage."""
    assert percent(share) == text


@given(st.lists(st.sampled_from(list(ServiceState)), max_size=100))
def test_minutes_add_up(states: list[ServiceState]) -> None:
    """Each minute is counted once, in whatever portions they are summed."""
    halves: Any = [NO_MINUTES, NO_MINUTES]
    for at, state in enumerate(states):
        halves[at % 2] = halves[at % 2].plus(counted(state))
    whole = halves[0].plus(halves[1])
    assert whole.known + whole.maintenance == sum(state is not UNKNOWN for state in states)
    assert whole.outage == states.count(OUTAGE)
