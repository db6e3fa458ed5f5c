"""Pydantic AI agents as an app developer would write them, over models that need no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic_ai import Agent, DeferredToolRequests, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from narthex.ports.agents import AgentUser


def last_said(messages: list[ModelMessage]) -> str:
    """The user's last message."""
    said = [part for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
    return str(said[-1].content)


def returned(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    """Results of tools since then."""
    found: list[ToolReturnPart] = []
    for part in (part for message in messages for part in message.parts):
        if isinstance(part, UserPromptPart):
            found = []
        elif isinstance(part, ToolReturnPart):
            found.append(part)
    return found


async def weather_model(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall] | dict[int, DeltaThinkingPart]]:
    """Thinks, calls the tool, then answers."""
    results = returned(messages)
    if not results:
        yield {0: DeltaThinkingPart(content="I need ")}
        yield {0: DeltaThinkingPart(content="the weather.")}
        yield {1: DeltaToolCall(name="weather", json_args='{"city": ', tool_call_id="call-0123456789")}
        yield {1: DeltaToolCall(json_args='"Oslo"}')}
        return
    for word in f"{results[-1].content} for {last_said(messages)}.".split(" "):
        yield word + " "
        await asyncio.sleep(0)


weather = Agent(FunctionModel(stream_function=weather_model), name="weather", deps_type=AgentUser)


@weather.tool(name="weather")
async def look_outside(ctx: RunContext[AgentUser], city: str) -> str:
    """The weather of a city."""
    return f"{city}: snow, dear {ctx.deps.name}"


async def delete_model(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Calls a tool that needs approval, then reports the result."""
    results = returned(messages)
    if not results:
        yield {0: DeltaToolCall(name="delete_all", json_args="{}", tool_call_id="call-abcdefghijk")}
        return
    yield f"Result: {results[-1].content}"


deleter = Agent(
    FunctionModel(stream_function=delete_model), name="deleter", output_type=[str, DeferredToolRequests]
)
deleted: list[str] = []


@deleter.tool_plain(requires_approval=True)
async def delete_all() -> str:
    """Delete everything."""
    deleted.append("all")
    return "deleted"


async def broken_model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    """Fails in the middle."""
    yield "I will "
    raise RuntimeError("the model broke")


broken = Agent(FunctionModel(stream_function=broken_model), name="broken")


async def endless_model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    """Never ends."""
    n = 0
    while True:
        yield f"{n} "
        n += 1
        await asyncio.sleep(0.005)


endless = Agent(FunctionModel(stream_function=endless_model), name="endless")
not_an_agent = ModelResponse(parts=[])


async def spending_model(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Calls a tool; then fails, waits for ever or answers, as the user says."""
    if not returned(messages):
        yield {0: DeltaToolCall(name="spend", json_args="{}", tool_call_id="call-spendspends")}
        return
    said = last_said(messages)
    if "fail" in said:
        raise RuntimeError("The model is gone.")
    if "wait" in said:
        await asyncio.Event().wait()
    yield "Spent."


spender = Agent(FunctionModel(stream_function=spending_model, model_name="spends"), name="spender")


@spender.tool_plain
async def spend() -> str:
    """Spend something."""
    return "nothing"
