"""A real proxy in front: nginx with kept-alive upstream connections, configured correctly and wrongly."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.edge.harness import TIME_UNIT_S, Peer, Running, masked, upgrade

CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateway {{ server 127.0.0.1:{upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
        location = /websocket {{ proxy_pass http://gateway/ws; proxy_set_header Host localhost; }}
    }}
}}
"""


@pytest.fixture
def nginx(server: Running, tmp_path: Path) -> Iterator[int]:
    """The port of an nginx in front of `server`."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, upstream=server.port, port=port))
    with subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + TIME_UNIT_S
            while True:
                try:
                    Peer(port).socket.close()
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: anything\r\n\r\n".encode()


def test_an_upgrade_over_a_re_used_upstream_connection(server: Running, nginx: int) -> None:
    """GET, GET and then an upgrade by another client arrive on one connection; messages pass both ways."""
    ports = set()
    for _ in range(2):
        with Peer(nginx) as peer:
            peer.send(get("/port"))
            ports.add(int(peer.answer()[1]))
    assert len(ports) == 1, "nginx did not keep its upstream connection"
    while not server.gate.heads.empty():
        server.gate.heads.get()
    with Peer(nginx) as peer:
        peer.send(upgrade("/ws/conformance", host="anything"))
        assert peer.head().status == 101
        assert {server.gate.heads.get(timeout=5).peer[1]} == ports
        peer.send(masked(1, b"through nginx") + masked(2, b"\xff" * 70_000))
        assert peer.frame() == (0x81, b"through nginx")
        assert peer.frame() == (0x82, b"\xff" * 70_000)
        peer.send(masked(8, b"\x03\xe8"))
        assert peer.close_frame() == (1000, "")
        assert peer.rest() == b""


def test_refusals_pass_and_the_proxy_keeps_working(server: Running, nginx: int) -> None:
    """A refusal on the kept connection reaches the client whole; the next request is served."""
    for _ in range(3):
        with Peer(nginx) as peer:
            peer.send(get("/a"))
            assert peer.answer()[1] == b"/a|"
        with Peer(nginx) as peer:
            peer.send(upgrade("/deny", host="anything"))
            head, body = peer.answer()
            assert head.status == 503
            assert json.loads(body)["code"] == "auth_unavailable"


def test_an_explained_refusal_passes(server: Running, nginx: int) -> None:
    """101 and the close frame with the reason, as a browser behind the proxy would get them."""
    with Peer(nginx) as peer:
        peer.send(upgrade("/explain", extra="Sec-WebSocket-Protocol: narthex.explain\r\n", host="anything"))
        assert peer.head().status == 101
        assert peer.close_frame()[0] == 3500


def test_the_usual_misconfiguration_is_named(server: Running, nginx: int) -> None:
    """Without the upgrade lines nginx sends HTTP/1.0 and no `Upgrade`; the answer names the cause."""
    with Peer(nginx) as peer:
        peer.send(upgrade("/websocket", host="anything"))
        head, body = peer.answer()
        assert head.status == 426
        assert "HTTP/1.0" in json.loads(body)["detail"]
