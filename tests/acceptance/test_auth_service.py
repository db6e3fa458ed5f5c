"""`narthex auth serve` as a real process, and gateways that trust it: keys, rotation, introspection, an outage."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.testing import gateway
from tests.acceptance.program import READY_WITHIN_S, Program
from tests.services import PostgresServer, data_directory
from tests.timing import within

ADMIN_KEY = "admin-key-0123456789abcdef0123456789abcdef"


class AuthProgram(Program):
    """The lifecycle of a gateway with another command."""

    def command(self, *words: str) -> list[str]:
        found = super().command(*words)
        if words and words[0] == "serve":
            found.insert(found.index("serve"), "auth")
        return found


@contextlib.asynccontextmanager
async def auth_service(directory: Path, env: dict[str, str] | None = None) -> AsyncIterator[AuthProgram]:
    """A started service, ended afterwards."""
    program = AuthProgram(directory, {"NARTHEX_ADMIN_KEY": ADMIN_KEY, **(env or {})})
    try:
        await program.start()
        yield program
    finally:
        program.end()


async def verdict(http: str, token: str) -> dict[str, Any]:
    """The gateway's verdict on a token."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{http}/ws/preflight", headers={"Authorization": f"Bearer {token}"})
        found: dict[str, Any] = {"status": answer.status_code, **answer.json()}
        return found


async def test_a_gateway_trusts_the_service_through_its_keys(tmp_path: Path) -> None:
    """Discovery, a token of a user who signed in at the service, and one that `narthex token` minted for it."""
    async with auth_service(tmp_path) as service:
        token = await service.login("ada@example.com")
        async with gateway(
            tmp_path / "gateway", oidc_issuer=service.http, embedded_provider="off"
        ) as running:
            admitted = await verdict(running.http, token)
            assert admitted["status"] == 200, admitted
            assert admitted["user"]["id"].startswith("u-")
            # after a leak: the old key ends; a token of the new key is admitted without a restart
            done = service.run("keys", "rotate", "--now", "--data-dir", str(tmp_path / "data"))
            assert done.returncode == 0, done.stderr
            ends_at = time.monotonic() + within(30)
            while time.monotonic() < ends_at:
                fresh = await service.login("ada@example.com")
                if fresh.split(".")[0] != token.split(".")[0]:
                    break
                await asyncio.sleep(0.2)  # the service reads its store every 1.5 s
            assert (await verdict(running.http, fresh))["status"] == 200
            # the service dies: tokens that can be verified are still admitted
            service.kill()
            assert (await verdict(running.http, fresh))["status"] == 200


async def test_a_gateway_asks_the_service(tmp_path: Path) -> None:
    """Introspection: the gateway soon notices a logout at the service; an outage gives no verdict."""
    async with auth_service(tmp_path) as service:
        options: dict[str, Any] = {
            "introspection_url": f"{service.http}/auth/introspect",
            "introspection_client_id": "gateway",
            "introspection_client_secret": ADMIN_KEY,
            "embedded_provider": "off",
        }
        async with gateway(tmp_path / "gateway", **options) as running:
            token, gone = await service.login("ada@example.com"), await service.login("bob@example.com")
            assert (await verdict(running.http, token))["user"]["plan"] == "free"
            await service.post("/auth/logout", headers={"Authorization": f"Bearer {gone}"})
            assert (await verdict(running.http, gone))["code"] == "token_invalid"
            service.kill()
            assert (await verdict(running.http, token))["status"] == 200, "remembered for a moment"
            assert (await verdict(running.http, gone))["code"] == "auth_unavailable"


async def test_its_life(tmp_path: Path) -> None:
    """The service becomes ready, restarts on the same data with the same keys and stops in order; no log has
    secrets.
    """
    async with auth_service(tmp_path) as service:
        body = (await service.post("/auth/login", json={"email": "ada@example.com"})).json()
        keys = (await service.get("/.well-known/jwks.json")).json()
        assert (await service.get("/livez")).status_code == 200
        assert (await service.get("/readyz")).json() == {"status": "ready"}
        assert 'narthex_health_status{check="auth"} 0.0' in (await service.get("/metrics")).text
        foreign = await service.get("/auth/me", headers={"Host": "evil.example"})
        assert foreign.status_code == 400
        assert service.terminate() == 0
        await service.start()
        assert (await service.get("/.well-known/jwks.json")).json() == keys
        me = await service.get("/auth/me", headers={"Authorization": f"Bearer {body['access_token']}"})
        assert me.json()["id"] == body["user"]["id"]
        for secret in (body["access_token"], body["refresh_token"], ADMIN_KEY):
            assert all(secret[at : at + 8] not in service.log for at in range(len(secret) - 8) if at % 4 == 0)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"ENVIRONMENT": "production"}, "NARTHEX_ALLOWED_HOSTS"),
        ({"ENVIRONMENT": "nowhere"}, "ENVIRONMENT"),
        ({"NARTHEX_STORE_URL": "mysql://x"}, "NARTHEX_STORE_URL"),
    ],
)
def test_a_bad_configuration_is_78_before_the_port_opens(
    tmp_path: Path, env: dict[str, str], says: str
) -> None:
    """As for the gateway: every problem is reported with its remedy."""
    done = AuthProgram(tmp_path, env).run("serve", "--port", "0", timeout_s=READY_WITHIN_S)
    assert done.returncode == 78, done.stderr
    assert says in done.stderr


async def test_the_service_waits_for_its_store(tmp_path: Path) -> None:
    """Started before PostgreSQL it reports `starting`, then sign-in works; SIGTERM while it waits ends it in order."""
    with data_directory("late-auth") as data:
        store = PostgresServer(data / "pg")
        await asyncio.to_thread(store.initialise)
        program = AuthProgram(tmp_path, {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_STORE_URL": store.url})
        try:
            program.spawn()
            await status_becomes(program, 503)
            assert (await program.get("/livez")).status_code == 200
            assert (await program.get("/readyz")).json()["reasons"] == ["starting"]
            assert (await program.get("/.well-known/jwks.json")).json()["code"] == "starting"
            assert await asyncio.to_thread(program.terminate, within(15)) == 0
            program.spawn()
            await status_becomes(program, 503)
            await asyncio.to_thread(store.start)
            began = time.monotonic()
            await status_becomes(program, 200)
            assert time.monotonic() - began < within(2)
            assert await program.login("ada@example.com")
        finally:
            program.end()
            store.stop()


async def status_becomes(program: Program, status: int) -> None:
    """Wait until `/readyz` answers with this status."""
    async with asyncio.timeout(within(20)):
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if (await program.get("/readyz")).status_code == status:
                    return
            await asyncio.sleep(0.05)
