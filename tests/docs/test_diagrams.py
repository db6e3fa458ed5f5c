"""The diagrams that are drawn from the code: what no table can show is compared with what a gateway does."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import httpx2
from tools.diagrams import ADMISSION, phases
from websockets.asyncio.client import connect

from narthex.testing import Running, gateway
from tests.timing import within


async def test_the_checks_of_admission_come_in_the_order_of_the_diagram(tmp_path: Path) -> None:
    """A request that fails at every check gets the first one's refusal; mended there, the next one's, and so on."""
    options: dict[str, Any] = {
        "max_connections": 2,
        "max_connections_per_address": 2,
        "max_connections_unauthenticated": 2,
        "max_connections_per_user": 1,
    }
    async with gateway(tmp_path, **options) as running:
        assert running.gateway.parts is not None
        handshakes = running.gateway.parts.handshakes
        async with (
            connect(running.ws, proxy=None, additional_headers=bearer(running.token("eve"))),
            connect(running.ws, proxy=None, additional_headers=bearer(running.token("ada"))) as ada,
        ):
            seen = []
            request = {
                "Host": "other.example",
                "Origin": "https://other.example",
                "X-E2E-Bypass-Key": "k" * 40,
            }
            request |= bearer("nonsense")
            token = "?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
            state, handshakes._state = handshakes._state, lambda: "draining"
            seen.append(await asked(running, request, token))
            del request["Host"]
            seen.append(await asked(running, request, token))
            handshakes._state = state
            seen.append(await asked(running, request, token))
            seen.append(await asked(running, request))
            del request["Origin"]
            seen.append(await asked(running, request))
            del request["X-E2E-Bypass-Key"]
            full = await asked(running, request)
            assert "process" in full["detail"]
            seen.append(full)
            await ada.close()
            async with asyncio.timeout(within(10)):
                while running.gateway.parts.core.limiter.total > 1:  # noqa: ASYNC110 - counts have no event
                    await asyncio.sleep(0.01)
            seen.append(await asked(running, request))
            seen.append(await asked(running, bearer(running.token("x", tenant="e2e"))))
            user = await asked(running, bearer(running.token("eve")))
            assert "user" in user["detail"]
            seen.append(user)
    assert len(seen) == len(ADMISSION)
    for answer, check in zip(seen, ADMISSION, strict=True):
        assert answer["code"] in check.codes, f"{check.question} {answer}"


def bearer(token: str) -> dict[str, str]:
    """The header."""
    return {"Authorization": f"Bearer {token}"}


async def asked(running: Running, headers: dict[str, str], query: str = "") -> dict[str, Any]:
    """The problem with which an upgrade is refused."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{running.http}/ws{query}", headers=upgrade | headers)
    found: dict[str, Any] = answer.json()
    return found


def test_the_phases_are_those_of_the_sessions_table() -> None:
    """Each phase of the diagram ends with the codes that the table in `protocol/session.py` has for it."""
    drawn = phases()
    for line in (
        "WAITING --> CONNECTING: connect",
        "WAITING --> CLOSED: 3501 other command<br/>3501 pong<br/>3502 silence",
        "CONNECTING --> CLOSED: 3501 connect<br/>3502 silence",
        "LIVE --> CLOSED: 3501 connect<br/>3012 no pong<br/>3005 expired<br/>3011 force reconnect",
    ):
        assert line in drawn
