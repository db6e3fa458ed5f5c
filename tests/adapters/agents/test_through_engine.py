"""Each kind of agent through the run engine: its events in the log, approvals across runs, cancel, failure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from pydantic_ai import capture_run_messages
from pydantic_ai.messages import ModelResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.loading import load_agent
from narthex.adapters.agents.pydantic_ai import pydantic_agent
from narthex.app.runs.execution import TOKEN_KINDS
from narthex.ports.agents import Agent
from tests.adapters.agents import pydantic_agents
from tests.adapters.agents.serving import served
from tests.adapters.agents.test_agui import HERE, endpoint
from tests.adapters.agents.test_concierge import facts
from tests.adapters.agents.test_openai import USAGE, chunk, counted, model
from tests.app.runs.rig import ALICE, Rig, kinds, text_of


@pytest.fixture(params=["in process", "behind an endpoint"])
async def agents(request: pytest.FixtureRequest) -> AsyncIterator[list[Agent]]:
    """Pydantic AI agents, loaded both ways."""
    names = ("weather", "deleter", "broken", "endless")
    if request.param == "in process":
        yield [load_agent(f"{HERE}:{name}") for name in names]
        return
    async with served(Starlette(routes=[Route("/{name}", endpoint, methods=["POST", "GET"])])) as url:
        yield [load_agent(f"agui+{url}/{name}") for name in names]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """An engine over fakes."""
    built = Rig()
    yield built
    await built.close()


async def test_tools_and_text(rig: Rig, agents: list[Agent]) -> None:
    """The whole stream is legal, journalled, digested and kept as messages."""
    engine = await rig.node(*agents)
    thread = await rig.thread()
    for _ in range(2):  # the same tool call id in both: unique in its run, long enough to be kept
        row, events = await rig.ended(await rig.say(engine, thread, "@weather please"))
        assert row.state == "finished", events[-1]
        assert "Oslo: snow, dear Alice" in row.text
    assert {"REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "TOOL_CALL_RESULT"} <= set(kinds(events))


async def test_an_approval_spans_two_runs(rig: Rig, agents: list[Agent]) -> None:
    """The tool runs in the second run, after the answer."""
    pydantic_agents.deleted.clear()
    engine = await rig.node(*agents)
    run = await rig.say(engine, await rig.thread(), "@deleter go")
    row, events = await rig.ended(run)
    assert row.state == "interrupted", events[-1]
    assert not pydantic_agents.deleted
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert (row.state, row.text) == ("finished", "Result: deleted"), events[-1]
    assert pydantic_agents.deleted == ["all"]


@pytest.mark.alone
async def test_failing_and_cancelling(rig: Rig, agents: list[Agent]) -> None:
    """A failure is a RUN_ERROR; a cancel stops the agent, wherever it runs, within a second."""
    engine = await rig.node(*agents)
    row, _ = await rig.ended(await rig.say(engine, await rig.thread(), "@broken go"))
    assert row.state == "failed"
    run = await rig.say(engine, await rig.thread(), "@endless go")
    await rig.until(run, lambda events: len(text_of(events)) > 20)
    asked_at = time.perf_counter()
    await engine.requests.cancel(ALICE, run.run_id)
    row, _ = await rig.ended(run)
    assert row.state == "cancelled"
    assert time.perf_counter() - asked_at < 1


async def test_a_model(rig: Rig) -> None:
    """Text that came in chunks is the run's text."""
    async with served(model(chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop"))) as url:
        engine = await rig.node(load_agent(f"openai+{url}/v1#m"))
        row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.text) == ("finished", "Hello")


def agui_stream(*events: dict[str, object]) -> Starlette:
    """An AG-UI endpoint that answers with these events."""

    async def answer(_: Request) -> Response:
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Response(body, media_type="text/event-stream")

    return Starlette(routes=[Route("/bot", answer, methods=["POST"])])


async def test_halves_of_characters_in_chunks(rig: Rig) -> None:
    """A first chunk that is half a character opens its message, a chunk without an id goes on with it."""
    chunks: list[dict[str, object]] = [
        {"messageId": "m", "delta": "\ud83d"},
        {"delta": "\ude00 and \ud83d"},
        {"delta": "\ude00!"},
        {"messageId": "n", "delta": "\ud83d\ude00\ud83d"},
    ]
    app = agui_stream(
        *({"type": "TEXT_MESSAGE_CHUNK", **one} for one in chunks), {"type": "RUN_FINISHED", "runId": "r"}
    )
    async with served(app) as url:
        engine = await rig.node(load_agent(f"agui+{url}/bot"))
        row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.text) == ("finished", "\U0001f600 and \U0001f600!\U0001f600\ufffd")


TOKENS: list[dict[str, object]] = [
    {"model": "m", "inputTokens": 3, "outputTokens": 5, "providerSpecific": {"x": 1}},
    {"model": "n", "inputTokens": 2},
]


