"""`adapters.agents.remote`: the trace goes on to the endpoint, and a request's span says what the endpoint told."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from narthex.adapters.agents.loading import load_agent
from narthex.domain.traces import TraceContext
from narthex.ports.agents import AgentError
from narthex.ports.tracing import within
from tests.adapters.agents.serving import served
from tests.adapters.agents.talk import Input, talk
from tests.spans import Spans, told

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CHUNKS = (
    {"model": "tiny-2", "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}},
)
EVENTS = ({"type": "RUN_STARTED"}, {"type": "RUN_FINISHED"})


def answering(seen: list[dict[str, str]], items: Sequence[object], status: int = 200) -> Starlette:
    """An endpoint that keeps the headers of requests and answers with these events."""

    async def answer(request: Request) -> Response:
        seen.append(dict(request.headers))

        async def body() -> AsyncIterator[str]:
            for item in items:
                yield f"data: {json.dumps(item)}\n\n"

        return StreamingResponse(body(), status_code=status, media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/a", answer, methods=["POST"]),
        ]
    )


@pytest.mark.parametrize(
    ("spec", "items", "name"),
    [("openai+{}/v1#tiny", CHUNKS, "chat tiny"), ("agui+{}/a", EVENTS, "POST")],
)
async def test_the_endpoint_gets_the_request_s_span_as_its_parent(
    monkeypatch: pytest.MonkeyPatch, spec: str, items: Sequence[object], name: str
) -> None:
    """With the `tracestate` that came along; a client's span below that of the agent."""
    spans, seen = Spans(monkeypatch, {}), list[dict[str, str]]()
    parent = TraceContext(TRACE, "00f067aa0ba902b7", True, "vendor=1")
    agent = spans.tracer.begin("agent", parent=parent)
    async with served(answering(seen, items)) as url:
        with within(agent):
            await talk(load_agent(spec.format(url)), Input("hi"))
    agent.end()
    span = spans.named(name)
    assert spans.parent_of(span) == "agent"
    assert seen[0]["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert seen[0]["tracestate"] == "vendor=1"
    assert told(span)["http.response.status_code"] == 200
    assert told(span)["server.port"] == int(url.rpartition(":")[2])


async def test_a_model_s_span_has_what_the_endpoint_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By OpenTelemetry's names for generative AI; no text of the conversation."""
    spans = Spans(monkeypatch, {})
    async with served(answering([], CHUNKS)) as url:
        with within(spans.tracer.begin("agent")):
            await talk(load_agent(f"openai+{url}/v1#tiny"), Input("a question"))
    span = spans.named("chat tiny")
    found = {key: value for key, value in told(span).items() if key.startswith("gen_ai.")}
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny",
        "gen_ai.output.type": "text",
        "gen_ai.conversation.id": "thread",
        "gen_ai.response.model": "tiny-2",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
    }
    assert "Hello" not in span.to_json()
    assert "question" not in span.to_json()


async def test_a_failed_request_is_an_error_of_its_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the agent's code."""
    spans = Spans(monkeypatch, {})
    async with served(answering([], (), status=503)) as url:
        with within(spans.tracer.begin("agent")), pytest.raises(AgentError):
            await talk(load_agent(f"agui+{url}/a"), Input("hi"))
    assert told(spans.named("POST"))["error.type"] == "agent_unavailable"
    assert told(spans.named("POST"))["http.response.status_code"] == 503


async def test_an_unrecorded_trace_is_handed_on_and_without_tracing_nothing_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the endpoint does not record a part of it."""
    spans, seen = Spans(monkeypatch, {"OTEL_TRACES_SAMPLER": "always_off"}), list[dict[str, str]]()
    async with served(answering(seen, CHUNKS)) as url:
        agent = load_agent(f"openai+{url}/v1#tiny")
        with within(spans.tracer.begin("agent", trace_id=TRACE)):
            await talk(agent, Input("hi"))
        await talk(agent, Input("hi"))
    assert seen[0]["traceparent"].startswith(f"00-{TRACE}-")
    assert seen[0]["traceparent"].endswith("-00")
    assert "traceparent" not in seen[1]


@pytest.mark.parametrize(("spec", "items"), [("openai+{}/v1#tiny", CHUNKS), ("agui+{}/a", EVENTS)])
async def test_neither_a_run_nor_a_check_reads_the_authorities_certificates(
    monkeypatch: pytest.MonkeyPatch, spec: str, items: Sequence[object]
) -> None:
    """Which would hold the event loop for 30 ms each time: they are read when the agent is loaded."""
    read: list[object] = []
    async with served(answering([], items)) as url:
        agent = load_agent(spec.format(url))
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *given, **_: read.append(given))
        await talk(agent, Input("hi"))
        assert agent.check is not None
        await agent.check()
    assert read == []
