"""Rules for a handshake that got no HTTP answer.

Not here: HTTP statuses (`http_statuses`).
"""

from __future__ import annotations

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.view import View
from narthex.doctor.observations import HttpExchange

_TLS_RECORDS = ("15030", "16030")  # alert, handshake
_H2_SETTINGS = "04"  # the type byte of a SETTINGS frame, RFC 9113 section 4.1


def no_answer(view: View, made: HttpExchange) -> Finding | None:
    """Name the event that came instead of an answer; None when there was an answer."""
    seen = view.seen
    if made.end == "response":
        return None
    if seen.other_scheme == "tls" or made.start_hex.startswith(_TLS_RECORDS):
        return found("ws_to_tls_port", endpoint=seen.endpoint)
    if made.end == "not_http":
        if made.start_hex[6:8] == _H2_SETTINGS and made.start_hex.startswith("0000"):
            return found("speaks_h2", endpoint=seen.endpoint)
        return found("not_http", endpoint=seen.endpoint, start=_readable(made.start_hex))
    if made.end in ("eof", "reset", "unreachable"):
        return _dropped(view, made)
    if made.end == "partial":
        return found("cut_mid_answer", received=made.received)
    if made.end == "slow":
        return found("slow_answer", received=made.received, timeout_s=f"{made.waited_s:g}")
    if view.plain is not None and view.plain.end == "response":
        return found("upgrade_unanswered", waited_s=f"{made.waited_s:g}")
    return found("black_hole", endpoint=seen.endpoint, timeout_s=f"{made.waited_s:g}")


def _dropped(view: View, made: HttpExchange) -> Finding:
    plain_works = view.plain is not None and view.plain.end == "response"
    alike = view.alike()
    good = [other for other in alike if other.end == "response"]
    if good:
        return flapping(alike, [other for other in alike if not other.opened])
    offered = view.one("upgrade with a subprotocol")
    if offered is not None and offered.accepted:
        how = "it responds only if a subprotocol is offered: without one the server crashes"
    elif plain_works:
        how = "a plain GET gets an answer: only the handshake crashes the server"
    else:
        how = "a plain GET gets no answer either"
    code = "reset_before_answer" if made.end == "reset" else "eof_before_answer"
    return found(code, how=how, seen_in=(made.attempt.name,))


def flapping(alike: list[HttpExchange], bad: list[HttpExchange]) -> Finding:
    """Identical handshakes with different outcomes."""
    kinds = sorted({str(made.status) if made.end == "response" else made.end for made in bad})
    return found(
        "flapping", bad=len(bad), total=len(alike), how=", ".join(kinds),
        seen_in=tuple(made.attempt.name for made in bad),
    )  # fmt: skip


def _readable(start_hex: str) -> str:
    raw = bytes.fromhex(start_hex)
    text = raw.decode("ascii", "replace")
    return repr(text.strip()) if text.isprintable() or text.strip().isprintable() else start_hex[:24]
