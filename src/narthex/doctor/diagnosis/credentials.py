"""Rules for refused credentials: the refusing party and the reason.

Not here: verifying a token; the doctor has no key. It only reads `exp`, `nbf` and the clocks.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.fingerprints import google_branded
from narthex.doctor.diagnosis.view import View, narthex_code, problem_of, short
from narthex.doctor.knowledge import Sure
from narthex.doctor.observations import HttpExchange

SKEW_S = 30.0  # the leeway that verifiers usually allow


def challenged(view: View, made: HttpExchange) -> Finding:
    """401 and 407."""
    challenge = made.headers.get("www-authenticate") or made.headers.get("proxy-authenticate", "")
    scheme = challenge.split(" ", 1)[0]
    if scheme.lower() in ("basic", "digest", "negotiate", "ntlm") or made.status == 407:
        return found("proxy_auth", status=made.status, scheme=scheme or "proxy")
    if google_branded(made):
        return found("google_iam", status=made.status)
    return refused_token(view, made)


def refused_token(view: View, made: HttpExchange) -> Finding:
    """The given credential is refused; name the reason as exactly as a client can."""
    expires = view.asked.claims.get("exp")
    skew_s = skew_of(view, made)
    now = (
        made.at or view.asked.now
    )  # an examination may take minutes: its start is not the moment of an answer
    if abs(skew_s) > SKEW_S and (not isinstance(expires, int | float) or expires > now):
        direction = "ahead of" if skew_s > 0 else "behind"
        return found("clock_skew", seconds=round(abs(skew_s)), direction=direction)
    why = _why(made)
    if isinstance(expires, int | float) and expires < now:
        # This reason is certain only where the answer names it.
        sure: Sure = "certain" if "expired" in why.lower() else "likely"
        return found("token_expired_here", status=made.status, ago=_span(now - expires), sure=sure)
    sure = "certain" if why else "likely"
    return found("token_refused", status=made.status, why=why, seen_in=(made.attempt.name,), sure=sure)


def skew_of(view: View, made: HttpExchange) -> float:
    """Seconds that the server's clock is ahead of this one, by its Date header; 0 without one."""
    try:
        server = parsedate_to_datetime(made.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return 0.0
    return server - (made.at or view.asked.now)


def _why(made: HttpExchange) -> str:
    if code := narthex_code(made):
        return f": `{code}`: {short(str(problem_of(made).get('detail', '')), 160)}"
    challenge = made.headers.get("www-authenticate", "")
    for key in ("error_description=", "error="):
        if key in challenge:
            return f": {short(challenge.split(key, 1)[1].split(',')[0].strip(chr(34)), 80)}"
    return ""


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
