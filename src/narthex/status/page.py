"""Draws the status page and the page of one incident as HTML, complete on the server.

Not here: the content (`document`), the texts (`words`), the routes. Rules: everything that comes from an operator or
a setting is escaped; style and script are inline and allowed by their hashes, so that a page is one file that also
works from a bucket; the script only keeps the page up to date, and without JavaScript the browser loads it anew each
minute; a colour is never the only sign: icons, shapes of the bars and texts say the same.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo
from functools import partial
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from narthex.domain.availability import ServiceState
from narthex.status.document import ComponentStatus, Day, IncidentStatus, StatusDocument
from narthex.status.words import Words

STYLE: Final = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT: Final = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
REFRESH_S: Final = 60  # without JavaScript


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


META_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""For the page itself, which a bucket serves without headers."""
CONTENT_SECURITY_POLICY: Final = f"{META_POLICY}; frame-ancestors 'none'"

_ICONS: Final = {
    ServiceState.OPERATIONAL: "M10 1a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm-1.4 12.6L5 10l1.4-1.4 2.2 2.2 5-5L15 7.2z",
    ServiceState.DEGRADED: "M10 1 .5 18h19zm-1 6h2v5H9zm0 6.5h2v2H9z",
    ServiceState.OUTAGE: "M10 1a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm4 11.6L12.6 14 10 11.4 7.4 14 6 12.6 8.6 10 6 7.4 7.4 6 "
    "10 8.6 12.6 6 14 7.4 11.4 10z",
    ServiceState.MAINTENANCE: "M10 1a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9 5h2v4.6l3.2 3.2-1.4 1.4L9 10.4z",
    ServiceState.UNKNOWN: "M10 1a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM5 9h10v2H5z",
}
# The height and the gap of a bar say what its colour says: y and height of each part, of 36.
_BARS: Final = {
    ServiceState.OPERATIONAL: ((0, 36),),
    ServiceState.DEGRADED: ((10, 26),),
    ServiceState.OUTAGE: ((0, 15), (21, 15)),
    ServiceState.MAINTENANCE: ((20, 16),),
    ServiceState.UNKNOWN: ((30, 6),),
}
_LINE_HEIGHT: Final = 22.0


class Paths(NamedTuple):
    """The addresses of the page's parts, as links of a page name them."""

    page: str
    json: str
    atom: str
    badge: str
    icon: str
    logo: str
    incident: str

    def of_incident(self, incident_id: str) -> str:
        """The page of one incident."""
        return self.incident.format(incident_id)

    def below(self, root: str) -> Paths:
        """The same below the path under which clients reach the server."""
        return Paths(*(root + path for path in self))


SERVED: Final = Paths(
    page="/status",
    json="/status.json",
    atom="/status.atom",
    badge="/status/badge.svg",
    icon="/status/icon.svg",
    logo="/status/logo",
    incident="/status/incidents/{}",
)
"""The routes."""


class Look(NamedTuple):
    """What the operator's settings say of the page's look. `links`: text and address; `logo`: whether there is one."""

    words: Words
    zone: tzinfo
    links: Sequence[tuple[str, str]] = ()
    logo: bool = False


def status_page(document: StatusDocument, look: Look, paths: Paths = SERVED) -> str:
    """The whole page."""
    words = look.words
    maintenance = [one for one in document.maintenance if one.open]
    open_ones = [one for one in document.incidents if one.open]
    past = [one for one in (*document.incidents, *document.maintenance) if not one.open]
    past.sort(key=lambda one: one.starts_at, reverse=True)
    drawn = partial(_incident, document=document, look=look, paths=paths)
    parts = [
        f'<section class="headline" data-state="{document.state}"><h1>{_icon(document.state)}'
        f"{escape(words.headlines[document.state])}</h1><p>"
        + _with_time(words.as_of, document.generated_at, look)
        + "</p></section>",
        _list(words.open_incidents, "incidents", map(drawn, open_ones)) if open_ones else "",
        _list(words.coming, "maintenance", map(drawn, reversed(maintenance))) if maintenance else "",
        _list(words.components, "services", (_component(one, look) for one in document.components)),
        _legend(words),
        _list(words.past, "past", map(drawn, past))
        if past
        else f'<h2 id="past">{escape(words.past)}</h2><p class="quiet">{escape(words.no_past)}</p>',
    ]
    return _whole(document, look, paths, words.headlines[document.state], "".join(parts))


