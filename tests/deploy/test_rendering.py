"""Manifests are written from the settings: their numbers agree, and no secret is in them."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narthex.cli.deploy import Platform
from narthex.deploy.demands import demands_of, fargate_size
from narthex.deploy.rendering import PLATFORMS, DeploymentTarget, fill, render
from narthex.domain.descriptors import capacity
from narthex.domain.limits import Limits
from narthex.errors import Bug, ConfigError
from narthex.wiring.server_process import edge_limits
from tests.deploy.manifests import settings_from, verdict, written

CHECKED = [platform for platform in PLATFORMS if platform != "helm"]
"""A chart is rendered by helm first: tests/deploy/test_checkers.py."""


def test_the_command_takes_the_platforms_that_there_are() -> None:
    """A platform without a choice on the command line could not be asked for."""
    assert get_args(Platform) == PLATFORMS


@pytest.mark.parametrize("platform", CHECKED)
def test_what_is_written_passes_the_check(platform: str, tmp_path: Path) -> None:
    """With the defaults the check finds nothing, not even a warning."""
    found = verdict(platform, *written(tmp_path, platform).values())
    assert found.findings == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drain=st.integers(0, 900),
    ping=st.integers(2, 55),
    life=st.sampled_from([0, 600, 3300, 3500, 80_000]),
    sockets=st.integers(500, 60_000),
    workers=st.integers(1, 8),
    most=st.sampled_from([1, 2, 40]),
)
def test_any_settings_give_manifests_that_agree(
    tmp_path: Path, drain: int, ping: int, life: int, sockets: int, workers: int, most: int
) -> None:
    """Grace, ping interval, rotation, limits, memory and open files follow the settings on every platform."""
    environ = {
        "NARTHEX_DRAIN_GRACE_S": str(drain),
        "NARTHEX_PING_INTERVAL_S": str(ping),
        "NARTHEX_PONG_TIMEOUT_S": "1",
        "NARTHEX_MAX_SOCKET_LIFE_S": str(life),
        "NARTHEX_MAX_CONNECTIONS": str(sockets),
        "NARTHEX_WORKERS": str(workers),
    }
    for platform in CHECKED:
        files = written(tmp_path / platform, platform, environ, DeploymentTarget(max_instances=most))
        errors = [
            finding
            for finding in verdict(platform, *files.values(), environ=environ).findings
            if finding.severity == "error"
        ]
        assert errors == [], platform


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_secret_is_written(platform: str) -> None:
    """A secret of the caller's settings appears by its name only."""
    secrets = {
        "NARTHEX_ADMIN_KEY": "canary-admin-0123456789abcdef",
        "NARTHEX_JWT_SECRET": "canary-jwt-0123456789abcdef0123456789",
        "NARTHEX_STORE_URL": "postgresql://ada:canary-store@db/narthex",
        "NARTHEX_BROKER_URL": "nats://ada:canary-broker@nats:4222",
    }
    text = "".join(render(platform, settings_from(secrets), DeploymentTarget()).values())
    assert "canary" not in text


def test_settings_that_are_not_the_default_become_variables() -> None:
    """What the caller's environment says is what the deployment runs with."""
    environ = {
        "NARTHEX_OIDC_ISSUER": "https://id.example.com",
        "NARTHEX_JWT_AUDIENCE": "chat,api",
        "NARTHEX_COMMANDS_PER_S": "30",
        "NARTHEX_RUN_AGENTS": "1",
        "NARTHEX_OIDC_CLIENT_SECRET": "x" * 40,
    }
    text = render("compose", settings_from(environ), DeploymentTarget())["compose.yaml"]
    assert 'NARTHEX_OIDC_ISSUER: "https://id.example.com"' in text
    assert 'NARTHEX_JWT_AUDIENCE: "chat,api"' in text
    assert 'NARTHEX_COMMANDS_PER_S: "30"' in text
    assert "NARTHEX_OIDC_CLIENT_SECRET_FILE: /run/secrets/oidc-client-secret" in text


def test_a_root_path_is_refused_where_the_files_have_no_place_for_it() -> None:
    """A proxy, an Ingress or a load balancer that does not remove it would serve pages whose files are not found."""
    rooted = settings_from({"NARTHEX_ROOT_PATH": "/chat"})
    behind_another = {"cloud-run", "compose", "systemd"}
    for platform in behind_another:
        assert "NARTHEX_ROOT_PATH" in str(
            render(platform, rooted, DeploymentTarget(domain="chat.example.com"))
        )
    for platform in {*PLATFORMS} - behind_another:
        with pytest.raises(ConfigError, match="NARTHEX_ROOT_PATH"):
            render(platform, rooted, DeploymentTarget(domain="chat.example.com"))


def test_one_instance_keeps_the_embedded_engines() -> None:
    """With --max-instances 1 nothing asks for shared engines, and no update runs two processes on the files."""
    files = render("kubernetes", settings_from(), DeploymentTarget(max_instances=1))
    assert "type: Recreate" in files["deployment.yaml"]
    assert "NARTHEX_STORE_URL" not in files["deployment.yaml"]
    assert "volume.yaml" in files
    assert "autoscaler.yaml" not in files


