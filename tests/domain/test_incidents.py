"""Which change of an incident is allowed when."""

from __future__ import annotations

import pytest

from narthex.domain.availability import ServiceState
from narthex.domain.incidents import (
    Incident,
    IncidentUpdate,
    check_components,
    check_start,
    check_text,
    check_title,
    check_window,
    impact_on,
    updated,
)
from narthex.errors import ClientError

NOW = 1_800_000_000.0


def incident(state: str = "investigating", **changes: object) -> Incident:
    fields: dict[str, object] = {
        "incident_id": "a",
        "kind": "incident",
        "title": "t",
        "impact": "outage",
        "components": ("connect",),
        "starts_at": NOW - 60,
        "ends_at": None,
        "updates": (IncidentUpdate(at=NOW - 60, state=state, text="x"),),
    }
    return Incident(**(fields | changes))  # type: ignore[arg-type]


def window(starts_in: float, ends_in: float) -> Incident:
    return incident(
        "scheduled", kind="maintenance", impact="none", starts_at=NOW + starts_in, ends_at=NOW + ends_in
    )


def test_an_incident_goes_through_its_states_and_stays_resolved() -> None:
    """A note may follow; another trouble is another incident."""
    found = updated(incident(), "identified", "the cause", NOW)
    assert found.state(NOW) == "identified"
    assert found.ends_at is None
    found = updated(found, "", "a note", NOW)
    assert found.state(NOW) == "identified"
    found = updated(found, "resolved", "done", NOW + 5)
    assert (found.state(NOW + 6), found.ends_at, found.is_open(NOW + 6)) == ("resolved", NOW + 5, False)
    assert updated(found, "", "the report", NOW + 90).ends_at == NOW + 5
    with pytest.raises(ClientError, match="stays resolved"):
        updated(found, "monitoring", "again", NOW + 90)


def test_maintenance_begins_and_ends_by_the_clock() -> None:
    """No operator types a command at four in the morning."""
    found = window(10, 20)
    assert [found.state(NOW + at) for at in (0, 10, 19.9, 20)] == [
        "scheduled",
        "in_progress",
        "in_progress",
        "completed",
    ]


def test_resolving_a_window_calls_it_off_or_ends_it_early() -> None:
    """Before its begin the first, within it the second."""
    called_off = updated(window(10, 20), "resolved", "not needed", NOW)
    assert (called_off.state(NOW + 15), called_off.covers("connect", NOW + 15, NOW + 16)) == (
        "cancelled",
        False,
    )
    ended = updated(window(-10, 20), "resolved", "quick", NOW)
    assert (ended.state(NOW), ended.ends_at) == ("completed", NOW)
    with pytest.raises(ClientError, match="over"):
        updated(ended, "resolved", "again", NOW + 1)
    with pytest.raises(ClientError, match="by the clock"):
        updated(window(10, 20), "in_progress", "now", NOW)


@pytest.mark.parametrize(
    ("starts_in", "ends_in"),
    [(-3600, 3600), (10, 10), (10, 5), (10, 15 * 86_400), (400 * 86_400, 401 * 86_400)],
)
def test_a_window_is_announced_before_it_begins(starts_in: float, ends_in: float) -> None:
    """An outage that happened must not become maintenance afterwards."""
    with pytest.raises(ClientError):
        check_window(NOW + starts_in, NOW + ends_in, NOW)


def test_a_window_may_begin_at_once() -> None:
    """A command takes a moment to type; what it covers begins now."""
    assert check_window(NOW - 5, NOW + 60, NOW) == (NOW, NOW + 60)


def test_an_incident_may_be_written_down_late_but_not_early() -> None:
    """Seven days at most."""
    assert check_start(None, NOW) == NOW
    assert check_start(NOW - 3600, NOW) == NOW - 3600
    for wrong in (NOW + 3600, NOW - 8 * 86_400):
        with pytest.raises(ClientError):
            check_start(wrong, NOW)


@pytest.mark.parametrize("text", ["", "  \n ", "a\x00b", "a\x1b[31m", "x" * 5_001])
def test_a_text_is_plain_text(text: str) -> None:
    """Control characters would reach terminals and feeds."""
    with pytest.raises(ClientError):
        check_text(text, "text", 5_000)


def test_a_title_is_one_line() -> None:
    """It becomes a title of a page and of a feed's entry."""
    assert check_title("  Slow \N{EN DASH} again ") == "Slow \N{EN DASH} again"
    with pytest.raises(ClientError):
        check_title("a\nb")


def test_components_are_those_of_the_page() -> None:
    """An unknown one is refused with those that there are."""
    assert check_components(["send", "send"], {"send": "", "connect": ""}) == ("send",)
    with pytest.raises(ClientError) as refused:
        check_components(["nope"], {"send": "", "connect": ""})
    assert "send, connect" in refused.value.remedy


def test_only_open_incidents_count_and_only_for_their_components() -> None:
    """An incident without components concerns all."""
    over = updated(incident(), "resolved", "done", NOW)
    assert impact_on("connect", [incident()], NOW) is ServiceState.OUTAGE
    assert impact_on("send", [incident()], NOW) is ServiceState.UNKNOWN
    assert impact_on("send", [incident(components=())], NOW) is ServiceState.OUTAGE
    assert impact_on("connect", [over, window(-5, 5)], NOW) is ServiceState.UNKNOWN
    assert impact_on("connect", [incident(impact="none")], NOW) is ServiceState.UNKNOWN


def test_an_incident_has_a_bounded_history() -> None:
    """A script in a loop is stopped."""
    full = incident(
        updates=tuple(IncidentUpdate(at=NOW, state="monitoring", text=str(n)) for n in range(200))
    )
    with pytest.raises(ClientError, match="200 updates"):
        updated(full, "", "one more", NOW)
