"""Real nginx, HAProxy and Caddy, misconfigured: the first line names the fault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from narthex.e2e.children import free_port
from tests.acceptance.program import running
from tests.doctor.clinic import examined
from tests.doctor.failing_servers import healthy, never_answers
from tests.doctor.proxies import UPGRADE, caddy, haproxy, nginx, plain_server
from tests.doctor.scripted import Asked, Authority, Wire, serving
from tests.timing import within

pytestmark = pytest.mark.acceptance

PATIENT: dict[str, Any] = {"timeout_s": within(4), "patience_s": within(4)}


async def first(port: int, path: str = "/ws", **options: Any) -> str:
    """The first line for a proxy's port."""
    diagnosis, _ = await examined(f"ws://127.0.0.1:{port}{path}", **{**PATIENT, **options})
    return diagnosis.first_line


async def test_nginx_default_configuration_before_websockets(tmp_path: Path) -> None:
    """Nothing but `proxy_pass`: HTTP/1.0, and the upgrade is gone."""
    async with (
        plain_server() as upstream,
        nginx(tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{upstream}; }}") as port,
    ):
        line = await first(port)
    assert line.startswith(("upgrade_stripped: ", "http10_upstream: ")), line
    assert "nginx" in line


async def test_nginx_default_configuration_before_a_narthex(tmp_path: Path) -> None:
    """The gateway itself reports that no Upgrade arrived; HTTP/1.1 alone does not help."""
    async with running(tmp_path, env={"NARTHEX_ALLOWED_HOSTS": "127.0.0.1,gateway.internal"}) as program:
        for directives in ("", "proxy_http_version 1.1;"):
            async with nginx(
                tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{program.port}; {directives} }}"
            ) as port:
                line = await first(port)
            assert line.startswith(("upgrade_stripped: ", "http10_upstream: ")), line


async def test_nginx_drops_names_with_an_underscore(tmp_path: Path) -> None:
    """The server behind accepts `auth_token`; through nginx it never arrives."""

    async def picky(asked: Asked, wire: Wire) -> None:
        await (healthy(asked, wire) if "auth_token" in asked.headers else wire.say(401, "No", "no token"))

    options: dict[str, Any] = {"headers": (("auth_token", "sesame"),)}
    async with serving(picky) as upstream:
        assert (await first(upstream, **options)).startswith("ok: ")
        async with nginx(
            tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{upstream}; {UPGRADE} }}"
        ) as port:
            assert (await first(port, **options)).startswith("underscore_header: ")


async def test_nginx_ends_idle_sockets(tmp_path: Path) -> None:
    """`proxy_read_timeout`, 60 s in a default nginx, 1 s here."""
    async with (
        plain_server(ping_interval=None) as upstream,
        nginx(
            tmp_path,
            f"location / {{ proxy_pass http://127.0.0.1:{upstream}; {UPGRADE} proxy_read_timeout 1s; }}",
        ) as port,
    ):
        line = await first(port, hold_s=within(3.5))
    assert line.startswith("idle_limit: "), line
    assert "nginx" in line


async def test_haproxy_without_timeout_tunnel(tmp_path: Path) -> None:
    """Idle sockets die at the server's time-out."""
    async with (
        plain_server(ping_interval=None) as upstream,
        haproxy(tmp_path, upstream, timeouts=" timeout client 1s\n timeout server 1s") as port,
    ):
        assert (await first(port, hold_s=within(3.5))).startswith("idle_limit: ")


async def test_a_handler_that_never_accepts(tmp_path: Path) -> None:
    """504 after each proxy's time-out."""
    async with serving(never_answers) as upstream:
        async with nginx(
            tmp_path,
            f"location / {{ proxy_pass http://127.0.0.1:{upstream}; {UPGRADE} proxy_read_timeout 1s; }}",
        ) as port:
            line = await first(port)
            assert line.startswith("handler_hangs: 504 after 1.0 s"), line
        async with haproxy(tmp_path, upstream, timeouts=" timeout client 5s\n timeout server 1s") as port:
            assert (await first(port)).startswith("handler_hangs: ")