@pytest.mark.parametrize(
    ("app", "spec", "usage"),
    [
        (
            model(chunk(content="half an ans"), counted(), 'data: {"error": {"message": "No memory."}}\n\n'),
            "openai+{}/v1#m",
            [USAGE],
        ),
        (model(chunk(content="cut"), counted()), "openai+{}/v1#m", [USAGE]),
        (
            agui_stream(
                {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
                {"type": "RUN_ERROR", "message": "No money.", "code": "no_money", "usage": TOKENS},
            ),
            "agui+{}/bot",
            TOKENS,
        ),
    ],
    ids=["error in the stream", "cut short", "RUN_ERROR"],
)
async def test_usage_of_a_run_that_fails(
    rig: Rig, app: Starlette, spec: str, usage: list[dict[str, object]]
) -> None:
    """What the provider counted before the failure stands in RUN_ERROR, `run.get` and the metric, exactly."""
    async with served(app) as url:
        engine = await rig.node(load_agent(spec.format(url)))
        row, events = await rig.ended(await rig.say(engine, await rig.thread()))
        assert (row.state, events[-1]["type"]) == ("failed", "RUN_ERROR")
        assert events[-1]["usage"] == usage
        assert (await engine.requests.get(ALICE, row.run_id))["usage"] == usage
    tokens = [one.get(member) for one in usage for member in TOKEN_KINDS.values()]
    assert rig.meter.counts["run_tokens"] == sum(number for number in tokens if isinstance(number, int))


async def test_an_endpoint_that_is_away(rig: Rig) -> None:
    """The members learn that it cannot be reached, without its address or a secret; the log names the address."""
    engine = await rig.node(load_agent("away=agui+http://127.0.0.1:9/x", secrets={"away": "s3cret"}))
    with structlog.testing.capture_logs() as records:
        row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.error) == ("failed", "agent_unavailable")
    assert "cannot be reached" in events[-1]["message"]
    assert "127.0.0.1" not in events[-1]["message"]
    assert any("127.0.0.1:9" in record.get("endpoint", "") for record in records)
    assert "s3cret" not in str(records)
    assert "s3cret" not in str(events)


async def test_the_concierge(rig: Rig) -> None:
    """Health, a long count, approval and a steered watch, as a page would use them."""
    engine = await rig.node(concierge(facts, pace_s=0.001))
    thread = await rig.thread()
    row, events = await rig.ended(await rig.say(engine, thread, "health"))
    assert "The gateway is **degraded**." in row.text
    assert kinds(events)[1] == "REASONING_START"
    row, _ = await rig.ended(await rig.say(engine, thread, "count to 300 fast"))
    assert row.text == " ".join(map(str, range(1, 301)))
    run = await rig.say(engine, thread, "check with approval")
    row, events = await rig.ended(run)
    assert row.state == "interrupted"
    interrupt = events[-1]["outcome"]["interrupts"][0]
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    assert "degraded" in (await rig.ended(resumed))[0].text
    run = await rig.say(engine, thread, "watch for 60 seconds")
    await rig.until(run, lambda events: "STEP_FINISHED" in kinds(events))
    await engine.requests.steer(ALICE, run.run_id, "enough")
    async with asyncio.timeout(5):
        row, _ = await rig.ended(run)
    assert row.state == "finished"
    assert "I watched for" in row.text


@pytest.mark.parametrize("wish", ["succeed", "fail", "wait"])
async def test_tokens_of_a_pydantic_ai_agent_however_its_run_ends(rig: Rig, wish: str) -> None:
    """The tokens of each answer of its model, as Pydantic AI counts them: also of a run that fails or is cancelled."""
    text = f"@spender {wish}"
    with capture_run_messages() as messages, contextlib.suppress(RuntimeError):
        async with pydantic_agents.spender.run_stream_events(text.replace("wait", "fail")) as events:
            async for _ in events:
                pass
    answers = [message.usage for message in messages if isinstance(message, ModelResponse)]
    engine = await rig.node(pydantic_agent("spender", pydantic_agents.spender))
    run = await rig.say(engine, await rig.thread(), text)
    if wish == "wait":
        await rig.until(run, lambda events: any(event["type"] == "TOOL_CALL_RESULT" for event in events))
        await engine.requests.cancel(ALICE, run.run_id)
    row, found = await rig.ended(run)
    assert row.state == {"succeed": "finished", "fail": "failed", "wait": "cancelled"}[wish]
    (entry,) = found[-1]["usage"]
    assert entry["model"] == "spends"
    assert entry["inputTokens"] == sum(answer.input_tokens for answer in answers) > 0
    assert entry["outputTokens"] == sum(answer.output_tokens for answer in answers) > 0
    assert entry["totalTokens"] == entry["inputTokens"] + entry["outputTokens"]
    assert (await engine.requests.get(ALICE, run.run_id))["usage"] == found[-1]["usage"]
