"""HTTP streaming, SSE and emulation at their edges; that they work is in tests/app/test_commands.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway

PAGE = "https://page.example"


async def words(run: RunInput) -> AsyncIterator[str]:
    """Says back what was said."""
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
        (b"x" * 70_000, 400),
    ],
)
async def test_what_is_no_command_of_a_stream_is_said(
    http: httpx2.AsyncClient, body: bytes, status: int
) -> None:
    """Nesting beyond what a parser follows is no bug of ours."""
    assert (await http.post("/emulation", content=body)).status_code == status
