"""`narthex.Guard` around unmodified applications, under unmodified servers, with real clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.guard.cores import token
from tests.guard.matrices import KEY, attempted
from tests.guard.servers import Running, serving
from tests.guard.targets import Target
from tests.timing import within

pytestmark = pytest.mark.acceptance
ADMIN = "admin-key-0123456789abcdef"

PAIRS = [
    ("uvicorn-websockets", "fastapi"),
    ("uvicorn-wsproto", "starlette"),
    ("hypercorn", "quart"),
    ("granian", "channels"),
    ("daphne", "channels"),
]
"""Each server and each application at least once."""


@pytest_asyncio.fixture(params=PAIRS, ids="/".join, scope="module", loop_scope="module")
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A server with a guarded application."""
    kind, application = request.param
    environ = {"NARTHEX_ADMIN_KEY": ADMIN, "E2E_OAUTH_SIMULATION_KEY": KEY, "E2E_TESTING": "1"}
    async with serving(kind, application, tmp_path_factory.mktemp("guard"), environ) as running:
        yield running


def opened(running: Running, query: str = "", *, offered: tuple[str, ...] = (), **headers: str) -> connect:
    """A connection attempt; header names are written with underscores."""
    return connect(
        running.url + query,
        additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
        subprotocols=[Subprotocol(name) for name in offered] or None,
        proxy=None,
        open_timeout=within(10),
    )


def bearer(subject: str = "ann", **claims: object) -> str:
    """The value of an `Authorization` header."""
    return f"Bearer {token(subject, **claims)}"  # type: ignore[arg-type]  # claims of a token


async def asked(socket: ClientConnection, text: str) -> str:
    """The application's answer."""
    await socket.send(text)
    return str(await asyncio.wait_for(socket.recv(), within(5)))


async def refusal(running: Running, query: str = "", *, offered: tuple[str, ...] = (), **headers: str) -> str:
    """The code with which an attempt is refused, as its client can learn it."""
    preflight = ""
    async with httpx2.AsyncClient(base_url=running.http) as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if offered:
            sent["sec-websocket-protocol"] = ", ".join(offered)
        preflight = (await client.get(f"/ws/preflight{query}", headers=sent)).json()["code"]
    with pytest.raises(InvalidStatus) as raised:
        async with opened(running, query, offered=offered, **headers):
            pass
    response = raised.value.response
    if not running.carries_refusals:
        assert (response.status_code, response.body) == (403, b"")
        return str(preflight)
    problem = json.loads(response.body or b"")
    assert response.status_code == problem["status"]
    assert problem["code"] == preflight
    return str(problem["code"])


