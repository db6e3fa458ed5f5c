"""No credential reaches the server behind `narthex guard`: each carrier, looked for in the raw bytes of its request."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Iterator

import pytest

from narthex.domain.identity import Identity
from narthex.settings import load
from narthex.web.tickets import issue_ticket
from narthex.wiring.engines import make_shared_store
from tests.acceptance.program import Program
from tests.adapters.edge.harness import Peer, upgrade
from tests.adapters.edge.upstream.raw import RawUpstream
from tests.guard.cores import token
from tests.guard.process import program

pytestmark = pytest.mark.acceptance

KEY = "canary-end-to-end-key-of-32-characters"
ENV = {"E2E_OAUTH_SIMULATION_KEY": KEY}


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream() as listening:
        yield listening


@pytest.fixture(scope="module")
def guard(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    started = program(tmp_path_factory.mktemp("canaries"), f"ws://127.0.0.1:{upstream.port}", ENV)
    try:
        asyncio.run(started.start())
        yield started
    finally:
        started.end()


def ticket(guard: Program) -> str:
    """A ticket, as `POST /ws/ticket` issues it."""

    async def issue() -> str:
        options = {"data_dir": guard.directory / "data"}
        store = make_shared_store(load(options, {"ENVIRONMENT": "testing"}, parts={"store"}))
        await store.start()
        try:
            return await issue_ticket(store.credentials, Identity(subject="ann"), time.time())
        finally:
            await store.stop()

    return asyncio.run(issue())


def request_seen(guard: Program, upstream: RawUpstream, path: str, lines: str) -> bytes:
    """The raw head that the upstream gets for an admitted request; anything else fails."""
    with Peer(guard.port) as peer:
        peer.send(upgrade(path, extra=lines))
        with upstream.joined() as accepted:
            assert peer.head().status == 101
            return accepted.seen


@pytest.mark.parametrize(
    "form",
    [
        "Authorization: Bearer {token}",
        "aUTHORIZATION: bearer  {token}",
        "Sec-WebSocket-Protocol: chat, jwt-auth, jwt.{token}",
        "Sec-WebSocket-Protocol: jwt-auth\r\nSec-WebSocket-Protocol: jwt.{base64}\r\nSec-WebSocket-Protocol: chat",
        "Origin: http://localhost\r\nCookie: theme=dark; narthex_session={token}; lang=en",
        "Origin: http://localhost\r\nCookie: narthex_session={token}\r\nCookie: theme=dark; narthex_refresh={token}",
        "Authorization: Bearer {token}\r\nCookie: __Host-narthex_session={token}",
        "Authorization: Bearer {token}\r\nNarthex-Assertion: {token}\r\nNarthex_Subject: {token}",
        "X-E2E-Bypass-Key: {key}\r\nX-E2E-Test-Run: run-1",
    ],
)
def test_no_carrier_reaches_the_upstream(guard: Program, upstream: RawUpstream, form: str) -> None:
    """Neither the credential nor a part of it, whatever the spelling and the number of lines."""
    secret = token("ann")
    encoded = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    lines = form.format(token=secret, base64=encoded, key=KEY) + "\r\n"
    seen = request_seen(guard, upstream, "/ws?room=1", lines)
    assert seen.startswith(b"GET /ws?room=1 HTTP/1.1\r\n")
    _, payload, signature = secret.split(".")
    for canary in (payload, signature, encoded[40:80], KEY, "jwt.", "narthex_", "jwt-auth"):
        assert canary.encode() not in seen, canary
    names = re.findall(rb"(?m)^([^:\r\n]+):", seen)
    assert sorted(name for name in names if name.lower().startswith(b"narthex")) == sorted(
        [b"Narthex-Subject", b"Narthex-Tenant", b"Narthex-Plan", b"Narthex-Trace-Id", b"Narthex-Assertion"]
        + ([b"Narthex-Test-Run"] if "E2E" in form else [])
    )
    assert (b"theme=dark" in seen) == ("theme" in form)
    assert (b"Sec-WebSocket-Protocol: chat\r\n".lower() in seen.lower()) == ("chat" in form)


@pytest.mark.parametrize("query", ["?ticket={ticket}", "?a=1&ticket={ticket}&b=2", "?%74icket={ticket}"])
def test_no_ticket_reaches_the_upstream(guard: Program, upstream: RawUpstream, query: str) -> None:
    """The other parameters keep their bytes and their order."""
    bought = ticket(guard)
    seen = request_seen(guard, upstream, "/ws" + query.format(ticket=bought), "")
    assert bought.encode() not in seen
    kept = b"/ws?a=1&b=2 " if "a=1" in query else b"/ws "
    assert seen.startswith(b"GET " + kept)


def test_the_log_holds_no_credential(guard: Program) -> None:
    """Of all the attempts above."""
    log = guard.log
    assert KEY not in log
    assert token("ann").split(".")[1][:20] not in log
