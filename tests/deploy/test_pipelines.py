"""The pipelines run: deploy, gate, staging suite, shift, a failure before and after the shift, and the roll-back.

Their steps run as they stand, against real gateways and a gcloud that keeps revisions, tags and traffic.
"""

# ruff: noqa: E501 - tables read in rows
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.cloud import NEW, OLD, ROOT, SERVICE, Cloud, Gateways, unsafe
from tests.deploy.programs import checked, program
from tests.deploy.workflow import Outcome, Runner
from tests.timing import within

pytestmark = pytest.mark.acceptance

DEPLOY = ROOT / "deploy"
GITHUB = DEPLOY / "github/deploy.yml"
CLOUD_BUILD = DEPLOY / "cloudbuild/deploy.yaml"
SECRETS = {"NARTHEX_TOKEN": "unused-in-staging"}


@pytest.fixture(scope="module")
def gateways() -> Iterator[Gateways]:
    """Three gateways on real engines, once for the module."""
    with tempfile.TemporaryDirectory(prefix="narthex-pipeline-", ignore_cleanup_errors=True) as path:
        os.chmod(path, 0o755)  # noqa: PTH101 - PostgreSQL may run as another user, who must pass through
        found = Gateways(Path(path))
        try:
            asyncio.run(found.start())
            yield found
        finally:
            found.stop()


def inputs(cloud: Cloud, **more: object) -> dict[str, object]:
    """Of the reusable workflow."""
    return {
        "environment": "staging", "service": SERVICE, "region": "europe-west1", "image": "img", "url": cloud.url,
        "workload_identity_provider": "p", "service_account": "a", "categories": "smoke", "steps": "10 100", "probes": 1,
        "every": "1s", **more,
    }  # fmt: skip


async def on_github(cloud: Cloud, workflow: Path | str = GITHUB, **more: object) -> Outcome:
    """Run the workflow in a thread: the cloud's router is in this loop."""
    folder = cloud.folder / "runner"
    folder.mkdir()
    runner = Runner(cloud.workspace, folder, cloud.environ, within(180))
    return await asyncio.to_thread(runner.github, workflow, inputs(cloud, **more), {"narthex_token": ""})


async def on_cloud_build(cloud: Cloud, build: Path | str = CLOUD_BUILD) -> Outcome:
    """The same on Cloud Build, whose token comes from the metadata server."""
    folder = cloud.folder / "runner"
    folder.mkdir()
    environ = {name: value for name, value in cloud.environ.items() if not name.startswith("ACTIONS_")}
    runner = Runner(
        cloud.workspace, folder, environ | {"GCE_METADATA_HOST": f"127.0.0.1:{cloud.tokens}"}, within(180)
    )
    substitutions = {"_SERVICE": SERVICE, "_REGION": "europe-west1", "_IMAGE": "img", "_URL": cloud.url,
                     "_CATEGORIES": "smoke", "_STEPS": "10 100", "_PROBES": "1", "_EVERY": "1s"}  # fmt: skip
    return await asyncio.to_thread(runner.cloud_build, build, substitutions, SECRETS)


async def test_a_good_revision_gets_the_traffic_in_steps(gateways: Gateways, tmp_path: Path) -> None:
    """Deployed without traffic, gated, tested with CI's own token, shifted 10 and 100 %, probed after each."""
    ports = {OLD: gateways.ports["old"], NEW: gateways.ports["good"]}
    async with Cloud(tmp_path, ports, ci_token=await gateways.ci_token()) as cloud:
        outcome = await on_github(cloud)
        assert outcome.ok, outcome.output[-4000:]
        assert cloud.traffic() == {NEW: 100}
        assert unsafe(cloud.events) == ""
        words = [event["words"][0] for event in cloud.events if event["event"] == "narthex"]
        assert words == ["check", "gate", "test", "probe", "probe"]
        shares = [event["traffic"] for event in cloud.events if event["event"] in ("deploy", "traffic")]
        assert [share.get(f"{SERVICE}-00002-abc", 0) for share in shares] == [0, 10, 100]
        assert "### narthex gate: open" in outcome.summary
        assert "| ok | run |" in outcome.summary
        assert outcome.steps["roll back"] == "skipped"


