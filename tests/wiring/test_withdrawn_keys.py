"""`narthex keys rotate --now` disconnects every client admitted by the old key, whatever carrier its token used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, words


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[words]) as found:
        yield found


@pytest.mark.parametrize("way", ["header", "refresh", "connect", "ticket"])
async def test_a_withdrawn_key_closes_what_it_opened(running: Running, way: str) -> None:
    """Closed 3011: SDKs reconnect with a fresh token, which a thief does not have."""
    token = running.token("ada")
    bearer = {"Authorization": f"Bearer {token}"}
    url = running.ws
    if way == "ticket":
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            asked = await http.post("/ws/ticket", headers=bearer)
        url += f"?ticket={asked.json()['ticket']}"
    headers = bearer if way in ("header", "refresh") else {}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        await socket.send(json.dumps({"id": 1, "connect": {"token": token} if way == "connect" else {}}))
        assert "connect" in await raw.reply(1)
        raw.number = 1
        if way == "refresh":
            assert "refresh" in await raw.call("refresh", token=running.token("ada"))
        parts = running.gateway.parts
        assert parts is not None
        keys = parts.tokens.provider_keys
        assert keys is not None
        await keys.rotate(immediately=True)
        with pytest.raises(ConnectionClosed) as ended:
            while True:
                await asyncio.wait_for(socket.recv(), 2)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 3011


async def test_a_ticket_ends_with_the_key_that_bought_it(running: Running) -> None:
    """Bought before the withdrawal and used after it: its connection would not be closed later."""
    bearer = {"Authorization": f"Bearer {running.token('ada')}"}
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        asked = await http.post("/ws/ticket", headers=bearer)
    parts = running.gateway.parts
    assert parts is not None
    keys = parts.tokens.provider_keys
    assert keys is not None
    await keys.rotate(immediately=True)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{running.ws}?ticket={asked.json()['ticket']}", proxy=None)
    assert refused.value.response.status_code == 401
    fresh = {"Authorization": f"Bearer {running.token('ada')}"}
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        asked = await http.post("/ws/ticket", headers=fresh)
    async with connect(f"{running.ws}?ticket={asked.json()['ticket']}", proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {}}))
        assert "connect" in await Raw(socket).reply(1)
