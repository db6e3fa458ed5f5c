"""Rules for a narthex: compares its reports about itself with the observations.

Not here: rules for any server.
"""

from __future__ import annotations

from typing import Any, Final

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.view import View, narthex_code, short
from narthex.doctor.documents import url_parts
from narthex.doctor.observations import GatewayFacts

_STEPS: Final = {
    "connect": "connect_failed",
    "echo": "echo_failed",
    "event": "event_lost",
    "resume": "resume_failed",
}


def stripped(view: View) -> Finding | None:
    """Authorization or subprotocols do not reach the gateway, which reports the carriers that it received."""
    gateway = view.seen.gateway
    if gateway is None:
        return None
    bad, first = view.bad, view.first
    bad_subprotocol = view.one("upgrade with a bad token as subprotocol")
    ignored = bad is not None and first is not None and _same(bad, first) and bad.status in (101, 401)
    if ignored and gateway.preflight_bad.get("code") in (None, "", "auth_required"):
        return found("authorization_stripped", seen_in=("upgrade with a bad token",))
    explain = view.one("upgrade offering narthex.explain")
    answered = explain is not None and explain.status == 101 and explain.subprotocol != "narthex.explain"
    refused = (
        explain is not None and explain.status in (401, 403) and narthex_code(explain) == "auth_required"
    )
    if answered or refused:
        return found("subprotocol_stripped", seen_in=("upgrade offering narthex.explain",))
    if bad_subprotocol is not None and bad_subprotocol.opened:
        return found("subprotocol_stripped", seen_in=(bad_subprotocol.attempt.name,))
    return None


def says(view: View) -> list[Finding]:
    """Findings from health, the forwarded scheme and preflight."""
    gateway = view.seen.gateway
    if gateway is None:
        return []
    rules = (_health(gateway), _scheme(view, gateway), _preflight(view, gateway))
    return [finding for finding in rules if finding is not None]


def conversation(view: View) -> Finding | None:
    """The first step of the conversation that failed."""
    for step in view.seen.steps:
        if not step.ok:
            return found(_STEPS[step.name], detail=short(step.detail, 120))
    return None


def _same(one: Any, other: Any) -> bool:
    return bool(one.status == other.status and narthex_code(one) == narthex_code(other))


def _health(gateway: GatewayFacts) -> Finding | None:
    status = str(gateway.health.get("status", ""))
    if status in ("", "healthy"):
        return None
    checks = gateway.health.get("checks")
    failing = [
        f"{name} ({short(str(check.get('detail', '')), 60)})" if check.get("detail") else name
        for name, check in (checks.items() if isinstance(checks, dict) else ())
        if isinstance(check, dict) and check.get("status") not in ("healthy", None)
    ]
    shown = ", ".join(failing) or "it names no check"
    if status == "degraded":
        return found("health_degraded", severity="warning", failing=shown)
    return found("health_unhealthy", status=status, failing=shown)


def _scheme(view: View, gateway: GatewayFacts) -> Finding | None:
    told = gateway.config.get("url")
    if not isinstance(told, str):
        return None
    theirs, ours = url_parts(told), url_parts(view.seen.url)
    if (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc):
        return None
    return found("scheme_lost", severity="warning", told=f"{theirs.scheme}://{theirs.netloc}")


def _preflight(view: View, gateway: GatewayFacts) -> Finding | None:
    base, verdict = view.base, gateway.preflight
    if base is None or not verdict:
        return None
    admits = verdict.get("verdict") == "admit"
    refuses = isinstance(verdict.get("code"), str) and "trace_id" in verdict
    if (admits and base.status in (401, 403)) or (refuses and base.opened):
        shown = "admit" if admits else str(verdict.get("code"))
        return found("preflight_disagrees", severity="warning", verdict=shown, status=base.status)
    return None
