"""Manifests are written from the settings: their numbers agree, and no secret is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narthex.cli.deploy import Platform
from narthex.deploy.rendering import PLATFORMS, Target, fill, render
from narthex.errors import Bug, ConfigError
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
        files = written(tmp_path / platform, platform, environ, Target(max_instances=most))
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
    text = "".join(render(platform, settings_from(secrets), Target()).values())
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
    text = render("compose", settings_from(environ), Target())["compose.yaml"]
    assert 'NARTHEX_OIDC_ISSUER: "https://id.example.com"' in text
    assert 'NARTHEX_JWT_AUDIENCE: "chat,api"' in text
    assert 'NARTHEX_COMMANDS_PER_S: "30"' in text
    assert "NARTHEX_OIDC_CLIENT_SECRET_FILE: /run/secrets/oidc-client-secret" in text


def test_a_root_path_is_refused_where_the_files_have_no_place_for_it() -> None:
    """A proxy, an Ingress or a load balancer that does not remove it would serve pages whose files are not found."""
    rooted = settings_from({"NARTHEX_ROOT_PATH": "/chat"})
    behind_another = {"cloud-run", "compose", "systemd"}
    for platform in behind_another:
        assert "NARTHEX_ROOT_PATH" in str(render(platform, rooted, Target(domain="chat.example.com")))
    for platform in {*PLATFORMS} - behind_another:
        with pytest.raises(ConfigError, match="NARTHEX_ROOT_PATH"):
            render(platform, rooted, Target(domain="chat.example.com"))


def test_one_instance_keeps_the_embedded_engines() -> None:
    """With --max-instances 1 nothing asks for shared engines, and no update runs two processes on the files."""
    files = render("kubernetes", settings_from(), Target(max_instances=1))
    assert "type: Recreate" in files["deployment.yaml"]
    assert "NARTHEX_STORE_URL" not in files["deployment.yaml"]
    assert "volume.yaml" in files
    assert "autoscaler.yaml" not in files


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
    for name, text in render(platform, settings_from(), Target()).items():
        assert not re.search(r"@\{", text), name
        assert not re.search(r"[ \t]$", text, re.MULTILINE), name
