"""The server API over a real gateway: permissions, effects, and a correct description."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex.domain.identity import Identity, IdentityClass
from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway
from tests.adapters.tokens.http_issuer import HttpIssuer

ADMIN = "an-admin-key-of-decent-length-0123456789"
E2E_KEY = "an-e2e-key-of-decent-length-0123456789ab"


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message."""
    yield run.messages[-1].content


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    agents = [Agent(name="words", function=words)]
    environ = {"E2E_OAUTH_SIMULATION_KEY": E2E_KEY}
    async with gateway(tmp_path, agents=agents, environ=environ, admin_key=ADMIN) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def live(running: Running, subject: str) -> Any:
    """A connected raw socket."""
    raw = await connect(running.ws, additional_headers=bearer(running.token(subject)), proxy=None)
    await raw.send('{"id":1,"connect":{}}')
    await raw.recv()
    return raw


async def test_publish_reaches_a_user_once(running: Running, http: httpx2.AsyncClient) -> None:
    """A notice from a back end; the same key twice is one publication."""
    raw = await live(running, "ada")
    body = {
        "channel": "user:ada",
        "data": {"type": "CUSTOM", "name": "shop.paid", "value": 1},
        "key": "order-1",
    }
    first = (await http.post("/api/v1/publish", json=body, headers=bearer(ADMIN))).json()
    again = (await http.post("/api/v1/publish", json=body, headers=bearer(ADMIN))).json()
    assert again["offset"] == first["offset"]
    assert again["duplicate"] is True
    assert json.loads(await raw.recv())["push"]["pub"]["data"]["name"] == "shop.paid"
    await raw.close()


async def test_disconnect_and_revoke(running: Running, http: httpx2.AsyncClient) -> None:
    """Closed with the requested code; revoked tokens are closed and refused afterwards."""
    ada, bob = await live(running, "ada"), await live(running, "bob")
    await http.post("/api/v1/disconnect", json={"user": "ada", "code": 3503}, headers=bearer(ADMIN))
    with pytest.raises(ConnectionClosed):
        await ada.recv()
    assert ada.close_code == 3503
    answer = await http.post(
        "/api/v1/revoke", json={"kind": "subject", "value": "bob"}, headers=bearer(ADMIN)
    )
    assert answer.status_code == 200
    with pytest.raises(ConnectionClosed):
        await bob.recv()
    assert bob.close_code == 3500
    refused = await http.get("/ws/preflight", headers=bearer(running.token("bob")))
    assert refused.json()["code"] == "token_revoked"


async def test_a_cut_in_the_future_is_refused(running: Running, http: httpx2.AsyncClient) -> None:
    """Milliseconds instead of seconds would lock out all users, whatever tokens they get later."""
    body = {"kind": "issued_before", "value": "*", "before": 1_900_000_000_000}
    refused = await http.post("/api/v1/revoke", json=body, headers=bearer(ADMIN))
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_params")
    (await http.get("/api/v1/threads", headers=bearer(running.token("bob")))).raise_for_status()


async def test_an_id_ends_where_its_line_does(http: httpx2.AsyncClient) -> None:
    """A pattern's `$` also matches before a line's end."""
    body = {"channel": "thread:x\n", "data": 1}
    refused = await http.post("/api/v1/publish", json=body, headers=bearer(ADMIN))
    assert refused.status_code == 422


