"""Rules for sockets that were held: idle limit, maximum life, or the server's own decision; and whose it probably is.

Not here: holding. Rules: a proxy is named by its time and by who answers; both are said as a guess.
"""

from __future__ import annotations

from typing import Final

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.sockets import meaning_of
from narthex.doctor.diagnosis.view import View
from narthex.doctor.observations import Hold

IDLE_TIMES: Final = (
    (50.0, "HAProxy (the `timeout client` and `timeout server` of its sample configuration)"),
    (60.0, "nginx (proxy_read_timeout) or AWS ALB"),
    (100.0, "Cloudflare"),
    (240.0, "Azure"),
    (300.0, "Envoy (stream_idle_timeout)"),
    (350.0, "AWS NLB"),
    (600.0, "Google's balancer for TCP"),
)
LIFE_TIMES: Final = (
    (15.0, "Envoy's route time-out"),
    (30.0, "Google's external load balancer (back-end time-out)"),
    (60.0, "a proxy's request time-out"),
    (300.0, "Cloud Run's default request time-out"),
    (3600.0, "Cloud Run's maximum, or a proxy's hour"),
)
SAME_S: Final = 1.5  # both ended together: within this, or within a tenth of their age
INERT_CLOSE: Final = 3502


def held(view: View) -> list[Finding]:
    """What the two sockets say."""
    quiet = next((hold for hold in view.seen.holds if not hold.pings), None)
    pinging = next((hold for hold in view.seen.holds if hold.pings), None)
    if quiet is None or pinging is None or quiet.ended in ("held", "not_opened"):
        late = pinging is not None and pinging.ended not in ("held", "not_opened") and quiet is not None
        return [_closed(pinging)] if late and pinging is not None and quiet and quiet.ended == "held" else []
    if quiet.close is not None and quiet.close.code == INERT_CLOSE:
        return []  # as it should be: nobody proved who they are
    if pinging.ended == "held" or pinging.lived_s > quiet.lived_s + max(SAME_S, quiet.lived_s / 10):
        if quiet.close is not None and quiet.close.code not in (1000, 1001, 1005):
            return [_closed(quiet)]
        return [_limit(view, quiet, "idle_limit", IDLE_TIMES)]
    if quiet.close is not None:
        return [_closed(quiet)]
    return [_limit(view, quiet, "life_limit", LIFE_TIMES)]


def inert(view: View) -> bool:
    """Whether the hold ended because nothing proved itself in time."""
    return any(hold.close is not None and hold.close.code == INERT_CLOSE for hold in view.seen.holds)


def _limit(view: View, hold: Hold, code: str, times: tuple[tuple[float, str], ...]) -> Finding:
    how = f"closed ({hold.close.code})" if hold.close is not None else "cut without a close frame"
    return found(code, how=how, seconds=f"{hold.lived_s:.1f}", proxy=_whose(view, hold.lived_s, times))


def _whose(view: View, lived_s: float, times: tuple[tuple[float, str], ...]) -> str:
    known = [name for seconds, name in times if abs(lived_s - seconds) <= max(1.0, seconds * 0.02)]
    seen = view.proxy
    if known:
        return f"{known[0]}, by its time" + (
            f"; {seen} answers here" if seen and seen not in known[0] else ""
        )
    return f"{seen}, which answers here" if seen else "a proxy or balancer in between (HAProxy hides itself)"


def _closed(hold: Hold) -> Finding:
    if hold.close is None:
        return found("cut_after_accept", ms=round(hold.lived_s * 1000))
    severity = "warning" if hold.close.code in (1000, 1001, 1012, 3001) else "failure"
    return found(
        "closed_while_held", severity="warning" if severity == "warning" else "failure", code=hold.close.code,
        seconds=f"{hold.lived_s:.1f}", meaning=meaning_of(hold.close),
    )  # fmt: skip
