"""Rules for a handshake that got an HTTP answer other than 101: one function a status family.

Not here: answers without a fault (`order`), differences between handshakes (`differences`). Sources: the
signatures of `knowledge`; the wording of servers as their current releases write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from narthex.doctor.diagnosis.credentials import challenged, refused_token
from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.diagnosis.fingerprints import PROXIES, google_branded, own_page, who_answered
from narthex.doctor.diagnosis.view import View, narthex_code, problem_of, short
from narthex.doctor.documents import url_parts
from narthex.doctor.knowledge import Sure
from narthex.doctor.observations import HttpExchange

_LOGIN: Final = re.compile(
    r"log-?in|sign-?in|oauth|authorize|accounts\.google|sso|saml|/auth\b|/iap", re.IGNORECASE
)
_HTTPS_PORT: Final = re.compile(
    r"https? (port|server)|plain http request|HTTP request to an HTTPS", re.IGNORECASE
)
_TOO_LARGE: Final = re.compile(r"too (large|long|big)|header fields|cookie", re.IGNORECASE)
_NO_UPGRADE: Final = re.compile(
    r"no `?upgrade|missing connection|invalid connection header|missing upgrade|invalid upgrade|can \"?upgrade"
    r"|upgrade required|no websocket upgrade|not a websocket|expected .?upgrade|no connection upgrade", re.IGNORECASE,
)  # fmt: skip
_MISSING: Final = (
    (re.compile(r"sec-websocket-key", re.IGNORECASE), "Sec-WebSocket-Key"),
    (
        re.compile(r"sec-websocket-version|unsupported version|websocket version", re.IGNORECASE),
        "Sec-WebSocket-Version",
    ),
)
_HTTP10: Final = re.compile(r"http/1\.0|http version|unsupported protocol", re.IGNORECASE)
_ENGINE_IO: Final = re.compile(
    r"transport unknown|bad handshake method|invalid transport|unsupported version of the (socket|protocols)",
    re.IGNORECASE,
)
_CLOUDFLARE: Final = {
    520: "the origin sent an invalid response", 521: "the origin refuses connections",
    522: "the origin does not respond to TCP", 523: "the origin is unreachable",
    524: "the origin did not respond within 100 s", 525: "TLS to the origin fails",
    526: "the origin's certificate does not verify", 527: "the connection to the origin broke",
}  # fmt: skip
_AWS: Final = {
    460: "the client closed first", 463: "X-Forwarded-For has more than 30 addresses",
    464: "protocol versions do not match", 561: "its own authentication failed",
}  # fmt: skip

Rule = Callable[[View, HttpExchange], Finding]


def not_upgraded(view: View, made: HttpExchange) -> Finding:
    """Name why the answer is not 101."""
    if made.second_status == 101:
        return found("handler_returned")
    if made.status in _CLOUDFLARE:
        return found("cloudflare_error", status=made.status, which=_CLOUDFLARE[made.status])
    if made.status in _AWS:
        return found("aws_error", status=made.status, which=_AWS[made.status])
    if view.plain is not None and _ENGINE_IO.search(view.plain.body):
        said = short(str(problem_of(view.plain).get("message", "")) or view.plain.body, 60)
        return found("socketio_server", status=made.status, detail=f"a plain GET says {said!r}")
    if 300 <= made.status < 400:
        return _redirect(view, made)
    return _RULES.get(made.status, _other)(view, made)


def _redirect(view: View, made: HttpExchange) -> Finding:
    location = made.headers.get("location", "")
    parts = url_parts(location)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else parts.path
    own_host = not parts.netloc or parts.hostname == view.seen.endpoint.rsplit(":", 1)[0].strip("[]")
    if _LOGIN.search(f"{parts.netloc}{parts.path}"):
        return found("redirect_to_login", status=made.status, location=short(shown))
    if parts.scheme == "https" and not view.seen.tls_asked and own_host:
        return found("redirect_to_https", status=made.status)
    if not own_host and made.status in (302, 303) and "www." not in parts.netloc:
        return found("redirect_to_login", status=made.status, location=short(shown), sure="possible")
    return found("redirected", status=made.status, location=short(shown) or "nowhere")


def _ok(view: View, made: HttpExchange) -> Finding:
    if made.html and not made.body_cut:
        everywhere = view.random is not None and view.random.status == 200 and view.random.html
        return found("html_page", also="; every path returns one" if everywhere else "")
    then = ", then cut" if made.body_cut else ""
    return found("cut_after_200", then=then, sure="certain" if made.body_cut else None)


def _bad_request(view: View, made: HttpExchange) -> Finding:
    body = made.body
    if _HTTPS_PORT.search(body):
        return found("ws_to_tls_port", endpoint=view.seen.endpoint)
    if _ENGINE_IO.search(body):
        said = short(str(problem_of(made).get("message", "")), 60)
        return found("socketio_server", status=made.status, detail=said)
    if code := narthex_code(made):
        return _lost(made, _detail(made)) or _by_narthex(made, code)
    if _HTTP10.search(body):
        how = "that mentions HTTP/1.0"
        return found("http10_upstream", status=made.status, how=how, server=view.server, sure="certain")
    if _TOO_LARGE.search(body) and "upgrade" not in body.lower():
        return _too_large(view, made)
    if (lost := _lost(made, body)) is not None:
        return lost
    if _NO_UPGRADE.search(body):
        return _stripped(view, made)
    if who_answered(made) in PROXIES and not made.body.strip():
        return found("http10_upstream", status=made.status, how="with an empty body", server=view.server)
    if view.plain is not None and view.plain.status == made.status and "upgrade" in body.lower():
        return _stripped(view, made)
    return _other(view, made)


def _forbidden(view: View, made: HttpExchange) -> Finding:
    if google_branded(made):
        return found("google_iam", status=made.status)
    if code := narthex_code(made):
        return _by_narthex(made, code)
    if not made.body and who_answered(made) == "Envoy":
        return found("envoy_upgrade_not_enabled")
    if made.html:
        return found("waf", server=view.server)
    if made.attempt.presents == "good" and "www-authenticate" in made.headers:
        return refused_token(view, made)
    if not made.body_bytes or (made.body_bytes < 64 and not problem_of(made)):
        random = view.random
        if random is None or random.status != made.status:
            which = "the handler of this path closes before accept"
        elif view.plain is not None and view.plain.status == 200:
            which = "a random path gets the same answer: no WebSocket route matches, or everything is refused"
        else:
            which = "a random path gets the same answer: the path is wrong, or everything is refused before accept"
        return found("closed_before_accept", ms=made.first_byte_ms, which=which)
    return _other(view, made)


def _not_found(view: View, made: HttpExchange) -> Finding:
    if narthex_code(made):
        return found("wrong_path", status=404, hint="; a narthex serves it at /ws", sure="certain")
    who = who_answered(made)
    if own_page(made):
        return found("no_route_at_proxy", server=who or "the proxy")
    if who == "uvicorn":
        return found("no_websocket_library")
    if who in PROXIES:
        sure: Sure = "likely" if view.plain is not None and view.plain.status == 404 else "possible"
        return found("upgrade_stripped", status=404, by=f" (by {who})", sure=sure)
    return found("wrong_path", status=404, hint="", sure="likely")


def _upgrade_required(view: View, made: HttpExchange) -> Finding:
    body = made.body
    if who_answered(made) == "Envoy" and not body:
        return found("http10_upstream", status=426, how="with an empty body", server="Envoy")
    if (lost := _lost(made, _detail(made) if narthex_code(made) else body)) is not None:
        return lost
    if _HTTP10.search(body):
        return found("http10_upstream", status=426, how="that mentions HTTP/1.0", server=view.server)
    sure = "certain" if narthex_code(made) else "likely"
    if _NO_UPGRADE.search(body) or narthex_code(made):
        return _stripped(view, made, certain=sure == "certain")
    versions = made.headers.get("sec-websocket-version", "")
    if versions and "13" not in versions:
        return found("handshake_headers_lost", status=426, which="a version that it supports")
    return _stripped(view, made)


def _lost(made: HttpExchange, said: str) -> Finding | None:
    """The header of the handshake that the server reports missing."""
    for pattern, which in _MISSING:
        if pattern.search(said):
            return found("handshake_headers_lost", status=made.status, which=which)
    return None


def _detail(made: HttpExchange) -> str:
    return str(problem_of(made).get("detail", ""))


def _stripped(view: View, made: HttpExchange, *, certain: bool = False) -> Finding:
    by = f" (by {view.proxy})" if view.proxy else ""
    return found("upgrade_stripped", status=made.status, by=by, sure="certain" if certain else None)


def _too_large(view: View, made: HttpExchange) -> Finding:
    who = who_answered(made)
    del view
    return found("head_too_large_for_us", status=made.status, by=f" (says {who})" if who else "")


def _version_refused(view: View, made: HttpExchange) -> Finding:
    how = "HTTP Version Not Supported"
    return found("http10_upstream", status=made.status, how=how, server=view.server, sure="certain")


def _internal(view: View, made: HttpExchange) -> Finding:
    if made.header_count <= 2 and 700 <= made.first_byte_ms <= 3000:
        return found("daphne_denial", seconds=f"{made.first_byte_ms / 1000:.1f}")
    if narthex_code(made) == "internal":
        return found("exception_before_accept", ms=made.first_byte_ms, sure="certain")
    if "internal server error" in made.body.lower() or not made.body:
        return found("exception_before_accept", ms=made.first_byte_ms)
    return found("server_error", status=made.status, phrase=made.phrase, server=view.server)


def _bad_gateway(view: View, made: HttpExchange) -> Finding:
    get_works = view.plain is not None and 200 <= view.plain.status < 500
    by = " at the handshake only" if get_works else ""
    return found("bad_gateway", ms=made.first_byte_ms, by=by)


def _unavailable(view: View, made: HttpExchange) -> Finding:
    retry = made.headers.get("retry-after", "")
    shown = f", Retry-After {retry}" if retry else ""
    if "No server is available" in made.body:
        which = "all are marked down" if made.first_byte_ms < 500 else "connects were refused and retried"
        return found("no_backend", ms=made.first_byte_ms, which=which)
    if "upstream connect error" in made.body or "no healthy upstream" in made.body:
        which = "Envoy cannot connect to any" if "connect error" in made.body else "all are marked down"
        return found("no_backend", ms=made.first_byte_ms, which=which)
    if problem_of(made) or (retry and not made.html):
        code = narthex_code(made)
        sure: Sure = "certain" if code else "likely"
        return found("shedding", code=f" `{code}`" if code else "", retry=shown, sure=sure)
    others = [other for other in view.exchanges if other.attempt.upgrade]
    bad = [other for other in others if other.status == 503]
    if who_answered(made) == "nginx" and len(bad) < len(others):
        return found("rate_limited_by_proxy", server="nginx", bad=len(bad), total=len(others))
    return found("unavailable", server=view.server)


def _timeout(view: View, made: HttpExchange) -> Finding:
    seconds = made.first_byte_ms / 1000
    by = f"; {view.proxy} gave up" if view.proxy else ""
    return found("handler_hangs", seconds=f"{seconds:.1f}", by=by)


def _too_many(view: View, made: HttpExchange) -> Finding:
    del view
    retry = made.headers.get("retry-after", "")
    return found("rate_limited", retry=f", Retry-After {retry}" if retry else "")


def _by_narthex(made: HttpExchange, code: str) -> Finding:
    detail = f": `{code}`: {short(str(problem_of(made).get('detail', '')), 160)}"
    return found(
        "refused", status=made.status, phrase=made.phrase, detail=detail, sure="certain", server="the gateway"
    )


def _other(view: View, made: HttpExchange) -> Finding:
    if code := narthex_code(made):
        return _by_narthex(made, code)
    if made.status >= 500:
        return found("server_error", status=made.status, phrase=made.phrase, server=view.server)
    said = "" if made.html else short(made.body, 80)
    detail = f": {said}" if said else ""
    return found("refused", status=made.status, phrase=made.phrase, detail=detail, server=view.server)


_RULES: Final[dict[int, Rule]] = {
    200: _ok,
    400: _bad_request,
    401: challenged,
    403: _forbidden,
    404: _not_found,
    407: challenged,
    413: _too_large,
    414: _too_large,
    426: _upgrade_required,
    429: _too_many,
    431: _too_large,
    500: _internal,
    502: _bad_gateway,
    503: _unavailable,
    504: _timeout,
    505: _version_refused,
}
