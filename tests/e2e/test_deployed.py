"""A deployed system: tested with the key, CI's token, or a user's token in production; and left unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from narthex.e2e.children import Child, clean_environment, free_port
from narthex.e2e.engines import answers, issuer
from narthex.e2e.results import Status
from narthex.e2e.scenario import Category
from narthex.e2e.session import SuiteOptions
from narthex.e2e.session import test as run_suite
from narthex.e2e.system_under_test import AUDIENCE, RunnerProof, SystemUnderTest
from narthex.errors import ConfigError, DependencyError

pytestmark = pytest.mark.acceptance

CHECKOUT = Path(__file__).parents[2]
STAGING_SUITE = Path(__file__).parent / "staging" / "test_7_startup_resilience_staging.py"
SECRET = "a-secret-that-signs-peoples-tokens-0123456789"


@contextlib.asynccontextmanager
async def deployed(folder: Path, environ: dict[str, str]) -> AsyncIterator[str]:
    """A gateway started independently of the suite; its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "narthex", "serve", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--data-dir", str(folder / "data")]
    given = environ | {"NARTHEX_ALLOWED_HOSTS": "127.0.0.1", "NARTHEX_JWT_SECRET": SECRET}
    child = Child("gateway", folder, words, port, environ=given, ready=lambda: answers(f"{url}/readyz"))
    await child.start()
    try:
        yield url
    finally:
        child.stop()


def prober() -> str:
    """A token of a user in a separate tenant."""
    now = int(time.time())
    claims = {"sub": "prober", "tenant": "canary", "iat": now, "exp": now + 900}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


async def test_production_is_left_as_it_was_found(tmp_path: Path) -> None:
    """Smoke passes with a user's token, its threads are deleted, and without permission nothing is touched."""
    async with deployed(tmp_path, {"ENVIRONMENT": "production"}) as url:
        proof = RunnerProof(token=prober())
        options = SuiteOptions(environment="production", base_url=url, proof=proof, allow_production=True)
        report = await run_suite(options)
        assert report.good, [result for result in report.results if result.status is not Status.PASSED]
        assert {result.category for result in report.results} == {"smoke"}
        assert report.left_behind == []
        assert report.proof == "token"
        assert report.posted.startswith("not posted (403)"), "a person without `admin` posts no results"
        system = SystemUnderTest(url, "production", proof)
        await system.open()
        async with system.client() as somebody:
            assert (await somebody.rpc("thread.list"))["threads"] == []
        await system.close()
        with pytest.raises(ConfigError, match="reports that it is production"):
            await run_suite(
                SuiteOptions(environment="staging", base_url=url, proof=RunnerProof(key="k" * 40))
            )


