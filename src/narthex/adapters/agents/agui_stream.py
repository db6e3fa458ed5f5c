"""Relays an AG-UI event stream into a run, for the Pydantic AI adapter and the HTTP adapter.

The stream's own RUN_STARTED and RUN_FINISHED are its side of what the gateway publishes itself: they are taken
note of and not passed on. An interrupt becomes `run.ask`, and its answer the `resume` of the next request, in
the conversation as the stream left it. Deprecated THINKING_* events become the REASONING_* of AG-UI 1.0.
Not here: order and shape (the engine checks every event and names what is wrong), transport.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from narthex.domain.answer_schema import schema_fault
from narthex.ports.agents import AgentError, ChatMessage, Event, RunInput

Start = Callable[[dict[str, Any]], AsyncGenerator[Event, None]]
"""Begins a stream: takes a RunAgentInput in its JSON form. It is closed (`aclose`) when the run is cancelled."""

MAX_INTERRUPTS: Final = 20  # questions of one message: an endpoint that asks for ever is ended
_CODE: Final = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


async def relay(run: RunInput, start: Start) -> AsyncIterator[Event]:
    """Yield the stream's events for the engine.

    Raises:
        AgentError: the stream said RUN_ERROR, ended without an end, or asked too often.
    """
    conversation = Conversation(run.messages)
    resume: list[dict[str, Any]] = []
    for _ in range(MAX_INTERRUPTS):
        ended: Event | None = None
        translate = Translation()
        async with aclosing(start(conversation.request(run, resume))) as events:
            async for raw in events:
                for event in translate.event(raw):
                    kind = event.get("type")
                    if kind == "RUN_FINISHED":
                        ended = event
                    elif kind == "RUN_ERROR":
                        raise _error(event)
                    elif kind != "RUN_STARTED":
                        conversation.feed(event)
                        yield event
        if ended is None:
            raise AgentError(
                "The agent's stream ended without RUN_FINISHED or RUN_ERROR.", "agent_event_order"
            )
        outcome = ended.get("outcome")
        interrupts = outcome.get("interrupts", []) if isinstance(outcome, dict) else []
        if not interrupts:
            if isinstance(outcome, dict) and outcome.get("type") == "cancelled":
                raise AgentError("The agent's endpoint cancelled the run.", "agent_failed")
            return
        resume = [await _asked(run, interrupt) for interrupt in interrupts]
    raise AgentError(f"The agent asked more than {MAX_INTERRUPTS} questions in one run.", "agent_flood")


async def _asked(run: RunInput, interrupt: dict[str, Any]) -> dict[str, Any]:
    """Put one interrupt to a person; the entry for `resume`."""
    schema = interrupt.get("responseSchema")
    if not isinstance(schema, dict) or schema_fault(schema):
        schema = {}  # not checked here: the endpoint checks its own answers
    text = str(interrupt.get("message") or interrupt.get("reason") or "The agent needs an answer.")
    try:
        payload = await run.ask(schema, text)
    except TimeoutError:
        return {"interruptId": str(interrupt.get("id", "")), "status": "cancelled"}
    return {"interruptId": str(interrupt.get("id", "")), "status": "resolved", "payload": payload}


def _error(event: Event) -> AgentError:
    code = str(event.get("code") or "")
    return AgentError(str(event.get("message", "")), code if _CODE.match(code) else "agent_failed")


class Conversation:
    """The messages as AG-UI has them, growing with what the stream says."""

    def __init__(self, messages: list[ChatMessage]) -> None:
        self.messages: list[dict[str, Any]] = [
            _message(message) for message in messages if message.role in {"user", "assistant", "system"}
        ]
        self.state: Any = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, dict[str, Any]] = {}

    def request(self, run: RunInput, resume: list[dict[str, Any]]) -> dict[str, Any]:
        """A RunAgentInput. The person's identity (never a token) is in `forwardedProps.narthex.user`."""
        request: dict[str, Any] = {
            "threadId": run.thread_id,
            "runId": run.run_id,
            "state": self.state,
            "messages": self.messages,
            "tools": [],
            "context": [],
            "forwardedProps": {"narthex": {"user": msgspec.to_builtins(run.user), "attempt": run.attempt}},
        }
        if resume:
            request["resume"] = resume
        return request

    def feed(self, event: Event) -> None:
        """Fold an event in, as far as a resumed request needs it."""
        match event.get("type"):
            case "TEXT_MESSAGE_START":
                message = {
                    "id": event.get("messageId"),
                    "role": event.get("role") or "assistant",
                    "content": "",
                }
                self._texts[str(event.get("messageId"))] = message
                self.messages.append(message)
            case "TEXT_MESSAGE_CONTENT":
                if (text := self._texts.get(str(event.get("messageId")))) is not None:
                    text["content"] += str(event.get("delta", ""))
            case "TOOL_CALL_START":
                self._tool_call(event)
            case "TOOL_CALL_ARGS":
                if (call := self._calls.get(str(event.get("toolCallId")))) is not None:
                    call["function"]["arguments"] += str(event.get("delta", ""))
            case "TOOL_CALL_RESULT":
                self.messages.append(
                    {
                        "id": event.get("messageId") or uuid.uuid4().hex,
                        "role": "tool",
                        "toolCallId": event.get("toolCallId"),
                        "content": event.get("content", ""),
                    }
                )
            case "STATE_SNAPSHOT":
                self.state = event.get("snapshot")
            case "MESSAGES_SNAPSHOT":
                self.messages = list(event.get("messages") or [])

    def _tool_call(self, event: Event) -> None:
        call = {
            "id": event.get("toolCallId"),
            "type": "function",
            "function": {"name": event.get("toolCallName"), "arguments": ""},
        }
        self._calls[str(event.get("toolCallId"))] = call
        parent = self._texts.get(str(event.get("parentMessageId")))
        last = self.messages[-1] if self.messages else {}
        if parent is None and last.get("role") == "assistant" and "toolCalls" in last:
            parent = last  # parallel calls of one message
        if parent is None:
            parent = {"id": event.get("parentMessageId") or uuid.uuid4().hex, "role": "assistant"}
            self.messages.append(parent)
        parent.setdefault("toolCalls", []).append(call)


def _message(message: ChatMessage) -> dict[str, Any]:
    return {"id": message.message_id or uuid.uuid4().hex, "role": message.role, "content": message.content}


class Translation:
    """Events of AG-UI before 1.0 → 1.0."""

    __slots__ = ("_message", "_span")

    def __init__(self) -> None:
        self._span = ""
        self._message = ""

    def event(self, event: Event) -> list[Event]:
        """The event as 1.0 has it; usually itself."""
        match event.get("type"):
            case "THINKING_START":
                self._span = uuid.uuid4().hex
                return [{"type": "REASONING_START", "messageId": self._span}]
            case "THINKING_END":
                return [{"type": "REASONING_END", "messageId": self._span}]
            case "THINKING_TEXT_MESSAGE_START":
                self._message = uuid.uuid4().hex
                return [{"type": "REASONING_MESSAGE_START", "messageId": self._message, "role": "reasoning"}]
            case "THINKING_TEXT_MESSAGE_CONTENT":
                delta = event.get("delta", "")
                return [{"type": "REASONING_MESSAGE_CONTENT", "messageId": self._message, "delta": delta}]
            case "THINKING_TEXT_MESSAGE_END":
                return [{"type": "REASONING_MESSAGE_END", "messageId": self._message}]
        return [event]
