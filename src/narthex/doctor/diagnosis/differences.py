"""Rules that compare handshakes which differ in one factor.

Not here: the meaning of a single answer. Rules: a difference counts only when the base handshake works, or, for a
credential, when both answers are known.
"""

from __future__ import annotations

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.fingerprints import who_answered
from narthex.doctor.diagnosis.silence import flapping
from narthex.doctor.diagnosis.view import View, asks_for_credential, narthex_code
from narthex.doctor.observations import HttpExchange

_SILENT = ("timeout", "eof", "reset", "partial")


def differences(view: View) -> list[Finding]:
    """All of them, most important first."""
    rules = (repeated, origin, large_head, unverified, addresses)
    return [finding for rule in rules if (finding := rule(view)) is not None]


def repeated(view: View) -> Finding | None:
    """Identical handshakes that do not all open."""
    alike = view.alike()
    bad = [made for made in alike if not as_it_should(view, made)]
    if not bad or len(bad) == len(alike):
        return None
    if any(made.status == 429 or narthex_code(made) in ("connection_limit", "rate_limited") for made in bad):
        return found("rate_limited", severity="warning", retry="")
    if all(made.status == 503 and who_answered(made) == "nginx" for made in bad):
        return found("rate_limited_by_proxy", server="nginx", bad=len(bad), total=len(alike))
    return flapping(alike, bad)


def as_it_should(view: View, made: HttpExchange) -> bool:
    """Whether the socket opened or, without a credential at hand, the server only asked for one."""
    return made.opened or (
        made.attempt.presents == "none" and not view.asked.token and asks_for_credential(made)
    )


def origin(view: View) -> Finding | None:
    """The handshake works without Origin, but not with it."""
    base, with_origin = view.base, view.origin
    if base is None or with_origin is None or not as_it_should(view, base) or as_it_should(view, with_origin):
        return None
    if with_origin.status in (429, 503):
        return None
    how: str = str(with_origin.status) if with_origin.end == "response" else with_origin.end
    if with_origin.close is not None:
        how = f"closed {with_origin.close.code}"
    return found(
        "origin_refused", origin=with_origin.attempt.origin, status=how, seen_in=(with_origin.attempt.name,)
    )


def large_head(view: View) -> Finding | None:
    """The handshake works with a small head, but not with 9 KB."""
    base, large = view.base, view.large
    if base is None or large is None or large.opened or not base.opened:
        return None
    if large.end in _SILENT:
        how = "no answer" if large.end == "timeout" else "a cut"
        return found("large_head_silence", severity="warning", how=how, seen_in=(large.attempt.name,))
    return None


def large_head_note(view: View) -> str:
    """A note on an error answer to a head of 9 KB. Most servers give one: worth knowing, and no fault."""
    base, large = view.base, view.large
    if base is None or large is None or not base.opened or large.status not in (400, 413, 414, 431, 494):
        return ""
    who = who_answered(large)
    by = f" (by {who})" if who else ""
    return f"large_head_refused: {found('large_head_refused', status=large.status, by=by).line}."


def unverified(view: View) -> Finding | None:
    """A request without a token is refused and a nonsense token is admitted."""
    first, bad = view.first, view.bad
    if first is None or bad is None or not bad.opened or first.opened or not asks_for_credential(first):
        return None
    return found("bad_token_admitted", seen_in=(bad.attempt.name,))


def addresses(view: View) -> Finding | None:
    """The handshake opens at one address of the host and not at another."""
    others = [made for made in view.exchanges if made.attempt.name.startswith("upgrade at ")]
    base = view.base
    if base is None or not others or all(made.opened == base.opened for made in others):
        return None
    good = [made.address for made in [base, *others] if made.opened]
    bad = [made.address for made in [base, *others] if not made.opened]
    return found(
        "one_address_fails", count=len(others) + 1, good=", ".join(good), bad=", ".join(bad), outcome="no 101"
    )


def lost_header(view: View, made: HttpExchange) -> Finding | None:
    """The user's own header changes nothing in the answer, and its name has an underscore, which proxies drop."""
    first = view.first
    odd = [name for name in view.asked.headers if "_" in name]
    if not odd or first is None or made is first or made.opened:
        return None
    same = made.status == first.status and narthex_code(made) == narthex_code(first)
    return found("underscore_header", header=", ".join(odd)) if same else None
