"""Incidents, the record of changes to them, the shown states and the queue of webhooks in the status database.

Not here: which change is allowed (`domain/incidents.py`), sending (`webhooks`). Rules: each function works within the
transaction that it is given, so that an incident, its record of who changed it and its webhooks are there together or
not at all; `now` is an argument.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from narthex.domain.availability import ServiceState
from narthex.domain.incidents import Incident
from narthex.errors import ClientError

KEPT_S: Final = 400 * 86_400.0
MAX_OPEN: Final = 100  # a page with more says nothing, and a script that repeats itself is stopped
MAX_CHANGES: Final = 10_000
DELIVERED_KEPT_S: Final = 30 * 86_400.0
MAX_QUEUED: Final = 10_000  # deliveries; the newest are kept


class Change(NamedTuple):
    """An entry of the record: who did what to which incident. `detail` is JSON text."""

    at: float
    actor: str
    action: str
    incident_id: str
    detail: str


class WebhookDelivery(NamedTuple):
    """A webhook that is due."""

    seq: int
    message_id: str
    url: str
    body: bytes
    created_at: float
    attempts: int


# -- incidents ---------------------------------------------------------------------------------------------


def incidents(connection: sqlite3.Connection, since: float) -> list[Incident]:
    """Those that are open, to come, or began after `since`; newest first."""
    rows = connection.execute("SELECT body FROM incidents ORDER BY starts_at DESC LIMIT 2000")
    found = [msgspec.json.decode(row[0], type=Incident) for row in rows]
    return [one for one in found if one.ends_at is None or one.starts_at >= since or one.ends_at >= since]


def incident(connection: sqlite3.Connection, incident_id: str) -> Incident:
    """One of them. Raises ClientError: there is none."""
    row = connection.execute("SELECT body FROM incidents WHERE incident_id = ?", (incident_id,)).fetchone()
    if row is None:
        raise ClientError(
            "incident_not_found",
            "There is no incident with this id.",
            "See `narthex incident list`.",
            number=404,
        )
    return msgspec.json.decode(row[0], type=Incident)


def put(
    connection: sqlite3.Connection,
    found: Incident,
    now: float,
    *,
    actor: str,
    action: str,
    request_id: str | None = None,
) -> tuple[Incident, Change | None]:
    """Keep a new incident, or one that changed, with the record of the change.

    Returns:
        The incident and that record; of an earlier call with the same `request_id` the incident alone.

    Raises:
        ClientError: too many are open.
    """
    if action in ("open", "schedule"):
        known = connection.execute(
            "SELECT body FROM incidents WHERE request_id = ?", (request_id,)
        ).fetchone()
        if known is not None:
            return msgspec.json.decode(known[0], type=Incident), None
        if sum(one.is_open(now) for one in incidents(connection, now)) >= MAX_OPEN:
            raise ClientError(
                "too_many_incidents", f"{MAX_OPEN} are open or to come.", "Resolve some first.", number=409
            )
    connection.execute(
        """INSERT INTO incidents VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (incident_id) DO UPDATE SET starts_at = excluded.starts_at, body = excluded.body,
        announced = excluded.announced""",
        (found.incident_id, found.starts_at, found.state(now), request_id, msgspec.json.encode(found)),
    )
    update = found.updates[-1]
    detail = {"state": update.state, "title": found.title, "text": update.text}
    change = Change(now, actor, action, found.incident_id, msgspec.json.encode(detail).decode())
    connection.execute(
        "INSERT INTO changes (at, actor, action, incident_id, detail) VALUES (?, ?, ?, ?, ?)", change
    )
    return found, change


def changes(connection: sqlite3.Connection, limit: int) -> list[Change]:
    """Newest first."""
    rows = connection.execute(
        "SELECT at, actor, action, incident_id, detail FROM changes ORDER BY seq DESC LIMIT ?", (limit,)
    )
    return [Change(*row) for row in rows]


def windows_that_turned(connection: sqlite3.Connection, now: float) -> list[Incident]:
    """Windows of maintenance that began or ended by the clock since the last call."""
    rows = connection.execute(
        "SELECT body, announced FROM incidents WHERE announced IN ('scheduled', 'in_progress')"
    ).fetchall()
    turned = []
    for body, announced in rows:
        found = msgspec.json.decode(body, type=Incident)
        state = found.state(now)
        if found.kind == "maintenance" and state != announced:
            connection.execute(
                "UPDATE incidents SET announced = ? WHERE incident_id = ?", (state, found.incident_id)
            )
            turned.append(found)
    return turned


# -- shown states ------------------------------------------------------------------------------------------


def states(connection: sqlite3.Connection) -> dict[str, tuple[ServiceState, float]]:
    """By component the shown state, and since when."""
    rows = connection.execute("SELECT component, state, since FROM states")
    return {component: (ServiceState(state), since) for component, state, since in rows}


def note_states(
    connection: sqlite3.Connection, shown: Mapping[str, ServiceState], now: float, settle_s: float
) -> list[tuple[str, ServiceState, ServiceState]]:
    """Note the shown states; returns the changes that have lasted `settle_s`, each once: component, before, now."""
    rows = connection.execute("SELECT component, state, since, announced FROM states").fetchall()
    known = {component: (state, since, announced) for component, state, since, announced in rows}
    lasting = []
    for component, state in shown.items():
        before, since, announced = known.get(component, ("", now, ""))
        if before != state.value:
            since = now
        if not announced:  # the first state that is known at all is no change
            announced = "" if state is ServiceState.UNKNOWN else state.value
        elif announced != state.value and now - since >= settle_s:
            lasting.append((component, ServiceState(announced), state))
            announced = state.value
        row = (component, state.value, since, announced)
        if known.get(component) != row[1:]:
            connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", row)
    return lasting


# -- webhooks ----------------------------------------------------------------------------------------------


def queue(connection: sqlite3.Connection, urls: Sequence[str], event: Mapping[str, Any], now: float) -> None:
    """Queue an event for every receiver, under one message id."""
    message_id = f"msg_{secrets.token_hex(12)}"
    body = msgspec.json.encode(event)
    connection.executemany(
        """INSERT INTO deliveries (message_id, url, body, created_at, next_at, attempts, state, last_error)
        VALUES (?, ?, ?, ?, ?, 0, 'due', '')""",
        [(message_id, url, body, now, now) for url in urls],
    )


def claim_deliveries(
    connection: sqlite3.Connection, now: float, lease_s: float, limit: int
) -> list[WebhookDelivery]:
    """Deliveries that are due, for this process alone until `lease_s` from now."""
    rows = connection.execute(
        """SELECT seq, message_id, url, body, created_at, attempts FROM deliveries
        WHERE state = 'due' AND next_at <= ? ORDER BY next_at, seq LIMIT ?""",
        (now, limit),
    ).fetchall()
    connection.executemany(
        "UPDATE deliveries SET next_at = ? WHERE seq = ?", [(now + lease_s, row[0]) for row in rows]
    )
    return [WebhookDelivery(*row) for row in rows]


def settle_delivery(connection: sqlite3.Connection, seq: int, error: str, next_at: float | None) -> None:
    """Note how a delivery went: done (no `error`), to be tried again at `next_at`, or given up (None)."""
    state = "done" if not error else "due" if next_at is not None else "failed"
    connection.execute(
        "UPDATE deliveries SET state = ?, last_error = ?, attempts = attempts + 1, next_at = ? WHERE seq = ?",
        (state, error, next_at or 0.0, seq),
    )


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Delete what is old, and what is too much."""
    connection.execute("DELETE FROM incidents WHERE starts_at < ?", (now - KEPT_S,))
    connection.execute("DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - ?", (MAX_CHANGES,))
    connection.execute(
        "DELETE FROM deliveries WHERE state != 'due' AND created_at < ?", (now - DELIVERED_KEPT_S,)
    )
    connection.execute(
        "DELETE FROM deliveries WHERE seq <= (SELECT max(seq) FROM deliveries) - ?", (MAX_QUEUED,)
    )
