"""In the real program one address cannot take all slots of unauthenticated connections (item 13)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.program import Program, running
from tests.timing import within

pytestmark = pytest.mark.acceptance

KEY = "e2e-key-0123456789abcdef0123456789abcdef"
PLACES = 12
STAGING = {
    "ENVIRONMENT": "staging",
    "E2E_TEST_ENV": "staging",
    "E2E_OAUTH_SIMULATION_KEY": KEY,
    "NARTHEX_HOST": "127.0.0.1",
    "NARTHEX_EMBEDDED_PROVIDER": "on",
    "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED": str(PLACES),
    "NARTHEX_INBAND_TIMEOUT_S": "60",
}
FLOODER, HARNESS = "127.0.3.1", "127.0.3.2"


async def dial(program: Program, address: str) -> ClientConnection:
    """A WebSocket from a loopback address, without a credential."""
    return await connect(program.ws, local_addr=(address, 0), proxy=None, open_timeout=within(10))


async def proved(socket: ClientConnection, token: str) -> dict[str, Any]:
    """Send the credential in-band; returns the reply to `connect`."""
    await socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
    async with asyncio.timeout(within(5)):
        reply: dict[str, Any] = json.loads(str(await socket.recv()).splitlines()[0])
    return reply


async def test_a_harness_elsewhere_gets_in_while_one_address_holds_every_place(tmp_path: Path) -> None:
    """The flooder's oldest connection is evicted with a reason; its own next one is refused; the harness chats."""
    async with running(tmp_path, STAGING) as program, contextlib.AsyncExitStack() as stack:
        flood = [await dial(program, FLOODER) for _ in range(PLACES)]
        for socket in flood:
            stack.push_async_callback(socket.close)
        with pytest.raises(InvalidStatus) as refused:
            await dial(program, FLOODER)
        assert refused.value.response.status_code == 429
        assert json.loads(refused.value.response.body or b"{}")["code"] == "connection_limit"

        answer = await program.post("/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": KEY}, json={})
        token = answer.json()["access_token"]
        harness = [await dial(program, HARNESS) for _ in range(3)]
        for socket in harness:
            stack.push_async_callback(socket.close)
            assert "connect" in await proved(socket, token)
        for socket in flood[:3]:
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(within(5)):
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4004
            assert closed.value.rcvd.reason.startswith("connection_limit")

        # Authenticated connections hold no unauthenticated slot: the flooder gets the three back, and no more.
        for _ in range(3):
            socket = await dial(program, FLOODER)
            stack.push_async_callback(socket.close)
        with pytest.raises(InvalidStatus):
            await dial(program, FLOODER)
        await harness[0].send(json.dumps({"id": 2, "rpc": {"method": "whoami"}}))
        async with asyncio.timeout(within(5)):
            assert json.loads(str(await harness[0].recv()).splitlines()[-1])["rpc"]["data"]["tenant"] == "e2e"