def incident_page(document: StatusDocument, found: IncidentStatus, look: Look, paths: Paths = SERVED) -> str:
    """The page of one incident."""
    words = look.words
    body = (
        f'<p><a href="{escape(paths.page)}">{escape(words.back)}</a></p>'
        f'<h1 class="title">{escape(found.title)}</h1><ul class="card">'
        + _incident(found, document=document, look=look, paths=paths, titled=False)
        + "</ul>"
    )
    return _whole(document, look, paths, found.title, body)


def _whole(document: StatusDocument, look: Look, paths: Paths, title: str, body: str) -> str:
    words = look.words
    name = escape(words.title.format(name=document.name))
    logo = f'<img src="{escape(paths.logo)}" alt="">' if look.logo else ""
    links = "".join(
        f'<li><a href="{escape(address)}">{escape(text)}</a></li>' for text, address in look.links
    )
    nav = f'<nav aria-label="{escape(words.elsewhere)}"><ul>{links}</ul></nav>' if links else ""
    return (
        f'<!doctype html>\n<html lang="{words.tag}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(META_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{name}: {escape(title)}</title>"
        f'<link rel="alternate" type="application/atom+xml" title="{name}" href="{escape(paths.atom)}">'
        f'<link rel="icon" type="image/svg+xml" href="{escape(paths.icon)}"><style>{STYLE}</style>'
        f'<noscript><meta http-equiv="refresh" content="{REFRESH_S}"></noscript></head>'
        f'<body><a class="skip" href="#main">{escape(words.skip)}</a><header class="top">'
        f'<a class="name" href="{escape(paths.page)}">{logo}<span>{name}</span></a>{nav}</header>'
        f'<p id="live" class="unseen" role="status" data-stale="{escape(words.stale)}"></p>'
        f'<main id="main">{body}</main><footer>'
        f'<p class="follow"><span>{escape(words.subscribe)}:</span>'
        f'<a href="{escape(paths.atom)}">{escape(words.feed)}</a>'
        f'<a href="{escape(paths.json)}">{escape(words.data)}</a></p>'
        f'<p class="quiet">{escape(words.how)}</p></footer><script>{SCRIPT}</script></body></html>\n'
    )


def _list(title: str, anchor: str, items: Iterable[str]) -> str:
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2><ul class="card">' + (
        "".join(items) + "</ul></section>"
    )


def _icon(state: ServiceState) -> str:
    return f'<svg class="icon" viewBox="0 0 20 20" aria-hidden="true"><path d="{_ICONS[state]}"/></svg>'


def _state(state: ServiceState, words: Words) -> str:
    return f'<span class="state" data-state="{state}">{_icon(state)}{escape(words.states[state])}</span>'


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _time(at: str, look: Look) -> str:
    return f'<time datetime="{at}">{escape(look.words.when(_seconds(at), look.zone))}</time>'


def _with_time(text: str, at: str, look: Look) -> str:
    return escape(text).format(when=_time(at, look))


# -- services ----------------------------------------------------------------------------------------------


def _component(found: ComponentStatus, look: Look) -> str:
    words = look.words
    uptime = (
        words.uptime_unknown
        if found.uptime is None
        else f"{words.uptime.format(percent=words.percent(found.uptime))}, "
        f"{words.known.format(percent=words.percent(found.known))}"
    )
    measured = (
        _with_time(words.last_measured, found.measured_at, look)
        if found.measured_at
        else escape(words.never_measured)
    )
    since = (
        f'<span class="quiet">{_with_time(words.since, found.since, look)}</span>'
        if found.since and found.state is not ServiceState.OPERATIONAL
        else ""
    )
    label = words.bar.format(name=found.name, uptime=uptime)
    bars = "".join(_bar(at, day, words) for at, day in enumerate(found.days))
    return (
        f'<li><div class="row"><h3>{escape(found.name)}</h3><span class="now">'
        f"{_state(found.state, words)}{since}</span></div>"
        f'<svg class="bars" viewBox="0 0 {6 * len(found.days)} 36" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{bars}</svg>'
        f'<p class="axis quiet"><span>{escape(words.ninety_days_ago)}</span><span>{escape(uptime)}</span>'
        f"<span>{escape(words.today)}</span></p>"
        f"{_latency(found, words)}{_problem_days(found.days, words)}"
        f'<p class="quiet">{measured}</p></li>'
    )


def _bar(at: int, day: Day, words: Words) -> str:
    parts = "".join(
        f'<rect x="{6 * at + 0.75}" y="{y}" width="4.5" height="{height}"/>' for y, height in _BARS[day.state]
    )
    return f'<g class="{day.state}"><title>{escape(_of_day(day, words))}</title>{parts}</g>'


