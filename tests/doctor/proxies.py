"""Real proxies from the system's packages, and servers to stand behind them.

Not here: expectations. Rules: on 127.0.0.1 and a free port; ended by the process that was started; a proxy that is
not installed skips (and fails in CI).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.server import ServerConnection, serve

from narthex.e2e.children import free_port
from tests.timing import within

UPGRADE: Final = (
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; "
    "proxy_set_header Host $http_host;"
)
"""The nginx directives that forward a WebSocket."""


def installed(name: str) -> str:
    """The program's path, or a skip."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextlib.asynccontextmanager
async def child(command: Sequence[str], port: int, directory: Path) -> AsyncIterator[int]:
    """A process that listens on `port`; its output goes to a file that is shown if it does not."""
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: ASYNC220 - a few ms, in a test
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=directory,
            env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)},
        )  # fmt: skip
    try:
        await _listening(port, process, log)
        yield port
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, within(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within(15)
    while loop.time() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not listen:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def nginx(
    directory: Path, server: str, *, http: str = "", listen: str = ""
) -> contextlib.AbstractAsyncContextManager[int]:
    """Nginx with the body of one `server`."""
    port = free_port()
    file = directory / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} {http}\n"
        f"server {{ listen 127.0.0.1:{port} {listen}; {server} }} }}\n"
    )
    return child([installed("nginx"), "-c", str(file), "-p", str(directory)], port, directory)


def haproxy(
    directory: Path, upstream: int, *, timeouts: str, options: str = ""
) -> contextlib.AbstractAsyncContextManager[int]:
    """HAProxy in front of one server."""
    port = free_port()
    file = directory / "haproxy.cfg"
    file.write_text(
        f"defaults\n mode http\n timeout connect 300ms\n{timeouts}\n"
        f"frontend in\n bind 127.0.0.1:{port}\n default_backend out\n"
        f"backend out\n{options}\n server one 127.0.0.1:{upstream}\n"
    )
    return child([installed("haproxy"), "-f", str(file), "-db"], port, directory)


def caddy(
    directory: Path, site: str, *, port: int | None = None
) -> contextlib.AbstractAsyncContextManager[int]:
    """Caddy with the body of one site over plain HTTP."""
    port = port or free_port()
    file = directory / "Caddyfile"
    file.write_text(f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n{site}\n}}\n")
    return child(
        [installed("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"], port, directory
    )


@contextlib.asynccontextmanager
async def plain_server(**options: object) -> AsyncIterator[int]:
    """The `websockets` package's own server, echoing."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]  # passed through
        yield next(iter(server.sockets)).getsockname()[1]


def python_server(
    directory: Path, source: str, *arguments: str, port: int
) -> contextlib.AbstractAsyncContextManager[int]:
    """A Python program in a file `app.py`, started with `python arguments…`."""
    (directory / "app.py").write_text(source)
    return child([sys.executable, *arguments], port, directory)


ASGI_ECHO: Final = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"Not Found"})
        return
    await receive()
    if scope["path"] == "/raises":
        raise RuntimeError("before accept")
    if scope["path"] == "/returns":
        return
    if scope["path"] == "/denies":
        headers = [(b"www-authenticate", b"Bearer")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    if scope["path"] == "/late":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4401, "reason": "token"})
        return
    if scope["path"] != "/ws":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
"""
