"""How the built-in agent talks: words at a reader's pace, thoughts, tool calls; as AG-UI events.

Rules: the text that comes out is exactly the text that went in; pace is only waiting. Nothing here knows what
is said.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from narthex.domain import events as ev
from narthex.ports.agents import Event

_WORD: Final = re.compile(r"\S*\s*")


def words(text: str) -> list[str]:
    """The text cut after the blanks of each word; joined they are the text."""
    return [word for word in _WORD.findall(text) if word]


async def say(text: str, pace_s: float) -> AsyncIterator[str]:
    """The text word by word, the first word at once, then one every `pace_s`."""
    for number, word in enumerate(words(text)):
        if number:
            await asyncio.sleep(pace_s)
        yield word


async def think(text: str, pace_s: float) -> AsyncIterator[Event]:
    """A thought: a reasoning span with one reasoning message."""
    span, message = uuid.uuid4().hex, uuid.uuid4().hex
    yield ev.reasoning_start(span)
    yield ev.reasoning_message_start(message)
    async for word in say(text, pace_s):
        yield ev.reasoning_content(message, word)
    yield ev.reasoning_message_end(message)
    yield ev.reasoning_end(span)


class ToolCallEvents:
    """One tool call as it is shown: `begin`, the tool's own work, then `end` with what it returned."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._id = uuid.uuid4().hex
        self._name = name
        self._arguments = arguments

    def begin(self) -> list[Event]:
        """Start, arguments, end of arguments."""
        return [
            ev.tool_call_start(self._id, self._name),
            ev.tool_call_args(self._id, msgspec.json.encode(self._arguments).decode()),
            ev.tool_call_end(self._id),
        ]

    def end(self, result: Any) -> Event:
        """The result, as JSON text."""
        return ev.tool_call_result(uuid.uuid4().hex, self._id, msgspec.json.encode(result).decode())
