"""Third-party servers: a correct report, no crash. Those that are not in the dev extra run with `-m soak`."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from pathlib import Path
from typing import Final

import pytest

from narthex.e2e.children import free_port
from tests.doctor.clinic import examined
from tests.doctor.proxies import ASGI_ECHO, child, plain_server, python_server
from tests.timing import within

ROOT: Final = Path(__file__).parents[2]
AIOHTTP: Final = """
import sys
from aiohttp import web
async def ws(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket
app = web.Application()
app.add_routes([web.get("/ws", ws)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
SOCKETIO: Final = """
import socketio
app = socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi"))
"""
NODE_WS: Final = """
const {WebSocketServer} = require(process.argv[2]);
const server = new WebSocketServer({host: "127.0.0.1", port: +process.argv[3], path: "/ws"});
server.on("connection", s => s.on("message", m => s.send(m)));
"""


async def codes(port: int, *paths: str) -> list[str]:
    """The first line's code for each path."""
    found = []
    for path in paths:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}{path}", timeout_s=within(4))
        found.append(diagnosis.first_line.split(" ")[0].rstrip(":"))
    return found


def needs(module: str) -> None:
    """Skip when a package is not installed."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


ASGI_PATHS: Final = ("/ws", "/raises", "/late", "/denies", "/nope")


async def test_uvicorn(tmp_path: Path) -> None:
    """Healthy, an exception, a late close, a denial, a wrong path; and with no WebSocket library."""
    port = free_port()
    words = ("-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "critical")
    async with python_server(tmp_path, ASGI_ECHO, *words, port=port):
        assert await codes(port, *ASGI_PATHS) == [
            "large_head_silence",  # correct: no answer to a line over 8 KB
            "exception_before_accept",
            "closed_after_accept",
            "ok",
            "closed_before_accept",
        ]
    port = free_port()
    without = ("--ws", "none")
    words = ("-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "critical")
    async with python_server(tmp_path, ASGI_ECHO, *words, *without, port=port):
        assert await codes(port, "/ws") == ["no_websocket_library"]


async def test_node_ws(tmp_path: Path) -> None:
    """The `ws` package of the pages' tests."""
    package = ROOT / "web" / "node_modules" / "ws"
    node = shutil.which("node")
    if node is None or not package.exists():
        pytest.skip("node or web/node_modules/ws is not installed")
    port = free_port()
    file = tmp_path / "server.cjs"
    file.write_text(NODE_WS)
    async with child([node, str(file), str(package), str(port)], port, tmp_path):
        assert (await codes(port, "/ws"))[0] == "ok"
        assert (await codes(port, "/other"))[0] not in ("ok", "flapping")


@pytest.mark.soak
async def test_hypercorn(tmp_path: Path) -> None:
    """The same application as for uvicorn."""
    needs("hypercorn")
    port = free_port()
    words = ("-m", "hypercorn", "-b", f"127.0.0.1:{port}", "app:app")
    async with python_server(tmp_path, ASGI_ECHO, *words, port=port):
        assert await codes(port, *ASGI_PATHS) == [
            "ok",
            "exception_before_accept",
            "closed_after_accept",
            "ok",
            "closed_before_accept",
        ]


@pytest.mark.soak
async def test_daphne(tmp_path: Path) -> None:
    """It does not support denial responses: its behaviour is reported, and not as healthy."""
    needs("daphne")
    port = free_port()
    words = ("-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "app:app")
    async with python_server(tmp_path, ASGI_ECHO, *words, port=port):
        found = await codes(port, *ASGI_PATHS)
    assert found[0] == "ok"
    assert found[1:3] == ["exception_before_accept", "closed_after_accept"]
    assert found[3] != "ok"
    assert found[4] == "closed_before_accept"


@pytest.mark.soak
async def test_aiohttp(tmp_path: Path) -> None:
    """Healthy, and a wrong path."""
    needs("aiohttp")
    port = free_port()
    async with python_server(tmp_path, AIOHTTP, "app.py", str(port), port=port):
        assert await codes(port, "/ws", "/nope") == ["ok", "wrong_path"]


@pytest.mark.soak
async def test_socketio(tmp_path: Path) -> None:
    """Without its query it is named; with it, it works."""
    needs("socketio")
    port = free_port()
    words = ("-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "critical")
    async with python_server(tmp_path, SOCKETIO, *words, port=port):
        found = await codes(port, "/socket.io/", "/socket.io/?EIO=4&transport=websocket")
    assert found[0] == "socketio_server"
    assert found[1] in ("ok", "large_head_silence")


ENVOY: Final = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          {manager}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /ws}}, route: {{cluster: up, timeout: {timeout}}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 0.5s
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""


@contextlib.asynccontextmanager
async def envoy(directory: Path, upstream: int, manager: str, timeout: str = "0s"):  # type: ignore[no-untyped-def]  # an async generator of a port
    """Envoy with one listener."""
    program = shutil.which("envoy")
    if program is None:
        pytest.skip("envoy is not installed")
    port = free_port()
    file = directory / "envoy.yaml"
    file.write_text(ENVOY.format(port=port, upstream=upstream, manager=manager, timeout=timeout))
    words = [program, "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    async with child(words, port, directory) as at:
        yield at


@pytest.mark.soak
async def test_envoy(tmp_path: Path) -> None:
    """Healthy when configured for upgrades; else named; its stream idle time-out; no back end."""
    upgrade = "upgrade_configs: [{upgrade_type: websocket}]"
    async with plain_server(ping_interval=None) as upstream:
        async with envoy(tmp_path, upstream, upgrade) as port:
            assert await codes(port, "/ws") == ["ok"]
            assert (await codes(port, "/nope"))[0] == "no_route_at_proxy"
        async with envoy(tmp_path, upstream, "") as port:
            assert await codes(port, "/ws") == ["envoy_upgrade_not_enabled"]
        async with envoy(tmp_path, upstream, f"{upgrade}\n          stream_idle_timeout: 1s") as port:
            diagnosis, _ = await examined(
                f"ws://127.0.0.1:{port}/ws", timeout_s=within(4), hold_s=within(3.5)
            )
            assert diagnosis.first_line.startswith("idle_limit: "), diagnosis.first_line
    async with envoy(tmp_path, free_port(), upgrade) as port:
        assert (await codes(port, "/ws"))[0] == "no_backend"
