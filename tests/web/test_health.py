"""The health routes: status codes, methods, CORS and permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.domain.addresses import TrustedProxies
from narthex.domain.identity import Identity
from narthex.domain.origins import OriginPolicy, parse_allowed_origins
from narthex.domain.refusals import Refusal
from narthex.web.access import Access
from narthex.web.health import HealthPages, client_config
from narthex.web.request_rules import RequestRules
from tests.app.test_health import Bench, Probe

ADMIN_KEY = "the-admin-key-0123456789"


class Site(Bench):
    """The routes over probes."""

    def __init__(self) -> None:
        super().__init__()
        origins = parse_allowed_origins(["https://app.example.com"])
        assert isinstance(origins, OriginPolicy)

        async def nobody(request: Request) -> Identity | Refusal:
            del request
            return Refusal(code="auth_required")

        async def stats() -> dict[str, object]:
            return {"connections": 3}

        config = client_config(
            environment="staging",
            version="1.2.3",
            auth_required=True,
            guests=False,
            limits={"max_headers": 100},
            plans={"free": {"connections": 10}},
            provider=True,
        )
        pages = HealthPages(
            self.health,
            config=lambda request: config | {"url": f"ws://{request.headers['host']}/ws"},
            stats=stats,
            metrics=self.meter.scraped,
            access=Access([ADMIN_KEY], nobody, lambda request: "127.0.0.1", lambda: 0.0),
            rules=RequestRules(TrustedProxies(), origins),
        )
        self.app = Starlette(routes=pages.routes())


@pytest.fixture
def site() -> Site:
    """See the class."""
    return Site()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """Asks the site."""
    transport = httpx2.ASGITransport(app=site.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://chat.example") as found:
        yield found


def fail(site: Site, name: str) -> Probe:
    """Break one check."""
    probe = site.probes[name]
    probe.fault = OSError("away")
    return probe


@pytest.mark.parametrize(("broken", "status"), [("", 200), ("agents", 200), ("store", 503)])
async def test_503_means_send_nobody_here(
    site: Site, client: httpx2.AsyncClient, broken: str, status: int
) -> None:
    """Degraded still serves; HEAD gives the same without a body."""
    if broken:
        fail(site, broken)
    answer = await client.get("/ws/health")
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert answer.json()["status"] == {"": "healthy", "agents": "degraded", "store": "unhealthy"}[broken]
    assert (await client.head("/ws/health")).status_code == status


async def test_readiness_and_liveness(site: Site, client: httpx2.AsyncClient) -> None:
    """A store that is down takes the gateway out of rotation, and must not get it killed."""
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    fail(site, "store")
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "reasons": ["store"]})
    site.state = "draining"
    assert (await client.get("/readyz")).json()["reasons"] == ["draining"]
    assert (await client.get("/livez")).status_code == 200
    asked = site.probes["store"].asked
    await client.get("/livez")
    assert site.probes["store"].asked == asked


async def test_the_beacon_is_a_constant(client: httpx2.AsyncClient) -> None:
    """Byte for byte."""
    answers = {(await client.get("/ws/beacon")).content for _ in range(3)}
    assert answers == {b'{"beacon":"narthex","wire":"centrifuge-json-v2"}'}


async def test_config_tells_a_client_how_to_connect(client: httpx2.AsyncClient) -> None:
    """The URL of the request itself, and the enforced limits."""
    body = (await client.get("/ws/config")).json()
    assert body["url"] == "ws://chat.example/ws"
    assert body["limits"] == {"max_headers": 100}
    assert body["pre_connection_auth_required"] is True
    assert body["subprotocols"] == ["jwt-auth", "narthex.explain", "centrifuge-protobuf"]


@pytest.mark.parametrize("path", ["/ws/health", "/ws/config", "/ws/beacon"])
async def test_pages_of_allowed_origins_may_read(client: httpx2.AsyncClient, path: str) -> None:
    """Others get the answer without the header that would let their page read it."""
    allowed = {"Origin": "https://app.example.com"}
    assert (await client.get(path, headers=allowed)).headers["access-control-allow-origin"] == allowed[
        "Origin"
    ]
    preflight = await client.options(path, headers=allowed)
    assert (preflight.status_code, preflight.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    for other in ({"Origin": "https://evil.example"}, {}):
        answer = await client.get(path, headers=other)
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin"


async def test_the_numbers_are_for_operators(client: httpx2.AsyncClient) -> None:
    """With the admin key; without, or with another, a refusal with text."""
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}
    assert (await client.get("/ws/stats", headers=key)).json() == {"connections": 3}
    refused = await client.get("/ws/stats")
    assert (refused.status_code, refused.json()["code"]) == (401, "auth_required")
    wrong = await client.get("/ws/stats", headers={"Authorization": "Bearer another-key"})
    assert wrong.status_code == 401
    assert "another-key" not in wrong.text


async def test_metrics_are_prometheus_text(site: Site, client: httpx2.AsyncClient) -> None:
    """With the type that scrapers expect."""
    assert isinstance(site.meter, PrometheusMeter)
    site.meter.handshake("refused", "auth_required", "user", 0.001)
    answer = await client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    assert 'narthex_handshakes_total{class="user",code="auth_required",outcome="refused"} 1.0' in answer.text


@pytest.mark.parametrize("path", ["/ws/health", "/livez", "/ws/stats", "/metrics"])
async def test_other_methods_are_refused(client: httpx2.AsyncClient, path: str) -> None:
    """POST is not supported."""
    assert (await client.post(path)).status_code == 405
