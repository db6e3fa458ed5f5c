"""Each kind of agent through the run engine: its events in the log, approvals across runs, cancel, failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from starlette.applications import Starlette
from starlette.routing import Route

from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.loading import load_agent
from narthex.ports.agents import Agent
from tests.adapters.agents import pydantic_agents
from tests.adapters.agents.serving import served
from tests.adapters.agents.test_agui import HERE, endpoint
from tests.adapters.agents.test_concierge import facts
from tests.adapters.agents.test_openai import chunk, model
from tests.app.runs.house import ALICE, House, kinds, text_of


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
async def house() -> AsyncIterator[House]:
    """An engine over fakes."""
    built = House()
    yield built
    await built.close()


async def test_tools_and_text(house: House, agents: list[Agent]) -> None:
    """The whole stream is legal, journalled, digested and kept as messages."""
    engine = await house.node(*agents)
    thread = await house.thread()
    for _ in range(2):  # the same tool call id in both: unique in its run, long enough to be kept
        row, events = await house.ended(await house.say(engine, thread, "@weather please"))
        assert row.state == "finished", events[-1]
        assert "Oslo: snow, dear Alice" in row.text
    assert {"REASONING_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "TOOL_CALL_RESULT"} <= set(kinds(events))


async def test_an_approval_spans_two_runs(house: House, agents: list[Agent]) -> None:
    """The tool runs in the second run, after the answer."""
    pydantic_agents.deleted.clear()
    engine = await house.node(*agents)
    run = await house.say(engine, await house.thread(), "@deleter go")
    row, events = await house.ended(run)
    assert row.state == "interrupted", events[-1]
    assert not pydantic_agents.deleted
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await house.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await house.ended(resumed)
    assert (row.state, row.text) == ("finished", "Result: deleted"), events[-1]
    assert pydantic_agents.deleted == ["all"]


@pytest.mark.alone
async def test_failing_and_cancelling(house: House, agents: list[Agent]) -> None:
    """A failure is a RUN_ERROR; a cancel stops the agent, wherever it runs, within a second."""
    engine = await house.node(*agents)
    row, _ = await house.ended(await house.say(engine, await house.thread(), "@broken go"))
    assert row.state == "failed"
    run = await house.say(engine, await house.thread(), "@endless go")
    await house.until(run, lambda events: len(text_of(events)) > 20)
    asked_at = time.perf_counter()
    await engine.requests.cancel(ALICE, run.run_id)
    row, _ = await house.ended(run)
    assert row.state == "cancelled"
    assert time.perf_counter() - asked_at < 1


async def test_a_model(house: House) -> None:
    """Text that came in chunks is the run's text."""
    async with served(model(chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop"))) as url:
        engine = await house.node(load_agent(f"openai+{url}/v1#m"))
        row, _ = await house.ended(await house.say(engine, await house.thread()))
    assert (row.state, row.text) == ("finished", "Hello")


async def test_an_endpoint_that_is_away(house: House) -> None:
    """The members learn that it cannot be reached, without its address or a secret; the log names the address."""
    engine = await house.node(load_agent("away=agui+http://127.0.0.1:9/x", secrets={"away": "s3cret"}))
    with structlog.testing.capture_logs() as records:
        row, events = await house.ended(await house.say(engine, await house.thread()))
    assert (row.state, row.error) == ("failed", "agent_unavailable")
    assert "cannot be reached" in events[-1]["message"]
    assert "127.0.0.1" not in events[-1]["message"]
    assert any("127.0.0.1:9" in record.get("endpoint", "") for record in records)
    assert "s3cret" not in str(records)
    assert "s3cret" not in str(events)


async def test_the_concierge(house: House) -> None:
    """Health, a long count, approval and a steered watch, as a page would use them."""
    engine = await house.node(concierge(facts, pace_s=0.001))
    thread = await house.thread()
    row, events = await house.ended(await house.say(engine, thread, "health"))
    assert "The gateway is **degraded**." in row.text
    assert kinds(events)[1] == "REASONING_START"
    row, _ = await house.ended(await house.say(engine, thread, "count to 300 fast"))
    assert row.text == " ".join(map(str, range(1, 301)))
    run = await house.say(engine, thread, "check with approval")
    row, events = await house.ended(run)
    assert row.state == "interrupted"
    interrupt = events[-1]["outcome"]["interrupts"][0]
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await house.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    assert "degraded" in (await house.ended(resumed))[0].text
    run = await house.say(engine, thread, "watch for 60 seconds")
    await house.until(run, lambda events: "STEP_FINISHED" in kinds(events))
    await engine.requests.steer(ALICE, run.run_id, "enough")
    async with asyncio.timeout(5):
        row, _ = await house.ended(run)
    assert row.state == "finished"
    assert "I watched for" in row.text
