"""The span of a handshake: what it says, whose trace it is in, and what it never says."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.app.handshake_trace import HandshakeTracer
from narthex.domain.verdict import Rejected, Unavailable, Valid
from narthex.ports.edge import Deny
from tests.app.handshake_harness import ANN, KEY, HandshakeHarness, head, open_entrance
from tests.spans import Spans, told

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traced(
    entrance: HandshakeHarness, spans: Spans, *breakers: str, trusted: bool = False
) -> HandshakeHarness:
    """The entrance with tracing on, and tokens of each kind."""
    entrance.handshakes._traces = HandshakeTracer(
        spans.tracer, trusted=trusted, breakers=lambda _: list(breakers)
    )
    entrance.verifier.verdicts |= {
        "good": Valid(ANN, "k1", "ES256"),
        "bad": Rejected("token_invalid", log_detail="signature-of-canary"),
        "away": Unavailable("jwks fetch timed out"),
    }
    return entrance


async def test_an_admitted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carriers by name, verdicts, the class of the user; by OpenTelemetry's conventions where they have a name."""
    spans = Spans(monkeypatch, {})
    async with open_entrance(tmp_path) as entrance:
        context = await traced(entrance, spans).seed(head("good", query="secret=canary"))
    [span] = spans.ended
    assert context.span.context is not None
    assert context.span.context.trace_id == context.trace_id == f"{span.context.trace_id:032x}"
    assert told(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 101,
        "http.route": "/ws",
        "url.path": "/ws",
        "url.scheme": "http",
        "network.protocol.name": "http",
        "client.address": "127.0.0.1",
        "server.address": "localhost",
        "narthex.handshake.outcome": "admitted",
        "narthex.handshake.code": "ok",
        "narthex.handshake.carriers": ("authorization",),
        "narthex.handshake.verdicts": ("valid",),
        "narthex.breaker": "closed",
        "narthex.key_id": "k1",
        "narthex.algorithm": "ES256",
        "narthex.identity_class": "user",
    }
    assert "canary" not in span.to_json()


@pytest.mark.parametrize(
    ("token", "status", "verdict", "error"),
    [("bad", 401, "rejected", None), ("away", 503, "unavailable", "auth_unavailable")],
)
async def test_a_refused_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    status: int,
    verdict: str,
    error: str | None,
) -> None:
    """Only the server's own faults are errors; the breakers that are not closed are named; details stay in the log."""
    spans = Spans(monkeypatch, {})
    async with open_entrance(tmp_path) as entrance:
        decision = await traced(entrance, spans, "jwks:default: open").decide(head(token))
    assert isinstance(decision, Deny)
    [span] = spans.ended
    assert f"{span.context.trace_id:032x}" == decision.trace_id
    found = told(span)
    assert found["http.response.status_code"] == status
    assert found["narthex.handshake.verdicts"] == (verdict,)
    assert found["narthex.breaker"] == ("jwks:default: open",)
    assert found.get("error.type") == error
    assert span.status.is_ok is (error is None)
    assert "canary" not in span.to_json()


async def test_an_explained_refusal_is_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client sees it; a path that is no route is not repeated."""
    spans = Spans(monkeypatch, {})
    async with open_entrance(tmp_path) as entrance:
        traced(entrance, spans)
        await entrance.decide(head("bad", ("sec-websocket-protocol", "narthex.explain")))
        await entrance.decide(head("bad", path="/.env"))
    explained, unknown = spans.ended
    assert told(explained)["http.response.status_code"] == 101
    assert told(explained)["narthex.handshake.code"] == "token_invalid"
    assert told(unknown)["narthex.handshake.code"] == "no_route"
    assert ".env" not in unknown.to_json()


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_client_s_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    """Its ids are kept; its decision not to record counts only where the operator says so."""
    spans = Spans(monkeypatch, {})
    async with open_entrance(tmp_path) as entrance:
        context = await traced(entrance, spans, trusted=trusted).seed(
            head(
                "good",
                ("traceparent", f"00-{TRACE}-{PARENT}-00"),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            )
        )
    assert context.trace_id == TRACE
    assert context.span.recording is not trusted
    assert context.span.context is not None
    assert context.span.context.trace_id == TRACE
    assert context.span.context.state == "a=1,b=2"
    assert [f"{span.parent.span_id:016x}" for span in spans.ended if span.parent] == [PARENT] * (not trusted)


async def test_a_preflight_and_a_test_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question has a span too, and a test's run is named; its key is not."""
    spans = Spans(monkeypatch, {})
    async with open_entrance(tmp_path) as entrance:
        traced(entrance, spans)
        asked = await entrance.handshakes.preflight(head("bad"))
        await entrance.decide(head(None, ("x-e2e-bypass-key", KEY), ("x-e2e-test-run", "run-1")))
    preflight, admitted = spans.ended
    assert f"{preflight.context.trace_id:032x}" == asked.trace_id
    assert told(admitted)["narthex.test_run"] == "run-1"
    assert told(admitted)["narthex.identity_class"] == "e2e"
    assert KEY not in admitted.to_json()
