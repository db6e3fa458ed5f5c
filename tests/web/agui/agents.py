"""The agents behind the gateway of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from narthex.ports.agents import Question, RunInput

gates: dict[str, asyncio.Event] = {}
SEEN: list[dict[str, Any]] = []


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message, word by word."""
    for word in run.messages[-1].content.split():
        yield word + " "
        await asyncio.sleep(0.05)


async def patient(run: RunInput) -> AsyncIterator[str]:
    """Begins, waits for the test, ends."""
    yield "begun "
    await gates.setdefault(run.messages[-1].content, asyncio.Event()).wait()
    yield "ended"


async def careful(run: RunInput) -> AsyncIterator[str]:
    """Asks before it acts."""
    answer = await run.ask(
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}, "Really?"
    )
    yield f"ok={answer['ok']}"


async def flood(run: RunInput) -> AsyncIterator[str]:
    """More than all buffers on the path hold."""
    for number in range(150):
        yield f"{number:<16000}"
        await asyncio.sleep(0.01)


async def curious(run: RunInput) -> AsyncIterator[Any]:
    """Keeps what it was given; calls the client's tool until it has its result; counts in its state."""
    messages = [
        {
            "role": one.role,
            "content": one.content,
            "id": one.message_id,
            "calls": [(call.call_id, call.name, call.arguments) for call in one.tool_calls],
            "of": one.tool_call_id,
        }
        for one in run.messages
    ]
    SEEN.append(
        {
            "state": run.state,
            "tools": run.tools,
            "context": run.context,
            "forwarded": run.forwarded,
            "parent": run.parent_run_id,
            "version": run.protocol_version,
            "messages": messages,
        }
    )
    if messages[-1]["content"] == "later":
        yield {"type": "SOMETHING_NEW", "threadId": "mine", "value": None, "messageId": "x"}
    if messages[-1]["content"] == "tool":
        yield {"type": "TOOL_CALL_START", "toolCallId": "call-of-the-client", "toolCallName": "colour"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": "call-of-the-client", "delta": '{"to": "red"}'}
        yield {"type": "TOOL_CALL_END", "toolCallId": "call-of-the-client"}
        return
    if messages[-1]["content"] == "first":
        yield {"type": "STATE_SNAPSHOT", "snapshot": {"count": 1, "list": ["a"]}}
        yield {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/list/-", "value": "b"}]}
    run.report(usage=[{"model": "m", "inputTokens": 3, "outputTokens": 5}], result={"sum": 8})
    yield f"heard {messages[-1]['content']}"


async def pair(run: RunInput) -> AsyncIterator[str]:
    """Asks two questions at once, and says both answers."""
    text = {"type": "string"}
    answers = await run.ask_all(
        [
            Question(
                schema={"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]},
                text="Really?",
                reason="tool_call",
                tool_call_id="call-of-the-tool-1",
                metadata={"danger": 3},
                question_id="really-1",
            ),
            Question(schema=text, text="Which?", question_id="which-1"),
        ]
    )
    yield f"{answers[0].payload} {answers[1].payload}"


async def active(run: RunInput) -> AsyncIterator[Any]:
    """Shows an activity that grows, one that is replaced, and one that is not."""
    plan = {"type": "ACTIVITY_SNAPSHOT", "messageId": "activity-of-the-plan", "activityType": "PLAN"}
    search = {"type": "ACTIVITY_SNAPSHOT", "messageId": "activity-of-the-search", "activityType": "SEARCH"}
    patch = [{"op": "add", "path": "/steps/-", "value": "go"}]
    yield plan | {"content": {"steps": ["pack"]}}
    yield "Working. "
    yield search | {"content": {"found": 0}}
    yield {"type": "ACTIVITY_DELTA", "messageId": plan["messageId"], "activityType": "PLAN", "patch": patch}
    misfit = [{"op": "remove", "path": "/nothing"}]
    yield {"type": "ACTIVITY_DELTA", "messageId": plan["messageId"], "activityType": "PLAN", "patch": misfit}
    yield search | {"content": {"found": 2}}
    yield search | {"content": {"found": 9}, "replace": False}