async def test_cloud_build_does_the_same(gateways: Gateways, tmp_path: Path) -> None:
    """With the token of its service account."""
    ports = {OLD: gateways.ports["old"], f"img:{'b-1'}": gateways.ports["good"]}
    async with Cloud(tmp_path, ports, ci_token=await gateways.ci_token()) as cloud:
        outcome = await on_cloud_build(cloud)
        assert outcome.ok, outcome.output[-4000:]
        assert cloud.traffic() == {"img:b-1": 100}
        assert unsafe(cloud.events) == ""


async def test_a_faulty_revision_never_has_users(gateways: Gateways, tmp_path: Path) -> None:
    """Its health is good and its runs fail: the gate finds it, with an annotation, and the traffic stays."""
    ports = {OLD: gateways.ports["old"], NEW: gateways.ports["faulty"]}
    async with Cloud(tmp_path, ports, ci_token=await gateways.ci_token()) as cloud:
        outcome = await on_github(cloud)
        assert not outcome.ok
        assert cloud.traffic() == {OLD: 100}
        assert unsafe(cloud.events) == ""
        assert outcome.steps["health of the candidate"] == "success"
        assert outcome.steps["gate"] == "failure"
        assert outcome.steps["shift traffic"] == "skipped"
        assert "::error title=narthex gate::run: " in outcome.output
        assert "### narthex gate: closed" in outcome.summary
        assert "| **failed** | run |" in outcome.summary


async def test_a_failure_after_the_shift_is_rolled_back(gateways: Gateways, tmp_path: Path) -> None:
    """Good at its tag and sick under traffic: the first probe fails, and the old revision has everything again."""
    ports = {OLD: gateways.ports["old"], NEW: gateways.ports["good"]}
    async with Cloud(tmp_path, ports, ci_token=await gateways.ci_token(), sick=frozenset({NEW})) as cloud:
        outcome = await on_github(cloud)
        assert not outcome.ok
        assert outcome.steps["staging suite"] == "success"
        assert outcome.steps["shift traffic"] == "failure"
        assert cloud.traffic() == {OLD: 100}
        shares = [
            event["traffic"].get(f"{SERVICE}-00002-abc", 0)
            for event in cloud.events
            if event["event"] == "traffic"
        ]
        assert shares[:2] == [10, 0]
        assert "rolled back to chat-00001-abc" in outcome.output


async def test_another_workflow_s_token_opens_nothing(gateways: Gateways, tmp_path: Path) -> None:
    """Staging trusts one repository: the pipeline of another one ends before its gate."""
    ports = {OLD: gateways.ports["old"], NEW: gateways.ports["good"]}
    token = await gateways.ci_token("repo:evil/chat:ref:refs/heads/main")
    async with Cloud(tmp_path, ports, ci_token=token) as cloud:
        outcome = await on_github(cloud)
        assert outcome.steps["test identity"] == "failure"
        assert outcome.steps["gate"] == "skipped"
        assert cloud.traffic() == {OLD: 100}


def swapped(text: str, first: str, second: str) -> str:
    """The pipeline with two steps in each other's place."""
    document = yaml.safe_load(text)
    steps = document["jobs"]["deploy"]["steps"] if "jobs" in document else document["steps"]
    one, two = (
        next(number for number, step in enumerate(steps) if name in (step.get("name"), step.get("id")))
        for name in (first, second)
    )
    steps[one], steps[two] = steps[two], steps[one]
    return str(yaml.safe_dump(document))


