"""Edge cases of HTTP streaming, SSE and emulation; tests/app/test_commands.py covers normal use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from narthex.ports.agents import Agent, RunInput
from narthex.protocol.codes import SHUTDOWN
from narthex.protocol.framing import Prepared
from narthex.testing import Running, gateway
from narthex.web import fallbacks
from tests.app.test_connection import eventually

PAGE = "https://page.example"


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message."""
    yield run.messages[-1].content


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(
        tmp_path, agents=[Agent(name="words", function=words)], allowed_origins=[PAGE]
    ) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/connection/http_stream", "/emulation"])
async def test_a_page_of_an_allowed_origin_may_post_to_them(http: httpx2.AsyncClient, path: str) -> None:
    """SDKs post JSON there, so browsers ask first."""
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    told = await http.options(path, headers=ask | {"Origin": PAGE})
    assert told.status_code == 204
    assert told.headers["access-control-allow-origin"] == PAGE
    assert "POST" in told.headers["access-control-allow-methods"]
    assert "content-type" in told.headers["access-control-allow-headers"]
    foreign = await http.options(path, headers=ask | {"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"session":"x","node":"","data":"{}","more":' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400),
        (b'{"session":"nobody","node":"","data":"{}"}', 404),
        (b'{"session":"x","node":"' + b"n" * 101 + b'","data":"{}"}', 400),
        (b"x" * 70_000, 400),
    ],
)
async def test_what_is_no_command_of_a_stream_is_said(
    http: httpx2.AsyncClient, body: bytes, status: int
) -> None:
    """Nesting beyond a parser's limit is not our bug."""
    assert (await http.post("/emulation", content=body)).status_code == status


async def test_a_page_may_read_why_it_was_refused(http: httpx2.AsyncClient) -> None:
    """Otherwise its script learns only that the network failed."""
    page = {"Origin": PAGE}
    token = '{"id":1,"connect":{"token":"x"}}'
    for answer, code in (
        (await http.post("/connection/http_stream", content=b"x" * 70_000, headers=page), "bad_request"),
        (await http.get("/connection/sse", params={"cf_connect": token}, headers=page), "credential_in_url"),
    ):
        assert answer.json()["code"] == code
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "rest", ['\n{"id":2,"rpc":{"method":"time"}}', "\n", '\n{"id":2,"rpc":{"data":"\\ud83d"}}']
)
async def test_a_token_in_the_url_is_seen_beside_other_commands(http: httpx2.AsyncClient, rest: str) -> None:
    """A frame has several commands by lines: anything the session would take for a token is refused in the URL."""
    command = '{"id":1,"connect":{"token":"x"}}' + rest
    answer = await http.get("/connection/sse", params={"cf_connect": command})
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_in_url")
    command = command.replace('"token":"x"', '"headers":{"authorization":"Bearer x"}')
    answer = await http.get("/connection/sse", params={"cf_connect": command})
    assert (answer.status_code, answer.json()["code"]) == (400, "credential_in_url")


async def test_commands_for_other_nodes_are_bounded_per_address(http: httpx2.AsyncClient) -> None:
    """Each costs the broker a message, and only the other node knows that the session does not exist."""
    body = {"session": "nobody", "node": "node-elsewhere", "data": "{}"}
    for _ in range(fallbacks.FORWARDS):
        assert (await http.post("/emulation", json=body)).status_code == 204
    refused = await http.post("/emulation", json=body, headers={"Origin": PAGE})
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= fallbacks.FORWARDS_WINDOW_S
    assert refused.headers["access-control-allow-origin"] == PAGE


def test_counting_forwards_takes_a_few_megabytes_at_most() -> None:
    """Six hundred moments an address, 8 bytes each: fewer addresses are remembered than where ten are kept."""
    assert fallbacks.FORWARDS * fallbacks.FORWARDERS * 8 <= 5_000_000


async def test_a_stream_that_is_closed_and_not_read_is_dropped(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot is released, though its client stays connected and reads nothing."""
    monkeypatch.setattr(fallbacks, "CLOSE_S", 0.2)
    parts = running.gateway.parts
    assert parts is not None
    body = b'{"id":1,"connect":{}}'
    head = (
        f"POST /connection/http_stream HTTP/1.1\r\nHost: {running.http.removeprefix('http://')}\r\n"
        f"Authorization: Bearer {running.token('ada')}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, port = running.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(head.encode() + body)
    async with asyncio.timeout(10):
        await eventually(lambda: len(parts.core.registry) == 1)
        (connection,) = parts.core.registry
        for _ in range(64):
            connection.socket.send(Prepared(b"x" * 262_144))
        connection.close(SHUTDOWN)
        await eventually(lambda: len(parts.core.registry) == 0)
    assert parts.core.limiter.total == 0
    writer.close()
    del reader
