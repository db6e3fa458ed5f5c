"""Real issuers as child processes: PyPI `oidc-provider-mock` and npm `oidc-provider`, restarted to rotate keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from narthex.e2e.children import free_port
from tests.acceptance.program import clean_environment
from tests.timing import within

CLIENT: Final = "narthex"
NPM_PACKAGE: Final = "oidc-provider@9"
SCRIPT: Final = Path(__file__).with_name("oidc_provider.mjs")


class Issuer:
    """A child process that serves `url`; `restart` starts it again with new keys."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.secret = secrets.token_urlsafe(24)
        self.callback = "http://127.0.0.1/callback"
        self._log = directory / f"issuer-{self.port}.out"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> tuple[list[str], Mapping[str, str]]:
        """The command line and environment that start it."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start and wait until its discovery document is served."""
        words, extra = self.command()
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork of milliseconds, and no loop of ours waits
                words,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=clean_environment(extra),
            )
        ends_at = time.monotonic() + within(20)
        async with httpx2.AsyncClient(trust_env=False) as client:
            while time.monotonic() < ends_at and self._process.poll() is None:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get(f"{self.url}/.well-known/openid-configuration")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(self._log.read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        """End it by its pid."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    async def restart(self) -> None:
        """Rotate: the same address with other keys."""
        self.stop()
        await self.start()

    async def sign_in(self, url: str, subject: str) -> str:
        """Act as the browser for an authorization URL; returns the redirect target with code and state."""
        raise NotImplementedError


class MockIssuer(Issuer):
    """PyPI oidc-provider-mock: RS256, keys without a `kid`, opaque access tokens."""

    def command(self) -> tuple[list[str], Mapping[str, str]]:
        words = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(self.port)]
        return words, {}

    async def sign_in(self, url: str, subject: str) -> str:
        async with httpx2.AsyncClient(trust_env=False) as browser:
            answer = await browser.post(url, data={"sub": subject})
            return str(answer.headers["location"])

    async def id_token(self, subject: str, audience: str) -> str:
        """An ID token for `audience`, by the code flow."""
        query = f"response_type=code&client_id={audience}&redirect_uri={self.callback}&scope=openid"
        back = await self.sign_in(f"{self.url}/oauth2/authorize?{query}", subject)
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(back).query)["code"][0],
            "redirect_uri": self.callback,
        }
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{self.url}/oauth2/token", data=form, auth=(audience, self.secret))
            return str(answer.json()["id_token"])


class NpmIssuer(Issuer):
    """npm oidc-provider: ES256 `at+jwt` access tokens with a `kid`, or opaque ones with introspection."""

    def __init__(self, directory: Path, modules: Path, *, opaque: bool = False) -> None:
        super().__init__(directory)
        self._modules = modules
        self._format = "opaque" if opaque else "jwt"

    def command(self) -> tuple[list[str], Mapping[str, str]]:
        key = ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig", "alg": "ES256"})
        extra = {
            "PORT": str(self.port),
            "MODULES": str(self._modules),
            "SECRET": self.secret,
            "CALLBACK": self.callback,
            "FORMAT": self._format,
            "JWKS": json.dumps({"keys": [key.as_dict(private=True)]}),
        }
        return ["node", "--no-warnings", str(SCRIPT)], extra

    async def access_token(self) -> str:
        """An access token of the client itself."""
        form = {"grant_type": "client_credentials", "scope": "chat"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{self.url}/token", data=form, auth=(CLIENT, self.secret))
            assert answer.status_code == 200, answer.text
            return str(answer.json()["access_token"])

    async def user_token(self, subject: str) -> str:
        """An access token of a user, by the code flow (RFC 7636 appendix B's verifier and challenge)."""
        query = urlencode(
            {
                "response_type": "code",
                "client_id": CLIENT,
                "redirect_uri": self.callback,
                "scope": "openid chat",
                "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                "code_challenge_method": "S256",
            }
        )
        back = await self.sign_in(f"{self.url}/auth?{query}", subject)
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(back).query)["code"][0],
            "redirect_uri": self.callback,
            "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        }
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{self.url}/token", data=form, auth=(CLIENT, self.secret))
            assert answer.status_code == 200, answer.text
            return str(answer.json()["access_token"])

    async def revoke(self, token: str) -> None:
        """Revoke at the issuer (RFC 7009)."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.post(
                f"{self.url}/token/revocation", data={"token": token}, auth=(CLIENT, self.secret)
            )

    async def sign_in(self, url: str, subject: str) -> str:
        """Through its development pages: login, then consent."""
        async with httpx2.AsyncClient(trust_env=False) as browser:
            answer = await browser.get(url)
            for _ in range(10):
                location = answer.headers.get("location")
                if location is None:
                    answer = await self._submit(browser, answer, subject)
                elif urljoin(self.url, location).startswith(self.callback):
                    return str(location)
                else:
                    answer = await browser.get(urljoin(self.url, location))
        raise AssertionError("the provider did not send the browser back")

    async def _submit(
        self, browser: httpx2.AsyncClient, page: httpx2.Response, subject: str
    ) -> httpx2.Response:
        action = re.search(r'action="([^"]+)"', page.text)
        prompt = re.search(r'name="prompt" value="([^"]+)"', page.text)
        assert action is not None, page.text[:500]
        assert prompt is not None, page.text[:500]
        form: dict[str, Any] = {"prompt": prompt[1]}
        if prompt[1] == "login":
            form |= {"login": subject, "password": "any"}
        return await browser.post(urljoin(self.url, action[1]), data=form)


def install_npm_package(directory: Path) -> Path:
    """Install `oidc-provider` into a temporary directory. Skips without npm (a failure in CI)."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm or node is missing: install Node 20 to test against oidc-provider")
    done = subprocess.run(
        [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(directory), NPM_PACKAGE],
        capture_output=True,
        text=True,
        timeout=within(90),
        env={**os.environ, "npm_config_update_notifier": "false"},
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm could not install {NPM_PACKAGE}: {done.stderr.strip()[-300:]}")
    return directory / "node_modules"
