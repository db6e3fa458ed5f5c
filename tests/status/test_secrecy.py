"""The public page shows no tenant, user, address, instance or secret, whatever happened behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

import narthex
import narthex.testing
from narthex.ports.agents import RunInput
from narthex.testing.running import Running
from tests.status.test_webhooks import receiving
from tests.timing import within

ADMIN = "admin-canary-0123456789abcdef"
STATUS = "status-canary-0123456789abcdef"
HOOK = "whsec_" + base64.b64encode(b"hook-canary-0123456789abcdef").decode()
SECRETS = (ADMIN, STATUS, HOOK, HOOK.removeprefix("whsec_"), "agent-canary-0123")
NAMES = (
    "tenant-canary",
    "subject-canary",
    "operator-canary",
    "prober-canary",
    "10.66.77.88",
    "127.0.0.1",
    "failing-canary",
)
PATHS = ("/status", "/status.json", "/status.atom", "/status/badge.svg", "/status/icon.svg")


@narthex.agent(name="failing-canary")
async def failing(run: RunInput) -> AsyncIterator[str]:
    """An agent whose error names what nobody outside may know."""
    yield f"secret of {run.user}"
    raise RuntimeError("no answer from 10.66.77.88 for tenant-canary")


async def trouble(running: Running, http: httpx2.AsyncClient) -> str:
    """Runs, refusals, probes and an incident; returns the incident's id."""
    token = running.token("subject-canary", tenant="tenant-canary")
    bearer = {"Authorization": f"Bearer {token}"}
    async with connect(running.ws, additional_headers=bearer, proxy=None) as socket:
        await socket.send('{"id":1,"connect":{}}')
        await socket.recv()
        body = {"method": "run.start", "data": {"text": "hello", "client_message_id": "m-1"}}
        await socket.send(json.dumps({"id": 2, "rpc": body}))
        await socket.recv()
    parts = running.gateway.parts
    assert parts is not None
    until = time.monotonic() + within(10)
    while not parts.meter.counts("runs"):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    for _ in range(3):
        with pytest.raises(WebSocketException):
            async with connect(f"{running.ws}?ticket=ticket-canary", proxy=None):
                pass
    operator = {"Authorization": f"Bearer {running.token('operator-canary', permissions=('operator',))}"}
    sample = {"component": "connect", "kind": "probe", "source": "prober-canary 10.66.77.88", "failed": 1}
    answer = await http.post(
        "/api/v1/status/samples", json={"samples": [sample]}, headers={"Authorization": f"Bearer {STATUS}"}
    )
    assert answer.json() == {"kept": 1}
    body = {"title": "Connections fail", "text": "We look into it.", "impact": "outage"}
    opened = await http.post("/api/v1/incidents", json=body, headers=operator)
    assert opened.status_code == 200, opened.text
    return str(opened.json()["id"])


async def test_nothing_of_the_inside_is_shown(tmp_path: Path) -> None:
    """Neither on a route, nor in a webhook, nor in the export; and secrets are not even kept."""
    async with receiving("200 OK") as hooks:
        options: dict[str, Any] = {
            "admin_key": ADMIN,
            "status_token": STATUS,
            "status_webhooks": f"{hooks.url}={HOOK}",
            "agent_secrets": "failing-canary=agent-canary-0123",
            "public_url": "https://chat.example.com",
            "allowed_hosts": ("chat.example.com", "127.0.0.1"),
        }
        async with narthex.testing.gateway(tmp_path, agents=[failing], **options) as running:
            node = running.gateway.parts.core.node  # type: ignore[union-attr]  # it runs
            async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
                incident = await trouble(running, http)
                await _until_reported(http)
                shown = {
                    path: (await http.get(path)).text + str(dict((await http.get(path)).headers))
                    for path in (*PATHS, f"/status/incidents/{incident}")
                }
                async with asyncio.timeout(within(15)):
                    await hooks.arrived.wait()
        shown["webhook"] = "".join(body.decode() for _, body in hooks.got)
    for place, text in shown.items():
        found = [one for one in (*SECRETS, *NAMES, node) if one in text]
        assert found == [], place
        assert "Connections fail" in text or place not in (
            "/status",
            "/status.json",
            "/status.atom",
            "webhook",
        )
    kept = "".join(sqlite3.connect(tmp_path / "status.db").iterdump())
    assert [
        one for one in (*SECRETS, "tenant-canary", "subject-canary", "failing-canary") if one in kept
    ] == []
    assert "prober-canary" in kept  # sources are kept, to count them, and not shown


async def _until_reported(http: httpx2.AsyncClient) -> None:
    """Wait until the page shows what happened: the prober's failure, and the failed run as traffic."""
    until = time.monotonic() + within(15)
    while True:
        document = (await http.get("/status.json")).json()
        states = {one["id"]: one["state"] for one in document["components"]}
        if states["connect"] == "outage" and states["send"] != "unknown":
            return
        assert time.monotonic() < until, states
        await asyncio.sleep(0.1)
