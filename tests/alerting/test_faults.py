"""Induced faults on the real program reach a webhook through a real Prometheus and Alertmanager, and resolve.

Times are compressed (`stack.SCALE`): a rule's five minutes are 1.5 s. A fault is kept up until its alert arrived, then
mended, and the alert's end must arrive too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.adapters.telemetry import alert_rules
from narthex.adapters.telemetry.runbooks import find
from tests.acceptance.program import Program
from tests.alerting.keys import Issuer
from tests.alerting.load import Load
from tests.alerting.stack import RUNBOOKS, Stack, stack
from tests.services import NatsServer
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

KEY = "an-end-to-end-key-for-the-alerts-0123456"
ADMIN = "an-admin-key-for-the-alerts-0123456789"
ROOT = Path(__file__).parents[2]
AGENTS = ("fails", "blocks")
LIMITS = ("NARTHEX_MAX_CONNECTIONS", "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED")

CHOSEN = {
    "keys_stale_s": "4",
    "queued_s": "1",
    "min_connections": "0",
    "connections_share": "0.5",
    "wrong_keys": "2",
    "min_runs": "1",
    "bypass_environments": "production",
    "test_hours_from": "24",
    "test_hours_to": "0",
    "probe_silent_s": "20",
    "slow_closes": "0",
    "buffer_share": "0.0004",
}
"""Thresholds at which a test's small load is a fault."""


class Faults:
    """Faults that go on until `mend`, as tasks owned here."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, fault: Callable[[], Awaitable[object]], pause_s: float) -> None:
        """Repeat a fault; its own errors are expected while things are broken."""

        async def again() -> None:
            while True:
                with contextlib.suppress(OSError, httpx2.HTTPError, TimeoutError, AssertionError):
                    await fault()
                await asyncio.sleep(pause_s)

        self._tasks.append(asyncio.get_running_loop().create_task(again()))

    async def mend(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


class Site:
    """A gateway with everything that can break: an issuer, a broker, agents, tests; and a second one."""

    def __init__(self, directory: Path) -> None:
        for name in ("nats", "gateway", "idle"):
            (directory / name).mkdir()
        self.nats = NatsServer(directory / "nats")
        self.issuer = Issuer(certificate_days=3)
        self.gateway = Program(directory / "gateway", {})
        self.idle = Program(directory / "idle", {})
        self.faults = Faults()
        self.load = Load()

    async def start(self) -> None:
        """Start all, broken where a setting is the fault: test identities, an ending certificate, few connections."""
        self.nats.start()
        await self.issuer.start()
        self.gateway.env = {
            "ENVIRONMENT": "testing",
            "E2E_OAUTH_SIMULATION_KEY": KEY,
            "NARTHEX_ADMIN_KEY": ADMIN,
            "NARTHEX_BROKER_URL": self.nats.url,
            "NARTHEX_MAX_CONNECTIONS": "20",
            "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED": "20",
            "PYTHONPATH": str(ROOT),
            **self.issuer.environ,
        }
        words = [f"--agent=tests.alerting.agents:{name}" for name in AGENTS]
        self.gateway.arguments = tuple(words)
        await asyncio.gather(self.gateway.start(), self.idle.start())

    async def heal(self) -> None:
        """The faults end; a sound issuer, the broker, and settings without tests."""
        await self.faults.mend()
        await asyncio.gather(*(client.close() for client in self.load.clients), return_exceptions=True)
        self.load.clients.clear()
        await asyncio.to_thread(self.gateway.end)
        sound = Issuer(certificate_days=90)
        sound.port = self.issuer.port
        with contextlib.suppress(Exception):
            await self.issuer.stop()
        self.issuer = sound
        await sound.start()
        if not self.nats.running:
            self.nats.start()
        for variable in ("E2E_OAUTH_SIMULATION_KEY", *LIMITS):
            self.gateway.env.pop(variable, None)
        if self.idle.process is not None and self.idle.process.poll() is None:
            await asyncio.to_thread(self.idle.end)
        await asyncio.gather(self.gateway.start(), self.idle.start())
        await self._report(passed=1_000, failed=0)  # of six hours, which are 108 s here

    async def _report(self, *, passed: int, failed: int) -> None:
        """A runner's report."""
        body = {"test_run": f"alerts-{passed}", "passed": passed, "failed": failed}
        headers = {"Authorization": f"Bearer {ADMIN}"}
        answer = await self.gateway.post("/api/v1/e2e/results", headers=headers, json=body)
        assert answer.status_code == 200, answer.text

    async def stop(self) -> None:
        """End everything."""
        await self.faults.mend()
        await self.load.__aexit__(None, None, None)
        for program in (self.gateway, self.idle):
            await asyncio.to_thread(program.end)
        with contextlib.suppress(Exception):
            await self.issuer.stop()
        self.nats.stop()

    # -- faults --------------------------------------------------------------------------------------------

    def break_credentials(self) -> None:
        """Bad tokens, tokens of a key that only an issuer that is away knows, wrong test keys."""
        url, issuer, load = self.gateway.ws, self.issuer, self.load
        self.faults.keep(lambda: load.touch(url, "no-token", 6), 0.1)
        self.faults.keep(lambda: load.touch(url, issuer.token(kid="rotated"), 4), 0.1)
        self.faults.keep(lambda: load.shake(url, {"X-E2E-Bypass-Key": "wrong" * 8}), 0.2)

    async def admit_tests(self) -> None:
        """Test identities come and go, and report failures."""
        headers = {"X-E2E-Bypass-Key": KEY, "X-E2E-Test-Run": "alerts"}

        async def admit() -> None:
            socket = await self.load.shake(self.gateway.ws, headers)
            if socket is not None:
                await socket.close()

        await self._report(passed=1, failed=3)  # one report is all that there is after a deploy
        self.faults.keep(admit, 0.5)

    async def fail_runs(self, agent: str = "fails") -> None:
        """Runs of a broken agent, one after another."""
        client = await self.load.join(self.gateway.ws, self.issuer.token("ada"))
        thread_id = (await client.rpc("thread.create"))["thread_id"]
        await client.call("subscribe", channel=f"thread:{thread_id}")
        self.faults.keep(lambda: client.run(f"@{agent} go", thread_id), 0.05)

    async def queue_runs(self) -> None:
        """A run that no node starts."""
        client = await self.load.join(self.idle.ws, self.idle.token("ada"))
        thread_id = (await client.rpc("thread.create"))["thread_id"]
        await client.rpc("run.start", text="hi", thread_id=thread_id, client_message_id="m")

    async def crowd(self, count: int) -> None:
        """Connections near the limit; `heal` closes them."""
        for number in range(count):
            await self.load.join(self.gateway.ws, self.issuer.token(f"user-{number}"))

    def break_broker(self) -> None:
        """The broker dies; health and clients ask."""
        self.nats.kill()
        self.faults.keep(lambda: self.gateway.get("/ws/health", timeout=5), 0.2)


