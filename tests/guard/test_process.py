"""The real `narthex guard` in front of a real Node server: what passes, what ends a socket, what an attack sees."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import jwt
import psutil
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from narthex.app.revocations import Revocations
from narthex.settings import load
from narthex.wiring.engines import make_shared_store
from tests.acceptance.program import Program
from tests.guard.cores import SECRET, token
from tests.guard.process import NodeServer, client, guarding, node_server, program, request_of
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def node() -> Iterator[NodeServer]:
    with node_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guard(node: NodeServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    """A guard with every default, HTTP passing included."""
    directory = tmp_path_factory.mktemp("guard")
    env = {
        "NARTHEX_TOKEN_GRACE_S": "0",
        "NARTHEX_MAX_CONNECTIONS_PER_USER": "1000",
        "E2E_OAUTH_SIMULATION_KEY": "an-end-to-end-key-of-32-characters",
    }
    paths = ("--pass-http", "--path", "/ws", "/refuse", "/rooms/{room}/*")
    async with guarding(directory, f"ws://127.0.0.1:{node.port}", env, *paths) as started:
        yield started


async def refused(guard: Program, path: str = "/ws", **options: Any) -> tuple[int, dict[str, Any]]:
    """Status and problem of a handshake that must fail."""
    with pytest.raises(InvalidStatus) as caught:
        async with client(guard, path=path, **options):
            pass
    return caught.value.response.status_code, json.loads(caught.value.response.body or b"{}")


async def test_a_socket_of_a_real_client(guard: Program) -> None:
    """Path, query, the application's subprotocol and permessage-deflate end to end; messages of any size and kind."""
    async with client(guard, path="/rooms/7/a%20b?x=%C3%BC", protocols=["chat", "jwt-auth"]) as socket:
        seen = await request_of(socket)
        assert seen["url"] == "/rooms/7/a%20b?x=%C3%BC"
        assert seen["headers"]["sec-websocket-protocol"] == "chat"
        assert "permessage-deflate" in seen["extensions"]
        assert socket.subprotocol == "chat"
        for message in ("text", "ü" * 40_000, b"\xff" * 500_000, ""):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.ping()


async def test_the_upstream_knows_the_user(guard: Program, node: NodeServer) -> None:
    """By plain headers and by an assertion that verifies with the guard's keys; claims from outside are removed."""
    forged = {
        "Narthex-Subject": "eve",
        "narthex_tenant": "other",
        "NARTHEX-ASSERTION": "x.y.z",
        "Narthex-Anything": "1",
    }
    async with client(guard, "änn", headers=forged) as socket:
        headers = (await request_of(socket))["headers"]
    assert headers["narthex-subject"] == "%C3%A4nn"
    assert (headers["narthex-tenant"], headers["narthex-plan"]) == ("default", "free")
    assert len(headers["narthex-trace-id"]) == 32
    assert not {"narthex_tenant", "narthex-anything", "narthex-test-run", "authorization"} & set(headers)
    keys = (await guard.get("/.well-known/jwks.json")).json()["keys"]
    assert all("d" not in key for key in keys)
    assertion = headers["narthex-assertion"]
    kid = jwt.get_unverified_header(assertion)["kid"]
    key = jwt.PyJWK(next(key for key in keys if key["kid"] == kid))
    claims = jwt.decode(assertion, key, audience=f"127.0.0.1:{node.port}", issuer="narthex-guard")
    assert (claims["sub"], claims["tenant"]) == ("änn", "default")
    assert claims["exp"] - claims["iat"] == 60
    # The guard admits nobody by an assertion of its own.
    assert (await refused(guard, headers={"Authorization": f"Bearer {assertion}"}))[0] == 401


async def test_a_test_identity_reaches_the_upstream_confined(guard: Program) -> None:
    """By proof of the key: its run is named, its key is not there."""
    proof = {
        "Authorization": "",
        "X-E2E-Bypass-Key": "an-end-to-end-key-of-32-characters",
        "X-E2E-Test-Run": "run-7",
    }
    async with client(guard, headers=proof) as socket:
        seen = await request_of(socket)
    assert seen["headers"]["narthex-test-run"] == "run-7"
    assert seen["headers"]["narthex-tenant"] == "e2e"
    assert "an-end-to-end" not in json.dumps(seen)


async def test_refusals_are_the_gateways_own(guard: Program) -> None:
    """The same codes as at `narthex serve`; variants of a path are other paths."""
    assert (await refused(guard, headers={"Authorization": f"Bearer {token(secret='x' * 32)}"}))[0] == 401
    status, problem = await refused(guard, headers={"Authorization": "Bearer a.b"})
    assert (status, problem["code"]) == (401, "token_malformed")
    status, problem = await refused(guard, headers={"Authorization": f"Bearer {token(ttl_s=-100)}"})
    assert (status, problem["code"]) == (401, "token_expired")
    assert (await refused(guard, origin="https://evil.example"))[1]["code"] == "origin_not_allowed"
    for path in ("/ws/", "//ws", "/WS", "/rooms/7", "/rooms/../ws/x", "/rooms/7/..%2f..%2fws", "/other"):
        assert (await refused(guard, path))[0] == 404, path


