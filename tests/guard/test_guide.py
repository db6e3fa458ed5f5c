"""The snippets of docs/guard.md: each application is written down, served and talked to as the page says."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import narthex
from narthex.errors import EXIT_CONFIG
from tests.acceptance.program import clean_environment
from tests.docs.blocks import ROOT, Block, blocks
from tests.guard.cores import SECRET, token
from tests.guard.process import client, guarding, program
from tests.guard.servers import answers, free_port
from tests.services import missing
from tests.timing import within

pytestmark = pytest.mark.acceptance
PAGE = "docs/guard.md"
KEY = "e2e-simulation-key-0123456789abcdef"
APPLICATIONS = {
    "fastapi": "from fastapi import",
    "starlette": "from starlette.routing",
    "quart": "from quart",
    "channels": "from channels",
}


def block_of(beginning: str) -> Block:
    """The one block of the page that contains this text."""
    (found,) = [block for block in blocks() if block.page == PAGE and beginning in block.text]
    return found


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """Uvicorn with an application in this process; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(within(10)):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


async def tried(folder: Path, port: int, headers: str = "") -> str:
    """The output of the page's client at this port; `headers` replaces its line of headers."""
    text = block_of("# try.py").text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    if headers:
        text = "\n".join(headers if line.startswith("headers = ") else line for line in text.splitlines())
    (folder / "try.py").write_text(text)
    done = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "try.py"),
        cwd=folder,
        capture_output=True,
        text=True,
        env=clean_environment({"TOKEN": token("ann"), "E2E_OAUTH_SIMULATION_KEY": KEY}),
        timeout=within(30),
        check=False,
    )
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("kind", APPLICATIONS)
async def test_an_application_of_the_page(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of the page gets its answer by a token and, as a test, by the key; others get the reason."""
    for name, value in {
        "ENVIRONMENT": "staging",
        "NARTHEX_JWT_SECRET": SECRET,
        "E2E_OAUTH_SIMULATION_KEY": KEY,
        "NARTHEX_DATA_DIR": str(tmp_path / "data"),
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "__init__.py").touch()
    (site / "urls.py").write_text("urlpatterns = []\n")
    (site / "settings.py").write_text("SECRET_KEY = 'test'\nROOT_URLCONF = 'mysite.urls'\n")
    file = tmp_path / f"{kind}_chat.py"
    file.write_text(block_of(APPLICATIONS[kind]).text)
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    async with served(getattr(module, "application", None) or module.app) as port:
        assert await tried(tmp_path, port) == "ann: hello"
        key = block_of('headers = {"X-E2E-Bypass-Key"').text.strip()
        assert await tried(tmp_path, port, key) == "e2e:nightly: hello"
        assert "HTTP 401" in await tried(tmp_path, port, "headers = {}")
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/ws/preflight")).json()["code"] == "auth_required"
            health = (await client.get("/ws/health")).json()
    assert health["status"] == "healthy"
    assert health["config"]["pre_connection_auth_required"] is True


FRAGMENT_APP = """
import narthex
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def chat(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await ANSWER

api = Starlette(routes=[WebSocketRoute("/ws", chat)])
"""
ECHO = 'socket.send_text("pong" if text == "ping" else text)'


@contextlib.asynccontextmanager
async def fragment(
    text: str, answer: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """The port of an application with a fragment of the page around it."""
    monkeypatch.setenv("ENVIRONMENT", "testing")
    monkeypatch.setenv("NARTHEX_JWT_SECRET", SECRET)
    monkeypatch.setenv("NARTHEX_DATA_DIR", str(folder / "data"))
    names: dict[str, Any] = {}
    exec(FRAGMENT_APP.replace("ANSWER", answer) + text, names)
    async with served(names["app"]) as port:
        yield port


async def test_a_fresh_token_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None for a token of the same user, and the socket lives on with it; else a refusal with its code."""
    line = block_of("await app.refresh(socket, token)").text.strip().partition("#")[0].strip()
    answer = "refreshed(socket, text)"
    refreshed = f"""
async def refreshed(socket, token):
    {line}
    await socket.send_text(refused.code if refused else "fresh")

app = narthex.Guard(api, settings={{"token_grace_s": 0}})
"""
    async with fragment(refreshed, answer, tmp_path, monkeypatch) as port:
        headers = {"Authorization": f"Bearer {token('ann', ttl_s=within(2))}"}
        ends = time.monotonic() + within(2)
        async with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None) as socket:
            for sent, expected in ((token("bob"), "credential_conflict"), (token("ann"), "fresh")):
                await socket.send(sent)
                assert await socket.recv() == expected
            await asyncio.sleep(
                ends - time.monotonic() + 1.5
            )  # the first token's end, and the guard's next look
            await socket.send(token("ann"))
            assert await socket.recv() == "fresh"


async def test_a_token_in_the_first_message_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler begins after the proof, and gets what comes after it."""
    text = block_of("def in_band(message").text
    async with fragment(text, ECHO, tmp_path, monkeypatch) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as socket:
            await socket.send(json.dumps({"token": token("ann")}))
            await socket.send("hello")
            assert await socket.recv() == "hello"
        async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None) as socket:
            await socket.send(json.dumps({"token": token("ann", secret="x" * 32)}))
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 3500


@pytest.mark.parametrize("answer", [ECHO, 'socket.send_text("what?")'], ids=["well", "broken"])
async def test_the_probe_of_the_page(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health goes through the endpoint, and is unhealthy when it answers otherwise."""
    text = block_of("async def probe(socket)").text
    async with (
        fragment(text, answer, tmp_path, monkeypatch) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        health = (await client.get("/ws/health")).json()
    assert health["config"]["endpoint_checked"] is True
    assert health["checks"]["handshake"]["status"] == ("healthy" if answer == ECHO else "unhealthy")


async def test_the_assertion_is_verified_as_the_page_says(tmp_path: Path) -> None:
    """With `jose`: the user of the guard's assertion; another one that claims the same is closed 4401."""
    node = shutil.which("node")
    if node is None or not (ROOT / "web" / "node_modules" / "jose").is_dir():
        missing("node and its packages ws and jose", "apt-get install nodejs, and npm --prefix web ci")
    page = "docs/guard-process.md"
    (snippet,) = [block for block in blocks() if block.page == page and "createRemoteJWKSet" in block.text]
    port, guard_port = free_port(), free_port()
    text = snippet.text.replace("127.0.0.1:9000", f"127.0.0.1:{port}").replace(":8000", f":{guard_port}")
    (tmp_path / "node_modules").symlink_to(ROOT / "web" / "node_modules")
    (tmp_path / "server.mjs").write_text(
        f'import {{ WebSocketServer }} from "ws";\nconst wss = new WebSocketServer({{ port: {port} }});\n{text}'
    )
    process = await asyncio.create_subprocess_exec(str(node), "server.mjs", cwd=tmp_path)
    guard = program(tmp_path, f"ws://127.0.0.1:{port}", None, "--path", "/ws")
    guard.port = guard_port
    try:
        await answers(port, process)
        await guard.start()
        async with client(guard) as socket:
            await socket.send("hello")
            assert await socket.recv() == "ann: hello"
        forged = {"Narthex-Assertion": token("ann", aud=f"127.0.0.1:{port}", iss="narthex-guard")}
        async with connect(f"ws://127.0.0.1:{port}/", additional_headers=forged, proxy=None) as socket:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), within(5))
            assert socket.close_code == 4401
    finally:
        guard.end()
        process.kill()
        await process.wait()


