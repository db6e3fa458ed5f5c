"""Confined test identities at a system under test, and a browser page that is signed in as one of them.

Not here: the exchange itself (`e2e/system_under_test`). Rules: proof is a key or CI's OIDC token from the
environment, as for `narthex test`; production is left alone; no proof and no token stands in a repr or a message.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from narthex.domain.carriers import HOST_SESSION_COOKIE, SESSION_COOKIE
from narthex.e2e.session import NO_PROOF
from narthex.e2e.system_under_test import RENEW_BEFORE_S, RunnerProof, SystemUnderTest
from narthex.errors import ConfigError
from narthex.testing.blocking import run_blocking

URL_VARIABLE: Final = "NARTHEX_E2E_BASE_URL"
KEY_VARIABLE: Final = "E2E_OAUTH_SIMULATION_KEY"
CI_VARIABLE: Final = "NARTHEX_CI_OIDC_TOKEN"


class ConfinedIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A test identity: a user of tenant `e2e` with few rights, for 15 minutes.

    Attributes:
        token: for `Authorization`, a subprotocol or the session's cookie.
        base_url: of the system that made it.
        test_run: under which the system records it.
    """

    token: str
    base_url: str
    test_run: str

    @property
    def headers(self) -> dict[str, str]:
        """For HTTP requests and handshakes."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def cookie(self) -> dict[str, Any]:
        """The session's cookie, as Playwright's `add_cookies` takes it."""
        secure = urlsplit(self.base_url).scheme == "https"
        return {
            "name": HOST_SESSION_COOKIE if secure else SESSION_COOKIE,
            "value": self.token,
            "url": f"{self.base_url}/",
            "httpOnly": True,
            "sameSite": "Lax",
        }

    def __repr__(self) -> str:
        """Without the token."""
        return f"ConfinedIdentity(base_url={self.base_url!r}, test_run={self.test_run!r})"


class StagingIdentities:
    """Makes identities at one system, one for each name, and renews their tokens.

    Args:
        base_url: `http(s)://host[:port]`; empty: NARTHEX_E2E_BASE_URL.
        key: empty: E2E_OAUTH_SIMULATION_KEY.
        ci_token: used where there is no key; empty: NARTHEX_CI_OIDC_TOKEN, read anew for each exchange.
        test_run: the common beginning of the names of their test runs.
        environ: instead of the process's environment.
    """

    def __init__(
        self,
        base_url: str = "",
        *,
        key: str = "",
        ci_token: str = "",
        test_run: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self.base_url = (base_url or self._environ.get(URL_VARIABLE, "")).rstrip("/")
        self._key = key
        self._ci_token = ci_token
        self.test_run = test_run or f"pytest-{uuid.uuid4().hex[:12]}"
        self._made: dict[str, tuple[ConfinedIdentity, float]] = {}

    def __call__(self, name: str = "") -> ConfinedIdentity:
        """The identity of this name; two names are two users.

        Blocks: use `asyncio.to_thread` where the server runs in the test's own event loop.

        Raises:
            ConfigError: no URL or no proof is given, the system refuses the proof, or it is production.
            DependencyError: it does not answer, or takes no proof.
        """
        kept = self._made.get(name)
        if kept is not None and kept[1] - time.monotonic() > RENEW_BEFORE_S:
            return kept[0]
        if not self.base_url:
            raise ConfigError([f"No system under test is named. Set {URL_VARIABLE}, or give base_url."])
        proof = RunnerProof(
            key=self._key or self._environ.get(KEY_VARIABLE, ""),
            ci_token=self._ci_token or self._environ.get(CI_VARIABLE, ""),
        )
        if proof.kind == "none":
            raise ConfigError([NO_PROOF])
        made = run_blocking(self._exchanged(proof, name))
        self._made[name] = made
        return made[0]

    async def _exchanged(self, proof: RunnerProof, name: str) -> tuple[ConfinedIdentity, float]:
        system = SystemUnderTest(self.base_url, "staging", proof, test_run=self.test_run)
        await system.open()
        try:
            system.leave_production_alone()
            token, lives_s, run = await system.proved(name)
        finally:
            await system.close()
        identity = ConfinedIdentity(token=token, base_url=self.base_url, test_run=run)
        return identity, time.monotonic() + lives_s


def sign_in_page(page: Any, identity: ConfinedIdentity, *, storage_key: str = "") -> Any:
    """Sign a Playwright page in: its requests and WebSockets to the system carry the session's cookie.

    Call it before `page.goto`. With Playwright's async API, await the result. Other origins get nothing.

    Args:
        page: of either API.
        identity: from `StagingIdentities`.
        storage_key: also put the token in `localStorage` under this key, for pages that read it there.
    """
    cookies = page.context.add_cookies([identity.cookie])
    if not storage_key:
        return cookies
    parts = urlsplit(identity.base_url)
    origin, key, token = (
        msgspec.json.encode(text).decode()
        for text in (f"{parts.scheme}://{parts.netloc}", storage_key, identity.token)
    )
    stored = page.context.add_init_script(
        f"if (location.origin === {origin}) localStorage.setItem({key}, {token});"
    )
    return _both(cookies, stored) if hasattr(cookies, "__await__") else None


async def _both(first: Any, second: Any) -> None:
    await first
    await second
