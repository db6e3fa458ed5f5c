"""Confined identities by key and by CI's token, and the cookie that signs a page in."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from narthex.e2e.engines import issuer
from narthex.e2e.system_under_test import AUDIENCE, RunnerProof, SystemUnderTest
from narthex.errors import ConfigError
from narthex.testing import ConfinedIdentity, StagingIdentities, sign_in_page
from tests.guard.process import guarding

NOWHERE = "ws://127.0.0.1:9"  # the exchange needs no server behind the guard


class FakeContext:
    """Remembers what a page's context was given."""

    def __init__(self) -> None:
        self.cookies: list[dict[str, Any]] = []
        self.scripts: list[str] = []

    def add_cookies(self, cookies: list[dict[str, Any]]) -> None:
        """As Playwright's."""
        self.cookies += cookies

    def add_init_script(self, script: str) -> None:
        """As Playwright's."""
        self.scripts.append(script)


class FakePage:
    """A page of Playwright's synchronous API."""

    def __init__(self) -> None:
        self.context = FakeContext()


def test_over_https_the_cookie_has_the_name_that_no_other_host_can_set() -> None:
    """`__Host-` needs https and the root path; Playwright takes both from the URL."""
    page = FakePage()
    ada = ConfinedIdentity(token="a.b.c", base_url="https://staging.example", test_run="run-1")
    sign_in_page(page, ada, storage_key='k"</script>')
    (cookie,) = page.context.cookies
    assert (cookie["name"], cookie["url"]) == ("__Host-narthex_session", "https://staging.example/")
    assert cookie["httpOnly"]
    (script,) = page.context.scripts
    assert 'location.origin === "https://staging.example"' in script
    assert '"k\\"</script>"' in script
    assert ada.headers == {"Authorization": "Bearer a.b.c"}


def test_without_a_url_or_a_proof_nothing_is_sent() -> None:
    """The error names the variable that is missing."""
    with pytest.raises(ConfigError, match="NARTHEX_E2E_BASE_URL"):
        StagingIdentities(environ={})()
    with pytest.raises(ConfigError, match="E2E_OAUTH_SIMULATION_KEY"):
        StagingIdentities(environ={"NARTHEX_E2E_BASE_URL": "http://127.0.0.1:9"})()


@pytest.mark.acceptance
async def test_by_key_and_by_the_token_of_ci(tmp_path: Path) -> None:
    """CI's issuer vouches for the workflow without a key; a wrong key and another workflow get no identity."""
    ci = issuer(tmp_path)
    await ci.start()
    try:
        issued_by = f"http://127.0.0.1:{ci.port}"
        key = secrets.token_urlsafe(32)
        env = {
            "E2E_TESTING": "1",
            "E2E_OAUTH_SIMULATION_KEY": key,
            "NARTHEX_E2E_OIDC_ISSUER": issued_by,
            "NARTHEX_E2E_OIDC_SUBJECT": "repo:acme/chat:*",
            "NARTHEX_E2E_OIDC_AUDIENCE": AUDIENCE,
        }
        async with guarding(tmp_path, NOWHERE, env) as guard:
            workflows = SystemUnderTest(guard.http, "staging", RunnerProof(), issuer_url=issued_by)

            async def token_of(workflow: str) -> str:
                found = await workflows.issuer_user(workflow)
                return found["Authorization"].removeprefix("Bearer ")

            good, evil = [await token_of(f"repo:{owner}/chat:main") for owner in ("acme", "evil")]
            by_ci = StagingIdentities(
                environ={"NARTHEX_E2E_BASE_URL": guard.http, "NARTHEX_CI_OIDC_TOKEN": good}
            )
            by_key = StagingIdentities(guard.http, key=key, environ={})
            for identities in (by_ci, by_key):
                made = identities("ada")
                assert made.test_run == f"{identities.test_run}-ada"
                answer = await guard.get("/ws/preflight", headers=made.headers)
                assert answer.json()["verdict"] == "admit"
            with pytest.raises(ConfigError, match="permission_denied"):
                StagingIdentities(guard.http, ci_token=evil, environ={})()
            with pytest.raises(ConfigError, match="e2e_key_wrong"):
                StagingIdentities(guard.http, key="w" * 40, environ={})()
    finally:
        ci.stop()


@pytest.mark.acceptance
async def test_production_is_left_alone(tmp_path: Path) -> None:
    """No proof is sent to a system that reports that it is production."""
    env = {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "127.0.0.1"}
    async with guarding(tmp_path, NOWHERE, env) as guard:
        with pytest.raises(ConfigError, match="production"):
            StagingIdentities(guard.http, key="k" * 40, environ={})()
