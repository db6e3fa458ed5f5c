"""`/ws/verify` behind the real proxies, each with the configuration of docs/guard-verify.md, before a Node server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from narthex.domain.identity import Identity
from narthex.settings import load
from narthex.web.tickets import issue_ticket
from narthex.wiring.engines import make_shared_store
from tests.acceptance.program import Program
from tests.guard.cores import SECRET, token
from tests.guard.process import NodeServer, node_server, request_of
from tests.guard.proxies import PROXIES, verifying_proxy

pytestmark = pytest.mark.acceptance

KEY = "an-end-to-end-key-of-32-characters"


@pytest.fixture(scope="module")
def node() -> Iterator[NodeServer]:
    with node_server() as server:
        yield server


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """`narthex guard --verify-only`, which trusts proxies on this machine."""
    env = {
        "ENVIRONMENT": "testing",
        "NARTHEX_JWT_SECRET": SECRET,
        "NARTHEX_JWT_TENANT": "default",
        "NARTHEX_TRUSTED_PROXIES": "127.0.0.1",
        "E2E_OAUTH_SIMULATION_KEY": KEY,
    }
    program = Program(tmp_path_factory.mktemp("verify"), env, ("--verify-only",), serving="guard")
    try:
        asyncio.run(program.start())
        yield program
    finally:
        program.end()


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxy(
    request: pytest.FixtureRequest, guard: Program, node: NodeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a proxy that asks the guard."""
    folder = tmp_path_factory.mktemp(request.param)
    with verifying_proxy(request.param, folder, guard=guard.port, upstream=node.port) as port:
        yield port


def through(port: int, path: str = "/ws", **headers: str) -> connect:
    """A connection through the proxy."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    origin: Any = named.pop("Origin", None)
    return connect(f"ws://127.0.0.1:{port}{path}", additional_headers=named, origin=origin, proxy=None)


async def refused(port: int, path: str = "/ws", **headers: str) -> tuple[int, str]:
    """Status and code of a handshake that must fail."""
    with pytest.raises(InvalidStatus) as caught:
        async with through(port, path, **headers):
            pass
    body = json.loads(caught.value.response.body or b"{}")
    return caught.value.response.status_code, body.get("code", "")


async def test_an_admitted_client_reaches_the_server_with_its_identity(guard: Program, proxy: int) -> None:
    """The headers are the guard's, also where the client sent some of its own; its credential is gone."""
    forged = {"Narthex_Subject": "eve", "Narthex_Test_Run": "run-6", "Narthex_Assertion": "a.b.c"}
    async with through(proxy, "/ws?room=1", Authorization=f"Bearer {token('änn')}", **forged) as socket:
        seen = await request_of(socket)
        await socket.send("hello")
        assert await socket.recv() == "hello"
    headers = seen["headers"]
    assert seen["url"] == "/ws?room=1"
    assert headers["narthex-subject"] == "%C3%A4nn"
    assert headers["narthex-tenant"] == "default"
    assert headers.get("narthex-test-run", "") == ""
    assert "authorization" not in headers
    keys = (await guard.get("/.well-known/jwks.json")).json()["keys"]
    claims = jwt.decode(headers["narthex-assertion"], jwt.PyJWK(keys[0]), audience="upstream")
    assert claims["sub"] == "änn"


async def test_a_test_identity_by_the_key(proxy: int) -> None:
    """Its run is named to the server, its key is not."""
    async with through(proxy, X_E2E_Bypass_Key=KEY, X_E2E_Test_Run="run-7") as socket:
        headers = (await request_of(socket))["headers"]
    assert (headers["narthex-tenant"], headers["narthex-test-run"]) == ("e2e", "run-7")
    assert KEY not in json.dumps(headers)


async def test_refusals_reach_the_client(proxy: int) -> None:
    """Status and code of 401, 400 and 403 alike, and the server behind sees nothing of them."""
    bearer = f"Bearer {token()}"
    assert await refused(proxy) == (401, "auth_required")
    assert await refused(proxy, Authorization=f"Bearer {token(ttl_s=-100)}") == (401, "token_expired")
    assert await refused(proxy, Authorization=f"Bearer {token(secret='x' * 32)}") == (401, "token_invalid")
    assert await refused(proxy, Authorization=bearer, Origin="https://evil.example") == (
        403,
        "origin_not_allowed",
    )
    assert await refused(proxy, f"/ws?access_token={token()}") == (400, "credential_in_url")
    assert await refused(proxy, Authorization=bearer, X_E2E_Bypass_Key=KEY) == (400, "credential_conflict")


