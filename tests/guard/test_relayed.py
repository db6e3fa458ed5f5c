"""What the server behind `narthex guard` is told of an admitted user, and how its socket is closed with the guard's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from narthex.domain.identity import Identity
from narthex.errors import Bug
from narthex.guard.relayed import ASSERTION_TTL_S, Assertions, RelayedConnection, handed_on, plain_headers
from narthex.ports.tracing import NO_SPAN
from narthex.protocol.codes import REVOKED
from tests.guard.cores import admitted, core, head, token

ADA = Identity(subject="\u00e4da 1", tenant="acme", plan="mid", token_id="t1", session="s1")


class Ring:
    """Signs nothing; remembers what it should."""

    def __init__(self) -> None:
        self.minted: list[tuple[Identity, float, float]] = []

    def mint(self, identity: Identity, *, ttl_s: float, now: float) -> str:
        """As `KeyRing.mint`."""
        self.minted.append((identity, ttl_s, now))
        return "signed"


class Socket:
    """An upstream's socket."""

    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        """As `RelayedSocket.close`."""
        self.closed.append((code, reason))

    def progress(self) -> Any:
        """Nothing was carried."""
        raise AssertionError("not asked for")


def test_the_identity_in_headers() -> None:
    """Percent-encoded UTF-8; a test run only where there is one."""
    assert plain_headers(ADA, "trace") == [
        ("Narthex-Subject", "%C3%A4da%201"),
        ("Narthex-Tenant", "acme"),
        ("Narthex-Plan", "mid"),
        ("Narthex-Trace-Id", "trace"),
    ]
    test = Identity(subject="e2e:r", tenant="e2e", test_run="r 1")
    assert plain_headers(test, "t")[-1] == ("Narthex-Test-Run", "r%201")


def test_the_assertion_is_signed_for_a_minute_and_without_the_tokens_ids() -> None:
    """The id of the user's token would let the server behind revoke it."""
    ring = Ring()
    found = Assertions(cast("Any", ring), lambda: 1_000.0).headers(ADA, "trace")
    assert found == [*plain_headers(ADA, "trace"), ("Narthex-Assertion", "signed")]
    ((asserted, ttl_s, now),) = ring.minted
    assert (asserted.subject, asserted.token_id, asserted.session) == (ADA.subject, "", "")
    assert (ttl_s, now) == (ASSERTION_TTL_S, 1_000.0)


def test_the_request_goes_on_without_its_credentials() -> None:
    """Its own subprotocols, its query without the ticket, and the address that the guard determined."""
    asked = head(
        query="a=1&ticket=secret&b=2",
        authorization="Bearer secret",
        sec_websocket_protocol="jwt-auth, jwt.secret , chat,, v2",
        cookie="own=1; narthex_session=secret",
        x_other="kept",
    )
    context = SimpleNamespace(
        identity=ADA, span=NO_SPAN, address="192.0.2.1", scheme="https", trace_id="trace"
    )
    assertions = Assertions(cast("Any", Ring()), lambda: 0.0)
    found = handed_on(asked, cast("Any", context), assertions)
    text = repr(found)
    assert "secret" not in text
    assert ("x-other", "kept") in found[0]
    assert found[1] == "a=1&b=2"
    assert (found[2], found[3], list(found[4])) == ("192.0.2.1", "https", ["chat", "v2"])
    assert found[5] == assertions.headers(ADA, "trace")
    context.identity = None
    with pytest.raises(Bug, match="without an identity"):
        handed_on(asked, cast("Any", context), assertions)


async def test_the_guards_end_closes_the_upstreams_socket(tmp_path: Path) -> None:
    """Also one that is opened after the end; a socket that has ended is closed no more."""
    async with core(tmp_path) as guard:
        context = (await admitted(guard, head(authorization=f"Bearer {token('ann')}"))).life.context
        for early in (True, False):
            relayed, socket = RelayedConnection(guard.lives, context), Socket()
            if early:
                relayed.opened(cast("Any", socket))
            relayed._close(REVOKED)
            relayed.life.closed_with = REVOKED
            if not early:
                assert socket.closed == []
                relayed.opened(cast("Any", socket))
            assert socket.closed == [(REVOKED.code, REVOKED.reason)]
        gone, socket = RelayedConnection(guard.lives, context), Socket()
        gone.closed(1000, "")
        gone._close(REVOKED)
        assert socket.closed == []
