"""The gate opens for a good deploy and names the failing checks; the canary counts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from narthex.doctor import baseline, canary
from narthex.doctor.gate import GateOptions, GateReport, examine_gate
from narthex.doctor.target import parse_target
from narthex.e2e.children import free_port
from narthex.errors import ClientError
from tests.acceptance.program import Program, running
from tests.doctor.meddler import meddling, replaced, without
from tests.timing import within

pytestmark = pytest.mark.acceptance

ADMIN = "admin-key-of-the-tests-0001"


async def gated(url: str, token: str, **options: object) -> GateReport:
    """The gate's report."""
    given = {"token": token, "timeout_s": within(3), **options}
    return await examine_gate(parse_target(url), msgspec.convert(given, GateOptions))


def failed(report: GateReport) -> list[str]:
    """Names of the checks that failed."""
    return [check.name for check in report.checks if not check.ok]


async def test_the_gate_of_a_good_deploy(tmp_path: Path) -> None:
    """Every check passes in seconds; a wrong expectation, a bad token and faults on the path each close it."""
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": ADMIN}) as program:
        token = program.token("ada")
        report = await gated(program.http, token)
        assert report.ok, [check for check in report.checks if not check.ok]
        assert report.seconds < within(20)
        assert set(report.figures) == {"connect_ms", "echo_ms", "first_event_ms", "run_ms"}
        assert failed(await gated(program.http, token, expect_bypass=True)) == ["auth_bypass_active"]
        assert "admitted with the token" in failed(await gated(program.http, "e30.e30.c2ln"))
        async with meddling(program.port, request=without("Authorization")) as port:
            assert "bad token refused" in failed(await gated(f"ws://127.0.0.1:{port}/ws", token))
        async with meddling(program.port, response=replaced(b" 200 OK", b" 503 Bad")) as port:
            assert "health" in failed(await gated(f"ws://127.0.0.1:{port}/ws", token))
        await check_the_commands(program, token, tmp_path)
        threads = await program.get("/ws/health")
        assert threads.json()["metrics"]["websocket"]["active_user"] == 0


async def test_the_gate_of_a_staging_under_test(tmp_path: Path) -> None:
    """With end-to-end testing on, the key is the credential, and the bypass must be expected."""
    key = "k" * 40
    env = {
        "ENVIRONMENT": "staging",
        "E2E_OAUTH_SIMULATION_KEY": key,
        "E2E_TEST_ENV": "staging",
        "NARTHEX_JWT_SECRET": "s" * 40,
        "NARTHEX_ALLOWED_HOSTS": "127.0.0.1",
    }
    async with running(tmp_path, env=env) as program:
        headers = (("X-E2E-Bypass-Key", key), ("X-E2E-Test-Run", "gate-1"))
        report = await gated(program.http, "", headers=headers, expect_bypass=True)
        assert report.ok, [check for check in report.checks if not check.ok]
        report = await gated(program.http, "", headers=headers)
        assert failed(report) == ["auth_bypass_active"]
        for command in (("gate", "--expect-bypass", "true"), ("probe", "--count", "1")):
            done = await asyncio.to_thread(
                program.run, command[0], program.http, *command[1:], "--header", f"X-E2E-Bypass-Key: {key}"
            )
            assert done.returncode == 0, done.stdout  # also what needs one user over several connections


async def check_the_commands(program: Program, token: str, directory: Path) -> None:
    """The commands themselves: exit codes, `--json`, baseline, canary outputs."""
    saved = str(directory / "good.json")
    url = f"ws://127.0.0.1:{program.port}"
    env = {"NARTHEX_TOKEN": token}
    assert program.run("gate", url, "--save", saved, env=env).returncode == 0
    done = program.run("gate", url, "--against", saved, "--slower", "20", "--json", env=env)
    assert done.returncode == 0, done.stdout
    assert [check["name"] for check in json.loads(done.stdout)["checks"]][-1] == "latency"
    key = {"NARTHEX_ADMIN_KEY": ADMIN}
    assert program.run("gate", url, "--post", program.http, "--text", "hi", env=env | key).returncode == 0
    done = program.run("gate", url, "--expect-bypass", "true", "--post", program.http, env=env | key)
    assert done.returncode == 1
    kept = await program.get("/api/v1/e2e/results", headers={"Authorization": f"Bearer {ADMIN}"})
    gates = {run["failed"]: json.loads(run["report"]) for run in kept.json()["results"]}
    assert gates.keys() == {0, 1}
    assert [gates[count]["kind"] for count in (0, 1)] == ["gate", "gate"]
    assert [check["name"] for check in gates[1]["failed"]] == ["auth_bypass_active"]
    done = program.run("gate", url, "--post", f"http://127.0.0.1:{free_port()}", env=env | key)
    assert (done.returncode, "was not recorded" in done.stderr) == (0, True)
    assert program.run("gate", url, "--post", program.http, env=env).returncode == 2
    assert program.run("gate", url).returncode == 2
    assert program.run("gate", f"ws://127.0.0.1:{free_port()}", env=env).returncode == 69
    done = program.run("probe", url, "--count", "2", "--every", "100ms", env=env)
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["ok"] for line in lines] == [True, True]
    assert "resume" in lines[0]["ms"]
    file = directory / "probe.prom"
    done = program.run("probe", url, "--count", "1", "--prometheus", str(file), env=env)
    assert done.returncode == 0
    assert 'narthex_probe_rounds_total{url="' in file.read_text()
    assert token not in file.read_text()
    done = program.run("doctor", url, "--json", "--junit", str(directory / "doctor.xml"), env=env)
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["ok"] and token not in done.stdout
    assert "<testsuite" in (directory / "doctor.xml").read_text()


async def test_a_gate_that_nobody_answers() -> None:
    """An unreachable target is reported, and does not pass."""
    report = await gated(f"ws://127.0.0.1:{free_port()}/ws", "x" * 8)
    assert not report.reachable
    assert not report.ok


def test_a_baseline_is_written_read_and_compared(tmp_path: Path) -> None:
    """Factor and slack; the gate must name a figure that vanished."""
    file = tmp_path / "baseline.json"
    baseline.save(file, "ws://x/ws", "1", {"connect_ms": 10.0, "run_ms": 400.0})
    good = baseline.load(file)
    assert baseline.slower({"connect_ms": 39.0, "run_ms": 600.0}, good, 1.5) == []
    assert baseline.slower({"connect_ms": 41.0, "run_ms": 626.0}, good, 1.5) == [
        "connect_ms 41.0 ms, was 10.0 ms",
        "run_ms 626.0 ms, was 400.0 ms",
    ]
    file.write_text("{}")
    with pytest.raises(ClientError):
        baseline.load(file)


async def test_a_canary_counts_what_fails() -> None:
    """A round that cannot connect is a result with the step's name."""
    tally = canary.Tally()
    seen = await canary.one_round(parse_target(f"ws://127.0.0.1:{free_port()}/ws"), timeout_s=within(1))
    tally.add(seen)
    assert seen.failed == "tcp"
    text = canary.as_prometheus(seen, tally, "ws://x/ws")
    assert 'narthex_probe_success{url="ws://x/ws"} 0' in text
    assert 'result="failed"} 1' in text
    assert json.loads(canary.as_json_line(seen, "ws://x/ws"))["detail"] == "refused"