async def test_a_back_end_that_is_down(tmp_path: Path) -> None:
    """502 of nginx and Caddy, HAProxy's 503 after its retries, and at once when checks have marked it down."""
    gone = free_port()
    async with nginx(tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{gone}; {UPGRADE} }}") as port:
        assert (await first(port)).startswith("bad_gateway: ")
    async with caddy(tmp_path, f"reverse_proxy 127.0.0.1:{gone}") as port:
        assert (await first(port)).startswith("bad_gateway: ")
    long = " timeout client 5s\n timeout server 5s"
    async with haproxy(tmp_path, gone, timeouts=long) as port:
        assert (await first(port)).startswith("no_backend: ")
    check = " default-server check inter 100ms fall 1"
    async with haproxy(tmp_path, gone, timeouts=long, options=check) as port:
        await asyncio.sleep(0.3)  # the check's own interval; an earlier run sees the retries instead
        assert (await first(port)).startswith("no_backend: ")


async def test_nginx_limits(tmp_path: Path) -> None:
    """`limit_req` answers 503 to some."""
    zone = "limit_req_zone $binary_remote_addr zone=z:1m rate=1r/s;"
    async with (
        plain_server() as upstream,
        nginx(
            tmp_path,
            f"location / {{ limit_req zone=z burst=3 nodelay; proxy_pass http://127.0.0.1:{upstream}; {UPGRADE} }}",
            http=zone,
        ) as port,
    ):
        assert (await first(port)).startswith("rate_limited_by_proxy: ")


async def test_nginx_routes(tmp_path: Path) -> None:
    """No route, a single-page fallback, https only, and a login."""
    (tmp_path / "index.html").write_text("<!doctype html><title>App</title>")
    for server, code in (
        ("location /app { return 200; } location / { return 404; }", "no_route_at_proxy"),
        (f"root {tmp_path}; location / {{ try_files $uri /index.html; }}", "html_page"),
        ("return 301 https://$host$request_uri;", "redirect_to_https"),
        ("return 302 https://sso.example/login?rd=$uri;", "redirect_to_login"),
        ('auth_basic "staging"; location / { return 200; }', "proxy_auth"),
        ("location / { deny all; }", "waf"),
    ):
        async with nginx(tmp_path, server) as port:
            line = await first(port)
        assert line.startswith(f"{code}: ") or (code == "proxy_auth" and "html_page" not in line), (
            code,
            line,
        )


async def test_nginx_with_tls_and_a_plain_url(tmp_path: Path) -> None:
    """400: the plain HTTP request was sent to HTTPS port."""
    Authority(tmp_path).context("127.0.0.1")
    leaf = tmp_path / "leaf1.pem"
    server = f"ssl_certificate {leaf}; ssl_certificate_key {leaf}; return 404;"
    async with nginx(tmp_path, server, listen="ssl") as port:
        assert (await first(port)).startswith("ws_to_tls_port: ")


@pytest.mark.parametrize(
    ("directive", "code"),
    [
        ('proxy_set_header Authorization "";', "authorization_stripped"),
        ('proxy_set_header Sec-WebSocket-Protocol "";', "subprotocol_stripped"),
        ('proxy_set_header Origin "https://evil.example";', "origin"),
        ("proxy_set_header Host gateway.internal;", "host"),
    ],
)
async def test_what_nginx_takes_away_from_a_narthex(tmp_path: Path, directive: str, code: str) -> None:
    """Credential carriers that do not arrive are named, with and without a token."""
    async with running(tmp_path, env={"NARTHEX_ALLOWED_HOSTS": "127.0.0.1,gateway.internal"}) as program:
        token = program.token("ada")
        server = f"location / {{ proxy_pass http://127.0.0.1:{program.port}; {UPGRADE} {directive} }}"
        if code == "host":
            server = server.replace("proxy_set_header Host $http_host;", "")
        async with nginx(tmp_path, server) as port:
            lines = [await first(port), await first(port, token=token)]
    for line in lines:
        if code == "origin":
            assert "origin" in line, line
        elif code == "host":
            assert line.split(" ")[0].rstrip(":") in ("origin_refused", "scheme_lost"), line
        else:
            assert line.startswith(f"{code}: "), line