async def test_the_node_server_of_the_page(tmp_path: Path) -> None:
    """Behind `narthex guard` it knows the user that the guard verified."""
    node = shutil.which("node")
    if node is None or not (ROOT / "web" / "node_modules" / "ws").is_dir():
        missing("node and its package ws", "apt-get install nodejs, and npm --prefix web ci")
    port = free_port()
    (tmp_path / "node_modules").symlink_to(ROOT / "web" / "node_modules")
    (tmp_path / "server.mjs").write_text(block_of("// server.mjs").text.replace("9000", str(port)))
    process = await asyncio.create_subprocess_exec(str(node), "server.mjs", cwd=tmp_path)
    try:
        await answers(port, process)
        async with guarding(tmp_path, f"ws://127.0.0.1:{port}", None, "--path", "/ws") as guard:
            assert await tried(tmp_path, guard.port) == "ann: hello"
            assert "HTTP 401" in await tried(tmp_path, guard.port, "headers = {}")
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["no issuer", "a secret"])
async def test_the_token_of_the_page(
    secret: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard with the same variables admits a token of `narthex token --guard`; the command names the flag."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NARTHEX_DATA_DIR", str(tmp_path / "data"))
    if secret:
        monkeypatch.setenv("NARTHEX_JWT_SECRET", secret)
    async with (
        served(narthex.Guard(Starlette())) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        guards, gateways = [
            await asyncio.to_thread(
                subprocess.run,
                (sys.executable, "-m", "narthex", "token", *words),
                capture_output=True,
                text=True,
                timeout=within(30),
                check=False,
            )
            for words in (["--guard", "--sub", "ann"], ["--sub", "ann"])
        ]
        sent = {"Authorization": f"Bearer {guards.stdout.strip()}"}
        assert (await client.get("/ws/preflight", headers=sent)).json()["user"]["id"] == "ann"
    assert gateways.returncode == EXIT_CONFIG
    assert "--guard" in gateways.stderr
