"""Incidents and maintenance windows of the status page: their states, and which change is allowed when.

    incident      investigating ─▶ identified ─▶ monitoring ─▶ resolved (final; notes may follow)
    maintenance   scheduled ─▶ in_progress ─▶ completed, by the clock; or cancelled before its end

Not here: keeping them (`status`). Rules: no clock; texts are plain text, shown as such and never as HTML; a window of
maintenance cannot begin in the past, so that no outage becomes maintenance afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from narthex.domain.availability import ServiceState, worst
from narthex.errors import ClientError

IncidentKind = Literal["incident", "maintenance"]
Impact = Literal["none", "degraded", "outage"]

MAX_TITLE: Final = 200
MAX_TEXT: Final = 5_000
MAX_UPDATES: Final = 200
MAX_WINDOW_S: Final = 14 * 86_400.0
MAX_AHEAD_S: Final = 366 * 86_400.0
MAX_BACK_S: Final = 7 * 86_400.0  # an incident is written down late, but not a month late
CLOCK_SLACK_S: Final = 300.0  # by which a person's clock, or the typing of a command, may be late


class IncidentUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an incident's history. `state` is the incident's from then on."""

    at: float
    state: str
    text: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident or a window of maintenance.

    Attributes:
        incident_id: 12 hexadecimal digits.
        kind: what it is.
        title: one line.
        impact: on the components; of maintenance always `none`.
        components: ids; empty: all of them.
        starts_at: when it began, or will begin.
        ends_at: when it was resolved; of maintenance its planned end, or the moment when it was ended early.
        cancelled: whether a window was called off before it began.
        updates: oldest first, at least one.
    """

    incident_id: str
    kind: IncidentKind
    title: str
    impact: Impact
    components: tuple[str, ...]
    starts_at: float
    ends_at: float | None
    cancelled: bool = False
    updates: tuple[IncidentUpdate, ...] = ()

    def state(self, now: float) -> str:
        """The state, for people and machines."""
        if self.kind == "incident":
            return self.updates[-1].state if self.updates else "investigating"
        if self.cancelled:
            return "cancelled"
        if now < self.starts_at:
            return "scheduled"
        return "in_progress" if self.ends_at is None or now < self.ends_at else "completed"

    def is_open(self, now: float) -> bool:
        """Whether it is under way or still to come."""
        return self.state(now) not in ("resolved", "cancelled", "completed")

    def affects(self, component: str) -> bool:
        """Whether it names the component."""
        return not self.components or component in self.components

    def covers(self, component: str, start: float, end: float) -> bool:
        """Whether it is maintenance of the component at any time from `start` to `end`."""
        ends_at = float("inf") if self.ends_at is None else self.ends_at
        return (
            self.kind == "maintenance"
            and not self.cancelled
            and self.affects(component)
            and self.starts_at < end
            and start < ends_at
        )


def impact_on(component: str, incidents: Sequence[Incident], now: float) -> ServiceState:
    """The worst state that open incidents name for a component; unknown when none does."""
    return worst(
        ServiceState(one.impact)
        for one in incidents
        if one.kind == "incident" and one.impact != "none" and one.is_open(now) and one.affects(component)
    )


def _refuse(message: str, remedy: str, *, code: str = "bad_params", number: int = 422) -> ClientError:
    return ClientError(code, message, remedy, number=number)


def check_components(components: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The components, each once. Raises ClientError: the page does not have one of them."""
    for name in components:
        if name not in known:
            raise _refuse(f"There is no component {name[:60]!r}.", f"Choose from {', '.join(known)}.")
    return tuple(dict.fromkeys(components))


def check_text(text: str, what: str, most: int) -> str:
    """The text, stripped. Raises ClientError: it is empty, too long, or has control characters."""
    text = text.replace("\r\n", "\n").strip()
    if not 1 <= len(text) <= most:
        raise _refuse(f"The {what} has {len(text)} characters.", f"Give 1 to {most}.")
    if any(not character.isprintable() and character != "\n" for character in text):
        raise _refuse(f"The {what} contains control characters.", "Give plain text.")
    return text