@pytest.mark.parametrize("pipeline", ["github", "cloudbuild"])
@pytest.mark.parametrize("mutant", ["none", "no-traffic", "swap"])
async def test_a_pipeline_without_its_safety_is_found_out(pipeline: str, mutant: str, tmp_path: Path) -> None:
    """Without `--no-traffic`, or with gate and shift swapped, users meet a revision that nobody has checked."""
    async with Cloud(tmp_path, stub=True) as cloud:
        if mutant == "no-traffic":
            script = cloud.workspace / "deploy/pipeline/deploy-candidate.sh"
            assert script.read_text().count("  --no-traffic \\\n") == 1
            script.write_text(script.read_text().replace("  --no-traffic \\\n", ""))
        # Gates and identities are stubs here, and curl has no gateway to ask: only the order counts.
        for name in ("check-health.sh", "test-identity.sh", "ci-token.sh"):
            (cloud.workspace / "deploy/pipeline" / name).write_text("#!/bin/sh\necho token\n")
        action = cloud.workspace / "deploy/actions/narthex-gate/action.yml"
        action.write_text(action.read_text().replace("jq -e .checks", "true").replace("jq -r '", "true '"))
        if pipeline == "github":
            text = GITHUB.read_text()
            changed = swapped(text, "gate", "shift traffic") if mutant == "swap" else text
            outcome = await on_github(cloud, changed)
        else:
            text = CLOUD_BUILD.read_text()
            changed = swapped(text, "gate", "shift") if mutant == "swap" else text
            outcome = await on_cloud_build(cloud, changed)
        if mutant == "none":
            assert outcome.ok, outcome.output[-3000:]
            assert unsafe(cloud.events) == ""
        else:
            assert "of the traffic" in unsafe(cloud.events)
        if mutant == "no-traffic":  # the script itself notices, and takes the traffic back
            assert not outcome.ok
            assert cloud.traffic() == {OLD: 100}


@pytest.mark.parametrize(
    "words",
    ["run deploy chat --region r --image i --no-trafic", "run deploy fresh --region r --image i --no-traffic",
     "run services update-traffic chat --region r --to-tags nothing=10", "run jobs deploy x",
     "run services update-traffic chat --region r --to-revisions chat-00001-abc=110"],
)  # fmt: skip
async def test_the_fake_refuses_what_gcloud_refuses(words: str, tmp_path: Path) -> None:
    """Unknown flags, tags and commands, a first deploy without traffic, and more than 100 %."""
    async with Cloud(tmp_path, stub=True) as cloud:
        before = cloud.state.read_text()
        done = await asyncio.create_subprocess_exec("bash", "-c", f"gcloud {words}", env=cloud.environ,
                                                    stderr=asyncio.subprocess.PIPE)  # fmt: skip
        _, error = await done.communicate()
        assert done.returncode == 2
        assert b"ERROR: (gcloud)" in error
        assert cloud.state.read_text() == before


