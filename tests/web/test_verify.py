"""`/ws/verify` in this process: whose words about the client's request count, and what the answers say.

Behind real proxies: tests/guard/test_verify.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette

from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.guard.core import GuardCore
from narthex.web import verify
from narthex.web.tickets import issue_ticket
from tests.guard.cores import core, token

PROXY, STRANGER = ("10.0.0.7", 4000), ("203.0.113.9", 4000)
HOST = "chat.example"
KEY = "an-end-to-end-key-of-32-characters"


def headers_of(identity: Identity, trace_id: str) -> list[tuple[str, str]]:
    """As the guard's assertions."""
    found = [("Narthex-Subject", identity.subject), ("Narthex-Trace-Id", trace_id)]
    return [*found, ("Narthex-Test-Run", identity.test_run)] if identity.test_run else found


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[GuardCore]:
    """A core behind one trusted proxy, for one host."""
    environ = {"E2E_OAUTH_SIMULATION_KEY": KEY}
    async with core(tmp_path, environ=environ, trusted_proxies=["10.0.0.7"], allowed_hosts=[HOST]) as made:
        yield made


async def ask(
    guard: GuardCore,
    path: str = "/ws/verify",
    *,
    peer: tuple[str, int] = PROXY,
    method: str = "GET",
    host: str = HOST,
    headers: list[tuple[str, str]] | None = None,
) -> httpx2.Response:
    """A proxy's question."""
    app = Starlette(routes=verify.routes(guard.handshakes, headers_of))
    transport = httpx2.ASGITransport(app, client=peer)
    async with httpx2.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return await client.request(method, path, headers=headers or [])


def bearer(*more: tuple[str, str]) -> list[tuple[str, str]]:
    """A credential, and more headers."""
    return [("Authorization", f"Bearer {token('ann')}"), *more]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_an_admitted_request_names_every_header_of_the_guards(guard: GuardCore, method: str) -> None:
    """Also one that is empty, so that a proxy overwrites what the client sent; 200 where the path follows."""
    answer = await ask(guard, method=method, headers=bearer(("X-Original-URI", "/ws")))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["narthex-subject"] == "ann"
    assert answer.headers["narthex-test-run"] == ""
    assert len(answer.headers["narthex-trace-id"]) == 32
    assert answer.headers["cache-control"] == "no-store"
    assert (await ask(guard, "/ws/verify/ws", method=method, headers=bearer())).status_code == 200


async def test_a_refusal_has_its_status_or_the_one_that_every_proxy_passes_on(guard: GuardCore) -> None:
    """With its code and its own status beside the body."""
    for path, status in (
        ("/ws/verify", 401),
        ("/ws/verify?refusals=403", 403),
        ("/ws/verify?refusals=402", 401),
    ):
        answer = await ask(guard, path, headers=[("X-Original-URI", "/ws")])
        assert answer.status_code == status
        assert (answer.headers["narthex-code"], answer.headers["narthex-status"]) == ("auth_required", "401")
        assert answer.json()["code"] == "auth_required"
        assert "narthex-subject" not in answer.headers


@pytest.mark.parametrize(
    ("path", "headers", "peer", "admitted"),
    [
        ("/ws/verify", [("X-Original-URI", "/ws?ticket=T")], PROXY, True),
        ("/ws/verify", [("X-Forwarded-Uri", "/ws?ticket=T")], PROXY, True),
        (
            "/ws/verify",
            [("X-Original-URI", "/ws?ticket=T"), ("X-Forwarded-Uri", "/ws?ticket=T")],
            PROXY,
            True,
        ),
        ("/ws/verify/ws?ticket=T", [], PROXY, True),
        ("/ws/verify/ws?ticket=T", [], STRANGER, True),  # it is its own client
        ("/ws/verify?ticket=T", [], PROXY, False),  # the query of the question, not of the client
        ("/ws/verify", [("X-Original-URI", "/ws?ticket=T")], STRANGER, False),
        ("/ws/verify", [("X-Original-URI", "/ws?ticket=T"), ("X-Forwarded-Uri", "/other")], PROXY, False),
        ("/ws/verify/ws?ticket=T", [("X-Original-URI", "/ws"), ("X-Forwarded-Uri", "/other")], PROXY, False),
    ],
)
async def test_the_uri_of_the_client_is_believed_from_trusted_proxies_only(
    guard: GuardCore, path: str, headers: list[tuple[str, str]], peer: tuple[str, int], admitted: bool
) -> None:
    """Its query holds a ticket, which counts once. Of two different URIs one may be the client's own: none counts."""
    ticket = await issue_ticket(guard.store.credentials, Identity(subject="ticket"), guard.now())
    named = [(name, value.replace("=T", f"={ticket}")) for name, value in headers]
    asked = path.replace("=T", f"={ticket}")
    answer = await ask(guard, asked, peer=peer, headers=named)
    assert (answer.headers.get("narthex-subject") == "ticket") is admitted
    again = await ask(guard, asked, peer=peer, headers=named)
    assert again.headers["narthex-code"] == ("ticket_invalid" if admitted else "auth_required")


@pytest.mark.parametrize(
    ("host", "headers", "peer", "admitted"),
    [
        (HOST, [], PROXY, True),
        ("guard.internal", [("X-Original-Host", HOST)], PROXY, True),
        ("guard.internal", [("X-Forwarded-Host", HOST)], PROXY, True),
        ("guard.internal", [("X-Forwarded-Host", HOST)], STRANGER, False),
        ("guard.internal", [], PROXY, False),
        (HOST, [("X-Forwarded-Host", "evil.example")], PROXY, False),
        (HOST, [("X-Original-Host", HOST), ("X-Forwarded-Host", "evil.example")], PROXY, False),
    ],
)
async def test_the_host_of_the_client_is_believed_from_trusted_proxies_only(
    guard: GuardCore, host: str, headers: list[tuple[str, str]], peer: tuple[str, int], admitted: bool
) -> None:
    """A request for a host that is not allowed is refused, also with a good credential."""
    answer = await ask(guard, host=host, peer=peer, headers=bearer(("X-Original-URI", "/ws"), *headers))
    assert (answer.status_code == 204) is admitted
    if not admitted:
        assert answer.headers["narthex-code"] == "bad_request"


async def test_a_test_identity_is_recorded_before_it_is_admitted(
    guard: GuardCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its test run in the answer; without the record it is refused."""
    headers = [("X-E2E-Bypass-Key", KEY), ("X-E2E-Test-Run", "run-1"), ("X-Original-URI", "/ws")]
    answer = await ask(guard, headers=headers)
    assert answer.status_code == 204
    assert answer.headers["narthex-test-run"] == "run-1"
    (record,) = await guard.store.records.audits(None, 10)
    assert "run-1" in repr(record)

    async def away(*_: object) -> None:
        raise DependencyError("store", "away")

    monkeypatch.setattr(guard.store.records, "audit", away)
    refused = await ask(guard, headers=headers)
    assert refused.status_code == 503
