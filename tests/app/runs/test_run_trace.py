"""The spans of a run, with real engines over broker and store in memory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest

from narthex.app.runs.run_trace import MAX_PUBLISHES
from narthex.domain.runs import RunState
from narthex.domain.traces import TraceContext, decoded_trace
from narthex.ports.agents import AgentError, Event, RunInput
from narthex.ports.runs import Run
from narthex.ports.tracing import CURRENT, NO_SPAN, current_span, within
from tests.app.runs.rig import ALICE, Rig, agent
from tests.spans import Spans, told

RARELY = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.000001"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Everything is recorded."""
    return Spans(monkeypatch, {})


async def tools(run: RunInput) -> AsyncIterator[Event | str]:
    """One call with a result, one without, a step, and text."""
    for call in ("with", "without"):
        yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": f"tool_{call}"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": "{}"}
        yield {"type": "TOOL_CALL_END", "toolCallId": call}
    yield {"type": "TOOL_CALL_RESULT", "toolCallId": "with", "messageId": "m", "content": "r", "role": "tool"}
    yield {"type": "STEP_STARTED", "stepName": "think"}
    yield "done"
    yield {"type": "STEP_FINISHED", "stepName": "think"}
    run.report(usage=[{"model": "m", "inputTokens": 3, "outputTokens": 2}, {"model": "n", "inputTokens": 4}])


async def run_of(rig: Rig, spans: Spans, function: object) -> tuple[Run, list[Event]]:
    """One run below a span `command`, and its end."""
    node = await rig.node(agent(function), tracer=spans.tracer)  # type: ignore[arg-type]  # an agent's function
    with within(spans.tracer.begin("command")):
        run = await rig.say(node, await rig.thread())
    found = await rig.ended(run)
    await rig.close()
    return found


async def test_a_run_its_agent_and_tools_are_below_the_command(rig: Rig, spans: Spans) -> None:
    """A tool without a result ends with its arguments; what was published is counted, and has spans but for deltas."""
    run, events = await run_of(rig, spans, tools)
    assert run.state == RunState.FINISHED
    seen = spans.named("run")
    assert seen.parent is not None
    assert [f"{seen.context.trace_id:032x}"] == [decoded_trace(run.trace).trace_id]  # type: ignore[union-attr]
    assert spans.parent_of(spans.named("invoke_agent bot")) == "run"
    for name in ("execute_tool tool_with", "execute_tool tool_without", "step think"):
        assert spans.parent_of(spans.named(name)) == "invoke_agent bot"
    without = spans.named("execute_tool tool_without")
    result = spans.named("execute_tool tool_with")
    assert without.end_time is not None
    assert result.end_time is not None
    assert without.end_time <= result.end_time
    deltas = [event for event in events if event["type"].endswith(("_CONTENT", "_ARGS"))]
    assert told(seen)["narthex.run.deltas"] == len(deltas)
    published = [told(span)["narthex.event"] for span in spans.ended if span.name == "publish"]
    assert published == [event["type"] for event in events if event not in deltas]
    assert told(seen)["narthex.run.ending"] == "finished"
    used = told(spans.named("invoke_agent bot"))
    assert (used["gen_ai.usage.input_tokens"], used["gen_ai.usage.output_tokens"]) == (7, 2)


async def test_a_failure_is_the_run_s_and_the_agent_s(rig: Rig, spans: Spans) -> None:
    """With its code; an agent's own words are no part of it."""

    async def fails(run: RunInput) -> AsyncIterator[Event | str]:
        yield "so"
        raise AgentError("words-of-the-agent", "no_luck")

    await run_of(rig, spans, fails)
    for name in ("run", "invoke_agent bot"):
        assert told(spans.named(name))["error.type"] == "no_luck"
        assert "words-of-the-agent" not in spans.named(name).to_json()


async def test_an_agent_that_asks_continues_in_the_trace_of_the_answer(rig: Rig, spans: Spans) -> None:
    """Its code is below the agent's span of the run that it is in, before and after."""
    within_agent: list[TraceContext | None] = []

    async def asks(run: RunInput) -> AsyncIterator[Event | str]:
        within_agent.append(current_span().context)
        await run.ask({"type": "object"}, "Sure?")
        within_agent.append(current_span().context)
        yield "yes"

    node = await rig.node(agent(asks), tracer=spans.tracer)
    with within(spans.tracer.begin("first")):
        run = await rig.say(node, await rig.thread())
    run, _ = await rig.ended(run)
    [interrupt] = await rig.store.runs.open_interrupts(ALICE.tenant, run.thread_id)
    answer = spans.tracer.begin("second")
    with within(answer):
        found = await node.requests.resume(ALICE, run.run_id, interrupt.interrupt_id, {})
    resumed = await rig.store.runs.get(ALICE.tenant, found["run_id"])
    assert resumed is not None
    await rig.ended(resumed)
    await rig.close()
    agents = [span for span in spans.ended if span.name == "invoke_agent bot"]
    assert [f"{span.context.span_id:016x}" for span in agents] == [one.span_id for one in within_agent if one]
    assert answer.context is not None
    assert f"{agents[1].context.trace_id:032x}" == answer.context.trace_id


async def test_an_unrecorded_trace_goes_on_to_the_agent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its id, with the decision not to record, so that an agent elsewhere does not record a part of it."""
    spans = Spans(monkeypatch, RARELY)
    seen: list[TraceContext | None] = []

    async def looks(run: RunInput) -> AsyncIterator[Event | str]:
        seen.append(current_span().context)
        yield "x"

    run, _ = await run_of(rig, spans, looks)
    [context] = seen
    assert context is not None
    assert (context.trace_id, context.sampled) == (decoded_trace(run.trace).trace_id, False)  # type: ignore[union-attr]
    assert not spans.ended


async def test_the_spans_of_a_run_are_bounded(rig: Rig, spans: Spans) -> None:
    """What is beyond is counted."""

    async def chatters(run: RunInput) -> AsyncIterator[Event | str]:
        for number in range(MAX_PUBLISHES * 2):
            yield {"type": "CUSTOM", "name": "n", "value": number}

    await run_of(rig, spans, chatters)
    assert len([span for span in spans.ended if span.name == "publish"]) == MAX_PUBLISHES
    assert told(spans.named("run"))["narthex.run.publishes"] == MAX_PUBLISHES * 2 + 2


async def test_a_row_of_an_earlier_version_has_a_trace_of_its_own(rig: Rig, spans: Spans) -> None:
    """And one with nonsense in the column too; outside a run there is no span."""

    async def looks(run: RunInput) -> AsyncIterator[Event | str]:
        yield "x"

    node = await rig.node(agent(looks), tracer=spans.tracer, claims=False)
    run = await rig.say(node, await rig.thread())
    assert run.trace == ""
    assert CURRENT.get() is NO_SPAN
    odd = msgspec.structs.replace(
        run,
        trace="nonsense",
        run_id=secrets.token_hex(16),
        client_message_id="odd",
        thread_id=await rig.thread(),
    )
    await rig.store.runs.start(odd, queue_limit=5)
    worker = await rig.node(agent(looks), name="n2", tracer=spans.tracer)
    await asyncio.gather(rig.ended(run), rig.ended(odd))
    await rig.close()
    assert worker is not node
    roots = [span for span in spans.ended if span.name == "run"]
    assert [span.parent for span in roots] == [None, None]