async def test_an_upstreams_refusal_passes(guard: Program) -> None:
    """Its status, its header and its body."""
    with pytest.raises(InvalidStatus) as caught:
        async with client(guard, path="/refuse"):
            pass
    response = caught.value.response
    assert (response.status_code, response.body, response.headers["x-own"]) == (409, b"busy", "yes")


async def test_a_revoked_user_loses_its_sockets_and_no_other(guard: Program, node: NodeServer) -> None:
    """Within 1 s, with the code on both sides; the user cannot come back."""
    data = guard.directory / "data"
    settings = load({"data_dir": data}, {"ENVIRONMENT": "testing"}, parts={"store"})
    store = make_shared_store(settings)
    await store.start()
    try:
        async with AsyncExitStack() as stack:
            anns = [await stack.enter_async_context(client(guard, "revoked")) for _ in range(5)]
            bob = await stack.enter_async_context(client(guard, "bob"))
            revocations = Revocations(store.credentials, None, records=store.records)
            began = time.monotonic()
            await revocations.revoke_subject("default", "revoked", until=time.time() + 600, reason="test")
            for socket in anns:
                await request_of(socket)
                with pytest.raises(ConnectionClosed) as caught:
                    await asyncio.wait_for(socket.recv(), within(5))
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 3500
                assert caught.value.rcvd.reason.startswith("token_revoked")
            assert time.monotonic() - began < within(1.5)
            await request_of(bob)
            await bob.send("still here")
            assert await bob.recv() == "still here"
            assert (await refused(guard, headers={"Authorization": f"Bearer {token('revoked')}"}))[1][
                "code"
            ] == "token_revoked"
    finally:
        await store.stop()
    assert [3500, "token_revoked: sign in again"] in node.closes()


async def test_an_expired_token_ends_its_socket(guard: Program) -> None:
    """3005 at the end of the grace."""
    async with client(guard, headers={"Authorization": f"Bearer {token(ttl_s=2)}"}) as socket:
        await request_of(socket)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), within(10))
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason.split(":")[0]) == (3005, "expired")


async def test_http_passes(guard: Program) -> None:
    """Method, raw target, body and the application's own credentials; claims of an identity do not."""
    headers = {"Authorization": "Basic own", "Narthex-Subject": "eve", "Cookie": "a=b"}
    async with httpx2.AsyncClient(trust_env=False) as web:
        answer = await web.post(f"{guard.http}/a%2Fb/../c?d=%20e", content=b"x" * 300_000, headers=headers)
    seen = answer.json()
    assert (answer.status_code, answer.headers["x-own"]) == (201, "yes")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (seen["method"], seen["count"]) == ("POST", 300_000)
    assert seen["headers"]["authorization"] == "Basic own"
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert "narthex-subject" not in seen["headers"]


async def test_an_endless_answer_streams_and_ends_with_its_client(guard: Program, node: NodeServer) -> None:
    """The first event arrives at once; when the client leaves, the upstream's request ends."""
    async with (
        httpx2.AsyncClient(trust_env=False) as web,
        web.stream("GET", f"{guard.http}/events") as answer,
    ):
        async for piece in answer.aiter_raw():
            assert piece == b"data: first\n\n"
            break
    async with asyncio.timeout(within(5)):
        while ["events", ""] not in node.closes():  # noqa: ASYNC110 - the event is another process's
            await asyncio.sleep(0.05)


async def test_an_answer_that_breaks_off_is_not_ended_as_if_whole(guard: Program) -> None:
    """The client sees that bytes are missing."""
    async with httpx2.AsyncClient(trust_env=False) as web:
        with pytest.raises(httpx2.HTTPError):
            await web.get(f"{guard.http}/broken")


async def test_the_guards_own_routes_win(guard: Program) -> None:
    """Probes, metrics and keys are the guard's, also where HTTP passes."""
    assert (await guard.get("/livez")).json() == {"status": "alive"}
    assert (await guard.get("/readyz")).json() == {"status": "ready"}
    metrics = (await guard.get("/metrics")).text
    assert 'narthex_upstream_handshakes_total{result="joined"}' in metrics
    assert 'narthex_upstream_handshakes_total{result="denied"}' in metrics


