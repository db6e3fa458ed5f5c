"""End-to-end tests enter staging as confined test identities, not through a bypass of authentication; no log has the
key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.program import Program, running
from tests.acceptance.sdk import person

pytestmark = pytest.mark.acceptance

KEY = "test-key"
STAGING = {
    "ENVIRONMENT": "staging",
    "E2E_TEST_ENV": "staging",
    "E2E_OAUTH_SIMULATION_KEY": KEY,
    "NARTHEX_HOST": "127.0.0.1",
    "NARTHEX_LOG_LEVEL": "debug",
    "NARTHEX_JWT_SECRET": "not-the-e2e-key-but-a-jwt-secret-0123456789",
    "NARTHEX_EMBEDDED_PROVIDER": "on",
}


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Program]:
    async with running(tmp_path, STAGING) as program:
        yield program
        assert KEY not in program.log.replace("E2E_OAUTH_SIMULATION_KEY", "")


async def test_health_shows_what_the_server_sees(staging: Program) -> None:
    """The published sample response, member by member."""
    answer = await staging.get("/ws/health")
    assert answer.status_code == 200
    body = answer.json()
    assert body["config"]["pre_connection_auth_required"] is False
    assert body["e2e_testing"]["enabled"] is True
    assert body["e2e_testing"]["variables"] == {"E2E_OAUTH_SIMULATION_KEY": "SET", "E2E_TEST_ENV": "staging"}
    assert body["e2e_testing"]["auth_bypass_active"] is True
    assert body["checks"]["handshake"]["status"] == "healthy"


async def test_the_key_makes_a_test_identity_that_chats(staging: Program) -> None:
    """Tenant e2e, the named test run, and a run with its digest."""
    headers = {"X-E2E-Bypass-Key": KEY, "X-E2E-Test-Run": "run-7"}
    async with person(staging.ws, headers=headers) as tester:
        me = await tester.rpc("whoami")
        assert (me["tenant"], me["user"], me["e2e"], me["test_run"]) == ("e2e", "e2e:run-7", True, "run-7")
        thread_id = (await tester.rpc("thread.create"))["thread_id"]
        await tester.follow(thread_id)
        run = await tester.start("echo from the test", thread_id)
        assert (await tester.finished(thread_id, run["run_id"]))["type"] == "RUN_FINISHED"
    assert "e2e_admission" in (await staging.get("/metrics")).text


async def test_the_exchange_gives_a_token_that_chats_in_band(staging: Program) -> None:
    """POST /auth/e2e/test-auth, then the token in the first connect of an inert connection."""
    answer = await staging.post(
        "/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": KEY}, json={"test_run": "ci-1"}
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 900
    async with person(staging.ws, body["access_token"], in_band=True) as tester:
        me = await tester.rpc("whoami")
        assert (me["tenant"], me["e2e"], me["test_run"]) == ("e2e", True, "ci-1")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, "{}", 401),
        ({"X-E2E-Bypass-Key": "wrong"}, "{}", 401),
        ({"X-E2E-Bypass-Key": KEY}, "[]", 422),
        ({"X-E2E-Bypass-Key": KEY}, '{"permissions":["admin"]}', 422),
    ],
)
async def test_the_exchange_refuses(
    staging: Program, headers: dict[str, str], body: str, status: int
) -> None:
    """No key, a wrong key, a bad body, permissions requested by the caller."""
    answer = await staging.post("/auth/e2e/test-auth", headers=headers, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


async def test_nothing_gets_nothing_and_is_closed_with_a_reason(staging: Program) -> None:
    """An upgrade without a credential is inert: connect without a token gets 3500, any other command 3501."""
    async with connect(staging.ws, proxy=None) as bare:
        await bare.send('{"id":1,"connect":{}}')
        with pytest.raises(ConnectionClosed):
            await bare.recv()
        assert bare.close_code == 3500
        assert bare.close_reason
    async with connect(staging.ws, proxy=None) as bare:
        await bare.send('{"id":1,"rpc":{"method":"whoami"}}')
        with pytest.raises(ConnectionClosed):
            await bare.recv()
        assert bare.close_code == 3501


async def test_silence_is_closed_3502(tmp_path: Path) -> None:
    """After the in-band time, which a setting shortens here."""
    async with (
        running(tmp_path, STAGING | {"NARTHEX_INBAND_TIMEOUT_S": "0.5"}) as program,
        connect(program.ws, proxy=None) as bare,
    ):
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(bare.recv(), 10)
        assert bare.close_code == 3502
        assert "silence" in str(bare.close_reason)


async def test_wrong_keys_are_limited_on_every_surface_together(staging: Program) -> None:
    """Ten per minute and address; exchange and handshake are counted together."""
    for number in range(10):
        if number % 2:
            answer = await staging.post("/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": "wrong"}, json={})
            assert answer.status_code == 401
        else:
            with pytest.raises(InvalidStatus) as caught:
                await connect(staging.ws, additional_headers={"X-E2E-Bypass-Key": "wrong"}, proxy=None)
            assert caught.value.response.status_code == 401
            assert json.loads(caught.value.response.body or b"")["code"] == "e2e_key_wrong"
    answer = await staging.post("/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": "wrong"}, json={})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    with pytest.raises(InvalidStatus) as caught:
        await connect(staging.ws, additional_headers={"X-E2E-Bypass-Key": "wrong"}, proxy=None)
    assert caught.value.response.status_code == 429


async def test_a_test_identity_sees_no_other_tenant(staging: Program) -> None:
    """A user's token sent together with the key is a conflict."""
    ada = staging.token("ada")
    async with person(staging.ws, ada) as somebody:
        thread_id = (await somebody.rpc("thread.create"))["thread_id"]
        async with person(staging.ws, headers={"X-E2E-Bypass-Key": KEY}) as tester:
            with pytest.raises(Exception, match="thread_not_found"):
                await tester.rpc("thread.get", thread_id=thread_id)
            with pytest.raises(Exception, match="unsubscribed"):
                await tester.follow(thread_id)
    both = {"X-E2E-Bypass-Key": KEY, "Authorization": f"Bearer {ada}"}
    with pytest.raises(InvalidStatus) as caught:
        await connect(staging.ws, additional_headers=both, proxy=None)
    assert json.loads(caught.value.response.body or b"")["code"] == "credential_conflict"


async def test_without_a_key_there_is_no_bypass(tmp_path: Path) -> None:
    """E2E_TEST_ENV alone has no effect; health gives the reason."""
    env = {name: value for name, value in STAGING.items() if name != "E2E_OAUTH_SIMULATION_KEY"}
    async with running(tmp_path, env) as program:
        body = (await program.get("/ws/health")).json()
        assert body["e2e_testing"]["auth_bypass_active"] is False
        assert body["e2e_testing"]["reason"] == "E2E_OAUTH_SIMULATION_KEY is not set"
        assert body["config"]["pre_connection_auth_required"] is True
        with pytest.raises(InvalidStatus) as caught:
            await connect(program.ws, proxy=None)
        assert caught.value.response.status_code == 401
        assert (
            await program.post("/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": KEY}, json={})
        ).status_code == 503
