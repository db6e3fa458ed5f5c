"""Identifies the author of an answer: proxies, platforms and servers by their headers and error pages.

Not here: judging their answers. Rules: a guess is marked as one; every pattern is of an answer that was observed or is
documented.
"""

from __future__ import annotations

import re
from typing import Final

from narthex.doctor.observations import HttpExchange

PROXIES: Final = frozenset(
    {
        "nginx", "HAProxy", "Caddy", "Envoy", "Cloudflare", "AWS ALB", "Google", "Apache", "Traefik",
        "Varnish", "Fastly",
    }
)  # fmt: skip
_SERVER: Final = (
    ("cloudflare", "Cloudflare"), ("awselb", "AWS ALB"), ("google frontend", "Google"), ("gws", "Google"),
    ("esf", "Google"), ("envoy", "Envoy"), ("istio-envoy", "Envoy"), ("openresty", "nginx"),
    ("nginx", "nginx"), ("caddy", "Caddy"), ("apache", "Apache"), ("varnish", "Varnish"),
    ("traefik", "Traefik"), ("haproxy", "HAProxy"), ("uvicorn", "uvicorn"), ("daphne", "daphne"),
    ("hypercorn", "hypercorn"), ("gunicorn", "gunicorn"), ("aiohttp", "aiohttp"),
    ("websockets/", "websockets"), ("tornado", "tornado"), ("werkzeug", "Werkzeug"), ("cowboy", "Cowboy"),
    ("kestrel", "Kestrel"),
)  # fmt: skip
_HAPROXY_PAGE: Final = re.compile(r"^\s*<html><body><h1>\d{3} [A-Za-z ]+</h1>", re.IGNORECASE)


def who_answered(exchange: HttpExchange) -> str:
    """The name of the software that wrote this answer; empty when the answer does not show it."""
    headers = exchange.headers
    server = headers.get("server", "").lower()
    for mark, name in _SERVER:
        if mark in server:
            return name
    if "cf-ray" in headers:
        return "Cloudflare"
    if "x-envoy-upstream-service-time" in headers:
        return "Envoy"
    if "x-amz-cf-id" in headers:
        return "CloudFront"
    if "caddy" in headers.get("via", "").lower():
        return "Caddy"
    if _HAPROXY_PAGE.match(exchange.body):
        return "HAProxy"
    if "<center>nginx" in exchange.body:
        return "nginx"
    return ""


def proxy_in_front(*exchanges: HttpExchange | None) -> str:
    """The first proxy that any of these answers names; empty when none does."""
    for exchange in exchanges:
        if exchange is not None and (name := who_answered(exchange)) in PROXIES:
            return name
    return ""


def own_page(exchange: HttpExchange) -> bool:
    """Whether a proxy wrote the error page itself."""
    body = exchange.body
    return bool(
        _HAPROXY_PAGE.match(body)
        or "<center>nginx" in body
        or "<center>openresty" in body
        or ("<address>Apache" in body)
        or (exchange.status == 404 and who_answered(exchange) == "Envoy" and not body)
        or (
            exchange.status == 404
            and body.startswith("404 page not found")
            and not exchange.headers.get("server")
        )
    )


def google_branded(exchange: HttpExchange) -> bool:
    """Whether Google's front end wrote this page."""
    body = exchange.body
    return (
        who_answered(exchange) == "Google"
        or "x-goog-iap-generated-response" in exchange.headers
        or ("Error: Forbidden" in body and "Your client does not have permission" in body)
    )
