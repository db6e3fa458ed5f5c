"""`narthex serve` as other servers' users expect it: a Unix socket, an inherited one, an access log, reloading."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import unix_connect

from tests.acceptance.program import Program, clean_environment
from tests.timing import within

pytestmark = pytest.mark.acceptance

STAGING = {
    "ENVIRONMENT": "staging",
    "NARTHEX_JWT_SECRET": "a-secret-of-the-tests-0123456789abcdef",
    "NARTHEX_ALLOWED_HOSTS": "chat.example.com",
}


def serve(
    directory: Path, *words: str, env: dict[str, str] | None = None, fd: int = -1
) -> subprocess.Popen[bytes]:
    """`narthex serve` with these words; its output is in `out` of the directory."""
    with (directory / "out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "narthex", "serve", "--data-dir", str(directory / "data"), *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=clean_environment(env or {}),
            cwd=directory,
            pass_fds=() if fd < 0 else (fd,),
        )


async def eventually(directory: Path, holds: Callable[[], bool]) -> None:
    """Wait until it holds; a failure shows what the program wrote."""
    until = time.monotonic() + within(25)
    while not holds():
        assert time.monotonic() < until, (directory / "out").read_text()
        await asyncio.sleep(0.05)


def over(path: Path) -> httpx2.AsyncClient:
    """A client of a Unix socket."""
    return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path)), base_url="http://localhost")


async def test_a_unix_socket(tmp_path: Path) -> None:
    """Health is honest there, a stale file of a killed server is replaced, a live server's is not, and a proxy's word
    about the client counts only where 127.0.0.1 is a trusted proxy.
    """
    path = tmp_path / "gate.sock"
    words = ("--uds", str(path), "--access-log", "--log-format", "json")
    env = STAGING | {"NARTHEX_TRUSTED_PROXIES": "127.0.0.1"}
    first = serve(tmp_path, *words, env=env)
    try:
        await eventually(tmp_path, lambda: b"narthex is ready" in (tmp_path / "out").read_bytes())
        async with over(path) as web:
            health = (await web.get("/ws/health")).json()
            assert health["status"] == "healthy", health
            forwarded = {"X-Forwarded-For": "203.0.113.7", "Host": "chat.example.com"}
            assert (await web.get("/ws/config?secret=1", headers=forwarded)).status_code == 200
        second = serve(tmp_path, *words, env=env)
        assert second.wait(within(20)) == 78
        assert "A server already listens on" in (tmp_path / "out").read_text()
        async with unix_connect(str(path), "ws://localhost/ws?narthex_probe=1", proxy=None) as _:
            pytest.fail("a connection without a credential was upgraded")
    except Exception as error:
        assert "401" in str(error), error
    finally:
        first.kill()
        first.wait()
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request" and line["path"] == "/ws/config"]
    assert [(line["client"], line["status"], line["method"]) for line in requests] == [
        ("203.0.113.7", 200, "GET")
    ]
    assert "secret" not in json.dumps(requests)
    handshakes = [line for line in lines if line["event"] == "handshake" and line["code"] == "auth_required"]
    assert handshakes[0]["level"] == "info"
    again = serve(tmp_path, *words, env=env)
    try:
        await eventually(tmp_path, lambda: (tmp_path / "out").read_bytes().count(b"narthex is ready") == 2)
    finally:
        again.terminate()
        assert again.wait(within(20)) == 0


async def test_an_inherited_socket(tmp_path: Path) -> None:
    """The parent's socket serves; in development one that other machines reach is refused, and a file always."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        program = serve(tmp_path, "--fd", str(ours.fileno()), fd=ours.fileno())
        try:
            await eventually(tmp_path, lambda: b"narthex is ready" in (tmp_path / "out").read_bytes())
            async with httpx2.AsyncClient(trust_env=False) as web:
                health = (await web.get(f"http://127.0.0.1:{port}/ws/health")).json()
            assert health["status"] == "healthy", health
        finally:
            program.terminate()
            assert program.wait(within(20)) == 0
    with socket.create_server(("0.0.0.0", 0)) as exposed:
        program = serve(tmp_path, "--fd", str(exposed.fileno()), fd=exposed.fileno())
        assert program.wait(within(20)) == 78
    with (tmp_path / "out").open() as file:
        program = serve(tmp_path, "--fd", str(file.fileno()), fd=file.fileno())
        assert program.wait(within(20)) == 78
    written = (tmp_path / "out").read_text()
    assert "beyond loopback" in written
    assert "is not a socket" in written


async def test_requests_are_logged_only_on_request(tmp_path: Path) -> None:
    """Without --access-log nothing of a request is in the log."""
    program = Program(tmp_path, {}, ("--log-format", "json"))
    try:
        await program.start()
        async with httpx2.AsyncClient(trust_env=False) as web:
            assert (await web.get(f"{program.http}/ws/config")).status_code == 200
    finally:
        program.end()
    assert '"request"' not in program.log
    assert "/ws/config" not in program.log


async def test_reload_serves_the_changed_agent(tmp_path: Path) -> None:
    """A change of the agent's module restarts the server; an error in it is shown, and mending it serves again."""
    pytest.importorskip("watchfiles")
    agent = tmp_path / "myagents.py"
    agent.write_text("async def parrot(run):\n    yield 'one'\n")
    program = serve(tmp_path, "--port", "0", "--agent", "myagents:parrot", "--reload")
    out = tmp_path / "out"
    try:
        await eventually(tmp_path, lambda: out.read_bytes().count(b"narthex is ready") == 1)
        agent.write_text("async def parrot(run):\n    yield (\n")
        await eventually(tmp_path, lambda: b"SyntaxError" in out.read_bytes())
        agent.write_text("async def parrot(run):\n    yield 'two'\n")
        await eventually(tmp_path, lambda: out.read_bytes().count(b"narthex is ready") == 2)
        assert "myagents.py changed" in out.read_text()
    finally:
        program.terminate()
        program.wait(within(30))


def test_reload_is_for_development(tmp_path: Path) -> None:
    """A deployment that reloads would drop every connection at a copied file."""
    assert serve(tmp_path, "--reload", env=STAGING).wait(within(20)) == 78
    assert "--reload is for development" in (tmp_path / "out").read_text()
