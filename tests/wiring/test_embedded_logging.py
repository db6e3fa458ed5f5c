"""Item 19: a gateway inside another program masks its log records, whatever that program's logging is."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from narthex.e2e.children import free_port
from tests.acceptance.program import clean_environment
from tests.campaigns.follower import SECRET, start_run, token
from tests.timing import within

KEY = "an-admin-key-that-nobody-may-read-0123456789"
PROGRAM = """
import logging, sys
{configure}
import narthex

@narthex.agent
async def leaky(run):
    yield "so "
    raise RuntimeError("cannot reach https://user:{key}@example.com/ with {key}")

narthex.create_gateway(
    {{"port": {port}, "data_dir": {data!r}, "admin_key": {key!r}, "jwt_secret": {secret!r}}}, agents=[leaky]
).run()
"""
CONFIGURED = {
    "nothing": "",
    "stdlib": "logging.basicConfig(level=logging.INFO, format='HOST %(name)s %(message)s')",
    "structlog": (
        "import structlog\n"
        "structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])"
    ),
}


@pytest.mark.parametrize("configure", CONFIGURED)
async def test_a_secret_in_an_agents_exception_reaches_no_log(tmp_path: Path, configure: str) -> None:
    """Not with no configuration, not through stdlib's, not through structlog's; the record itself is there."""
    port = free_port()
    text = PROGRAM.format(
        configure=CONFIGURED[configure], key=KEY, port=port, data=str(tmp_path / "data"), secret=SECRET
    )
    out = tmp_path / "out"
    with out.open("wb") as sink:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is ended below, whatever happens
            [sys.executable, "-c", text],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=clean_environment({}),
            cwd=tmp_path,
        )
    try:
        async with asyncio.timeout(within(30)), httpx2.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                except httpx2.HTTPError:
                    assert process.poll() is None, out.read_text()
                await asyncio.sleep(0.05)
            await start_run(port, token("ada"), "hello", "m-1")
            while "leaky" not in out.read_text():  # noqa: ASYNC110 - another process's file
                await asyncio.sleep(0.05)
    finally:
        process.terminate()
        process.wait(within(15))
    logged = out.read_text()
    assert KEY not in logged
    assert KEY[:12] not in logged
    assert "RuntimeError" in logged
    assert f"ws://127.0.0.1:{port}/ws" in logged  # its place
    if configure == "nothing":
        records = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
        assert {"run_ended", "capacity"} <= {record["event"] for record in records}
    if configure == "stdlib":
        assert "HOST narthex.runs " in logged
