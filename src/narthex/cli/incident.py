"""`narthex incident`: opens, updates and resolves incidents of a status page, schedules maintenance, lists both.

Rules: it calls a gateway or `narthex status serve` over HTTP with the admin key; a call that got no answer can
be repeated safely, because it carries an id of its own; exit 0 done, 1 refused, 2 usage, 69 nothing answers.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from narthex.cli.arguments import seconds_of, usage
from narthex.cli.operator_client import OperatorClient
from narthex.errors import EXIT_OK, ClientError

DEFAULT_URL: Final = "http://127.0.0.1:8000"

Components = Annotated[list[str] | None, Parameter(name="--component", negative_iterable=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StatusFlags:
    """Which status page, and how the answer is shown.

    Attributes:
        url: the gateway, or narthex status serve.
        key: the admin key; better in NARTHEX_ADMIN_KEY, where a process list does not show it.
        json: print the answer as JSON.
    """

    url: Annotated[str, Parameter(env_var="NARTHEX_STATUS_URL")] = DEFAULT_URL
    key: str = ""
    json: Annotated[bool, Parameter(negative=())] = False


DEFAULT_FLAGS: Final = StatusFlags()

Ask = Callable[[float], tuple[str, dict[str, Any]]]
"""Returns path and body of a call at the given moment."""

app = App(name="incident", help="Incidents and maintenance on the status page.")


@app.command(name="open")
def open_(
    title: str,
    *,
    text: str,
    impact: Literal["none", "degraded", "outage"] = "degraded",
    component: Components = None,
    since: str = "",
    flags: StatusFlags = DEFAULT_FLAGS,
) -> int:
    """Open an incident.

    Examples:
        narthex incident open "Answers begin late" --text "We look into it."

    Args:
        title: One line.
        text: The first update, plain text.
        impact: On the components, from now until it is resolved.
        component: Id of a component (connect, send …); repeatable; default: all of them.
        since: When it began: 2026-11-30T07:32:00Z, or `20m` ago; default now.
        flags: the options below.
    """
    body = {"title": title, "text": text, "impact": impact, "components": component or []}
    return _run(flags, lambda now: ("/api/v1/incidents", body | _started(since, now)))


@app.command
def update(
    incident_id: str,
    *,
    text: str,
    state: Literal["", "investigating", "identified", "monitoring"] = "",
    impact: Literal["none", "degraded", "outage"] | None = None,
    component: Components = None,
    flags: StatusFlags = DEFAULT_FLAGS,
) -> int:
    """Add an update to an incident or a window of maintenance.

    Examples:
        narthex incident update 4f2a --text "We found the cause." --state identified

    Args:
        incident_id: Its id; see `narthex incident list`.
        text: Plain text.
        state: Its state from now on; default: as it was.
        impact: If it changed.
        component: The components, if they changed.
        flags: the options below.
    """
    body: dict[str, Any] = {"text": text, "state": state}
    body |= {"impact": impact} if impact else {}
    body |= {"components": component} if component else {}
    return _run(flags, lambda _: (_updates(incident_id), body), repeatable=False)


@app.command
def resolve(
    incident_id: str,
    *,
    text: str = "This is resolved.",
    flags: StatusFlags = DEFAULT_FLAGS,
) -> int:
    """Resolve an incident; end maintenance early, or call it off before it begins.

    Examples:
        narthex incident resolve 4f2a

    Args:
        incident_id: Its id; see `narthex incident list`.
        text: Plain text.
        flags: the options below.
    """
    body = {"text": text, "state": "resolved"}
    return _run(flags, lambda _: (_updates(incident_id), body), repeatable=False)


@app.command
def schedule(
    title: str,
    *,
    text: str,
    start: str,
    duration: str = "1h",
    component: Components = None,
    flags: StatusFlags = DEFAULT_FLAGS,
) -> int:
    """Announce a window of maintenance, before it begins.

    Examples:
        narthex incident schedule "Upgrade" --text "Chat may pause." --start 24h

    Args:
        title: One line.
        text: Plain text.
        start: 2026-12-02T03:00:00Z, `now`, or `30m` from now.
        duration: As 90m or 2h.
        component: Id of a component; repeatable; default: all of them.
        flags: the options below.
    """

    def ask(now: float) -> tuple[str, dict[str, Any]]:
        starts_at = _moment("start", start, now, ahead=True)
        ends_at = starts_at + seconds_of("duration", duration)
        body = {"title": title, "text": text, "starts_at": starts_at, "ends_at": ends_at}
        return "/api/v1/maintenance", body | {"components": component or []}

    return _run(flags, ask)


@app.command(name="list")
def list_(
    *,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    flags: StatusFlags = DEFAULT_FLAGS,
) -> int:
    """List open incidents and coming maintenance. Needs no key.

    Examples:
        narthex incident list --all

    Args:
        every: Also those of the last 90 days that are over.
        flags: the options below.
    """
    try:
        with OperatorClient(flags.url, None) as client:
            document = client.get("/status.json")
        found = [one for one in (*document["incidents"], *document["maintenance"]) if every or one["open"]]
        if flags.json:
            print(json.dumps(found, indent=2))
        else:
            print("\n".join(map(_line, found)) or "no open incident")
    except ClientError as error:
        return usage(error)
    except (ValueError, KeyError, TypeError):
        return usage(ClientError("bad_document", f"{flags.url} has no status page.", "Check the URL."))
    return EXIT_OK


def _run(flags: StatusFlags, ask: Ask, *, repeatable: bool = True) -> int:
    """Post what `ask` returns, and print the incident. A `repeatable` call may be made twice without harm."""
    try:
        with OperatorClient(flags.url, flags.key) as client:
            path, body = ask(time.time())
            found = client.post(path, body | ({"request_id": secrets.token_hex(8)} if repeatable else {}))
    except ClientError as error:
        if error.code in ("bad_url", "no_key", "bad_key", "bad_time"):
            return usage(error)
        if error.code == "no_route":
            remedy = "The page is elsewhere, or NARTHEX_STATUS_PAGE=off: give the --url of the page's server."
            raise ClientError(error.code, error.message, remedy) from error
        raise
    print(json.dumps(found, indent=2) if flags.json else _line(found))
    return EXIT_OK


def _updates(incident_id: str) -> str:
    if not incident_id.isalnum():
        raise ClientError("incident_not_found", "This is not an id.", "See narthex incident list.")
    return f"/api/v1/incidents/{incident_id}/updates"


def _started(since: str, now: float) -> dict[str, float]:
    return {"started_at": _moment("since", since, now, ahead=False)} if since else {}


def _moment(option: str, text: str, now: float, *, ahead: bool) -> float:
    """A moment as RFC 3339, `now`, or a duration before or after now. Raises ClientError."""
    if text == "now":
        return now
    if text[:4].isdigit() and "-" in text:
        try:
            found = datetime.fromisoformat(text)
        except ValueError as fault:
            raise ClientError(
                "bad_time", f"--{option}: {text[:40]!r} is not a date and time.", "Give 2026-12-02T03:00:00Z."
            ) from fault
        if found.tzinfo is None:
            raise ClientError(
                "bad_time",
                f"--{option}: {text[:40]!r} has no time zone.",
                "End it with Z for UTC, or with +01:00.",
            )
        return found.timestamp()
    seconds = seconds_of(option, text)
    return now + seconds if ahead else now - seconds


def _line(found: dict[str, Any]) -> str:
    names: Sequence[str] = found["components"] or ["all"]
    span = (
        f"{found['starts_at']} to {found['ends_at']}" if found["ends_at"] else f"since {found['starts_at']}"
    )
    impact = f", {found['impact']}" if found["kind"] == "incident" else ""
    return f"{found['id']}  {found['state']}{impact}  {found['title']}  ({', '.join(names)}; {span})"
