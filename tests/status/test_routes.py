"""The routes of the page on a real gateway: public ones, operators' and probers'."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

import narthex.testing
from narthex.e2e.children import free_port
from narthex.status.measurements import Sample
from narthex.status.page import SCRIPT, _hash
from narthex.testing.running import Running
from tests.timing import within

ADMIN = "admin-key-of-the-tests-0001"
STATUS = "status-token-of-the-tests-01"
PUBLIC = ("/status", "/status.json", "/status.atom", "/status/badge.svg", "/status/icon.svg")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway with the page."""
    async with narthex.testing.gateway(
        tmp_path,
        admin_key=ADMIN,
        status_token=STATUS,
        status_name='Ac<me> & "Co"',
        status_components=("api=Public <API>",),
    ) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without credentials."""
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_store_has_an_audit_record_of_each_change(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Beside the record in the page's own database; a change is made also while the store is away."""
    parts = running.gateway.parts
    assert parts is not None
    found = await opened(http)
    (record,) = await parts.store.records.audits("incident", 10)
    assert (record.subject, json.loads(record.detail)["incident"]) == ("admin key", found["id"])
    assert json.loads(record.detail)["change"]["title"] == "Slow answers"


async def opened(http: httpx2.AsyncClient, **changes: Any) -> dict[str, Any]:
    body = {"title": "Slow answers", "text": "We look into it.", "impact": "outage", "components": ["stream"]}
    answer = await http.post("/api/v1/incidents", json=body | changes, headers=bearer(ADMIN))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def state_of(http: httpx2.AsyncClient, component: str, wanted: str) -> dict[str, Any]:
    """The component as soon as it has the wanted state."""
    until = time.monotonic() + within(15)
    while True:
        answer = await http.get("/status.json")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = next(one for one in answer.json()["components"] if one["id"] == component)
        if found["state"] == wanted or time.monotonic() > until:
            assert found["state"] == wanted
            return found
        await asyncio.sleep(0.05)


async def test_everything_public_is_cacheable_and_needs_no_credential(http: httpx2.AsyncClient) -> None:
    """A cache in front may keep it for seconds, and for a day while this gateway is away."""
    for path in PUBLIC:
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert "stale-if-error=86400" in answer.headers["cache-control"]
        assert "set-cookie" not in answer.headers
        again = await http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code in (200, 304)  # it may have changed meanwhile
        assert (await http.head(path)).content == b""
    logo = await http.get("/status/logo")
    assert logo.status_code == 404


async def test_an_unchanged_page_is_not_sent_again(http: httpx2.AsyncClient) -> None:
    """Also where it was compressed."""
    for _ in range(20):  # until two requests meet the same document
        answer = await http.get("/status")
        again = await http.get("/status", headers={"If-None-Match": answer.headers["etag"]})
        if again.status_code == 304:
            break
    assert (again.status_code, again.content) == (304, b"")
    assert answer.headers["content-encoding"] == "gzip"


async def test_a_page_is_one_file_with_its_own_script(http: httpx2.AsyncClient) -> None:
    """Nothing is loaded but the feed, the icon and images of this host; the policy forbids the rest."""
    answer = await http.get("/status")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"(?:script|connect)-src ([^;]*)", policy) == [_hash(SCRIPT), "'self'"]
    assert answer.text.count("<script") == 1
    assert '<noscript><meta http-equiv="refresh" content="60"></noscript>' in answer.text
    assert "Ac&lt;me&gt; &amp; &quot;Co&quot;" in answer.text
    assert "Public &lt;API&gt;" in answer.text


async def test_the_gateway_reports_itself(http: httpx2.AsyncClient) -> None:
    """By its health checks, each journey by those that it needs."""
    for journey in ("connect", "send", "stream", "sign_in"):
        found = await state_of(http, journey, "operational")
        assert found["latency_ms"]["now"] is not None
    await state_of(http, "api", "unknown")  # which only a prober can know


