"""Agents of the tracing tests: one that uses a tool, one that asks a model, one that asks a person."""

from __future__ import annotations

from collections.abc import AsyncIterator

from opentelemetry import trace

import narthex
from narthex.ports.agents import Event, RunInput

ARGUMENTS = '{"city": "argument-Canary-7Zp4Lw9fQ2x"}'
RESULT = "result-Canary-5Wm2Ys6Ht1Bg3"
ANSWER = "answer-Canary-93fA0c7Q"


@narthex.agent(name="weather")
async def weather(run: RunInput) -> AsyncIterator[Event | str]:
    """Looks at a tool, says what it found, and makes a span of its own with OpenTelemetry's interface."""
    yield {"type": "STEP_STARTED", "stepName": "look"}
    yield {"type": "TOOL_CALL_START", "toolCallId": "call-1", "toolCallName": "forecast"}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": "call-1", "delta": ARGUMENTS}
    yield {"type": "TOOL_CALL_END", "toolCallId": "call-1"}
    with trace.get_tracer("the-agent's-own").start_as_current_span("read the sky"):
        pass
    yield {
        "type": "TOOL_CALL_RESULT",
        "toolCallId": "call-1",
        "messageId": "result-1",
        "content": RESULT,
        "role": "tool",
    }
    yield {"type": "STEP_FINISHED", "stepName": "look"}
    yield f"It is {ANSWER}."


@narthex.agent(name="doubter")
async def doubter(run: RunInput) -> AsyncIterator[Event | str]:
    """Asks before it answers."""
    agreed = await run.ask({"type": "object", "properties": {"ok": {"type": "boolean"}}}, "Sure?")
    with trace.get_tracer("the-agent's-own").start_as_current_span("after the answer"):
        yield f"You said {agreed}."
