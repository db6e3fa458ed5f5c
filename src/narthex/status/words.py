"""Every text of the status page in each of its languages. Another language is one more entry of `LANGUAGES`.

Not here: names and texts of the operator, which are shown as they were written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Final, NamedTuple

from narthex.domain.availability import ServiceState, percent


class Words(NamedTuple):
    """The texts of one language. Texts with braces are for `str.format`."""

    tag: str
    journeys: dict[str, str]
    states: dict[ServiceState, str]
    headlines: dict[ServiceState, str]
    incident_states: dict[str, str]
    impacts: dict[str, str]
    months: tuple[str, ...]
    date: Callable[[int, str, int], str]
    decimal: str
    percent_sign: str
    title: str
    as_of: str
    components: str
    uptime: str
    uptime_unknown: str
    known: str
    ninety_days_ago: str
    today: str
    bar: str
    day: str
    day_known: str
    day_unknown: str
    day_outage: str
    day_degraded: str
    day_maintenance: str
    problem_days: str
    latency: str
    latency_none: str
    latency_now: str
    latency_day: str
    open_incidents: str
    coming: str
    past: str
    no_past: str
    all_components: str
    affects: str
    from_to: str
    since: str
    last_measured: str
    never_measured: str
    subscribe: str
    feed: str
    data: str
    how: str
    back: str
    legend: str
    elsewhere: str
    skip: str
    stale: str

    def when(self, at: float, zone: tzinfo) -> str:
        """Date and time: "30 November 2026, 14:05 UTC"."""
        local = datetime.fromtimestamp(at, zone)
        return f"{self.when_date(local)}, {local:%H:%M} {local.tzname()}"

    def when_date(self, day: datetime) -> str:
        """A date: "30 November 2026"."""
        return self.date(day.day, self.months[day.month - 1], day.year)

    def percent(self, share: float) -> str:
        """A share as per cent."""
        return percent(share).replace(".", self.decimal) + self.percent_sign

    def number(self, value: float) -> str:
        """A latency in ms: one decimal below 10."""
        return (f"{value:.1f}" if value < 10 else f"{value:.0f}").replace(".", self.decimal)


_EN: Final = Words(
    tag="en",
    journeys={
        "connect": "Connect",
        "send": "Send a message",
        "stream": "Receive an answer",
        "sign_in": "Sign in",
    },
    states={
        ServiceState.OPERATIONAL: "Operational",
        ServiceState.DEGRADED: "Degraded",
        ServiceState.OUTAGE: "Outage",
        ServiceState.MAINTENANCE: "Maintenance",
        ServiceState.UNKNOWN: "No data",
    },
    headlines={
        ServiceState.OPERATIONAL: "All systems operational",
        ServiceState.DEGRADED: "Some systems are degraded",
        ServiceState.OUTAGE: "There is an outage",
        ServiceState.MAINTENANCE: "Maintenance is under way",
        ServiceState.UNKNOWN: "There is no current data",
    },
    incident_states={
        "investigating": "Investigating",
        "identified": "Identified",
        "monitoring": "Monitoring",
        "resolved": "Resolved",
        "scheduled": "Scheduled",
        "in_progress": "In progress",
        "completed": "Completed",
        "cancelled": "Cancelled",
    },
    impacts={"none": "No impact", "degraded": "Degraded", "outage": "Outage"},
    months=(
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    date="{0} {1} {2}".format,
    decimal=".",
    percent_sign="%",
    title="{name} status",
    as_of="As of {when}",
    components="Services",
    uptime="{percent} uptime in 90 days",
    uptime_unknown="No uptime measured yet",
    known="measured {percent} of the time",
    ninety_days_ago="90 days ago",
    today="Today",
    bar="{name}, the last 90 days: {uptime}.",
    day="{date}: {state}",
    day_known="{percent} uptime",
    day_unknown="{percent} of the day was not measured",
    day_outage="outage {minutes} min",
    day_degraded="degraded {minutes} min",
    day_maintenance="maintenance {minutes} min",
    problem_days="Days with problems ({count})",
    latency="Response time, 24 hours",
    latency_none="not measured",
    latency_now="now {ms} ms",
    latency_day="mean {mean} ms, highest {max} ms",
    open_incidents="Open incidents",
    coming="Maintenance",
    past="The last 90 days",
    no_past="No incidents.",
    all_components="all services",
    affects="Affects {names}",
    from_to="{start} to {end}",
    since="since {when}",
    last_measured="Last measured {when}",
    never_measured="Not measured now",
    subscribe="Follow",
    feed="Atom feed",
    data="JSON",
    how="Measured by checks, probes from outside and real traffic. Grey means that there is no data; uptime counts "
    "only the time that was measured.",
    back="All services",
    legend="Colours of the days",
    elsewhere="Links",
    skip="Skip to content",
    stale="This page could not be updated. It shows the state as of the time below.",
)

_DE: Final = Words(
    tag="de",
    journeys={
        "connect": "Verbinden",
        "send": "Nachricht senden",
        "stream": "Antwort empfangen",
        "sign_in": "Anmelden",
    },
    states={
        ServiceState.OPERATIONAL: "In Betrieb",
        ServiceState.DEGRADED: "Eingeschränkt",
        ServiceState.OUTAGE: "Ausfall",
        ServiceState.MAINTENANCE: "Wartung",
        ServiceState.UNKNOWN: "Keine Daten",
    },
    headlines={
        ServiceState.OPERATIONAL: "Alle Systeme sind in Betrieb",
        ServiceState.DEGRADED: "Einige Systeme sind eingeschränkt",
        ServiceState.OUTAGE: "Es gibt einen Ausfall",
        ServiceState.MAINTENANCE: "Es wird gewartet",
        ServiceState.UNKNOWN: "Es gibt keine aktuellen Daten",
    },
    incident_states={
        "investigating": "Wird untersucht",
        "identified": "Ursache gefunden",
        "monitoring": "Wird beobachtet",
        "resolved": "Behoben",
        "scheduled": "Geplant",
        "in_progress": "Läuft",
        "completed": "Abgeschlossen",
        "cancelled": "Abgesagt",
    },
    impacts={"none": "Keine Auswirkung", "degraded": "Eingeschränkt", "outage": "Ausfall"},
    months=(
        *("Januar", "Februar", "März", "April", "Mai", "Juni"),
        *("Juli", "August", "September", "Oktober", "November", "Dezember"),
    ),
    date="{0}. {1} {2}".format,
    decimal=",",
    percent_sign="\N{NO-BREAK SPACE}%",
    title="Status von {name}",
    as_of="Stand: {when}",
    components="Dienste",
    uptime="{percent} verfügbar in 90 Tagen",
    uptime_unknown="Noch keine Verfügbarkeit gemessen",
    known="{percent} der Zeit gemessen",
    ninety_days_ago="vor 90 Tagen",
    today="Heute",
    bar="{name}, die letzten 90 Tage: {uptime}.",
    day="{date}: {state}",
    day_known="{percent} verfügbar",
    day_unknown="{percent} des Tages nicht gemessen",
    day_outage="Ausfall {minutes} min",
    day_degraded="eingeschränkt {minutes} min",
    day_maintenance="Wartung {minutes} min",
    problem_days="Tage mit Störungen ({count})",
    latency="Antwortzeit, 24 Stunden",
    latency_none="nicht gemessen",
    latency_now="jetzt {ms} ms",
    latency_day="Mittel {mean} ms, höchste {max} ms",
    open_incidents="Offene Störungen",
    coming="Wartung",
    past="Die letzten 90 Tage",
    no_past="Keine Störungen.",
    all_components="alle Dienste",
    affects="Betrifft {names}",
    from_to="{start} bis {end}",
    since="seit {when}",
    last_measured="Zuletzt gemessen: {when}",
    never_measured="Zurzeit nicht gemessen",
    subscribe="Folgen",
    feed="Atom-Feed",
    data="JSON",
    how="Gemessen durch Prüfungen, Proben von außen und echten Verkehr. Grau bedeutet, dass es keine Daten gibt; die "
    "Verfügbarkeit zählt nur die gemessene Zeit.",
    back="Alle Dienste",
    legend="Farben der Tage",
    elsewhere="Links",
    skip="Zum Inhalt",
    stale="Diese Seite konnte nicht aktualisiert werden. Sie zeigt den Stand der Zeit unten.",
)

LANGUAGES: Final = {"en": _EN, "de": _DE}
"""By the setting's value."""