async def test_an_incident_from_its_opening_to_its_end(http: httpx2.AsyncClient) -> None:
    """Its author sees each step at once, on the page, in JSON and in the feed."""
    found = await opened(http, title="Slow <b>answers</b>")
    page = (await http.get("/status")).text
    assert "Slow &lt;b&gt;answers&lt;/b&gt;" in page
    assert 'data-state="outage"' in page
    own = await http.get(f"/status/incidents/{found['id']}")
    assert own.status_code == 200
    answer = await http.post(
        f"/api/v1/incidents/{found['id']}/updates",
        json={"text": "It was the model.", "state": "resolved"},
        headers=bearer(ADMIN),
    )
    assert answer.json()["state"] == "resolved"
    document = (await http.get("/status.json")).json()
    assert [one["state"] for one in document["incidents"]] == ["resolved"]
    assert [one["text"] for one in document["incidents"][0]["updates"]] == [
        "It was the model.",
        "We look into it.",
    ]
    assert "Slow &lt;b&gt;answers&lt;/b&gt; (Resolved)" in (await http.get("/status.atom")).text
    changes = (await http.get("/api/v1/incidents/changes", headers=bearer(ADMIN))).json()["changes"]
    assert [(one["action"], one["actor"]) for one in changes] == [
        ("resolve", "admin key"),
        ("open", "admin key"),
    ]


async def test_maintenance_is_announced_and_called_off(http: httpx2.AsyncClient) -> None:
    """It is shown before it begins, and counts as no incident."""
    body = {
        "title": "Database",
        "text": "A minute of silence.",
        "starts_at": time.time() + 3_600,
        "ends_at": time.time() + 7_200,
    }
    found = (await http.post("/api/v1/maintenance", json=body, headers=bearer(ADMIN))).json()
    document = (await http.get("/status.json")).json()
    assert [one["state"] for one in document["maintenance"]] == ["scheduled"]
    assert document["incidents"] == []
    over = await http.post(
        f"/api/v1/incidents/{found['id']}/updates",
        json={"text": "Not needed.", "state": "resolved"},
        headers=bearer(ADMIN),
    )
    assert over.json()["state"] == "cancelled"


async def test_maintenance_now_is_shown_as_such(http: httpx2.AsyncClient) -> None:
    """Even where everything is well."""
    await state_of(http, "connect", "operational")
    body = {
        "title": "Now",
        "text": "x",
        "starts_at": time.time(),
        "ends_at": time.time() + 60,
        "components": ["connect"],
    }
    assert (await http.post("/api/v1/maintenance", json=body, headers=bearer(ADMIN))).status_code == 200
    await state_of(http, "connect", "maintenance")
    await state_of(http, "send", "operational")


async def test_a_repeated_call_opens_one_incident(http: httpx2.AsyncClient) -> None:
    """Its answer was lost on the way, and the program tried again."""
    first = await opened(http, request_id="r-1")
    second = await opened(http, request_id="r-1")
    assert first["id"] == second["id"]
    assert len((await http.get("/status.json")).json()["incidents"]) == 1


WRITES = (
    ("POST", "/api/v1/incidents", {"title": "t", "text": "x"}),
    ("POST", "/api/v1/incidents/aa0000000001/updates", {"text": "x"}),
    ("POST", "/api/v1/maintenance", {"title": "t", "text": "x", "starts_at": 1, "ends_at": 2}),
    ("GET", "/api/v1/incidents", None),
    ("GET", "/api/v1/incidents/changes", None),
    (
        "POST",
        "/api/v1/status/samples",
        {"samples": [{"component": "connect", "kind": "probe", "source": "x", "failed": 1}]},
    ),
)


async def test_only_operators_write(running: Running, http: httpx2.AsyncClient) -> None:
    """Neither a visitor, nor a user, nor a tenant's administrator among several tenants, nor a test identity."""
    user = running.token("ada", permissions=("chat",))
    tester = running.token("eve", permissions=("operator",), tenant="e2e", e2e=True, test_run="r1")
    operator = running.token("root", permissions=("operator",))
    callers: tuple[tuple[dict[str, str], tuple[int, ...]], ...] = (
        ({}, (401,)),
        (bearer("wrong-key"), (401,)),
        (bearer(user), (403,)),
        (bearer(tester), (401, 403)),
        (bearer(operator), (200, 404, 422)),
    )
    for method, path, body in WRITES:
        for headers, statuses in callers:
            answer = await http.request(method, path, json=body, headers=headers)
            assert answer.status_code in statuses, (path, headers, answer.text)
            assert answer.status_code == 200 or answer.json()["remedy"]


async def test_a_status_token_reports_and_can_do_nothing_else(http: httpx2.AsyncClient) -> None:
    """It lies on every prober."""
    for method, path, body in WRITES:
        answer = await http.request(method, path, json=body, headers=bearer(STATUS))
        assert answer.status_code == (200 if path.endswith("samples") else 401), path


