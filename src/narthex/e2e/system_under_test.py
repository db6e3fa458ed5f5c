"""The system under test for a scenario: its URL, its proof, and the threads that may be touched.

Not here: starting a local staging (`staging`). Rules: the *runner* sends the proof (the key, CI's token, or a
given token); proofs never appear in a report; in production only threads of the token's user are touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx2
import msgspec

from narthex.domain import endpoints
from narthex.e2e.scenario_client import HandshakeRefused, RpcFault, ScenarioClient
from narthex.e2e.skipping import SkipScenario
from narthex.e2e.traffic import current
from narthex.errors import ConfigError, DependencyError

KEY_HEADER: Final = "X-E2E-Bypass-Key"
AUDIENCE: Final = "narthex"
CALLBACK: Final = "http://127.0.0.1/callback"
RENEW_BEFORE_S: Final = 120.0
GONE: Final = 404
Restart = Callable[[], Awaitable[int]]


class RunnerProof(msgspec.Struct, frozen=True, kw_only=True):
    """The runner's proof. Exactly one is used: token, then key, then CI's token. Its repr shows none."""

    key: str = ""
    ci_token: str = ""
    token: str = ""

    def __repr__(self) -> str:
        """The kind of proof, not its value."""
        return f"Proof({self.kind})"

    @property
    def kind(self) -> str:
        """`token`, `key`, `ci` or `none`."""
        return "token" if self.token else "key" if self.key else "ci" if self.ci_token else "none"


def ws_url_of(url: str) -> str:
    """The WebSocket URL of the gateway at an `http(s)://` URL."""
    return url.replace("http", "ws", 1) + endpoints.WEBSOCKET


class GatewayHandle(msgspec.Struct, kw_only=True):
    """One gateway of a local staging, with the facts that only its starter has."""

    url: str
    pid: int
    restart: Restart

    @property
    def ws_url(self) -> str:
        """The URL of its WebSocket endpoint."""
        return ws_url_of(self.url)

    async def again(self) -> None:
        """Start it again on its port, from any state."""
        self.pid = await self.restart()


class SystemUnderTest:
    """The system under test; see the module.

    Args:
        base_url: `http(s)://host[:port]` of the system under test (its proxy, if there is one).
        environment: `local`, `staging` or `production`.
        proof: see `RunnerProof`.
        test_run: names this run; the subject of its identities.
        gateways: of a local staging; empty for a deployed system.
        issuer_url: of a local staging's OIDC issuer, for users of another tenant; empty without one.
    """

    def __init__(
        self,
        base_url: str,
        environment: str,
        proof: RunnerProof,
        *,
        test_run: str = "",
        gateways: tuple[GatewayHandle, ...] = (),
        issuer_url: str = "",
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.ws_url = ws_url_of(self.base_url)
        self.environment = environment
        self.proof = proof
        self.test_run = test_run or f"run-{uuid.uuid4().hex[:12]}"
        self.gateways = gateways
        self.issuer_url = issuer_url
        self.health: dict[str, Any] = {}
        self.made: dict[str, list[str]] = {}
        self.versions: dict[str, str] = {}
        self._tokens: dict[str, tuple[str, float]] = {}
        self._http: httpx2.AsyncClient | None = None

    # -- HTTP ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the system before the first scenario. Raises DependencyError when nothing answers."""
        self._http = httpx2.AsyncClient(base_url=self.base_url, timeout=15, trust_env=False)
        try:
            self.health = health = (await self.get("/ws/health")).json()
            if health["service"] != "narthex":
                raise ValueError("another service")
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, LookupError, TypeError) as fault:
            await self.close()
            raise DependencyError(
                "target",
                f"{self.base_url} does not respond like a narthex ({type(fault).__name__}).",
                "Check --base-url, or run `narthex doctor` on it.",
            ) from fault
        self.versions = {"narthex": str(health.get("version")), "environment": str(health.get("environment"))}

    async def close(self) -> None:
        """Close it after the last scenario."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Any request to the system under test, counted."""
        assert self._http is not None
        traffic = current()
        answer = await self._http.request(method, path, **options)
        traffic.out(len(path) + len(answer.request.content or b""))
        traffic.back(max(1, len(answer.content)), self.base_url)
        return answer

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        """GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        """POST."""
        return await self.request("POST", path, **options)

    # -- proof ---------------------------------------------------------------------------------------------

    async def token(self, who: str = "") -> str:
        """A token of the running scenario's identity, or of one of its other users. Renewed before it ends."""
        return await self._token(self._run_of(who))

    async def check_proof(self) -> None:
        """Find out before the first scenario whether the proof is accepted. Raises ConfigError, DependencyError."""
        if not self.proof.token:
            await self.proved()

    async def proved(self, who: str = "") -> tuple[str, float, str]:
        """The token of a new identity, its life in seconds, and its test run. Raises ConfigError, DependencyError."""
        run = self._run_of(who)
        try:
            answer = await self._exchange(run)
        except httpx2.HTTPError as fault:
            raise DependencyError(
                "target",
                f"The simulation exchange of {self.base_url} does not respond ({type(fault).__name__}).",
                "Run `narthex doctor` on it.",
            ) from fault
        code = _code_of(answer)
        if answer.status_code in (401, 403) and code:
            raise ConfigError(
                [
                    f"{self.base_url} rejects this credential ({self.proof.kind}): {code}. Give one that it accepts."
                ]
            )
        if answer.status_code == 429:
            raise DependencyError(
                "target",
                f"{self.base_url} accepts no more keys from this address for now, after too many wrong ones.",
                f"Wait {answer.headers.get('retry-after', '60')} s.",
            )
        if answer.status_code != 200:
            raise DependencyError(
                "target",
                f"The simulation exchange of {self.base_url} answers {answer.status_code}"
                + (f" {code}." if code else ", which is not a narthex's answer."),
                "Set E2E_OAUTH_SIMULATION_KEY on the system under test, and let proxies in front of it forward "
                "/auth/e2e/test-auth; see docs/testing.md.",
            )
        body = answer.json()
        return str(body["access_token"]), float(body["expires_in"]), run

    def leave_production_alone(self) -> None:
        """Refuse to test production unless production was requested. Raises ConfigError."""
        if self.health.get("environment") == "production" and self.environment != "production":
            asked = "Give --env production --allow-production --token, or another --base-url."
            raise ConfigError([f"{self.base_url} reports that it is production. {asked}"])

    def _run_of(self, who: str) -> str:
        """The test run of `who`'s identity: each scenario has its own users."""
        if self.proof.token and who:
            raise SkipScenario("a single token is a single user")
        return "-".join(part for part in (self.test_run, current().label, who) if part)

    async def _token(self, run: str) -> str:
        if self.proof.token:
            return self.proof.token
        kept = self._tokens.get(run)
        if kept is not None and kept[1] - time.monotonic() > RENEW_BEFORE_S:
            return kept[0]
        answer = await self._exchange(run)
        if answer.status_code != 200:
            raise AssertionError(
                f"the simulation exchange answered {answer.status_code}: {answer.text[:300]}"
            )
        body = answer.json()
        self._tokens[run] = (body["access_token"], time.monotonic() + body["expires_in"])
        return str(body["access_token"])

    async def _exchange(self, run: str) -> httpx2.Response:
        proof = self.proof
        headers = {KEY_HEADER: proof.key} if proof.key else {"Authorization": f"Bearer {proof.ci_token}"}
        return await self.post("/auth/e2e/test-auth", headers=headers, json={"test_run": run})

    async def issuer_user(self, subject: str) -> dict[str, str]:
        """The Authorization header of a user of the local staging's issuer, who is not of tenant `e2e`."""
        query = f"response_type=code&client_id={AUDIENCE}&redirect_uri={CALLBACK}&scope=openid"
        async with httpx2.AsyncClient(base_url=self.issuer_url, timeout=15, trust_env=False) as browser:
            back = await browser.post(f"/oauth2/authorize?{query}", data={"sub": subject})
            code = parse_qs(urlsplit(str(back.headers["location"])).query)["code"][0]
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
            answer = await browser.post(
                "/oauth2/token", data=form, auth=(AUDIENCE, secrets.token_urlsafe(16))
            )
        return {"Authorization": f"Bearer {answer.json()['id_token']}"}

    async def headers(self, who: str = "") -> dict[str, str]:
        """The Authorization header of a user of this test run."""
        return {"Authorization": f"Bearer {await self.token(who)}"}

    async def upgrade(
        self,
        headers: dict[str, str] | None = None,
        *,
        to: str = "",
        origin: str | None = None,
        subprotocols: list[str] | None = None,
    ) -> ScenarioClient:
        """Upgrade only, without `connect`, at the WebSocket URL extended by `to`. Raises HandshakeRefused."""
        url = self.ws_url + to
        return await ScenarioClient.try_connect(url, headers, origin=origin, subprotocols=subprotocols)

    async def refused(
        self, otherwise: str, headers: dict[str, str] | None = None, **how: Any
    ) -> HandshakeRefused:
        """The refusal of an `upgrade`. Raises AssertionError with `otherwise` when it succeeds."""
        try:
            await self.upgrade(headers, **how)
        except HandshakeRefused as refused:
            return refused
        raise AssertionError(otherwise)

    @contextlib.asynccontextmanager
    async def client(self, who: str = "", *, url: str = "") -> AsyncIterator[ScenarioClient]:
        """A connected user of the running scenario; `url` replaces the system's URL."""
        client = await self.device(who, url=url)
        try:
            yield client
        finally:
            await client.close()

    async def device(self, who: str = "", *, url: str = "") -> ScenarioClient:
        """As `client`, without an end: the runner drops it after the scenario."""
        return await self._device(self._run_of(who), url or self.ws_url)

    async def _device(self, run: str, url: str) -> ScenarioClient:
        headers = {"Authorization": f"Bearer {await self._token(run)}"}
        client = await ScenarioClient.try_connect(url, headers)
        client.made = self.made.setdefault(run, [])
        try:
            await client.connect()
        except BaseException:
            client.drop()
            raise
        return client

    async def tidy(self) -> list[str]:
        """Delete the threads that users of this run made; returns those that could not be deleted."""
        left: list[str] = []
        made, self.made = self.made, {}
        for run, threads in made.items():
            if not threads:
                continue
            try:
                client = await self._device(run, self.ws_url)
                for thread_id in threads:
                    try:
                        await client.rpc("thread.delete", thread_id=thread_id)
                    except RpcFault as fault:
                        if fault.code != GONE:  # a scenario deleted it itself
                            left.append(thread_id)
                await client.close()
            except (AssertionError, OSError, httpx2.HTTPError):
                left += threads
        return left

    # -- faults --------------------------------------------------------------------------------------------

    def need_gateways(self) -> tuple[GatewayHandle, ...]:
        """The gateways' processes, for scenarios that kill one. Skips unless the runner started two gateways."""
        if len(self.gateways) < 2:
            raise SkipScenario("only a local staging with two gateways may kill one")
        return self.gateways

    def need_key(self) -> str:
        """The simulation key. Skips where the runner proves itself otherwise."""
        if not self.proof.key:
            raise SkipScenario("this run authenticates without the simulation key")
        return self.proof.key

    def hide(self, text: str) -> str:
        """`text` without any proof that this run holds, for reports."""
        held = (
            self.proof.key,
            self.proof.ci_token,
            self.proof.token,
            *(kept for kept, _ in self._tokens.values()),
        )
        for secret in held:
            if secret:
                text = text.replace(secret, "[proof]")
        return text

    @staticmethod
    def kill(gateway: GatewayHandle) -> None:
        """`kill -9`."""
        os.kill(gateway.pid, signal.SIGKILL)


def _code_of(answer: httpx2.Response) -> str:
    """The code of a problem+json answer; empty for any other answer."""
    try:
        body = answer.json()
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) else ""
