"""The operators' API and channels over a real gateway: who may read them, and what they show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from narthex.domain.identity import E2E_TENANT, IdentityClass
from narthex.testing import Running, gateway
from narthex.web.api.description import openapi
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"
ROUTES = [
    (path, method)
    for path, item in openapi("")["paths"].items()
    for method in item
    if path.startswith("/api/v1/operator/")
]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, admin_key=ADMIN, jwt_tenants=["default", "acme"]) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def operator(running: Running, subject: str = "op") -> str:
    """A token of an operator."""
    return running.token(subject, permissions=("chat", "operator"))


class Line:
    """A raw client: commands and their replies, and pushes on the way."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []
        self._number = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command; its reply."""
        self._number += 1
        await self.socket.send(json.dumps({"id": self._number, **command}))
        return await self._until(lambda found: found.get("id") == self._number)

    async def pushed(self, kind: str) -> dict[str, Any]:
        """The next push of a kind (`pub`, `unsubscribe`)."""
        found = await self._until(lambda one: kind in one.get("push", {}))
        return dict(found["push"])

    async def _until(self, wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(within(15)):
            while True:
                for text in str(await self.socket.recv()).split("\n"):
                    found = json.loads(text)
                    if wanted(found):
                        return dict(found)


async def line(running: Running, token: str) -> Line:
    """A connected client."""
    client = Line(await connect(running.ws, additional_headers=bearer(token), proxy=None))
    await client.ask(connect={"name": "js", "version": "5.8.0"})
    return client


@pytest.mark.parametrize(("path", "method"), ROUTES)
async def test_routes_are_for_operators_only(
    running: Running, http: httpx2.AsyncClient, path: str, method: str
) -> None:
    """No credential, a user, an administrator of one tenant among several, a test identity: each is refused."""
    url = path.format(trace_id="x")
    test_identity = running.token(
        "e2e:1",
        tenant=E2E_TENANT,
        permissions=("operator",),
        e2e=True,
        test_run="1",
        identity_class=IdentityClass.E2E,
    )
    refused = {
        "": 401,
        running.token("ada"): 403,
        running.token("eve", permissions=("admin",), tenant="acme"): 403,
        test_identity: 403,
    }
    for token, status in refused.items():
        answer = await http.request(method, url, headers=bearer(token) if token else {}, json={})
        if token == test_identity:
            assert answer.status_code in (401, 403), answer.text
        else:
            assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    for token in (ADMIN, operator(running)):
        answer = await http.request(method, url, headers=bearer(token), json={})
        assert answer.status_code not in (401, 403), answer.text


async def test_fleet_shows_this_node_and_its_refusals(running: Running, http: httpx2.AsyncClient) -> None:
    """State, version, figures; a refusal with reason, remedy and trace id, and no address."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(running.ws, additional_headers=bearer("not.a.token"), proxy=None)
    trace_id = json.loads(refused.value.response.body)["trace_id"]
    client = await line(running, running.token("ada", plan="mid"))
    async with asyncio.timeout(within(15)):
        while True:
            answer = (await http.get("/api/v1/operator/fleet", headers=bearer(ADMIN))).json()
            (member,) = answer["members"]
            figures = member["snapshot"]["figures"]
            if figures["gauges"].get("connections_by_plan|mid") == 1:
                break
            await asyncio.sleep(0.1)
    assert member["status"] == "up"
    assert member["snapshot"]["environment"] == "development"
    assert figures["gauges"]["connections_active|user"] == 1
    assert figures["counters"]["handshakes|refused|token_malformed|user"] == 1
    assert len(answer["buckets"]["handshake_seconds"]) + 1 == len(
        figures["histograms"]["handshake_seconds"][0]
    )
    (found,) = (await http.get("/api/v1/operator/refusals", headers=bearer(ADMIN))).json()["refusals"]
    assert (found["code"], found["trace_id"], found["address"]) == ("token_malformed", trace_id, "loopback")
    assert found["remedy"]
    assert "127.0.0.1" not in json.dumps(found)
    await client.socket.close()


async def test_history_has_a_range_and_refuses_others(running: Running, http: httpx2.AsyncClient) -> None:
    """Every range of the page is answered; another one is explained."""
    for name in ("15m", "1h", "6h", "24h", "7d", "30d", "90d"):
        answer = await http.get(f"/api/v1/operator/history?range={name}", headers=bearer(ADMIN))
        assert answer.json()["range"] == name
    answer = await http.get("/api/v1/operator/history?range=1y", headers=bearer(ADMIN))
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_params")


async def test_live_channel_is_for_operators_only(running: Running) -> None:
    """A user and an administrator are refused with 103; so is history of a channel that was not subscribed."""
    for token in (running.token("ada"), running.token("eve", permissions=("admin",), tenant="acme")):
        client = await line(running, token)
        for name in ("operator:live", "operator:trace-1"):
            assert (await client.ask(subscribe={"channel": name}))["error"]["code"] == 103
            assert (await client.ask(history={"channel": name}))["error"]["code"] == 103
            assert (await client.ask(publish={"channel": name, "data": {}}))["error"]["code"] in (102, 103)
        await client.socket.close()


async def test_operator_gets_snapshots_every_second(running: Running) -> None:
    """Live figures come over the gateway's own WebSocket."""
    client = await line(running, operator(running))
    assert "subscribe" in await client.ask(subscribe={"channel": "operator:live"})
    running.gateway.parts.fleet.publisher.watch()  # type: ignore[union-attr]  # as the page's first request does
    moments = []
    for _ in range(3):
        event = (await client.pushed("pub"))["pub"]["data"]
        assert event["type"] == "snapshot"
        moments.append(event["snapshot"]["at"])
    assert moments[2] - moments[1] < within(3)
    await client.socket.close()


async def test_live_channel_is_taken_away_when_the_permission_is(running: Running) -> None:
    """A refreshed token without it ends the subscription, and the connection stays."""
    client = await line(running, operator(running))
    await client.ask(subscribe={"channel": "operator:live"})
    await client.ask(refresh={"token": operator(running)})
    assert (await client.ask(subscribe={"channel": "operator:live"}))["error"]["code"] == 105
    await client.socket.send(json.dumps({"id": 99, "refresh": {"token": running.token("op")}}))
    assert (await client.pushed("unsubscribe"))["channel"] == "operator:live"
    assert (await client.ask(subscribe={"channel": "operator:live"}))["error"]["code"] == 103
    await client.socket.close()
