"""The snippets of docs/guard.md: each application is written down, served and talked to as the page says."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette

import narthex
from narthex.errors import EXIT_CONFIG
from tests.acceptance.program import clean_environment
from tests.docs.blocks import ROOT, Block, blocks
from tests.guard.cores import SECRET, token
from tests.guard.process import guarding
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