async def test_a_client_that_does_not_read_costs_bounded_memory(guard: Program) -> None:
    """30 MB towards a client that reads nothing: the upstream is stopped, and the guard keeps its size."""
    assert guard.process is not None
    process = psutil.Process(guard.process.pid)
    async with client(guard, "slow", max_size=None, compression=None) as socket:
        await request_of(socket)
        before = process.memory_info().rss
        payload = b"\0" * 500_000

        # The library stops reading, because nothing calls `recv`. Node keeps what it may not write; the guard must not.
        for _ in range(60):
            await socket.send(payload)
            assert process.memory_info().rss - before < 8_000_000
        await asyncio.sleep(0.5)  # for what Node still writes
        assert process.memory_info().rss - before < 8_000_000
        socket.transport.abort()


async def test_a_killed_upstream_is_named_within_a_second(tmp_path: Path) -> None:
    """`kill -9`: live sockets get the reason, handshakes a 502, readiness is lost; all is well when it is back."""
    with node_server() as node:
        async with guarding(tmp_path, f"ws://127.0.0.1:{node.port}") as guard, AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(client(guard, f"u{at}")) for at in range(50)]
            for socket in sockets:
                await request_of(socket)
            node.process.kill()
            began = time.monotonic()
            for socket in sockets:
                with pytest.raises(ConnectionClosed) as caught:
                    await asyncio.wait_for(socket.recv(), within(5))
                assert caught.value.rcvd is not None
                assert (caught.value.rcvd.code, caught.value.rcvd.reason.split(":")[0]) == (
                    4006,
                    "upstream_gone",
                )
            assert time.monotonic() - began < within(1)
            status, problem = await refused(guard)
            assert (status, problem["code"]) == (502, "upstream_refused")
            assert (await guard.get("/nothing")).status_code == 404


async def test_a_drain_closes_every_socket_and_the_process_ends_well(tmp_path: Path) -> None:
    """SIGTERM: 3001 for each, and exit 0."""
    with node_server() as node:
        env = {"NARTHEX_DRAIN_GRACE_S": "3"}
        async with guarding(tmp_path, f"ws://127.0.0.1:{node.port}", env) as guard, AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(client(guard, f"u{at}")) for at in range(20)]
            for socket in sockets:
                await request_of(socket)
            assert guard.process is not None
            guard.process.terminate()
            for socket in sockets:
                with pytest.raises(ConnectionClosed) as caught:
                    await asyncio.wait_for(socket.recv(), within(10))
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == 3001
            assert await asyncio.to_thread(guard.process.wait, within(10)) == 0
        assert {code for code, _ in node.closes()} == {3001}


async def test_every_problem_of_the_settings_at_once(tmp_path: Path) -> None:
    """Exit 78 before anything is served, each problem with its remedy."""
    wrong = program(tmp_path, "ws://127.0.0.1:9000/path", {"NARTHEX_JWT_LEEWAY_S": "x"})
    done = wrong.run("guard", "--upstream", "ws://127.0.0.1:9000/path", env=wrong.env)
    assert done.returncode == 78
    assert "NARTHEX_UPSTREAM has more than scheme, host and port" in done.stderr
    assert "NARTHEX_JWT_LEEWAY_S" in done.stderr
    nothing = program(tmp_path, "")
    done = nothing.run("guard", "--path", "ws", env=nothing.env)
    assert done.returncode == 78
    assert "NARTHEX_UPSTREAM is not set" in done.stderr
    assert "does not begin with `/`" in done.stderr
    assert SECRET not in done.stderr


async def test_health_config_and_tickets(guard: Program, node: NodeServer) -> None:
    """The guard's routes of the gateway's shapes; a page gets in with a ticket."""
    health = await guard.get("/ws/health")
    report = health.json()
    assert (health.status_code, report["status"]) == (200, "healthy")
    assert set(report["checks"]) == {"handshake", "auth", "store", "upstream"}
    assert report["config"]["pre_connection_auth_required"] is True
    assert (await guard.get("/ws/config")).json()["url"] == guard.ws
    assert (await guard.get("/ws/beacon")).status_code == 200
    bought = await guard.post("/ws/ticket", headers={"Authorization": f"Bearer {token('page')}"})
    async with client(
        guard, path=f"/ws?ticket={bought.json()['ticket']}", headers={"Authorization": ""}
    ) as socket:
        seen = await request_of(socket)
    assert (seen["url"], seen["headers"]["narthex-subject"]) == ("/ws", "page")
    assert all("page" not in reason for _, reason in node.closes())


async def test_the_doctor_knows_a_guarded_server(guard: Program) -> None:
    """It says that all is well with a token, and names what is wrong with a forged one."""
    words = ("doctor", guard.ws, "--hold", "0", "--token")
    good = await asyncio.to_thread(guard.run, *words, token("doctor"), timeout_s=within(60))
    assert good.returncode == 0, good.stdout + good.stderr
    bad = await asyncio.to_thread(guard.run, *words, token(secret="x" * 32), timeout_s=within(60))
    assert bad.returncode == 1
    assert "token_invalid" in bad.stdout
