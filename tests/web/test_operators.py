"""The operators' API and channels over a real gateway: who may read them, and what they show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tools.server_api import paths_and_schemas
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from narthex.domain.identity import E2E_TENANT, IdentityClass
from narthex.testing import Running, gateway
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"
ROUTES = [
    (path, method)
    for path, item in paths_and_schemas()[0].items()
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
    running.gateway.parts.fleet.publisher.watch()  # type: ignore[union-attr]  # as the page does
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


# -- connections ---------------------------------------------------------------------------------------------------


async def test_connections_are_listed_newest_first_in_pages(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Who, since when, with which library, plan, subscriptions; each connection is on exactly one page."""
    clients = [await line(running, running.token(f"u{number}", plan="mid")) for number in range(5)]
    other = await line(running, running.token("u1", tenant="acme"))
    headers, path = bearer(ADMIN), "/api/v1/operator/connections"
    first = (await http.get(f"{path}?limit=4", headers=headers)).json()
    second = (await http.get(path, params={"limit": 4, "before": first["next"]}, headers=headers)).json()
    found = first["connections"] + second["connections"]
    assert [entry["user"] for entry in found] == ["u1", "u4", "u3", "u2", "u1", "u0"]
    assert len({entry["client"] for entry in found}) == 6
    assert second["next"] == ""
    assert found[0]["tenant"] == "acme"
    assert {
        "library": "js 5.8.0",
        "plan": "mid",
        "transport": "websocket",
        "address": "loopback",
    }.items() <= found[1].items()
    assert found[1]["subscriptions"] == ["user:u4"]
    assert "127.0.0.1" not in json.dumps(found)
    for query, count in (
        ({"user": "u1"}, 2),
        ({"user": "u1", "tenant": "acme"}, 1),
        ({"user": "u1", "plan": "mid"}, 1),
        ({"user": "u1", "class": "guest"}, 0),
        ({"tenant": "acme"}, 1),
        ({"tenant": "acme", "user": "u2"}, 0),
        ({"class": "user"}, 6),
        ({"plan": "mid"}, 5),
        ({"class": "guest"}, 0),
        ({"slow": "1"}, 0),
        ({"client": found[2]["client"]}, 1),
    ):
        listed = (await http.get(path, params=query, headers=headers)).json()["connections"]
        assert len(listed) == count, query
    assert (await http.get(f"{path}?limit=many", headers=headers)).status_code == 422
    for client in (*clients, other):
        await client.socket.close()


async def test_disconnect_and_drain_are_audit_records(running: Running, http: httpx2.AsyncClient) -> None:
    """With the operator's name; the connection is closed with the code."""
    client = await line(running, running.token("ada"))
    one = (await http.get("/api/v1/operator/connections?user=ada", headers=bearer(ADMIN))).json()
    body = {"user": "ada", "client": one["connections"][0]["client"], "reason": "test"}
    await http.post("/api/v1/disconnect", json=body, headers=bearer(operator(running, "olga")))
    async with asyncio.timeout(within(10)):
        await client.socket.wait_closed()
    assert client.socket.close_code == 3503
    (record,) = (await http.get("/api/v1/operator/audits?kind=disconnect", headers=bearer(ADMIN))).json()[
        "audits"
    ]
    assert (record["tenant"], record["subject"]) == ("default", "ada")
    assert json.loads(record["detail"]) | {"by": "olga", "client": body["client"]} == json.loads(
        record["detail"]
    )
    await http.post("/api/v1/drain", json={"node": "another"}, headers=bearer(ADMIN))
    (record,) = (await http.get("/api/v1/operator/audits?kind=drain", headers=bearer(ADMIN))).json()["audits"]
    assert (record["subject"], json.loads(record["detail"])["by"]) == ("another", "admin key")


# -- traces --------------------------------------------------------------------------------------------------------


async def started(http: httpx2.AsyncClient, token: str, **body: Any) -> str:
    """The id of a trace."""
    answer = await http.post("/api/v1/operator/traces", json=body, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["trace_id"])


async def entries(http: httpx2.AsyncClient, trace_id: str, enough: int) -> list[dict[str, Any]]:
    """The entries of a trace that are messages, once there are enough."""
    async with asyncio.timeout(within(15)):
        while True:
            answer = await http.get(f"/api/v1/operator/traces/{trace_id}", headers=bearer(ADMIN))
            found = [one for one in answer.json()["entries"] if one["direction"] != "note"]
            if len(found) >= enough:
                return found
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within(15)):
        while not await condition():  # noqa: ASYNC110 - of the server, which has no event for it
            await asyncio.sleep(0.03)


async def tapped(running: Running, trace_id: str) -> None:
    """Wait until a trace has found a connection."""
    parts = running.gateway.parts
    assert parts is not None
    found = parts.fleet.tracing._running[trace_id]

    async def has_tap() -> bool:
        return bool(found.taps)

    await until(has_tap)


