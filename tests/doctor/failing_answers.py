"""Failing servers for the doctor: one HTTP answer to everything.

Not here: the tests (`test_signatures`). Each registers itself in `CASES` with the code that the doctor must name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.doctor.scripted import Answer, Asked, Wire

NGINX_404: Final = (
    "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n"
    "<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)
HAPROXY_503: Final = (
    "<html><body><h1>503 Service Unavailable</h1>\n"
    "No server is available to handle this request.\n</body></html>\n"
)
LONG_AGO: Final = "Mon, 23 Nov 2020 00:00:00 GMT"

CASES: Final[list[tuple[str, str, Answer, dict[str, Any]]]] = []
"""Expected code, name of the case, the server's behaviour, and the doctor's options."""


def case(code: str, **options: Any) -> Callable[[Answer], Answer]:
    """Register a scripted server."""

    def register(answer: Answer) -> Answer:
        CASES.append((code, getattr(answer, "__name__", code), answer, options))
        return answer

    return register


def said(
    code: str, name: str, *arguments: Any, options: dict[str, Any] | None = None, **headers: Any
) -> None:
    """Register a server that gives one HTTP answer to everything."""

    async def answer(asked: Asked, wire: Wire) -> None:
        await wire.say(*arguments, **headers)

    CASES.append((code, name, answer, options or {}))


TOKEN: Final[dict[str, Any]] = {"token": "opaque-token-of-a-user"}
HTML: Final[dict[str, Any]] = {"Content_Type": "text/html"}

said("redirect_to_https", "301 to https", 301, "Moved", Location="https://127.0.0.1/ws")
said(
    "redirect_to_login", "302 to a login", 302, "Found", Location="https://accounts.google.com/o/oauth2/auth"
)
said("redirect_to_login", "302 to /login", 302, "Found", Location="/login?next=/ws")
said("redirected", "307 with a slash", 307, "Temporary", Location="/ws/")
said("html_page", "single-page fallback", 200, "OK", "<!doctype html><title>App</title>", **HTML)
said(
    "upgrade_stripped",
    "404 by nginx from the app",
    404,
    "Not Found",
    '{"detail":"Not Found"}',
    Server="nginx",
)
said(
    "upgrade_stripped",
    "aiohttp's 400",
    400,
    "Bad Request",
    'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".',
)
said(
    "upgrade_stripped",
    "websockets' 426",
    426,
    "Upgrade Required",
    "Failed to open a WebSocket connection: missing Connection header.\n",
    Upgrade="websocket",
)
said(
    "upgrade_stripped",
    "websockets' close",
    426,
    "Upgrade Required",
    "Failed to open a WebSocket connection: invalid Connection header: close.\n",
)
said("no_route_at_proxy", "404 of nginx itself", 404, "Not Found", NGINX_404, Server="nginx/1.22.1", **HTML)
said("no_websocket_library", "404 of uvicorn", 404, "Not Found", '{"detail":"Not Found"}', Server="uvicorn")
said("wrong_path", "404 of an application", 404, "Not Found", "nothing here", Server="Cowboy")
said("closed_before_accept", "empty 403", 403, "Forbidden")
said(
    "waf",
    "403 with a page",
    403,
    "Forbidden",
    "<html><body>Request blocked. Incident 17.</body></html>",
    **HTML,
)
said(
    "google_iam",
    "403 of Google",
    403,
    "Forbidden",
    "<html><title>403 Forbidden</title>Error: Forbidden Your client does not have permission to get URL /ws</html>",
    **HTML,
)
said("envoy_upgrade_not_enabled", "empty 403 of Envoy", 403, "Forbidden", Server="envoy")
said("proxy_auth", "401 Basic", 401, "Unauthorized", WWW_Authenticate='Basic realm="staging"')
said("proxy_auth", "407", 407, "Proxy Authentication Required", Proxy_Authenticate="Basic")
said(
    "token_refused",
    "401 Bearer",
    401,
    "Unauthorized",
    WWW_Authenticate='Bearer error="invalid_token", error_description="bad audience"',
    options=TOKEN,
)
said(
    "clock_skew",
    "401 by a clock that is behind",
    401,
    "Unauthorized",
    Date=LONG_AGO,
    WWW_Authenticate='Bearer error="invalid_token"',
    options=TOKEN,
)
said(
    "exception_before_accept",
    "500 of 21 bytes",
    500,
    "Internal Server Error",
    "Internal Server Error",
    Server="uvicorn",
)
said(
    "bad_gateway",
    "502 at once",
    502,
    "Bad Gateway",
    "<html><center>nginx</center></html>",
    Server="nginx",
    **HTML,
)
said("no_backend", "HAProxy's 503", 503, "Service Unavailable", HAPROXY_503, **HTML)
said(
    "shedding",
    "503 JSON",
    503,
    "Service Unavailable",
    '{"code":"overloaded"}',
    Retry_After="7",
    Content_Type="application/json",
)
said("unavailable", "503 of nobody", 503, "Service Unavailable", "<h1>Back soon</h1>", **HTML)
said("rate_limited", "429", 429, "Too Many Requests", Retry_After="3")
said("head_too_large_for_us", "431", 431, "Request Header Fields Too Large")
said(
    "head_too_large_for_us",
    "400 cookie too large",
    400,
    "Bad Request",
    "<center>Request Header Or Cookie Too Large</center>",
    Server="nginx",
    **HTML,
)
said("handshake_headers_lost", "400 key", 400, "Bad Request", "Missing Sec-WebSocket-Key header")
said(
    "handshake_headers_lost",
    "426 version",
    426,
    "Upgrade Required",
    "unsupported version",
    Sec_WebSocket_Version="8",
)
said("http10_upstream", "empty 400 through nginx", 400, "Bad Request", Server="nginx/1.22.1")
said(
    "ws_to_tls_port",
    "nginx' 400 on a TLS port",
    400,
    "Bad Request",
    "<center>The plain HTTP request was sent to HTTPS port</center>",
    Server="nginx",
    **HTML,
)
said("socketio_server", "Engine.IO", 400, "Bad Request", '{"code":0,"message":"Transport unknown"}')
said("cloudflare_error", "522", 522, "Origin Timeout", "<html>522</html>", Server="cloudflare", **HTML)
said("aws_error", "464", 464, "X", Server="awselb/2.0")
said("server_error", "508", 508, "Loop Detected", "loop")
said("refused", "418", 418, "I'm a teapot", "short and stout")
