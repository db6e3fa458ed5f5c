"""A Playwright page is signed in over https, where the session's cookie is `__Host-` and Secure."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx2
import pytest

from narthex.testing import ConfinedIdentity, sign_in_page
from tests.acceptance.program import clean_environment
from tests.guard.servers import answers, end, free_port
from tests.security.test_browser import certificate, chromium
from tests.testing.test_pytest_plugin import KEY
from tests.timing import within

pytestmark = pytest.mark.acceptance


async def test_a_page_over_https(tmp_path: Path) -> None:
    """Its WebSocket carries the identity; a page of another profile is refused, and scripts cannot read the cookie."""
    certificate(tmp_path)
    port = free_port()
    tls = ("--ssl-keyfile", str(tmp_path / "tls.pem"), "--ssl-certfile", str(tmp_path / "tls.pem"))
    words = ("-m", "uvicorn", "tests.testing.guarded_app:app", "--port", str(port), "--log-level", "warning")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words, *tls),
        cwd=Path(__file__).parents[2],
        env=clean_environment(
            {
                "ENVIRONMENT": "staging",
                "E2E_TEST_ENV": "staging",
                "E2E_OAUTH_SIMULATION_KEY": KEY,
                "NARTHEX_JWT_SECRET": "a-shared-secret-of-at-least-32-bytes",
                "NARTHEX_ALLOWED_HOSTS": "localhost",
                "NARTHEX_DATA_DIR": str(tmp_path / "data"),
            }
        ),
    )
    base = f"https://localhost:{port}"
    try:
        await answers(port, process)
        async with httpx2.AsyncClient(verify=False, trust_env=False) as client:
            answer = await client.post(
                f"{base}/auth/e2e/test-auth",
                headers={"X-E2E-Bypass-Key": KEY},
                json={"test_run": "pytest-https"},
            )
        assert answer.status_code == 200, answer.text
        identity = ConfinedIdentity(
            token=answer.json()["access_token"], base_url=base, test_run="pytest-https"
        )
        assert identity.cookie["name"].startswith("__Host-")
        async with chromium() as browser:
            stranger = await (await browser.new_context(ignore_https_errors=True)).new_page()
            await stranger.goto(base)
            await stranger.wait_for_function("document.title === 'closed 3500'", timeout=within(10) * 1000)
            page = await (await browser.new_context(ignore_https_errors=True)).new_page()
            await sign_in_page(page, identity)
            (cookie,) = await page.context.cookies()
            assert (cookie["secure"], cookie["httpOnly"], cookie["path"]) == (True, True, "/")
            await page.goto(base)
            await page.wait_for_function("document.title === 'e2e pytest-https'", timeout=within(10) * 1000)
            assert await page.evaluate("document.cookie") == ""
    finally:
        await end(process)