@pytest.mark.asyncio(loop_scope="module")
async def test_attempts_are_refused_with_their_reason_and_never_reach_the_application(
    server: Running,
) -> None:
    """As the gateway refuses them (`test_matrices`); where the server carries no body, preflight tells the same."""
    await attempted(
        Target(server.http, inert=False, carries_refusals=server.carries_refusals, guarded=server)
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_a_browser_reads_the_reason_in_the_close(server: Running) -> None:
    """A client that offers `narthex.explain` is closed with code and reason (daphne sends no reasons)."""
    async with opened(server, offered=("narthex.explain",)) as socket:
        with pytest.raises(ConnectionClosed) as raised:
            await asyncio.wait_for(socket.recv(), within(5))
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 3500
    if server.carries_refusals:
        assert raised.value.rcvd.reason == "auth_required: Authentication required"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_application_gets_the_user_and_no_credential(server: Running) -> None:
    """By header, subprotocol and cookie: the handler knows the user, and none of the secrets is left."""
    secret = token("ann", tenant="acme")
    page: dict[str, Any] = {"origin": server.http}
    for attempt in (
        opened(server, "?room=7", authorization=f"Bearer {secret}", narthex_subject="root"),
        opened(server, "?room=7", offered=("jwt-auth", f"jwt.{secret}", "chat.v2")),
        opened(server, "?room=7", cookie=f"theme=dark; narthex_session={secret}", **page),
    ):
        async with attempt as socket:
            given = json.loads(await asked(socket, "whoami"))
            assert (given["user"], given["tenant"], given["query"]) == ("ann", "acme", "room=7")
            assert secret not in json.dumps(given)
            assert "root" not in json.dumps(given)
            assert await asked(socket, "hello") == "hello"


@pytest.mark.asyncio(loop_scope="module")
async def test_subprotocols(server: Running) -> None:
    """The application's own choice stays; where it makes none, the client that offered ours gets `jwt-auth`."""
    async with opened(server, offered=("jwt-auth", f"jwt.{token()}", "chat.v2")) as socket:
        assert socket.subprotocol == "chat.v2"
    async with opened(server, offered=("jwt-auth", f"jwt.{token()}")) as socket:
        assert socket.subprotocol == "jwt-auth"
    async with opened(server, authorization=bearer()) as socket:
        assert socket.subprotocol is None


@pytest.mark.asyncio(loop_scope="module")
async def test_a_ticket_admits_once(server: Running) -> None:
    """A ticket of `POST /ws/ticket` admits one upgrade, and the application does not see it."""
    async with httpx2.AsyncClient(base_url=server.http) as client:
        answer = await client.post("/ws/ticket", headers={"Authorization": bearer("tess")})
    ticket = answer.json()["ticket"]
    async with opened(server, f"?a=1&ticket={ticket}") as socket:
        given = json.loads(await asked(socket, "whoami"))
        assert (given["user"], given["query"]) == ("tess", "a=1")
    assert await refusal(server, f"?ticket={ticket}") == "ticket_invalid"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_test_identity_by_proof_of_the_key(server: Running) -> None:
    """The key proves a confined test identity; the application sees its run, and not the key."""
    async with opened(server, x_e2e_bypass_key=KEY, x_e2e_test_run="run-7") as socket:
        given = json.loads(await asked(socket, "whoami"))
    assert (given["user"], given["tenant"], given["test_run"]) == ("e2e:run-7", "e2e", "run-7")
    assert KEY not in json.dumps(given)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_revocation_ends_the_sockets_of_its_subject_within_a_second(server: Running) -> None:
    """The client gets 3500, the handler its disconnect, also while it waits in `receive`; others stay."""
    async with (
        opened(server, authorization=bearer("eve")) as eve,
        opened(server, authorization=bearer("bob")) as bob,
        httpx2.AsyncClient(base_url=server.http) as client,
    ):
        assert await asked(eve, "hello") == "hello"
        began, ended = time.monotonic(), len([line for line in server.reached if line.startswith("ended")])
        answer = await client.post(
            "/api/v1/revoke",
            headers={"Authorization": f"Bearer {ADMIN}"},
            json={"kind": "subject", "tenant": "default", "value": "eve"},
        )
        assert answer.status_code == 200
        with pytest.raises(ConnectionClosed) as raised:
            await asyncio.wait_for(eve.recv(), within(5))
        assert time.monotonic() - began < within(1)
        assert raised.value.rcvd is not None
        assert raised.value.rcvd.code == 3500
        assert await asked(bob, "still here") == "still here"
        async with asyncio.timeout(within(5)):
            while len([line for line in server.reached if line.startswith("ended")]) <= ended:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert server.reached[-1] == ("ended 0" if server.application == "quart" else "ended 3500")
        assert await refusal(server, authorization=bearer("eve")) == "token_revoked"


@pytest.mark.asyncio(loop_scope="module")
async def test_expiry(server: Running) -> None:
    """A socket outlives its token by the grace and no longer (NARTHEX_TOKEN_GRACE_S is the default here)."""
    async with opened(server, authorization=bearer(ttl_s=-24)) as socket:  # 25 s of grace, within the leeway
        with pytest.raises(ConnectionClosed) as raised:
            await asyncio.wait_for(socket.recv(), within(8))
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 3005


@pytest.mark.asyncio(loop_scope="module")
async def test_routes_beside_the_application_s_own(server: Running) -> None:
    """Health tells the truth about the environment and about what it did not check; the rest answers too."""
    async with httpx2.AsyncClient(base_url=server.http) as client:
        health = (await client.get("/ws/health")).json()
        assert health["status"] == "healthy"
        assert health["config"]["pre_connection_auth_required"] is True
        assert health["e2e_testing"]["auth_bypass_active"] is True
        assert "endpoint was not checked" in health["checks"]["handshake"]["detail"]
        for path, status in {
            "/livez": 200,
            "/readyz": 200,
            "/ws/config": 200,
            "/ws/beacon": 200,
            "/metrics": 200,
            "/ws/stats": 401,
            "/api/v1/drain": 405,
            "/elsewhere": 404,
        }.items():
            assert (await client.get(path)).status_code == status, path
        assert (await client.get("/ws/health", headers={"Host": "evil.example"})).status_code == 400
        metrics = (await client.get("/metrics")).text
    assert 'narthex_handshakes_total{class="user",code="auth_required",outcome="refused"}' in metrics