@contextlib.asynccontextmanager
async def broken_site(directory: Path) -> AsyncIterator[tuple[Site, Stack]]:
    """A site and its stack; nothing fires yet but what its settings break."""
    site = Site(directory)
    try:
        await site.start()
        targets = [f"127.0.0.1:{program.port}" for program in (site.gateway, site.idle)]
        async with stack(directory / "prometheus", {"narthex": targets, "probe": []}, CHOSEN) as prometheus:
            yield site, prometheus
    finally:
        await site.stop()


def names_its_runbook(fired: Mapping[str, Any]) -> bool:
    """Whether a notification leads to a page that exists."""
    alert = find(fired["annotations"]["runbook"].removeprefix(alert_rules.EXPLAIN))
    return alert is not None and fired["annotations"]["runbook_url"] == f"{RUNBOOKS}{alert.slug}"


async def test_faults_reach_the_webhook_and_resolve(tmp_path: Path) -> None:
    """Issuer and broker away, bad tokens, wrong keys, failing agents and tests, a full instance, a dead one."""
    async with broken_site(tmp_path) as (site, prometheus):
        hook, patience = prometheus.webhook, within(40)
        await site.crowd(11)
        await site.fail_runs()
        await site.admit_tests()
        first = {
            *("NarthexBypassActive", "NarthexTestsOutsideHours", "NarthexTestsFailing", "NarthexKeyExpiring"),
            *(
                "NarthexConnectionsNearLimit",
                "NarthexRunsFailing",
                "NarthexRunsBurnFast",
                "NarthexRunsBurnSlow",
            ),
        }
        await hook.wait(first, timeout_s=patience)
        await site.issuer.stop()
        site.break_credentials()
        second = {
            *("NarthexBreakerOpen", "NarthexHandshakesFailing", "NarthexConnectBurnFast", "NarthexKeysStale"),
            *("NarthexHandshakesRefused", "NarthexTokenExtractionFailing", "NarthexWrongTestKeys"),
            "NarthexConnectBurnSlow",
        }
        await hook.wait(second, timeout_s=patience)
        await asyncio.gather(*(client.close() for client in site.load.clients[:12]))
        site.break_broker()
        await asyncio.to_thread(site.idle.kill)
        third = {"NarthexConnectionsFell", "NarthexDown", "NarthexUnhealthy", "NarthexEngineFailing"}
        await hook.wait(third, timeout_s=patience)
        assert all(names_its_runbook(hook.fired[name]) for name in first | second | third)
        await site.heal()
        await hook.wait(first | second | third, resolved=True, timeout_s=within(60))