def check_title(title: str) -> str:
    """The title, stripped. Raises ClientError: it is empty, too long, or more than one line."""
    title = check_text(title, "title", MAX_TITLE)
    if "\n" in title:
        raise _refuse("The title has several lines.", "Give one line; the text may have more.")
    return title


def check_start(started_at: float | None, now: float) -> float:
    """When an incident began; now by default. Raises ClientError: in the future, or long ago."""
    if started_at is None:
        return now
    if not now - MAX_BACK_S <= started_at <= now + CLOCK_SLACK_S:
        raise _refuse(
            "An incident begins at most seven days ago, and not in the future.",
            "Give seconds since the epoch; announce what is to come as maintenance.",
        )
    return min(started_at, now)


def check_window(starts_at: float, ends_at: float, now: float) -> tuple[float, float]:
    """The window. Raises ClientError: it began already, ends before it begins, is too long or too far ahead."""
    if starts_at < now - CLOCK_SLACK_S:
        raise _refuse(
            "The window begins in the past.",
            "Announce maintenance before it begins; an outage that happened stays one.",
        )
    starts_at = max(starts_at, now)
    if not 0 < ends_at - starts_at <= MAX_WINDOW_S:
        raise _refuse("The window does not end within 14 days after its begin.", "Correct its end.")
    if starts_at > now + MAX_AHEAD_S:
        raise _refuse("The window begins in more than a year.", "Give seconds since the epoch.")
    return starts_at, ends_at


def updated(incident: Incident, state: str, text: str, now: float) -> Incident:
    """The incident with one more update; `state` empty: it stays.

    Raises:
        ClientError: the state is none of its kind, or it is resolved and would be opened again.
    """
    current = incident.state(now)
    if len(incident.updates) >= MAX_UPDATES:
        raise _refuse(
            f"It has {MAX_UPDATES} updates already.", "Open another.", code="too_many_updates", number=409
        )
    if incident.kind == "maintenance":
        return _maintenance_updated(incident, state, text, now)
    state = state or current
    if state not in ("investigating", "identified", "monitoring", "resolved"):
        raise _refuse(
            f"{state[:30]!r} is no state of an incident.",
            "Choose investigating, identified, monitoring or resolved.",
        )
    if current == "resolved" and state != "resolved":
        raise _refuse(
            "A resolved incident stays resolved.", "Open another.", code="incident_resolved", number=409
        )
    ends_at = now if state == "resolved" and incident.ends_at is None else incident.ends_at
    return _with(incident, IncidentUpdate(at=now, state=state, text=text), ends_at=ends_at)


def _maintenance_updated(incident: Incident, state: str, text: str, now: float) -> Incident:
    current = incident.state(now)
    if state in ("", current):
        return _with(incident, IncidentUpdate(at=now, state=current, text=text), ends_at=incident.ends_at)
    if state not in ("resolved", "completed", "cancelled"):
        raise _refuse(
            f"{state[:30]!r} cannot be set: maintenance begins and ends by the clock.",
            "Only `resolved` ends it early, or calls it off before it begins.",
        )
    if current in ("completed", "cancelled"):
        raise _refuse("The maintenance is over.", "Schedule another.", code="incident_resolved", number=409)
    if current == "scheduled":
        return _with(
            incident,
            IncidentUpdate(at=now, state="cancelled", text=text),
            ends_at=incident.ends_at,
            cancelled=True,
        )
    return _with(incident, IncidentUpdate(at=now, state="completed", text=text), ends_at=now)


def _with(
    incident: Incident, update: IncidentUpdate, *, ends_at: float | None, cancelled: bool = False
) -> Incident:
    return msgspec.structs.replace(
        incident,
        updates=(*incident.updates, update),
        ends_at=ends_at,
        cancelled=incident.cancelled or cancelled,
    )