async def test_the_cookie_of_a_page_of_the_same_origin(proxy: int) -> None:
    """`Host` reaches the guard as the client sent it, so that the proxy's own origin is the same one."""
    cookie, origin = f"narthex_session={token('cookie')}", f"http://127.0.0.1:{proxy}"
    async with through(proxy, Cookie=cookie, Origin=origin) as socket:
        assert (await request_of(socket))["headers"]["narthex-subject"] == "cookie"
    assert (await refused(proxy, Cookie=cookie))[0] == 403


async def test_a_ticket_of_the_clients_url_counts_once(guard: Program, proxy: int) -> None:
    """The proxy tells the original URI; the second use is refused."""
    data = guard.directory / "data"
    store = make_shared_store(load({"data_dir": data}, {"ENVIRONMENT": "testing"}, parts={"store"}))
    await store.start()
    try:
        ticket = await issue_ticket(store.credentials, Identity(subject="ticket"), time.time())
    finally:
        await store.stop()
    async with through(proxy, f"/ws?ticket={ticket}") as socket:
        assert (await request_of(socket))["headers"]["narthex-subject"] == "ticket"
    assert await refused(proxy, f"/ws?ticket={ticket}") == (401, "ticket_invalid")


async def test_preflight_passes(proxy: int) -> None:
    """A page can ask why it was refused."""
    async with httpx2.AsyncClient(trust_env=False) as web:
        answer = await web.get(f"http://127.0.0.1:{proxy}/ws/preflight")
    assert (answer.status_code, answer.json()["code"]) == (401, "auth_required")


async def test_refusals_as_403(guard: Program) -> None:
    """The one status that nginx passes on, with the refusal's own beside it."""
    answer = await guard.get("/ws/verify?refusals=403", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 403
    assert answer.headers["narthex-status"] == "401"
    assert answer.headers["narthex-code"] == answer.json()["code"] == "token_malformed"
    assert (await guard.get("/ws/verify")).status_code == 401


async def test_two_hosts_that_differ_are_not_believed(guard: Program) -> None:
    """A proxy sets one of the headers and passes the other on, which may be the client's own: neither counts."""
    headers = {"Authorization": f"Bearer {token()}", "X-Original-URI": "/ws", "X-Original-Host": "127.0.0.1"}
    assert (await guard.get("/ws/verify", headers=headers)).status_code == 204
    answer = await guard.get("/ws/verify", headers=headers | {"X-Forwarded-Host": "elsewhere.example"})
    assert answer.status_code in (400, 403), answer.text
    assert "narthex-subject" not in answer.headers


async def test_two_uris_that_differ_are_not_believed(guard: Program) -> None:
    """The ticket of a URI counts only where no second header names another."""
    headers = {"Authorization": f"Bearer {token()}"}
    ticket = (await guard.post("/ws/ticket", headers=headers)).json()["ticket"]
    asked = {"X-Original-URI": f"/ws?ticket={ticket}"}
    answer = await guard.get("/ws/verify", headers=asked | {"X-Forwarded-Uri": "/ws?ticket=another"})
    assert (answer.status_code, answer.json()["code"]) == (401, "auth_required")
    assert (await guard.get("/ws/verify", headers=asked)).status_code == 204


async def test_a_client_s_own_words_do_not_count_from_others_than_proxies(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Without a trusted proxy neither the URI nor the Host of a header is believed."""
    env = {"ENVIRONMENT": "testing", "NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_TENANT": "default"}
    program = Program(tmp_path_factory.mktemp("untrusting"), env, ("--verify-only",), serving="guard")
    try:
        await program.start()
        headers = {"Authorization": f"Bearer {token()}"}
        uri = {"X-Original-URI": f"/ws?access_token={token()}"}
        assert (await program.get("/ws/verify", headers=headers | uri)).status_code == 204
        page = {
            "Origin": "https://evil.example",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
        }
        answer = await program.get("/ws/verify", headers=headers | page)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
    finally:
        program.end()
