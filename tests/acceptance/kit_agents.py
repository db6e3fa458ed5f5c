"""The agent behind the pages of front-end kits: a scripted model that notes each call in a folder of the test's own.

Its environment names the folder (KITS_FOLDER). A run that is told to wait goes on when the test has made its gate.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import narthex
from narthex.ports.agents import AgentError, Event, Question, RunInput

CONFIRMATION = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}


def folder() -> Path:
    """Where calls are noted and gates stand."""
    return Path(os.environ["KITS_FOLDER"])


@narthex.agent(name="model")
async def model(run: RunInput) -> AsyncIterator[Event | str]:
    """Does what the last message says."""
    last = run.messages[-1]
    word, _, rest = last.content.partition(" ")
    with (folder() / "calls").open("a") as calls:
        calls.write(f"{last.role} {last.content}\n")
    if last.role == "tool":
        yield f"The page answered {last.content}."
        return
    async for item in SCRIPTS.get(word, _echo)(run, rest):
        yield item


async def _echo(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    yield f"You said: {run.messages[-1].content}"


async def _wait(_run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Begins, waits for the gate, ends; notes when it is cancelled."""
    yield f"Waiting for {rest} "
    try:
        while not (folder() / rest).exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.02)
    except (asyncio.CancelledError, GeneratorExit):
        (folder() / f"{rest}.cancelled").write_text(str(time.time()))
        raise
    yield "and done."


async def _weather(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Thinks, calls a tool of its own, answers, reports its tokens."""
    thought, call = uuid.uuid4().hex, uuid.uuid4().hex
    yield {"type": "REASONING_MESSAGE_START", "messageId": thought, "role": "reasoning"}
    yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": thought, "delta": f"They ask about {rest}."}
    yield {"type": "REASONING_MESSAGE_END", "messageId": thought}
    for event in _call("weather", "city", rest, call):
        yield event
    yield {
        "type": "TOOL_CALL_RESULT",
        "messageId": uuid.uuid4().hex,
        "toolCallId": call,
        "content": '{"degrees": 21}',
    }
    yield {"type": "STATE_SNAPSHOT", "snapshot": {"asked": [rest]}}
    run.report(usage=[{"model": "scripted", "inputTokens": 7, "outputTokens": 11}])
    yield f"It is 21 degrees in {rest}."


async def _paint(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Calls a tool of the page, if the page has one of this name."""
    if not any(tool.get("name") == "paint" for tool in run.tools):
        yield "The page has no brush."
        return
    yield "I paint."
    for event in _call("paint", "colour", rest):
        yield event


async def _confirm(_run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Calls a tool of the page that waits for its user."""
    for event in _call("confirm", "file", rest):
        yield event


def _call(tool: str, parameter: str, value: str, call: str = "") -> Iterator[Event]:
    call = call or uuid.uuid4().hex
    yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": tool}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": f'{{"{parameter}": "{value}"}}'}
    yield {"type": "TOOL_CALL_END", "toolCallId": call}


async def _ask(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Asks whether it may."""
    yield f"I would {rest}."
    answer: Any = await run.ask(CONFIRMATION, f"May I {rest}?")
    yield f"I did {rest}." if answer["approved"] else f"I left it: {answer.get('reason', 'no reason')}."


async def _delete(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Calls a tool of its own that needs an approval."""
    call = uuid.uuid4().hex
    for event in _call("delete", "file", rest, call):
        yield event
    [answer] = await run.ask_all(
        [Question(schema=CONFIRMATION, text=f"Delete {rest}?", reason="tool_call", tool_call_id=call)]
    )
    content = "deleted" if answer.payload["approved"] else "denied"
    yield {
        "type": "TOOL_CALL_RESULT",
        "messageId": uuid.uuid4().hex,
        "toolCallId": call,
        "content": content,
    }
    yield f"{rest}: {content}."


async def _keep(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Adds to its state."""
    before: Any = run.state or {}
    kept = [*before.get("kept", []), rest]
    yield {"type": "STATE_SNAPSHOT", "snapshot": {"kept": kept}}
    yield f"I keep {', '.join(kept)}."


async def _later(run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    """Adds to its state behind a gate."""
    for script in (_wait, _keep):
        async for item in script(run, rest):
            yield item


async def _fail(_run: RunInput, rest: str) -> AsyncIterator[Event | str]:
    yield "I begin, but "
    raise AgentError(f"The model said no to {rest}.")


SCRIPTS = {
    "wait": _wait,
    "weather": _weather,
    "paint": _paint,
    "confirm": _confirm,
    "ask": _ask,
    "keep": _keep,
    "later": _later,
    "delete": _delete,
    "fail": _fail,
}
