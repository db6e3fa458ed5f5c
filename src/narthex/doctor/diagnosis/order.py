"""The order of the rules, and when to stop: the first cause hides its consequences.

Not here: single rules.
"""

from __future__ import annotations

from narthex.doctor.diagnosis import (
    credentials,
    differences,
    gateways,
    holds,
    http_statuses,
    reach,
    silence,
    sockets,
)
from narthex.doctor.diagnosis.findings import Diagnosis, Finding, found
from narthex.doctor.diagnosis.view import View, asks_for_credential, narthex_code
from narthex.doctor.observations import HttpExchange, Observations


def diagnose(seen: Observations) -> Diagnosis:
    """Diagnose an endpoint.

    Args:
        seen: all observations; they may end early, where nothing could follow.

    Returns:
        The findings, the cause first; none for a healthy endpoint.
    """
    if (finding := reach.unreachable(seen)) is not None:
        return Diagnosis(findings=(finding,), reachable=False)
    if seen.tls is not None and (finding := reach.tls_fault(seen, seen.tls)) is not None:
        return Diagnosis(findings=(finding,))
    view = View(seen)
    found_all = list(_handshake(view))
    if not found_all:
        found_all = _beyond(view)
    if (finding := reach.one_address(seen)) is not None:
        found_all.append(finding)
    if name := seen.asked.credential_in_query:
        found_all.append(found("credential_in_url", severity="warning", name=name))
    found_all.sort(key=lambda finding: finding.severity)  # "failure" before "warning"; else in order
    return Diagnosis(findings=tuple(found_all), notes=tuple(_notes(view)), works=_works(view))


def _handshake(view: View) -> list[Finding]:
    """The reason why the handshake fails; empty when it works, or when only a credential is missing."""
    base = view.base
    if base is None:
        return []
    if (finding := silence.no_answer(view, base)) is not None:
        return [finding]
    if (finding := gateways.stripped(view)) is not None:
        return [finding]
    if (finding := differences.repeated(view)) is not None:
        return [finding]
    if base.status == 101:
        fault = sockets.socket_fault(base)
        return [fault] if fault is not None else []
    if (finding := differences.lost_header(view, base)) is not None:
        return [finding]
    if base.attempt.presents == "none" and asks_for_credential(base) and not _hides_more(view, base):
        return [finding for finding in [differences.unverified(view)] if finding is not None]
    return [http_statuses.not_upgraded(view, base), *gateways.says(view)]


def _hides_more(view: View, base: HttpExchange) -> bool:
    """A 401 that is no plain demand for a token: Google's front end."""
    return credentials.challenged(view, base).code in ("google_iam", "proxy_auth")


def _beyond(view: View) -> list[Finding]:
    """Findings at an endpoint whose handshake works."""
    found_all = [*differences.differences(view)]
    if (finding := gateways.conversation(view)) is not None:
        found_all.insert(0, finding)
    return [*found_all, *holds.held(view), *gateways.says(view)]


def _notes(view: View) -> list[str]:
    notes: list[str] = []
    base = view.base
    if base is None:
        return notes
    if base.attempt.presents == "none" and asks_for_credential(base):
        notes.append("The server requires a credential, as it should. Give --token to test further.")
    elif view.seen.gateway is not None and base.attempt.presents == "none" and base.opened:
        notes.append(
            "Without --token the doctor sends nothing on the socket: connect, echo, event and resume are not tested."
        )
    if view.asked.token and not view.seen.tls_asked and not view.seen.loopback:
        notes.append("The token was sent unencrypted: use wss://.")
    if holds.inert(view):
        notes.append(
            "The held socket was closed after 10 s, as it should be: it did not authenticate. Give --token."
        )
    if note := differences.large_head_note(view):
        notes.append(note)
    if view.random is not None and view.random.opened and base.opened:
        notes.append("Every path is upgraded: a wrong path in the client will go unnoticed.")
    if view.seen.tls is not None and view.seen.tls.not_after:
        notes.append(f"The certificate is valid until {view.seen.tls.not_after}.")
    return notes


def _works(view: View) -> str:
    base = view.base
    seen = view.seen
    who = "a narthex" if seen.gateway is not None else "a WebSocket server"
    if seen.gateway is not None:
        who += f" {seen.gateway.config.get('version', '')}".rstrip()
    if base is None:
        return f"{seen.endpoint} responds"
    if base.status != 101:
        code = f" ({narthex_code(base)})" if narthex_code(base) else ""
        return f"{who} answers at {seen.url}; without a credential it refuses{code}, with a reason"
    parts = ["the handshake works"]
    if seen.steps:
        parts.append(", ".join(step.name for step in seen.steps if step.ok) + " too")
    held = [hold for hold in seen.holds if hold.ended == "held"]
    if held:
        parts.append(f"sockets lived {held[0].lived_s:g} s")
    return f"{who} at {seen.url}: " + "; ".join(parts)