@pytest.mark.parametrize("path", ["publish", "disconnect", "revoke", "users/block", "drain"])
async def test_operators_only(running: Running, http: httpx2.AsyncClient, path: str) -> None:
    """No credential, a user, a wrong key; then ten wrong keys slow the address down."""
    for headers, status in (({}, 401), (bearer(running.token("ada")), 403), (bearer("wrong"), 401)):
        answer = await http.post(f"/api/v1/{path}", json={}, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    for _ in range(9):
        await http.post(f"/api/v1/{path}", json={}, headers=bearer("wrong"))
    slowed = await http.post(f"/api/v1/{path}", json={}, headers=bearer("wrong"))
    assert slowed.status_code == 429
    assert int(slowed.headers["retry-after"]) > 0


async def test_a_service_token_is_for_its_own_tenant(running: Running, http: httpx2.AsyncClient) -> None:
    """Permission `admin` in tenant acme publishes to acme, not to others."""
    token = running.token("service", tenant="acme", permissions=("admin",))
    body = {"channel": "user:ada", "data": {}}
    assert (
        await http.post("/api/v1/publish", json=body | {"tenant": "acme"}, headers=bearer(token))
    ).status_code == 200
    refused = await http.post("/api/v1/publish", json=body, headers=bearer(token))
    assert refused.json()["code"] == "tenant_mismatch"


async def test_an_opaque_token_with_the_right_is_an_operators(tmp_path: Path) -> None:
    """As a JWT with the same permissions, on every operator's route; our own secrets are never sent to its issuer."""
    known = {
        "opaque-operator": {"active": True, "sub": "svc", "tenant": "acme", "scope": "admin operator"},
        "opaque-admin": {"active": True, "sub": "svc", "tenant": "acme", "scope": "admin"},
        "opaque-reader": {"active": True, "sub": "svc", "tenant": "acme", "scope": "chat"},
    }
    asked: list[str] = []

    def answer(_: str, body: bytes) -> tuple[int, Any]:
        (token,) = parse_qs(body.decode())["token"]
        asked.append(token)
        return 200, known.get(token, {"active": False})

    async with HttpIssuer() as issuer:
        issuer.documents["/introspect"] = answer
        options: dict[str, Any] = {
            "admin_key": ADMIN,
            "introspection_url": f"{issuer.url}/introspect",
            "introspection_client_id": "gateway",
            "introspection_client_secret": "a-client-secret-0123456789abcdef",
        }
        agents = [Agent(name="words", function=words)]
        async with (
            gateway(tmp_path, agents=agents, **options) as found,
            httpx2.AsyncClient(base_url=found.http, trust_env=False) as client,
        ):
            body = {"channel": "user:ada", "data": {}, "tenant": "acme"}

            async def publish(token: str, **more: str) -> tuple[int, str]:
                reply = await client.post("/api/v1/publish", json=body | more, headers=bearer(token))
                return reply.status_code, reply.json().get("code", "")

            at_once = await asyncio.gather(*(publish("opaque-operator") for _ in range(25)))
            assert at_once == [(200, "")] * 25
            assert await publish("opaque-operator") == (200, "")
            assert await publish("opaque-operator", tenant="other") == (403, "tenant_mismatch")
            assert await publish("opaque-reader") == (403, "permission_denied")
            assert await publish("opaque-stranger") == (401, "token_invalid")
            assert await publish(ADMIN) == (200, "")
            assert (await client.get("/ws/stats", headers=bearer("opaque-operator"))).status_code == 200
            results = {"test_run": "r1", "passed": 1, "failed": 0}
            for token, status in (
                ("opaque-operator", 200),
                ("opaque-admin", 403),
                ("opaque-reader", 403),
                (ADMIN, 200),
            ):
                reply = await client.post("/api/v1/e2e/results", json=results, headers=bearer(token))
                assert reply.status_code == status, reply.text
            # where a user's token belongs the admin key is refused, and is not sent to the issuer
            assert (await client.get("/api/v1/threads", headers=bearer(ADMIN))).status_code == 401
            assert (await client.get("/ws/preflight", headers=bearer(ADMIN))).status_code == 401
            # nor one that was mistyped, truncated or pasted with extra characters
            for slip in (ADMIN[:-1], ADMIN[1:], ADMIN.upper(), ADMIN[:-2] + "xx", f"{ADMIN}{ADMIN}"):
                assert (await client.get("/ws/preflight", headers=bearer(slip))).status_code == 401
    assert set(asked) - {"narthex-health-probe"} == {*known, "opaque-stranger"}


async def test_a_revocation_by_hand_outlives_the_token(running: Running, http: httpx2.AsyncClient) -> None:
    """The `exp` of a jti is unknown: kept for 400 days, or until the given `exp`, plus leeway and grace."""
    parts = running.gateway.parts
    assert parts is not None
    now = parts.now()
    ends = {"unknown": 0.0, "known": now + 1_000}
    for value, until in ends.items():
        body = {"kind": "jti", "value": value, "until": until}
        assert (await http.post("/api/v1/revoke", json=body, headers=bearer(ADMIN))).status_code == 200
    kept = {
        found.value: found.until
        for found in (await parts.store.credentials.revocation_changes(0, 10)).changed
    }
    assert kept["unknown"] > now + 399 * 86_400
    assert kept["known"] == now + 1_000 + 55
    past = await http.post(
        "/api/v1/revoke", json={"kind": "jti", "value": "x", "until": now - 1}, headers=bearer(ADMIN)
    )
    assert past.status_code == 422


@pytest.mark.parametrize("member", ["until", "before"])
async def test_a_moment_in_milliseconds_is_refused_with_the_remedy(
    running: Running, http: httpx2.AsyncClient, member: str
) -> None:
    """Otherwise a revocation would be kept for 50,000 years. The end of the year 9999 may stand for "never"."""
    now = time.time()
    body: dict[str, object] = {"kind": "issued_before" if member == "before" else "jti", "value": "x"}
    answer = await http.post("/api/v1/revoke", json=body | {member: now * 1000}, headers=bearer(ADMIN))
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_params")
    assert f"`{member}` lies" in answer.text
    assert "seconds since the epoch, not milliseconds" in answer.text
    listed = await http.get(
        "/api/v1/threads", params={"before": f"{now * 1000:.0f}"}, headers=bearer(running.token("ada"))
    )
    assert listed.status_code == 422
    assert "not milliseconds" in listed.text
    parts = running.gateway.parts
    assert parts is not None
    assert (await parts.store.credentials.revocation_changes(0, 10)).changed == []
    if member == "until":
        kept = await http.post(
            "/api/v1/revoke", json=body | {"until": 253_402_300_799}, headers=bearer(ADMIN)
        )
        assert kept.status_code == 200


async def test_a_block_and_its_end_are_recorded(running: Running, http: httpx2.AsyncClient) -> None:
    """Also for a user that only another issuer knows: they are blocked by their subject, and the answer shows it."""

    async def block(user: str, blocked: bool) -> httpx2.Response:
        body = {"user": user, "blocked": blocked, "reason": f"{blocked}".lower()}
        return await http.post("/api/v1/users/block", json=body, headers=bearer(ADMIN))

    token = running.token("stranger")
    assert (await block("stranger", True)).json() == {"known": False}
    refused = await http.get("/ws/preflight", headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
    assert (await block("stranger", False)).status_code == 200
    assert (await http.get("/ws/preflight", headers=bearer(token))).status_code == 200
    assert (await block("nobody", False)).status_code == 404
    parts = running.gateway.parts
    assert parts is not None
    kept = await parts.store.records.audits(None, 10)
    assert [(entry.kind, entry.subject, json.loads(entry.detail)["reason"]) for entry in kept] == [
        ("revocation_ended", "stranger", "false"),
        ("revocation", "stranger", "true"),
    ]


async def test_bodies_that_do_not_fit_say_where(http: httpx2.AsyncClient) -> None:
    """422 with the path and never the value."""
    answer = await http.post("/api/v1/disconnect", json={"user": ["secret-value"]}, headers=bearer(ADMIN))
    assert answer.status_code == 422
    assert "$.user" in answer.text
    assert "secret-value" not in answer.text
    deep = await http.post("/api/v1/publish", content=b"[" * 100_000, headers=bearer(ADMIN))
    assert deep.status_code == 422
    large = await http.post("/api/v1/publish", content=b"x" * 300_000, headers=bearer(ADMIN))
    assert large.status_code == 413


async def test_end_to_end_results_are_counted_and_kept(running: Running, http: httpx2.AsyncClient) -> None:
    """A test identity reports its own run's results, not another's; metrics count them."""
    parts = running.gateway.parts
    assert parts is not None
    tester = Identity(
        subject="e2e:r1", tenant="e2e", e2e=True, test_run="r1", identity_class=IdentityClass.E2E
    )
    token = parts.tokens.e2e_keys.mint(tester, ttl_s=60, now=parts.now())
    body = {"test_run": "r1", "passed": 57, "failed": 1}
    assert (await http.post("/api/v1/e2e/results", json=body, headers=bearer(token))).status_code == 200
    other = await http.post("/api/v1/e2e/results", json=body | {"test_run": "r2"}, headers=bearer(token))
    assert other.status_code == 403
    person = await http.post("/api/v1/e2e/results", json=body, headers=bearer(running.token("ada")))
    assert person.status_code == 403
    kept = (await http.get("/api/v1/e2e/results", headers=bearer(ADMIN))).json()["results"]
    assert [(found["test_run"], found["passed"], found["failed"]) for found in kept] == [("r1", 57, 1)]
    metrics = (await http.get("/metrics")).text
    assert 'narthex_e2e_tests_total{result="passed"} 57.0' in metrics
    gate = {"test_run": "gate-1", "passed": 1, "failed": 9, "report": {"kind": "gate"}}
    assert (await http.post("/api/v1/e2e/results", json=gate, headers=bearer(ADMIN))).status_code == 200
    kept = (await http.get("/api/v1/e2e/results", headers=bearer(ADMIN))).json()["results"]
    assert {found["test_run"] for found in kept} == {"r1", "gate-1"}
    metrics = (await http.get("/metrics")).text
    assert 'narthex_e2e_tests_total{result="failed"} 1.0' in metrics, (
        "a gate's checks are no end-to-end tests"
    )
    assert "narthex_e2e_success_ratio 0.98" in metrics


async def test_a_person_reads_and_exports_their_own_thread(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """JSON and Markdown downloads; another user gets 404."""
    raw = await live(running, "ada")
    await raw.send('{"id":2,"rpc":{"method":"run.start","data":{"text":"# hello","client_message_id":"m"}}}')
    thread = ""
    while not thread:
        for line in str(await raw.recv()).split("\n"):
            reply = json.loads(line)
            if reply.get("id") == 2:
                thread = reply["rpc"]["data"]["thread_id"]
    mine, hers = bearer(running.token("ada")), bearer(running.token("eve"))
    assert (await http.get("/api/v1/threads", headers=mine)).json()["threads"][0]["thread_id"] == thread
    assert (await http.get("/api/v1/threads", headers=hers)).json()["threads"] == []
    markdown = await http.get(f"/api/v1/threads/{thread}/export?format=md", headers=mine)
    assert markdown.headers["content-disposition"].endswith('.md"')
    assert "# hello" in markdown.text
    assert "messages" in (await http.get(f"/api/v1/threads/{thread}/export", headers=mine)).json()
    assert (await http.get(f"/api/v1/threads/{thread}/export", headers=hers)).status_code == 404
    assert (await http.get(f"/api/v1/threads/{thread}/export?format=pdf", headers=mine)).status_code == 422
    await raw.close()


async def test_the_description_names_every_route(running: Running, http: httpx2.AsyncClient) -> None:
    """OpenAPI and routes are one list."""
    described = (await http.get("/api/v1/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    site = running.gateway.site
    assert site is not None
    routes = [
        route for route in site.app.routes if isinstance(route, Route) and route.path.startswith("/api/v1/")
    ]
    served = {(route.path, method.lower()) for route in routes for method in route.methods or ()}
    assert served == {
        (path, method)
        for path, item in described["paths"].items()
        for method in item
        if path.startswith("/api/v1/")
    }
