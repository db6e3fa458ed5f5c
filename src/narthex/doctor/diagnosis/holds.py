"""Rules for held sockets: an idle limit, a maximum life, or the server's own decision; and the likely component.

Not here: holding. Rules: a proxy is named by its time limit and by its answers; both are marked as a guess. A limit is
certain only where sockets of different ages ended at the same age, which no restart does.
"""

from __future__ import annotations

from typing import Final

from narthex.doctor.diagnosis.findings import Finding, Severity, found
from narthex.doctor.diagnosis.sockets import meaning_of
from narthex.doctor.diagnosis.view import View
from narthex.doctor.knowledge import Sure
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
TELLING_S: Final = 0.15  # between the openings of sockets: a smaller gap is timer delay
INERT_CLOSE: Final = 3502


def held(view: View) -> list[Finding]:
    """Findings from the held sockets."""
    quiet = [hold for hold in view.seen.holds if not hold.pings and hold.ended != "not_opened"]
    pinging = next((hold for hold in view.seen.holds if hold.pings and hold.ended != "not_opened"), None)
    if not quiet or pinging is None:
        return []
    cut = [hold for hold in (*quiet, pinging) if hold.ended != "held"]
    if not cut:
        return []
    first = cut[0]
    if first.close is not None and first.close.code == INERT_CLOSE:
        return []  # as it should be: no credential was sent
    its_own = first.close is not None and first.close.code not in _SAID_BY_TIMERS
    if its_own or all(hold.pings for hold in cut):
        return [_closed(first)]
    if pinging.ended == "held" or pinging.lived_s > first.lived_s + _apart(first.lived_s):
        return [_idle(view, [hold for hold in cut if not hold.pings], quiet)]
    return [_all_ended(view, cut)]


_SAID_BY_TIMERS: Final = (1000, 1001, 1005)
"""Close codes that a proxy's timer sends as well; any other one is a server's own decision."""


def _apart(lived_s: float) -> float:
    return max(SAME_S, lived_s / 10)


def _idle(view: View, cut: list[Hold], quiet: list[Hold]) -> Finding:
    """Quiet sockets ended and the pinging one lives: certain when two of them ended at one age, not at one moment."""
    if len(quiet) > 1 and len(cut) == 1:
        count, how, seconds = len(quiet) + 1, _how(cut[0]), f"{cut[0].lived_s:.1f}"
        return found("held_socket_lost", severity="warning", count=count, how=how, seconds=seconds)
    if by_moment(cut):
        return _together(cut)
    return _limit(view, cut[0], "idle_limit", IDLE_TIMES, proved=by_age(cut))


def _all_ended(view: View, cut: list[Hold]) -> Finding:
    """Pinging ones too: a maximum life if each ended at the same age; if at the same moment, something else."""
    if cut[0].close is not None and not by_age(cut):
        return _closed(cut[0])
    if by_moment(cut):
        return _together(cut)
    pinging = next((hold for hold in cut if hold.pings), None)
    if pinging is None or pinging.lived_s < 2 * pinging.ping_every_s:
        # Cut before pings could keep it alive: idle time-out and maximum life look the same.
        return _limit(view, cut[0], "life_limit", LIFE_TIMES, proved=False, sure="possible")
    return _limit(view, cut[0], "life_limit", LIFE_TIMES, proved=by_age(cut))


def by_age(holds: list[Hold]) -> bool:
    """Whether sockets that were opened one after the other ended one after the other, at the same age."""
    ages, moments = _spreads(holds)
    return moments > TELLING_S and ages < moments / 2


def by_moment(holds: list[Hold]) -> bool:
    """Whether sockets of different ages ended at the same moment."""
    ages, moments = _spreads(holds)
    return ages > TELLING_S and moments < ages / 2


def _spreads(holds: list[Hold]) -> tuple[float, float]:
    """How far apart their ages and the moments of their ends are, seconds."""
    ages = [hold.lived_s for hold in holds]
    return _spread(ages), _spread([hold.began_s + hold.lived_s for hold in holds])


def _spread(values: list[float]) -> float:
    return max(values) - min(values)


def _together(cut: list[Hold]) -> Finding:
    apart = _spread([hold.began_s for hold in cut])
    return found("cut_together", count=len(cut), apart=f"{apart:.1f}", seconds=f"{cut[0].lived_s:.1f}")


def inert(view: View) -> bool:
    """Whether the gateway ended the hold because no credential came in time."""
    return any(hold.close is not None and hold.close.code == INERT_CLOSE for hold in view.seen.holds)


def _limit(
    view: View,
    hold: Hold,
    code: str,
    times: tuple[tuple[float, str], ...],
    *,
    proved: bool,
    sure: Sure = "likely",
) -> Finding:
    return found(
        code,
        sure="certain" if proved else sure,
        how=_how(hold),
        seconds=f"{hold.lived_s:.1f}",
        proxy=_whose(view, hold.lived_s, times),
    )


def _how(hold: Hold) -> str:
    return f"closed ({hold.close.code})" if hold.close is not None else "cut without a close frame"


def _whose(view: View, lived_s: float, times: tuple[tuple[float, str], ...]) -> str:
    known = [name for seconds, name in times if abs(lived_s - seconds) <= max(1.0, seconds * 0.02)]
    seen = view.proxy
    if known:
        return f"{known[0]}, judging by the time" + (
            f"; {seen} responds here" if seen and seen not in known[0] else ""
        )
    return (
        f"{seen}, which responds here" if seen else "a proxy or balancer on the path (HAProxy hides itself)"
    )


def _closed(hold: Hold) -> Finding:
    if hold.close is None:
        return found("cut_after_accept", ms=round(hold.lived_s * 1000))
    severity: Severity = "warning" if hold.close.code in (1000, 1001, 1012, 3001) else "failure"
    seconds, meaning = f"{hold.lived_s:.1f}", meaning_of(hold.close)
    return found(
        "closed_while_held", severity=severity, code=hold.close.code, seconds=seconds, meaning=meaning
    )
