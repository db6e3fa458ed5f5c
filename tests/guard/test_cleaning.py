"""What an application behind a guard is given of a request."""

from __future__ import annotations

import pytest

from narthex.domain.traces import TraceContext
from narthex.guard.cleaning import (
    continued_trace,
    own_subprotocols,
    without_claims,
    without_credentials,
    without_ticket,
)
from narthex.ports.tracing import NO_SPAN
from tests.spans import Spans


def test_a_trace_goes_on_from_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """While tracing is off the client's own headers pass as they are."""
    headers = [(b"traceparent", b"00-theirs"), (b"x", b"y"), (b"tracestate", b"a=1")]
    assert continued_trace(headers, NO_SPAN) is headers
    parent = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "a=1")
    span = Spans(monkeypatch, {}).tracer.begin("handshake", parent=parent)
    assert span.context is not None
    assert continued_trace(headers, span) == [
        (b"x", b"y"),
        (b"traceparent", span.context.traceparent.encode()),
        (b"tracestate", b"a=1"),
    ]


def test_credentials_and_claims_go_and_the_rest_stays() -> None:
    """Every carrier and every header under `narthex-` is gone; other headers keep their bytes and order."""
    headers = [
        (b"host", b"chat.example.com"),
        (b"authorization", b"Bearer secret"),
        (b"cookie", b"theme=dark; narthex_session=secret; lang=en"),
        (b"cookie", b"__Host-narthex_session=secret"),
        (b"cookie", b"a=b"),
        (b"sec-websocket-protocol", b"jwt-auth, jwt.secret, chat.v2"),
        (b"x-e2e-bypass-key", b"secret"),
        (b"x_e2e_bypass_key", b"secret"),
        (b"x-e2e-test-run", b"run-1"),
        (b"narthex-subject", b"root"),
        (b"narthex_tenant", b"root"),
        (b"narthex.plan", b"root"),
        (b"x.e2e~bypass!key", b"secret"),
        (b"Narthex-Subject", b"root"),
        (b"Authorization", b"Bearer secret"),
        (b"Cookie", b"narthex_session=secret"),
        (b"x-custom", b"kept"),
    ]
    assert without_credentials(headers, ["chat.v2"]) == [
        (b"host", b"chat.example.com"),
        (b"cookie", b"theme=dark; lang=en"),
        (b"cookie", b"a=b"),
        (b"x-custom", b"kept"),
        (b"sec-websocket-protocol", b"chat.v2"),
    ]


def test_own_subprotocols() -> None:
    """Ours are `jwt-auth`, `narthex.explain` and the tokens; the application's stay in their order."""
    offered = [
        "chat.v2",
        "jwt-auth",
        "jwt.abc",
        "narthex.explain",
        "jwt",
        "JWT.abc",
        "Jwt-Auth",
        "graphql-ws",
    ]
    assert own_subprotocols(offered) == ["chat.v2", "graphql-ws"]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (b"", b""),
        (b"room=7&ticket=secret&x=%20", b"room=7&x=%20"),
        (b"%74icket=secret&room=7", b"room=7"),
        (b"tickets=3&myticket=4", b"tickets=3&myticket=4"),
        (b"ticket=a&ticket=b", b""),
    ],
)
def test_tickets_leave_the_query(query: bytes, left: bytes) -> None:
    """Tickets go, however their name is encoded; other parameters keep their bytes."""
    assert without_ticket(query) == left


def test_claims_leave_other_requests() -> None:
    """Plain HTTP requests keep their credentials, which are the application's business, and lose only claims."""
    headers = [(b"authorization", b"Basic x"), (b"narthex-subject", b"root"), (b"narthex|plan", b"root")]
    headers.append((b"NARTHEX-Plan", b"root"))  # as hypercorn passes it with `h11_pass_raw_headers`
    assert without_claims(headers) == [(b"authorization", b"Basic x")]
    assert without_claims(headers[:1]) == headers[:1]