def _of_day(day: Day, words: Words) -> str:
    when = words.when_date(datetime.fromisoformat(day.date))
    facts = [words.day.format(date=when, state=words.states[day.state])]
    if day.uptime is not None:
        facts.append(words.day_known.format(percent=words.percent(day.uptime)))
    for text, minutes in (
        (words.day_outage, day.outage_minutes),
        (words.day_degraded, day.degraded_minutes),
        (words.day_maintenance, day.maintenance_minutes),
    ):
        if minutes:
            facts.append(text.format(minutes=minutes))
    if 0 < day.known < 0.995:
        facts.append(words.day_unknown.format(percent=words.percent(1 - day.known)))
    return ", ".join(facts)


def _problem_days(days: Sequence[Day], words: Words) -> str:
    """The days that were not well, as text."""
    found = [day for day in reversed(days) if day.outage_minutes or day.state is ServiceState.DEGRADED]
    if not found:
        return ""
    items = "".join(f"<li>{escape(_of_day(day, words))}</li>" for day in found)
    title = escape(words.problem_days.format(count=len(found)))
    return f"<details><summary>{title}</summary><ul>{items}</ul></details>"


def _latency(found: ComponentStatus, words: Words) -> str:
    latency = found.latency_ms
    facts = []
    if latency.now is not None:
        facts.append(words.latency_now.format(ms=words.number(latency.now)))
    if latency.mean is not None and latency.max is not None:
        facts.append(words.latency_day.format(mean=words.number(latency.mean), max=words.number(latency.max)))
    text = f"{words.latency}: {', '.join(facts) or words.latency_none}"
    return f'<p class="latency quiet">{_line(latency.hours)}<span>{escape(text)}</span></p>'


def _line(hours: Sequence[float | None]) -> str:
    """A line of 24 hours, with a gap where nothing was measured. It only repeats the text beside it."""
    highest = max((value for value in hours if value is not None), default=0.0)
    if not highest:
        return ""
    path, gap = [], True
    for at, value in enumerate(hours):
        if value is not None:
            path.append(f"{'M' if gap else 'L'}{at * 5 + 2} {1 + _LINE_HEIGHT * (1 - value / highest):.1f}")
            if gap and (at + 1 == len(hours) or hours[at + 1] is None):
                path.append("h.1")  # a single hour is a dot
        gap = value is None
    return f'<svg class="line" viewBox="0 0 120 24" aria-hidden="true"><path d="{"".join(path)}"/></svg>'


def _legend(words: Words) -> str:
    items = "".join(
        f'<li><svg class="key-bar" viewBox="0 0 6 36" preserveAspectRatio="none" aria-hidden="true">'
        f'<g class="{state}">'
        + "".join(f'<rect width="6" y="{y}" height="{height}"/>' for y, height in _BARS[state])
        + f"</g></svg>{escape(words.states[state])}</li>"
        for state in _BARS
    )
    return f'<ul class="key" aria-label="{escape(words.legend)}">{items}</ul>'


# -- incidents ---------------------------------------------------------------------------------------------


def _incident(
    found: IncidentStatus, *, document: StatusDocument, look: Look, paths: Paths, titled: bool = True
) -> str:
    words = look.words
    names = {one.id: one.name for one in document.components}
    affected = ", ".join(names.get(one, one) for one in found.components) or words.all_components
    kind = "maintenance" if found.kind == "maintenance" else found.impact
    state = words.incident_states.get(found.state, found.state)
    if found.kind == "incident":
        state = f"{state} · {words.impacts[found.impact]}"
    span = (
        escape(words.from_to).format(start=_time(found.starts_at, look), end=_time(found.ends_at, look))
        if found.ends_at
        else _with_time(words.since, found.starts_at, look)
    )
    title = (
        f'<h3><a href="{escape(paths.of_incident(found.id))}">{escape(found.title)}</a></h3>'
        if titled
        else ""
    )
    updates = "".join(
        f'<li><p class="quiet"><strong>{escape(words.incident_states.get(one.state, one.state))}</strong> · '
        f"{_time(one.at, look)}</p><p>{escape(one.text)}</p></li>"
        for one in found.updates
    )
    return (
        f'<li class="incident {kind}"><div class="row">{title}<span class="quiet">{escape(state)}</span></div>'
        f'<p class="quiet">{span} · {escape(words.affects.format(names=affected))}</p>'
        f'<ol class="updates">{updates}</ol></li>'
    )
