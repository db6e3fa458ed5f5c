"""Item 11: HTTP routes have a rate limit per user and per address, as commands have one per connection."""

from __future__ import annotations

from pathlib import Path

import httpx2
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from narthex.app.rates import Rates
from narthex.testing import gateway
from narthex.web.rates import ADDRESS_SHARE


def test_a_bucket_refills_at_its_rate() -> None:
    """The burst, then one token per fraction of a second; other keys are not affected."""
    rates = Rates(2.0, 3)
    assert [rates.take("a", 10.0) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert rates.take("b", 10.0) == 0
    assert [rates.take("a", 10.5), rates.take("a", 10.5)] == [0, 1]
    assert [rates.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 1]
    assert rates.take("a", 90.0) == 1  # a clock that was set back adds no tokens


def test_keys_are_bounded() -> None:
    """The key that was unused the longest is forgotten."""
    rates = Rates(1.0, 1, max_keys=2)
    for key in ("a", "b", "a", "c"):
        rates.take(key, 1.0)
    assert len(rates) == 2


async def test_a_users_requests_are_limited(tmp_path: Path) -> None:
    """N at once; one more gets 429 with the time to wait; another user of the same address is served."""
    async with (
        gateway(tmp_path, http_requests_per_s=1.0, http_requests_burst=5) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False) as http,
    ):
        ada, bob = ({"Authorization": f"Bearer {running.token(name)}"} for name in ("ada", "bob"))
        found = [(await http.get("/api/v1/threads", headers=ada)).status_code for _ in range(5)]
        assert found == [200] * 5
        for path in ("/api/v1/threads", "/agui", "/api/v1/threads/x/export"):
            refused = await http.get(path, headers=ada)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert int(refused.headers["retry-after"]) >= 1
        ticket = await http.post("/ws/ticket", headers=ada)
        assert (ticket.status_code, ticket.json()["code"]) == (429, "rate_limited")
        assert (await http.get("/api/v1/threads", headers=bob)).status_code == 200
        assert 'narthex_http_rate_limited_total{by="user"}' in (await http.get("/metrics")).text


async def test_an_addresss_requests_are_limited(tmp_path: Path) -> None:
    """Ten users' worth, whatever identities they claim; probes and an embedding program's own routes have no limit."""

    async def mine(_: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")

    async with (
        gateway(
            tmp_path, routes=[Route("/mine", mine)], http_requests_per_s=1.0, http_requests_burst=2
        ) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False) as http,
    ):
        burst = 2 * ADDRESS_SHARE
        found = [(await http.get("/ws/preflight")).status_code for _ in range(burst + 15)]
        assert 429 not in found[:burst]
        assert 429 in found[burst:]
        refused = await http.get("/ws/preflight")
        while refused.status_code != 429:
            refused = await http.get("/ws/preflight")
        assert refused.json()["code"] == "rate_limited"
        for path, status in (("/livez", 200), ("/readyz", 200), ("/mine", 200)):
            assert [(await http.get(path)).status_code for _ in range(burst)] == [status] * burst
