"""Health of the real program: the published sample, and the answers to probes during start, operation and drain."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.program import Program, running
from tests.timing import within

pytestmark = pytest.mark.acceptance

PUBLISHED = {
    "pre_connection_auth_required": False,
    "enabled": True,
    "variables": {"E2E_OAUTH_SIMULATION_KEY": "SET", "E2E_TEST_ENV": "staging"},
    "auth_bypass_active": True,
}
"""The members of the sample health response that gates rely on."""

STAGING = {"ENVIRONMENT": "staging", "E2E_TEST_ENV": "staging", "E2E_OAUTH_SIMULATION_KEY": "test-key"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Program]:
    """A development gateway with default settings."""
    async with running(tmp_path) as program:
        yield program


async def test_the_published_sample(tmp_path: Path) -> None:
    """Staging, detected by variable and key: every member of the sample has its value, and all checks are real."""
    async with running(tmp_path, STAGING, ("--host", "127.0.0.1")) as program:
        answer = await program.get("/ws/health")
    assert answer.status_code == 200
    report = answer.json()
    assert report["config"]["pre_connection_auth_required"] is PUBLISHED["pre_connection_auth_required"]
    assert report["e2e_testing"] == {
        name: PUBLISHED[name] for name in ("enabled", "variables", "auth_bypass_active")
    }
    assert (report["status"], report["service"], report["environment"]) == ("healthy", "narthex", "staging")
    assert list(report["checks"]) == ["handshake", "auth", "broker", "store", "agents"]
    assert all(check["status"] == "healthy" for check in report["checks"].values())
    assert report["checks"]["handshake"]["detail"] == "connect and echo with a ticket, inert without"
    assert "test-key" not in answer.text
    assert set(report["metrics"]) == {"websocket", "authentication"}


async def test_production_refuses_who_brings_nothing_and_health_proves_it(tmp_path: Path) -> None:
    """The same check in the strictest environment; a foreign Host is refused, probes by address are not."""
    environ = {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}
    async with running(tmp_path, environ, ("--host", "127.0.0.1")) as program:
        report = (await program.get("/ws/health")).json()
        assert report["checks"]["handshake"]["detail"] == "connect and echo with a ticket, refused without"
        assert report["e2e_testing"] == {"enabled": False, "variables": {}, "auth_bypass_active": False}
        for path in ("/livez", "/readyz"):
            assert (await program.get(path, headers={"Host": "10.1.2.3"})).status_code == 200


@pytest.mark.parametrize("environ", [{}, STAGING, {"ENVIRONMENT": "staging"}])
async def test_health_asking_itself_is_nobodys_failure(tmp_path: Path, environ: dict[str, str]) -> None:
    """Its own attempt without a credential, refused or inert, is not in the users' metrics, in any environment."""
    async with running(tmp_path, environ, ("--host", "127.0.0.1")) as program:
        body = (await program.get("/ws/health")).json()
        assert body["checks"]["handshake"]["status"] == "healthy"
        assert body["metrics"]["authentication"] == {"handshakes": 0, "admitted": 0, "not_admitted": 0}
        lines = (await program.get("/metrics")).text.splitlines()
        counted = [line for line in lines if line.startswith("narthex_handshakes_total")]
        assert [line for line in counted if 'class="user"' in line and not line.endswith(" 0.0")] == []
        assert len([line for line in counted if 'class="probe"' in line]) == 2


async def test_curl_and_head_and_options_mean_something(gateway: Program) -> None:
    """`curl -f` is what pipelines run."""
    curl = shutil.which("curl")
    assert curl, "curl is in every pipeline"
    done = await asyncio.to_thread(
        subprocess.run,
        [curl, "-fsS", gateway.http + "/ws/health"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(
        subprocess.run,
        [curl, "-fsSI", gateway.http + "/ws/health"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(
        subprocess.run,
        [curl, "-fsS", "-X", "OPTIONS", "-i", gateway.http + "/ws/health"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert b"204" in done.stdout.splitlines()[0]


async def test_a_flood_of_questions_costs_one_round_of_checks(gateway: Program) -> None:
    """Cached for 2 s: 200 requests at once cause a handful of handshakes, and the probe is not in the users'
    metrics.
    """
    async with httpx2.AsyncClient(trust_env=False, timeout=within(20)) as client:
        answers = await asyncio.gather(*(client.get(gateway.http + "/ws/health") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    text = (await gateway.get("/metrics")).text
    probes = [
        line
        for line in text.splitlines()
        if 'class="probe"' in line and line.startswith("narthex_handshakes")
    ]
    assert sum(float(line.rpartition(" ")[2]) for line in probes) <= 5
    numbers = (await gateway.get("/ws/health")).json()["metrics"]
    assert numbers["websocket"]["active_connections"] == 0


async def test_metrics_pass_promtool(gateway: Program) -> None:
    """Metrics of the running program, after some activity."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    await gateway.get("/ws/health")
    text = (await gateway.get("/metrics")).content
    assert b"narthex_handshakes_total" in text
    done = await asyncio.to_thread(
        subprocess.run,
        [promtool, "check", "metrics"],
        input=text,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_the_numbers_are_for_operators(tmp_path: Path) -> None:
    """`/ws/stats` requires the admin key."""
    key = "an-admin-key-0123456789abcdef"
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": key}) as program:
        assert (await program.get("/ws/stats")).status_code == 401
        answer = await program.get("/ws/stats", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert answer.json()["websocket"]["active_connections"] == 0
        assert key not in program.log