async def test_a_prober_outside_outweighs_a_healthy_gateway(http: httpx2.AsyncClient) -> None:
    """The fault may lie between the two."""
    await state_of(http, "connect", "operational")
    sample = {"component": "connect", "kind": "probe", "source": "eu", "failed": 1}
    answer = await http.post("/api/v1/status/samples", json={"samples": [sample]}, headers=bearer(STATUS))
    assert answer.json() == {"kept": 1}
    await state_of(http, "connect", "outage")
    unknown = sample | {"component": "nothing"}
    answer = await http.post("/api/v1/status/samples", json={"samples": [unknown]}, headers=bearer(STATUS))
    assert answer.json() == {"kept": 0}


WRONG: tuple[tuple[str, Any], ...] = (
    ("/api/v1/incidents", {"title": "", "text": "x"}),
    ("/api/v1/incidents", {"title": "t", "text": "x", "impact": "huge"}),
    ("/api/v1/incidents", {"title": "t", "text": "x", "components": ["nope"]}),
    ("/api/v1/incidents", {"title": "t", "text": "x" * 5_001}),
    ("/api/v1/incidents", {"title": "t", "text": "x", "started_at": 5}),
    ("/api/v1/incidents", {"title": "t", "text": "x", "more": 1}),
    ("/api/v1/maintenance", {"title": "t", "text": "x", "starts_at": 5, "ends_at": 6}),
    ("/api/v1/status/samples", {"samples": []}),
    ("/api/v1/status/samples", {"samples": [{"component": "connect", "kind": "rumour", "source": "x"}]}),
    (
        "/api/v1/status/samples",
        {"samples": [{"component": "connect", "kind": "probe", "source": "x", "failed": -1}]},
    ),
)


async def test_a_wrong_body_is_422_and_says_why(http: httpx2.AsyncClient) -> None:
    """As at every route of the server API."""
    for path, body in WRONG:
        answer = await http.post(path, json=body, headers=bearer(ADMIN))
        assert answer.status_code == 422, (path, body, answer.text)
        assert answer.json()["detail"]


async def test_an_incident_that_is_not_there_is_404(http: httpx2.AsyncClient) -> None:
    """For people and for programs."""
    assert (await http.get("/status/incidents/aa0000000001")).status_code == 404
    answer = await http.post("/api/v1/incidents/nope/updates", json={"text": "x"}, headers=bearer(ADMIN))
    assert (answer.status_code, answer.json()["code"]) == (404, "incident_not_found")


async def test_a_gateway_with_a_page_elsewhere_leads_there(tmp_path: Path) -> None:
    """And keeps no database."""
    async with (
        narthex.testing.gateway(tmp_path, status_url="http://127.0.0.1:9", status_token=STATUS) as found,
        httpx2.AsyncClient(base_url=found.http, trust_env=False) as client,
    ):
        answer = await client.get("/status.json")
        assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/status.json")
    assert not (tmp_path / "status.db").exists()


async def test_off_is_off(tmp_path: Path) -> None:
    """No route and no file."""
    async with narthex.testing.gateway(tmp_path, status_page="off") as found, httpx2.AsyncClient() as client:
        assert (await client.get(f"{found.http}/status")).status_code == 404
    assert not (tmp_path / "status.db").exists()


def test_a_sample_names_only_what_it_needs() -> None:
    """No field of it could take an address, a tenant or a text of a failure."""
    assert set(Sample.__struct_fields__) == {
        "component", "kind", "source", "good", "degraded", "failed", "latency_ms", "every_s", "at",
    }  # fmt: skip


async def handshakes(running: Running, token: str, times: int) -> None:
    """Attempts to connect, each of which is refused."""
    for _ in range(times):
        with pytest.raises(WebSocketException):
            async with connect(
                running.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
            ):
                pass


async def test_a_burst_of_refusals_is_seen_where_it_is_the_services_fault(tmp_path: Path) -> None:
    """Bad tokens change nothing; tokens that cannot be checked, with the breaker open, are an outage within 5 s."""
    issuer = f"http://127.0.0.1:{free_port()}/introspect"
    options: dict[str, Any] = {
        "introspection_url": issuer,
        "introspection_client_id": "narthex",
        "introspection_client_secret": "a-secret-of-decent-length-0123456789",
        "host": "127.0.0.1",
    }
    async with (
        narthex.testing.gateway(tmp_path, environ={"ENVIRONMENT": "staging"}, **options) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False) as client,
    ):
        await state_of(client, "connect", "operational")
        await handshakes(running, "a.b.c", 20)
        await asyncio.sleep(3.5)  # a round of samples
        assert (await state_of(client, "connect", "operational"))["state"] == "operational"
        await handshakes(running, "opaque-token-of-an-issuer-that-is-away", 60)
        began = time.monotonic()
        await state_of(client, "connect", "outage")
        assert time.monotonic() - began < within(5)
