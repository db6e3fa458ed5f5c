"""Which clients of the real program may read `/metrics`."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.program import running

TOKEN = "scrape-9d8e7f6a5b4c3d2e1f0a-9d8e7f6a"
FORWARDED = {"X-Forwarded-For": "192.0.2.1"}

pytestmark = pytest.mark.acceptance


async def test_a_program_of_this_machine_reads_the_metrics_and_a_proxys_client_does_not(
    tmp_path: Path,
) -> None:
    """Without a token: loopback without a forwarding header. The metrics port is open to all that reach it."""
    async with running(tmp_path, {}, ("--metrics-port", "0", "--log-format", "json")) as program:
        assert (await program.get("/metrics")).status_code == 200
        refused = await program.get("/metrics", headers=FORWARDED)
        assert (refused.status_code, refused.json()["code"]) == (401, "auth_required")
        assert "NARTHEX_TRUSTED_SCRAPERS" in refused.json()["detail"]
        found = re.search(r'"metrics port".*(http://127\.0\.0\.1:\d+)"', program.log)
        assert found, program.log
        async with httpx2.AsyncClient(base_url=found[1], trust_env=False) as http:
            forwarded = await http.get("/metrics", headers=FORWARDED)
            assert forwarded.status_code == 200
            assert "narthex_connections_active" in forwarded.text
            assert (await http.get("/readyz")).status_code == 200
            assert (await http.get("/ws/stats")).status_code == 404
        assert program.terminate() == 0


async def test_with_a_token_a_trusted_network_needs_none(tmp_path: Path) -> None:
    """With a token set, a program of this machine needs it like every other client, unless its network is trusted."""
    async with running(tmp_path, {"NARTHEX_METRICS_TOKEN": TOKEN}) as program:
        assert (await program.get("/metrics")).status_code == 401
        named = await program.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert named.status_code == 200
        program.end()
        program.env["NARTHEX_TRUSTED_SCRAPERS"] = "127.0.0.0/8"
        await program.start()
        assert (await program.get("/metrics")).status_code == 200
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        openmetrics = await program.get("/metrics", headers=accept)
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")
