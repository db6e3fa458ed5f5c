"""Each signature that can be made on one machine is made, and the doctor's first line names it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from narthex.doctor.knowledge import signatures
from tests.doctor.clinic import TIMEOUT_S, examined
from tests.doctor.scripted import Answer, Asked, Authority, Wire, serving
from tests.timing import within

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
"""Expected code, name of the case, what the server does, and the doctor's options."""


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


@case("eof_before_answer")
async def closes_at_once(asked: Asked, wire: Wire) -> None:
    wire.writer.close()


@case("reset_before_answer")
async def resets(asked: Asked, wire: Wire) -> None:
    wire.reset()


@case("eof_before_answer")
async def dies_at_the_handshake_only(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        await wire.say(200, "OK", "hello")


@case("black_hole")
async def never_answers(asked: Asked, wire: Wire) -> None:
    await wire.reader.read()


@case("upgrade_unanswered")
async def answers_only_plain_requests(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        await wire.say(200, "OK", "hello")
        return
    await wire.reader.read()


@case("slow_answer")
async def one_byte_at_a_time(asked: Asked, wire: Wire) -> None:
    for byte in b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n":
        await wire.raw(bytes([byte]))
        await asyncio.sleep(TIMEOUT_S / 5)


@case("cut_mid_answer")
async def dies_within_the_head(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")


@case("not_http")
async def speaks_ssh(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")


@case("not_http")
async def garbage(asked: Asked, wire: Wire) -> None:
    await wire.raw(bytes(range(200, 256)))


@case("speaks_h2")
async def speaks_http2(asked: Asked, wire: Wire) -> None:
    await wire.raw(bytes.fromhex("000012040000000000000300000080000400010000000500ffffff"))


@case("cut_after_200")
async def ok_and_cut(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhel")


@case("daphne_denial")
async def a_second_and_no_headers(asked: Asked, wire: Wire) -> None:
    await asyncio.sleep(1.0)
    await wire.raw(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")


CASES[-1][3]["timeout_s"] = within(2)


@case("handler_returned")
async def two_answers(asked: Asked, wire: Wire) -> None:
    await wire.say(500, "Internal Server Error", "Internal Server Error")
    await asyncio.sleep(0.05)
    await wire.accept(asked)


@case("handler_hangs")
async def gateway_timeout(asked: Asked, wire: Wire) -> None:
    await asyncio.sleep(TIMEOUT_S / 2)
    await wire.say(504, "Gateway Time-out", "<html><center>nginx</center></html>", Server="nginx")


@case("closed_before_accept")
async def refuses_this_path_only(asked: Asked, wire: Wire) -> None:
    await wire.say(403 if asked.path == "/ws" else 404, "Forbidden")


@case("bad_accept")
async def replayed_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


@case("bad_accept")
async def no_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, without="Sec-WebSocket-Accept")


@case("upgrade_header_missing")
async def no_upgrade_header(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, without="Upgrade")


@case("extension_not_offered")
async def deflate_unasked(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, Sec_WebSocket_Extensions="permessage-deflate")


@case("subprotocol_not_offered")
async def subprotocol_unasked(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, Sec_WebSocket_Protocol="mqtt")


@case("closed_after_accept")
async def closes_4401(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.close_frame(4401, "who are you?")


@case("closed_after_accept")
async def closes_1012(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.close_frame(1012)


@case("cut_after_accept")
async def accepts_and_dies(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)


@case("bad_frames")
async def garbage_after_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.raw(b"\xff\xff\xff\xff")


@case("bad_frames")
async def masked_frames(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.raw(b"\x81\x85abcdhello")


@case("no_pong")
async def swallows(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.talk(pong=False)


async def healthy(asked: Asked, wire: Wire) -> None:
    """A good server."""
    if asked.upgrade:
        await wire.accept(asked)
        await wire.talk()
    else:
        await wire.say(426, "Upgrade Required")


@case("origin_refused")
async def no_pages(asked: Asked, wire: Wire) -> None:
    await (wire.say(403, "Forbidden") if "origin" in asked.headers else healthy(asked, wire))


@case("origin_refused")
async def no_pages_and_a_token_is_needed(asked: Asked, wire: Wire) -> None:
    await wire.say(403 if "origin" in asked.headers else 401, "No", WWW_Authenticate="Bearer")


@case("flapping")
async def one_instance_is_broken_and_a_token_is_needed(asked: Asked, wire: Wire) -> None:
    await wire.say(500 if asked.number % 2 else 401, "No", "oops", WWW_Authenticate="Bearer")


@case("large_head_silence")
async def lost_431(asked: Asked, wire: Wire) -> None:
    await (wire.reader.read() if asked.size > 8192 else healthy(asked, wire))


@case("flapping")
async def every_second_one(asked: Asked, wire: Wire) -> None:
    await (wire.say(500, "X", "oops") if asked.upgrade and asked.number % 2 else healthy(asked, wire))


@case("flapping")
async def some_are_reset(asked: Asked, wire: Wire) -> None:
    if asked.upgrade and asked.number % 3 == 0:
        wire.reset()
    else:
        await healthy(asked, wire)


@case("rate_limited_by_proxy")
async def limit_req(asked: Asked, wire: Wire) -> None:
    if asked.upgrade and asked.number > 2:
        await wire.say(
            503, "Service Temporarily Unavailable", "<html><center>nginx</center></html>", Server="nginx"
        )
    else:
        await healthy(asked, wire)


@case("bad_token_admitted", **TOKEN)
async def any_token_will_do(asked: Asked, wire: Wire) -> None:
    if "authorization" in asked.headers:
        await healthy(asked, wire)
    else:
        await wire.say(401, "Unauthorized", WWW_Authenticate="Bearer")


@case("underscore_header", headers=(("auth_token", "sesame"),))
async def header_dropped(asked: Asked, wire: Wire) -> None:
    asked.headers.pop("auth_token", None)
    await (
        healthy(asked, wire) if "auth-token" in asked.headers else wire.say(401, "Unauthorized", "no token")
    )


@case("idle_limit", hold_s=within(2.0))
async def idle_cut(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    while True:
        async with asyncio.timeout(within(0.6)):
            await _one_frame(wire)


@case("life_limit", hold_s=within(2.0))
async def short_life(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    async with asyncio.timeout(within(0.9)):
        await wire.talk()


@case("closed_while_held", hold_s=within(2.0))
async def restart_while_held(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    try:
        async with asyncio.timeout(within(0.7)):
            await wire.talk()
    except TimeoutError:
        await wire.close_frame(1012, "restart")


async def _one_frame(wire: Wire) -> None:
    first, second = await wire.reader.readexactly(2)
    mask = await wire.reader.readexactly(4)
    masked = await wire.reader.readexactly(second & 0x7F)
    payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(masked))
    if first & 0x0F == 9:
        await wire.frame(10, payload)
    if first & 0x0F == 8:
        await wire.frame(8, payload)
        raise ConnectionError


@pytest.mark.parametrize(("code", "name", "answer", "options"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
async def test_first_line_names_the_cause(
    code: str, name: str, answer: Answer, options: dict[str, Any]
) -> None:
    """A scripted server that fails in this way is named in the first line."""
    async with serving(answer) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", **options)
    assert diagnosis.first_line.split(" ")[0].rstrip(":") == code, diagnosis.first_line


async def test_a_name_that_does_not_resolve() -> None:
    """Signature 1."""
    diagnosis, _ = await examined("ws://no-such-host.invalid/ws", timeout_s=within(5))
    assert diagnosis.first_line.startswith("dns_no_name: ")
    assert not diagnosis.reachable


async def test_nothing_listens() -> None:
    """Signature 2."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        diagnosis, _ = await examined(f"ws://127.0.0.1:{held.getsockname()[1]}/ws")
    assert diagnosis.first_line.startswith("nothing_listens: ")


@contextlib.asynccontextmanager
async def deaf() -> AsyncIterator[int]:
    """A port whose SYNs are dropped: the backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_connect_times_out() -> None:
    """Signature 3."""
    async with deaf() as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("connect_timeout: ")


async def test_wss_to_a_plain_port() -> None:
    """Signature 4."""
    async with serving(healthy) as port:
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("wss_to_plain_port: ")


async def test_ws_to_a_tls_port(tmp_path: Path) -> None:
    """Signature 5: a server that only cuts is found out by a TLS hello."""
    async with serving(healthy, Authority(tmp_path).context("127.0.0.1")) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("ws_to_tls_port: ")


@pytest.mark.parametrize(
    ("code", "name", "begin_days", "end_days", "trusted"),
    [
        ("certificate_expired", "127.0.0.1", -10, -2, True),
        ("certificate_not_yet_valid", "127.0.0.1", 2, 9, True),
        ("certificate_name", "chat.example", -1, 30, True),
        ("certificate_untrusted", "127.0.0.1", -1, 30, False),
    ],
)
async def test_certificates(
    tmp_path: Path, code: str, name: str, begin_days: int, end_days: int, trusted: bool
) -> None:
    """Signature 6, and no byte of HTTP is sent over a certificate that did not verify."""
    asked: list[Asked] = []

    async def answer(request: Asked, wire: Wire) -> None:
        asked.append(request)

    authority = Authority(tmp_path)
    context = authority.context(name, begin_days=begin_days, end_days=end_days)
    async with serving(answer, context) as port:
        ca_file = str(authority.root) if trusted else ""
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws", ca_file=ca_file, **TOKEN)
    assert diagnosis.first_line.startswith(f"{code}: ")
    assert not asked


async def test_http2_behind_tls(tmp_path: Path) -> None:
    """Signature 7."""
    authority = Authority(tmp_path)
    async with serving(speaks_http2, authority.context("127.0.0.1")) as port:
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws", ca_file=str(authority.root))
    assert diagnosis.first_line.startswith("speaks_h2: ")


async def test_an_expired_token_is_read() -> None:
    """Signature 16, with the token's own claims."""
    import base64

    part = base64.urlsafe_b64encode(json.dumps({"exp": time.time() - 7200}).encode()).decode().rstrip("=")

    async def answer(asked: Asked, wire: Wire) -> None:
        await wire.say(401, "Unauthorized", WWW_Authenticate='Bearer error="invalid_token"')

    async with serving(answer) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", token=f"e30.{part}.c2ln")
    assert diagnosis.first_line.startswith("token_expired_here: 401: the token expired 2 h ago")


def test_at_least_thirty_of_the_thirty_six_are_reproduced() -> None:
    """Counts distinct signature numbers over everything above (proxies and servers reproduce more)."""
    alone = {"dns_no_name", "nothing_listens", "connect_timeout", "wss_to_plain_port", "certificate_expired"}
    codes = {entry[0] for entry in CASES} | alone
    numbers = {signatures()[code].number for code in codes} - {0}
    assert len(numbers) >= 30, sorted(set(range(1, 37)) - numbers)


async def test_a_431_for_nine_kilobytes_is_a_note() -> None:
    """Most servers stop at 8 KB and say so: worth knowing, and no finding."""

    async def eight_kilobytes(asked: Asked, wire: Wire) -> None:
        await (wire.say(431, "Too Large") if asked.size > 8192 else healthy(asked, wire))

    async with serving(eight_kilobytes) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert not diagnosis.findings
    assert any(note.startswith("large_head_refused: 431") for note in diagnosis.notes)
