"""`narthex.web.preflight`, `tickets`, `e2e`, `door` and `problems`, over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from narthex.domain.addresses import TrustedProxies, parse_networks, parse_trusted_proxies
from narthex.domain.identity import Identity
from narthex.domain.origins import OriginPolicy
from narthex.domain.refusals import Refusal
from narthex.errors import ClientError, DependencyError
from narthex.web import e2e, preflight, tickets
from narthex.web.problems import exception_handlers
from narthex.web.request_rules import RequestAuthenticator, RequestRules
from tests.app.handshake_harness import ANN, KEY, PAGE, HandshakeHarness, head, open_entrance

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FOREIGN = "https://evil.org"


def application(harness: HandshakeHarness) -> Starlette:
    """The handshake handler's routes, and some that fail."""
    http = RequestAuthenticator(harness.handshakes)

    async def fails(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind == "client":
            raise ClientError("unknown_channel", "There is no such channel.", "Use one.", number=422)
        if kind == "engine":
            raise DependencyError("store", "secret detail", retry_after_s=2.5)
        raise RuntimeError("secret detail")

    async def whoami(request: Request) -> Response:
        found = await http.authenticate(request)
        return JSONResponse({"who": found.code if isinstance(found, Refusal) else found.subject})

    return Starlette(
        routes=[
            *preflight.routes(harness.handshakes, http),
            *tickets.routes(http, harness.store.credentials, clock=harness.clock),
            *e2e.routes(harness.exchange, http),
            Route("/fails/{kind}", fails),
            Route("/whoami", whoami),
        ],
        exception_handlers=exception_handlers(
            lambda fault, trace: harness.bugs.append((fault, trace)), http.cors
        ),
    )


@asynccontextmanager
async def serving(harness: HandshakeHarness) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application; what it raises after its answer is swallowed, as servers log it."""
    transport = httpx2.ASGITransport(app=application(harness), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[HandshakeHarness]:
    """Staging with end-to-end testing on."""
    async with open_entrance(tmp_path) as found:
        yield found


@pytest.fixture
async def client(harness: HandshakeHarness) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client."""
    async with serving(harness) as found:
        yield found


def refused(response: httpx2.Response, status: int, code: str) -> dict[str, object]:
    """The body of a refusal, which must be a complete problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, object] = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert all(body[name] for name in ("type", "title", "detail", "remedy", "trace_id"))
    return body


def everything_in(directory: Path) -> bytes:
    """The bytes of all files of a directory, write-ahead logs included."""
    return b"".join(path.read_bytes() for path in directory.iterdir())


def bearer(token: str) -> dict[str, str]:
    """An Authorization header."""
    return {"Authorization": f"Bearer {token}"}


class TestPreflight:
    """`GET /ws/preflight`."""

    async def test_admits(self, client: httpx2.AsyncClient, harness: HandshakeHarness) -> None:
        """The user, the expiry, the carrier; preflight itself admits no connection."""
        traced = bearer("ann") | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        response = await client.get("/ws/preflight", headers=traced)
        assert response.json() == {
            "verdict": "admit",
            "inert": None,
            "carriers": ["authorization"],
            "carriers_checked": ["authorization", "subprotocol", "ticket", "cookie", "e2e_key"],
            "trace_id": TRACE,
            "user": {"id": "ann", "tenant": "default", "plan": "free", "class": "user"},
            "expires_at": ANN.expires_at,
        }
        assert response.headers["cache-control"] == "no-store"
        assert harness.limiter.total == 0

    async def test_refuses_as_the_upgrade_does(self, client: httpx2.AsyncClient) -> None:
        """With status, challenge and the checked carriers."""
        response = await client.get("/ws/preflight", headers=bearer("forged"))
        body = refused(response, 401, "token_invalid")
        assert body["carriers_checked"] == ["authorization", "subprotocol", "ticket", "cookie", "e2e_key"]
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
        refused(await client.get("/ws/preflight?token=x"), 400, "credential_in_url")
        assert (await client.get("/ws/preflight")).json()["inert"] == "unproven"

    async def test_pages_of_allowed_origins_can_read_it(self, client: httpx2.AsyncClient) -> None:
        """Admitted and refused alike; and send their headers."""
        for token in ("ann", "forged"):
            response = await client.get("/ws/preflight", headers=bearer(token) | {"Origin": PAGE})
            assert response.headers["access-control-allow-origin"] == PAGE
            assert response.headers["access-control-allow-credentials"] == "true"
            assert response.headers["vary"] == "Origin"
        asked = await client.options(
            "/ws/preflight", headers={"Origin": PAGE, "Access-Control-Request-Headers": "authorization"}
        )
        assert asked.status_code == 204
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert "GET" in asked.headers["access-control-allow-methods"]

    async def test_other_pages_cannot(self, client: httpx2.AsyncClient) -> None:
        """No permission in any answer."""
        response = await client.get("/ws/preflight", headers=bearer("ann") | {"Origin": FOREIGN})
        refused(response, 403, "origin_not_allowed")
        asked = await client.options("/ws/preflight", headers={"Origin": FOREIGN})
        for answer in (response, asked):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["vary"] == "Origin"


class TestTickets:
    """`POST /ws/ticket`."""

    async def test_admits_whoever_asked(self, client: httpx2.AsyncClient, harness: HandshakeHarness) -> None:
        """By token or by cookie; once."""
        cookie = {"Cookie": "narthex_session=ann", "Origin": PAGE}
        for headers in (bearer("ann"), cookie):
            response = await client.post("/ws/ticket", headers=headers)
            assert response.headers["cache-control"] == "no-store"
            assert response.json()["expires_in"] == 30
            query = f"ticket={response.json()['ticket']}"
            assert (await harness.seed(head(query=query))).identity == ANN
            assert await harness.refused(head(query=query)) == "ticket_invalid"

    async def test_nobody_else_gets_one(self, client: httpx2.AsyncClient) -> None:
        """Not without a credential, not for a foreign page, not for a cookie without Origin."""
        refused(await client.post("/ws/ticket"), 401, "auth_required")
        refused(await client.post("/ws/ticket", headers=bearer("forged")), 401, "token_invalid")
        cookie = {"Cookie": "narthex_session=ann"}
        refused(await client.post("/ws/ticket", headers=cookie), 403, "origin_not_allowed")
        refused(
            await client.post("/ws/ticket", headers=cookie | {"Origin": FOREIGN}), 403, "origin_not_allowed"
        )
        assert (await client.get("/ws/ticket")).status_code == 405

    async def test_a_ticket_buys_no_ticket(
        self, client: httpx2.AsyncClient, harness: HandshakeHarness
    ) -> None:
        """Otherwise thirty seconds would last for ever; a guest does not get one either."""
        ticket = await harness.ticket(ANN)
        refused(await client.post(f"/ws/ticket?ticket={ticket}"), 401, "auth_required")

    async def test_guests_get_none(self, tmp_path: Path) -> None:
        """They have no credential for a ticket."""
        async with (
            open_entrance(tmp_path, "development", keys=(), guests=True) as harness,
            serving(harness) as client,
        ):
            refused(await client.post("/ws/ticket", headers={"Origin": PAGE}), 401, "auth_required")

    async def test_so_many_a_minute(self, client: httpx2.AsyncClient, harness: HandshakeHarness) -> None:
        """120, per user."""
        for _ in range(120):
            assert (await client.post("/ws/ticket", headers=bearer("ann"))).status_code == 200
        response = await client.post("/ws/ticket", headers=bearer("ann"))
        refused(response, 429, "rate_limited")
        assert int(response.headers["retry-after"]) >= 1
        assert (await client.post("/ws/ticket", headers=bearer("bob"))).status_code == 200
        harness.clock.now += 61
        assert (await client.post("/ws/ticket", headers=bearer("ann"))).status_code == 200

    async def test_the_store_keeps_no_ticket(self, client: httpx2.AsyncClient, tmp_path: Path) -> None:
        """Only its fingerprint."""
        ticket: str = (await client.post("/ws/ticket", headers=bearer("ann"))).json()["ticket"]
        assert ticket.encode() not in everything_in(tmp_path)


class TestExchange:
    """`POST /auth/e2e/test-auth`."""

    URL = "/auth/e2e/test-auth"

    async def test_statuses(self, client: httpx2.AsyncClient) -> None:
        """200, 401 wrong or missing, 422, 429; never CORS."""
        key = {"X-E2E-Bypass-Key": KEY}
        response = await client.post(self.URL, headers=key, json={"email": "a@b.c", "test_run": "r"})
        assert set(response.json()) == {"access_token", "token_type", "expires_in", "user"}
        assert response.headers["cache-control"] == "no-store"
        refused(
            await client.post(self.URL, headers=key, json={"permissions": ["admin"]}), 422, "body_invalid"
        )
        refused(await client.post(self.URL, headers=key, content=b"x" * 5000), 422, "body_invalid")
        refused(await client.post(self.URL), 401, "e2e_key_wrong")
        for _ in range(10):
            wrong = await client.post(self.URL, headers={"X-E2E-Bypass-Key": "wrong", "Origin": PAGE})
            refused(wrong, 401, "e2e_key_wrong")
            assert "access-control-allow-origin" not in wrong.headers
        refused(await client.post(self.URL, headers=key), 429, "rate_limited")

    @pytest.mark.parametrize(
        ("environment", "status", "code"),
        [("production", 403, "e2e_not_allowed_here"), ("staging", 503, "auth_unavailable")],
    )
    async def test_where_it_is_closed(self, tmp_path: Path, environment: str, status: int, code: str) -> None:
        """403 in production, 503 without a key."""
        async with open_entrance(tmp_path, environment, keys=()) as harness, serving(harness) as client:
            refused(await client.post(self.URL, headers={"X-E2E-Bypass-Key": KEY}), status, code)


class TestProblems:
    """Every error over HTTP."""

    async def test_expected_ones(self, client: httpx2.AsyncClient) -> None:
        """The caller's, an engine's, and the router's own; with the request's trace id."""
        traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        assert (
            refused(await client.get("/fails/client", headers=traced), 422, "unknown_channel")["trace_id"]
            == TRACE
        )
        away = await client.get("/fails/engine")
        assert "secret detail" not in str(refused(away, 503, "store_unavailable"))
        assert away.headers["retry-after"] == "3"
        refused(await client.get("/nowhere"), 404, "no_route")
        refused(await client.put("/whoami"), 405, "method_not_allowed")

    async def test_a_bug_says_only_its_trace_id(
        self, client: httpx2.AsyncClient, harness: HandshakeHarness
    ) -> None:
        """Its log record has the same trace id."""
        body = refused(await client.get("/fails/bug"), 500, "internal")
        assert "secret detail" not in str(body)
        ((fault, trace_id),) = harness.bugs
        assert (str(fault), trace_id) == ("secret detail", body["trace_id"])

    async def test_who_leaves_within_a_body_is_no_bug(self, harness: HandshakeHarness) -> None:
        """Otherwise any client could fill the log of bugs, and trigger its alert, without a credential."""
        sent: list[Message] = [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
        scope = {
            "type": "http", "method": "POST", "path": "/auth/e2e/test-auth", "query_string": b"",
            "headers": [(b"host", b"localhost:8000")], "client": ("1.2.3.4", 1), "scheme": "http",
        }  # fmt: skip

        async def receive() -> Message:
            return sent.pop(0)

        async def send(_: Message) -> None:
            return None

        await application(harness)(scope, receive, send)
        assert harness.bugs == []

    async def test_a_page_may_read_what_went_wrong(self, client: httpx2.AsyncClient) -> None:
        """The caller's fault, an engine's and a bug, with the time to retry; a foreign page may not."""
        for kind in ("client", "engine", "bug"):
            answer = await client.get(f"/fails/{kind}", headers={"Origin": PAGE})
            assert answer.headers["access-control-allow-origin"] == PAGE
            answer = await client.get(f"/fails/{kind}", headers={"Origin": FOREIGN})
            assert "access-control-allow-origin" not in answer.headers


class TestDoor:
    """The checks of other routes."""

    async def test_who_a_request_is_of(self, client: httpx2.AsyncClient, harness: HandshakeHarness) -> None:
        """By the upgrade's rules; an inert one and a ticket have no user."""
        assert (await client.get("/whoami", headers=bearer("ann"))).json() == {"who": "ann"}
        assert (await client.get("/whoami")).json() == {"who": "auth_required"}
        ticket = await harness.ticket(Identity(subject="ann"))
        assert (await client.get(f"/whoami?ticket={ticket}")).json() == {"who": "auth_required"}
        cookie = {"Cookie": "narthex_session=ann", "Sec-Fetch-Site": "same-origin"}
        assert (await client.get("/whoami", headers=cookie)).json() == {"who": "ann"}

    def test_facts(self, harness: HandshakeHarness) -> None:
        """Address, scheme and own base URL of a plain request."""
        rules = RequestAuthenticator(harness.handshakes)
        scope = {
            "type": "http", "scheme": "http", "client": ("9.9.9.9", 1), "method": "GET", "path": "/",
            "headers": [(b"host", b"localhost:8000"), (b"x-forwarded-for", b"1.2.3.4")],
        }  # fmt: skip
        facts = rules.facts(Request(scope))
        assert (facts.address, facts.secure, facts.base_url) == ("9.9.9.9", False, "http://localhost:8000")
        assert rules.origin_allowed(Request(scope), "http://localhost:8000")
        named = RequestAuthenticator(harness.handshakes, "https://chat.example.com/").facts(Request(scope))
        assert named.base_url == "https://chat.example.com", "what the operator says of it goes first"
        assert not rules.origin_allowed(Request(scope), FOREIGN)


@pytest.mark.parametrize(
    ("peer", "headers", "loopback", "admitted"),
    [
        ("127.0.0.1", {}, True, True),
        ("::1", {}, True, True),
        ("127.0.0.1", {}, False, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, True, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, True, False),
        ("127.0.0.1", {"x-real-ip": "127.0.0.1"}, True, False),
        ("10.1.2.3", {}, True, True),
        ("::ffff:10.1.2.3", {}, True, True),
        ("192.0.2.1", {}, True, False),
        ("10.1.2.3", {"x-forwarded-for": "192.0.2.1"}, True, False),
        ("172.16.0.1", {"x-forwarded-for": "10.9.9.9"}, True, True),
        ("172.16.0.1", {"x-forwarded-for": "192.0.2.1"}, True, False),
        ("192.0.2.1", {"x-forwarded-for": "10.9.9.9"}, True, False),
    ],
)
def test_a_scraper_is_known_by_its_own_address(
    peer: str, headers: dict[str, str], loopback: bool, admitted: bool
) -> None:
    """This machine, or a trusted network; behind a proxy that is not trusted every client would look the same."""
    networks = parse_networks(["10.0.0.0/8"], "X")
    trusted = parse_trusted_proxies(["172.16.0.1"])
    assert isinstance(networks, tuple)
    assert isinstance(trusted, TrustedProxies)
    rules = RequestRules(trusted, OriginPolicy())
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "headers": raw, "client": (peer, 1), "method": "GET", "path": "/"})
    assert rules.scraper(request, networks, loopback=loopback) is admitted
