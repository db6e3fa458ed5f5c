"""What people run on their own machines asks nothing of Linux: `serve`, `check`, `doctor` and the pytest plugin."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from narthex.wiring import supervisor
from tests.acceptance.program import Program, clean_environment

pytestmark = pytest.mark.acceptance

ELSEWHERE: Final = Path(__file__).with_name("elsewhere.py")

PLUGIN_TEST: Final = """
import pytest


async def test_admitted(narthex_issuer, ws_connect):
    assert narthex_issuer.valid("ada").count(".") == 2
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables under which every Python begins with `elsewhere`."""
    shutil.copy(ELSEWHERE, tmp_path / "sitecustomize.py")
    return {"PYTHONPATH": str(tmp_path)}


def python(environ: dict[str, str], directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python there to its end."""
    return subprocess.run(
        [sys.executable, *words],
        env=clean_environment(environ),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_names_are_really_gone(environ: dict[str, str], tmp_path: Path) -> None:
    """Otherwise the other tests would prove nothing."""
    script = (
        "import os, select, socket; from pathlib import Path; "
        "print(hasattr(select, 'epoll'), hasattr(os, 'sched_getaffinity'), hasattr(socket, 'TCP_INFO'));"
        "open('/proc/self/status')"
    )
    done = python(environ, tmp_path, "-c", script)
    assert done.stdout.split() == ["False"] * 3
    assert "FileNotFoundError" in done.stderr


async def test_serving_and_finding_out(environ: dict[str, str], tmp_path: Path) -> None:
    """The gateway is healthy, and the doctor finds nothing wrong with it."""
    checked = await asyncio.to_thread(python, environ, tmp_path, "-m", "narthex", "check", "--json")
    assert checked.returncode == 0, checked.stderr
    program = Program(tmp_path, environ)
    try:
        await program.start()
        health = (await program.get("/ws/health")).json()
        assert health["status"] == "healthy", health
        words = ("-m", "narthex", "doctor", program.ws, "--token", program.token("ada"), "--json")
        done = await asyncio.to_thread(python, environ, tmp_path, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)
    finally:
        await asyncio.to_thread(program.end)


def test_the_pytest_plugin(environ: dict[str, str], tmp_path: Path) -> None:
    """Its fixtures work."""
    (tmp_path / "test_ours.py").write_text(PLUGIN_TEST)
    done = python(
        environ, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workers_say_where_the_system_does_not_spread_connections() -> None:
    """MacOS and others give all connections of a shared port to one of the processes."""
    assert supervisor.spreading_warning("linux") == ""
    assert supervisor.spreading_warning("freebsd14") == ""
    assert "one of them gets all connections" in supervisor.spreading_warning("darwin")