async def test_trace_shows_both_directions_with_masked_texts(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Method, channel and sizes are shown; what a person wrote, and a token, are not. Its end is an audit record."""
    ada, bob = await line(running, running.token("ada")), await line(running, running.token("bob"))
    trace_id = await started(http, operator(running, "olga"), user="ada", seconds=60)
    watcher = await line(running, operator(running, "olga"))
    await watcher.ask(subscribe={"channel": f"operator:trace-{trace_id}"})
    await tapped(running, trace_id)
    await ada.ask(rpc={"method": "echo", "data": {"text": "a private word"}})
    await bob.ask(rpc={"method": "echo", "data": {"text": "of another user"}})
    fresh = running.token("ada")
    await ada.ask(refresh={"token": fresh})
    await http.post(
        "/api/v1/publish",
        json={"channel": "user:ada", "data": {"type": "CUSTOM", "name": "shop.paid"}},
        headers=bearer(ADMIN),
    )
    await ada.pushed("pub")
    found = await entries(http, trace_id, 5)
    assert [(one["direction"], one["kind"]) for one in found] == [
        ("in", "rpc"),
        ("out", "reply"),
        ("in", "refresh"),
        ("out", "reply"),
        ("out", "push pub"),
    ]
    text = json.dumps(found)
    assert "private" not in text
    assert "another user" not in text
    assert fresh not in text
    assert "(14 characters)" in text
    assert '\\"method\\":\\"echo\\"' in text
    assert "shop.paid" in text
    event = (await watcher.pushed("pub"))["pub"]["data"]
    assert event["type"] == "trace"
    await http.post("/api/v1/operator/traces/end", json={"trace_id": trace_id}, headers=bearer(ADMIN))
    await ada.ask(rpc={"method": "echo", "data": {"text": "afterwards"}})
    async with asyncio.timeout(within(10)):
        while True:
            audits = (await http.get("/api/v1/operator/audits", headers=bearer(ADMIN))).json()["audits"]
            if len(audits) == 2:
                break
            await asyncio.sleep(0.05)
    assert [record["kind"] for record in audits] == ["trace_ended", "trace_started"]
    assert json.loads(audits[1]["detail"])["by"] == "olga"
    answer = (await http.get(f"/api/v1/operator/traces/{trace_id}", headers=bearer(ADMIN))).json()
    assert answer["running"] is False
    assert len([one for one in answer["entries"] if one["direction"] != "note"]) == 5
    assert (await http.get("/api/v1/operator/traces", headers=bearer(ADMIN))).json()["traces"] == []
    for client in (ada, bob, watcher):
        await client.socket.close()


async def test_payloads_need_the_setting(tmp_path: Path, running: Running, http: httpx2.AsyncClient) -> None:
    """Without it they are refused; with it texts are shown, and credentials still are not."""
    body = {"user": "ada", "payloads": True}
    refused = await http.post("/api/v1/operator/traces", json=body, headers=bearer(ADMIN))
    assert (refused.status_code, refused.json()["code"]) == (403, "payloads_not_allowed")
    async with (
        gateway(tmp_path / "open", admin_key=ADMIN, trace_payloads=True) as other,
        httpx2.AsyncClient(base_url=other.http, trust_env=False) as client,
    ):
        ada = await line(other, other.token("ada"))
        trace_id = await started(client, ADMIN, **body)
        await tapped(other, trace_id)
        fresh = other.token("ada")
        await ada.ask(rpc={"method": "echo", "data": {"text": "shown now"}})
        await ada.ask(refresh={"token": fresh})
        text = json.dumps(await entries(client, trace_id, 4))
        assert "shown now" in text
        assert fresh not in text
        await ada.socket.close()


async def test_traces_are_bounded(running: Running, http: httpx2.AsyncClient) -> None:
    """In number, in time, and in entries a second."""
    long = await http.post(
        "/api/v1/operator/traces", json={"user": "ada", "seconds": 601}, headers=bearer(ADMIN)
    )
    assert long.status_code == 422
    ada = await line(running, running.token("ada"))
    trace_id = await started(http, ADMIN, user="ada", seconds=1)
    for number in range(4):
        await started(http, ADMIN, user=f"u{number}")
    full = await http.post("/api/v1/operator/traces", json={"user": "eve"}, headers=bearer(ADMIN))
    assert (full.status_code, full.json()["code"]) == (409, "too_many_traces")
    await tapped(running, trace_id)
    frame = "\n".join(json.dumps({"id": number, "ping": {}}) for number in range(100, 104))
    for _ in range(40):
        await ada.socket.send(frame)

    async def ended() -> bool:
        answer = await http.get(f"/api/v1/operator/traces/{trace_id}", headers=bearer(ADMIN))
        return answer.json()["running"] is False

    await until(ended)
    found = (await http.get(f"/api/v1/operator/traces/{trace_id}", headers=bearer(ADMIN))).json()["entries"]
    assert any("more messages are not shown" in entry.get("body", "") for entry in found)
    assert len(found) < 150
    await ada.socket.close()


# -- measurements --------------------------------------------------------------------------------------------------


async def test_measurements_are_recorded_and_listed(running: Running, http: httpx2.AsyncClient) -> None:
    """As `narthex bench --post` sends them; a body of another form is refused."""
    path = "/api/v1/operator/baselines"
    body = {"figures": {"handshakes: CPU µs": 150.5}, "version": "0.1.0", "machine": "test"}
    assert (await http.post(path, json=body, headers=bearer(ADMIN))).status_code == 200
    wrong_ones: list[dict[str, Any]] = [{"figures": {}}, {"figures": {"a": -1}}, {"figures": {"a": "b"}}]
    for wrong in wrong_ones:
        assert (await http.post(path, json=wrong, headers=bearer(ADMIN))).status_code == 422
    (found,) = (await http.get(path, headers=bearer(ADMIN))).json()["baselines"]
    assert (found["figures"], found["kind"]) == ({"handshakes: CPU µs": 150.5}, "bench")