async def bash(cloud: Cloud, script: str, **environ: str) -> tuple[int, str]:
    """Run one script of deploy/pipeline."""
    done = await asyncio.create_subprocess_exec(
        "bash", str(DEPLOY / "pipeline" / script), env={**cloud.environ, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await done.communicate()
    return done.returncode or 0, out.decode()


async def test_curl_and_jq_pass_and_fail_for_a_reason(gateways: Gateways, tmp_path: Path) -> None:
    """The checks of check-health.sh: each one passes on a good gateway and fails on the fault that it is for."""
    async with Cloud(tmp_path) as cloud:
        url = f"http://127.0.0.1:{gateways.ports['old']}"
        staging = {"URL": url, "EXPECT_BYPASS": "true", "EXPECT_PRE_AUTH": "false"}
        code, said = await bash(cloud, "check-health.sh", **staging)
        assert (code, "healthy: " in said) == (0, True), said
        code, said = await bash(cloud, "check-health.sh", **staging | {"EXPECT_BYPASS": "false"})
        assert code == 1
        assert "test identities are not what this environment should have" in said
        code, said = await bash(cloud, "check-health.sh", **staging | {"EXPECT_PRE_AUTH": "true"})
        assert code == 1
        assert "who is admitted without a credential" in said
        code, said = await bash(cloud, "check-health.sh", **staging | {"URL": cloud.url})
        assert code == 1
        assert "does not answer 200" in said

        health = {
            "status": "healthy", "version": "1", "config": {"pre_connection_auth_required": True},
            "e2e_testing": {"auth_bypass_active": False},
            "checks": {name: {"status": "healthy"} for name in ("handshake", "broker", "store", "auth", "agents")},
        }  # fmt: skip
        for change, reason in (
            ({}, ""),
            ({"status": "degraded"}, "the gateway is not healthy"),
            ({"checks": health["checks"] | {"handshake": {"status": "unhealthy"}}}, "handshake with itself"),  # type: ignore[operator]
            ({"checks": health["checks"] | {"broker": {"status": "unhealthy"}}}, "broker or the store"),  # type: ignore[operator]
            ({"e2e_testing": {}}, "test identities"),
        ):
            async with answering(json.dumps(health | change)) as port:
                code, said = await bash(cloud, "check-health.sh", URL=f"http://127.0.0.1:{port}")
            assert (code == 0) == (not reason), said
            assert reason in said


@contextlib.asynccontextmanager
async def answering(body: str, status: str = "200 OK"):  # type: ignore[no-untyped-def]
    """A server that gives one answer to everything; its port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_success_rate_of_a_day_is_kept_and_alerted_on(tmp_path: Path) -> None:
    """99 % of 24 hours is green; less, an old result alone, and no result at all are red."""
    now = time.time()

    def result(hours_ago: float, passed: int, failed: int) -> dict[str, object]:
        return {
            "test_run": "r",
            "at": now - hours_ago * 3600,
            "environment": "staging",
            "passed": passed,
            "failed": failed,
        }

    async with Cloud(tmp_path) as cloud:
        for results, good, said_ in (
            ([result(1, 60, 0), result(2, 39, 1)], True, '"rate":99'),
            ([result(1, 60, 0), result(2, 38, 2)], False, "98 % passed in 24 h"),
            ([result(30, 60, 0)], False, "no result in 24 h"),
            ([], False, "no result in 24 h"),
        ):
            async with answering(json.dumps({"results": results})) as port:
                code, said = await bash(
                    cloud, "success-rate.sh", URL=f"http://127.0.0.1:{port}", NARTHEX_ADMIN_KEY="operator"
                )
            assert (code == 0) == good, said
            assert said_ in said
        async with answering("{}", "401 Unauthorized") as port:
            code, _ = await bash(
                cloud, "success-rate.sh", URL=f"http://127.0.0.1:{port}", NARTHEX_ADMIN_KEY="wrong"
            )
        assert code != 0


async def test_the_gateway_s_own_results_are_what_the_rate_is_made_of(
    gateways: Gateways, tmp_path: Path
) -> None:
    """The suite of a pipeline posts its result, and success-rate.sh reads it."""
    ports = {OLD: gateways.ports["old"], NEW: gateways.ports["good"]}
    async with Cloud(tmp_path, ports, ci_token=await gateways.ci_token()) as cloud:
        workflow = (DEPLOY / "github/staging-suite.yml").read_text()
        folder = tmp_path / "runner"
        folder.mkdir()
        runner = Runner(cloud.workspace, folder, cloud.environ, within(180))
        outcome = await asyncio.to_thread(
            runner.github, workflow, {}, {"STAGING_ADMIN_KEY": "operator-0123456789abcdef"},
            vars={"STAGING_URL": cloud.url, "STAGING_CATEGORIES": "smoke"},
        )  # fmt: skip
        assert outcome.ok, outcome.output[-3000:]
        assert "Staging suite, last 24 h: 100 % of" in outcome.summary


def test_actionlint_takes_the_workflows(tmp_path: Path) -> None:
    """Also the shell in them, by shellcheck; they are where GitHub looks for them."""
    actionlint = program("actionlint", "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copytree(DEPLOY / "github", tmp_path / ".github/workflows")
    (tmp_path / ".git").mkdir()
    shellcheck = program("shellcheck", "apt-get install shellcheck")
    checked(actionlint, "-no-color", "-shellcheck", shellcheck, cwd=tmp_path)


def test_actionlint_finds_a_fault(tmp_path: Path) -> None:
    """The check above can fail: a step's output that there is not, and an input that the action does not have."""
    actionlint = program("actionlint", "go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / ".git").mkdir()
    workflow = tmp_path / ".github/workflows/deploy.yml"
    workflow.parent.mkdir(parents=True)
    text = GITHUB.read_text()
    for old, new in (
        ("steps.candidate.outputs", "steps.candidat.outputs"),
        ("expect-bypass:", "expect-bypas:"),
    ):
        workflow.write_text(text.replace(old, new))
        with pytest.raises(AssertionError, match="is not defined"):
            checked(actionlint, "-no-color", cwd=tmp_path)