@pytest.mark.parametrize(
    ("platform", "file", "member"),
    [("aws", "service.yaml", "DesiredCount:"), ("kubernetes", "deployment.yaml", "replicas:")],
)
def test_a_deploy_leaves_the_autoscalers_number_alone(platform: str, file: str, member: str) -> None:
    """A number in the file would be set again at each deploy: half of the sockets lost at the busiest hour."""

    def lines(target: DeploymentTarget) -> list[str]:
        text = render(platform, settings_from(), target)[file]
        return [line.strip() for line in text.splitlines() if line.strip().startswith(member)]

    assert lines(DeploymentTarget(max_instances=10)) == []
    assert lines(DeploymentTarget(max_instances=1)) == [f"{member} 1"]


@pytest.mark.parametrize(("ping", "pong", "idle"), [(25, 10, "60"), (55, 10, "65"), (55, 50, "105")])
def test_the_gateway_keeps_idle_connections_longer_than_aws_does(ping: int, pong: int, idle: str) -> None:
    """Else the load balancer sends a request on a connection that the gateway is closing, and answers 502."""
    settings = settings_from({"NARTHEX_PING_INTERVAL_S": str(ping), "NARTHEX_PONG_TIMEOUT_S": str(pong)})
    text = render("aws", settings, DeploymentTarget())["service.yaml"]
    assert re.findall(r'idle_timeout\.timeout_seconds, Value: "(\d+)"', text) == [idle]
    edge = edge_limits(settings, capacity(settings.limits(), 100_000))
    assert demands_of(settings).idle_s <= int(idle) < edge.keep_alive_s


@pytest.mark.parametrize(
    ("platform", "file", "member"),
    [
        ("envoy", "envoy.yaml", "common_http_protocol_options: {idle_timeout: 60s}"),
        ("caddy", "Caddyfile", "\tkeepalive 60s"),
        ("traefik", "dynamic.yaml", "idleConnTimeout: 60s"),
    ],
)
def test_a_proxy_closes_idle_connections_first(platform: str, file: str, member: str) -> None:
    """Where its default is longer than the gateway's time (1 h, 2 min, 90 s)."""
    assert member in render(platform, settings_from(), DeploymentTarget())[file]
    assert Limits().keep_alive_s > 60


def test_the_load_balancer_of_aws_waits_for_a_drain() -> None:
    """Sockets that are left after the delay are cut without a close frame; a task that refuses attracts no others."""
    text = render("aws", settings_from({"NARTHEX_DRAIN_GRACE_S": "90"}), DeploymentTarget())["service.yaml"]
    assert '{Key: deregistration_delay.timeout_seconds, Value: "95"}' in text
    assert "{Key: load_balancing.algorithm.type, Value: round_robin}" in text


def test_a_task_of_fargate_is_healthy_once_it_was_ready(tmp_path: Path) -> None:
    """The template's own command: unhealthy until /readyz answers 200 once, from then on /livez alone counts."""
    answers = {"/livez": 200, "/readyz": 503}

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers[self.path])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    text = render("aws", settings_from(), DeploymentTarget())["service.yaml"]
    found = re.search(r"- -c\n( +)- \|\n((?:\1  .*\n)+)", text)
    assert found is not None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = re.sub(f"(?m)^{found[1]}  ", "", found[2])
        program = program.replace("127.0.0.1:8080", f"127.0.0.1:{server.server_port}")
        program = program.replace('"/tmp/', f'"{tmp_path}/')

        def healthy() -> bool:
            done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
            return done.returncode == 0

        assert not healthy()
        answers["/readyz"] = 200
        assert healthy()
        answers["/readyz"] = 503
        assert healthy()
        answers["/livez"] = 503
        assert not healthy()
        server.shutdown()


@pytest.mark.parametrize(
    ("workers", "mib", "size"),
    [(1, 512, (1, 2048)), (1, 8192, (1, 8192)), (1, 8448, (2, 9216)), (3, 512, (4, 8192)), (1, 31_000, (8, 32_768)),
     (16, 120_000, (16, 122_880))],
)  # fmt: skip
def test_a_task_of_fargate_is_of_a_size_that_is_sold(workers: int, mib: int, size: tuple[int, int]) -> None:
    """More memory than a size of processors has takes the next size of them."""
    assert fargate_size(workers, mib) == size


@pytest.mark.parametrize(("workers", "mib"), [(17, 4096), (1, 122_881)])
def test_a_task_that_fargate_does_not_sell_is_refused(workers: int, mib: int) -> None:
    """Not written with fewer processors than there are processes; other platforms are not asked."""
    with pytest.raises(ConfigError, match=r"fit into no task of Fargate.*Lower NARTHEX_WORKERS"):
        fargate_size(workers, mib)
    assert render("kubernetes", settings_from({"NARTHEX_WORKERS": "17"}), DeploymentTarget())


def test_a_mark_without_a_value_is_a_bug() -> None:
    """A template cannot leave a hole in a manifest."""
    with pytest.raises(Bug, match=r"x\.yaml has a mark without a value: lost"):
        fill("a: @{lost}\n", {}, "x.yaml")


def test_a_block_keeps_the_indentation_of_its_mark() -> None:
    """Lists of variables stand where the mark stood; an empty one leaves no line."""
    assert (
        fill("env:\n  @{rows}\n@{none}\n", {"rows": "- a\n\n- b", "none": ""}, "") == "env:\n  - a\n\n  - b\n"
    )


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_mark_is_filled(platform: str) -> None:
    """No `@{…}` is left, and no line ends in white space."""
    for name, text in render(platform, settings_from(), DeploymentTarget()).items():
        assert not re.search(r"@\{", text), name
        assert not re.search(r"[ \t]$", text, re.MULTILINE), name