async def test_staging_takes_the_key_and_no_other(tmp_path: Path) -> None:
    """With the right key smoke passes and the figures are posted; a wrong key is reported before the first scenario."""
    key = secrets.token_urlsafe(32)
    async with deployed(tmp_path, {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": key}) as url:
        smoke = (Category.SMOKE,)
        report = await run_suite(
            SuiteOptions(environment="staging", categories=smoke, base_url=url, proof=RunnerProof(key=key))
        )
        assert report.good
        assert report.posted == "posted: success rate 100.0%"
        assert report.target == "deployed system"
        with pytest.raises(ConfigError, match="e2e_key_wrong"):
            await run_suite(
                SuiteOptions(
                    environment="staging", categories=smoke, base_url=url, proof=RunnerProof(key="k" * 40)
                )
            )


async def test_a_kill_may_be_skipped_on_a_deployed_system_only(tmp_path: Path) -> None:
    """It is skipped with its reason, and the run passes."""
    key = secrets.token_urlsafe(32)
    async with deployed(tmp_path, {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": key}) as url:
        options = SuiteOptions(
            environment="staging",
            categories=(Category.E2E,),
            pattern="a_killed_gateway",
            base_url=url,
            proof=RunnerProof(key=key),
        )
        report = await run_suite(options)
        (skipped,) = [result for result in report.results if result.status is Status.SKIPPED]
        assert "it kills a gateway" in skipped.detail
        assert report.good


async def test_staging_takes_cis_token(tmp_path: Path) -> None:
    """CI's own issuer vouches for the workflow: the pipeline has no key."""
    ci = issuer(tmp_path)
    await ci.start()
    try:
        url = f"http://127.0.0.1:{ci.port}"
        environ = {
            "ENVIRONMENT": "staging",
            "E2E_OAUTH_SIMULATION_KEY": secrets.token_urlsafe(32),
            "NARTHEX_E2E_OIDC_ISSUER": url,
            "NARTHEX_E2E_OIDC_SUBJECT": "repo:acme/chat:*",
            "NARTHEX_E2E_OIDC_AUDIENCE": AUDIENCE,
        }
        async with deployed(tmp_path, environ) as target:
            for subject, good in (("repo:acme/chat:main", True), ("repo:evil/chat:main", False)):
                found = await SystemUnderTest(target, "staging", RunnerProof(), issuer_url=url).issuer_user(
                    subject
                )
                proof = RunnerProof(ci_token=found["Authorization"].removeprefix("Bearer "))
                options = SuiteOptions(
                    environment="staging", categories=(Category.SMOKE,), base_url=target, proof=proof
                )
                if good:
                    report = await run_suite(options)
                    assert report.good
                    assert report.proof == "ci"
                else:
                    with pytest.raises(ConfigError, match="permission_denied"):
                        await run_suite(options)
    finally:
        ci.stop()


@pytest.mark.parametrize(
    ("head", "body", "fault", "said"),
    [
        (
            "403 Forbidden",
            "<html>who are you?</html>",
            DependencyError,
            "answers 403, which is not a narthex's answer",
        ),
        ("200 OK", "", DependencyError, "does not respond"),
        ("429 Slow", '{"code":"rate_limited"}', DependencyError, "accepts no more keys"),
        ("401 No", '{"code":"e2e_key_wrong"}', ConfigError, "e2e_key_wrong"),
    ],
)
async def test_an_exchange_that_something_else_answers_is_said(
    head: str, body: str, fault: type[Exception], said: str
) -> None:
    """A firewall's page in front of the exchange is neither a verdict on the key nor an exception of ours."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        health = '{"service":"narthex"}'
        told, text = ("200 OK", health) if b"/ws/health" in asked else (head, body)
        if text:
            writer.write(
                f"HTTP/1.1 {told}\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
            )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        proof = RunnerProof(key="k" * 40)
        options = SuiteOptions(environment="staging", base_url=f"http://127.0.0.1:{port}", proof=proof)
        with pytest.raises(fault, match=said):
            await run_suite(options)


def played(url: str, key: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`pytest tests/e2e/staging` against a deployed system, as docs/testing.md describes, for one file."""
    given = clean_environment({"NARTHEX_E2E_BASE_URL": url, "E2E_OAUTH_SIMULATION_KEY": key, **environ})
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(STAGING_SUITE)]
    return subprocess.run(words, env=given, cwd=CHECKOUT, capture_output=True, text=True, check=False)


async def test_pytest_tests_a_deployed_system(tmp_path: Path) -> None:
    """In CI too: a skip that the list allows is not a failure; a wrong key is reported once, at once."""
    key = secrets.token_urlsafe(32)
    async with deployed(tmp_path, {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": key}) as url:
        done = await asyncio.to_thread(played, url, key, CI="true")
        assert done.returncode == 0, done.stdout
        assert "5 passed, 1 skipped" in done.stdout
        done = await asyncio.to_thread(played, url, "k" * 40)
        assert done.returncode == 2
        assert done.stdout.count("e2e_key_wrong") == 1
        assert key not in done.stdout


async def test_pytest_leaves_production_alone(tmp_path: Path) -> None:
    """As `narthex test` does."""
    async with deployed(tmp_path, {"ENVIRONMENT": "production"}) as url:
        done = await asyncio.to_thread(played, url, "k" * 40)
        assert done.returncode == 2
        assert "reports that it is production" in done.stdout


async def test_without_a_key_the_system_cannot_be_tested(tmp_path: Path) -> None:
    """The exchange reports it, and so does the runner."""
    async with deployed(tmp_path, {"ENVIRONMENT": "staging"}) as url:
        with pytest.raises(DependencyError, match="answers 503"):
            await run_suite(
                SuiteOptions(environment="staging", base_url=url, proof=RunnerProof(key="k" * 40))
            )
