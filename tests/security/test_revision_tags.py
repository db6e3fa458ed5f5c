"""Revision tags of Cloud Run are admissible hosts of one service, and of no other service, project or region."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from narthex.domain.origins import HostPolicy, parse_allowed_hosts
from tests.acceptance.program import running

BY_NUMBER = "chat-123456789012.europe-west1.run.app"
BY_HASH = "chat-7q2vxk5mda-ew.a.run.app"


def policy(*words: str) -> HostPolicy:
    """Of a valid setting."""
    found = parse_allowed_hosts(words)
    assert isinstance(found, HostPolicy), found
    return found


@pytest.mark.parametrize("service", [BY_NUMBER, BY_HASH])
@pytest.mark.parametrize("tag", ["", "candidate---", "r-20261130---", "a---", "g1a2b3c---"])
def test_a_service_and_its_tags_are_served(service: str, tag: str) -> None:
    """In both forms of Cloud Run's URLs, in any case, with a port."""
    hosts = policy(f"*---{service}")
    assert hosts.allows(tag + service)
    assert hosts.allows((tag + service).upper() + ":443")


@pytest.mark.parametrize(
    "host",
    [
        "candidate---chat-999999999999.europe-west1.run.app",  # another project's service of the same name
        "candidate---chat-123456789012.us-central1.run.app",  # another region
        "candidate---other-123456789012.europe-west1.run.app",  # another service
        "chat-999999999999.europe-west1.run.app",
        "evilchat-123456789012.europe-west1.run.app",  # a service whose name only ends in ours
        "evil-chat-123456789012.europe-west1.run.app",
        "evil--chat-123456789012.europe-west1.run.app",
        "---chat-123456789012.europe-west1.run.app",
        "-tag---chat-123456789012.europe-west1.run.app",
        "tag----chat-123456789012.europe-west1.run.app",
        "1tag---chat-123456789012.europe-west1.run.app",
        "a.b---chat-123456789012.europe-west1.run.app",  # a label more
        "a---b---chat-123456789012.europe-west1.run.app",
        "tag---chat-123456789012.europe-west1.run.app.evil.example",
        "tag---chat-123456789012.europe-west1.run.appx",
        "tag---chat-123456789012-europe-west1.run.app",
        "x" * 50 + "---chat-123456789012.europe-west1.run.app",  # longer than a label may be
        "run.app",
        "a.run.app",
    ],
)
def test_a_near_miss_is_refused(host: str) -> None:
    """Any customer can have hosts under run.app."""
    assert not policy(f"*---{BY_NUMBER}").allows(host)


@pytest.mark.parametrize(
    "word",
    [
        "*.run.app",
        "*.a.run.app",
        "*.europe-west1.run.app",
        "*---run.app",
        "*---a.run.app",
        "*---europe-west1.run.app",
        "*---chat.europe-west1.run.app",  # no project
        "*---chat-ew.a.run.app",  # no hash
        "*---chat.example.com",
        "*---*-123456789012.europe-west1.run.app",
        "*---tag---chat-123456789012.europe-west1.run.app",
        "*---",
    ],
)
def test_a_setting_that_would_admit_others_is_a_configuration_error(word: str) -> None:
    """It names the form that is meant."""
    found = parse_allowed_hosts([word])
    assert isinstance(found, list)
    assert "*---chat-123456789012.europe-west1.run.app" in found[0]


@pytest.mark.acceptance
async def test_a_gateway_on_cloud_run_answers_its_tags_and_no_others(tmp_path: Path) -> None:
    """The real program in production, by the one setting."""
    env = {
        "ENVIRONMENT": "production",
        "K_SERVICE": "chat",
        "NARTHEX_SINGLE_INSTANCE": "1",
        "NARTHEX_ALLOWED_HOSTS": f"chat.example.com,*---{BY_NUMBER}",
    }
    async with running(tmp_path, env=env) as gateway, httpx2.AsyncClient(trust_env=False) as client:

        async def status(host: str) -> int:
            return (await client.get(f"{gateway.http}/ws/beacon", headers={"Host": host})).status_code

        assert await status(BY_NUMBER) == 200
        assert await status(f"candidate---{BY_NUMBER}") == 200
        assert await status("chat.example.com") == 200
        assert await status("candidate---chat-999999999999.europe-west1.run.app") == 400
        assert await status(f"evil-{BY_NUMBER}") == 400
