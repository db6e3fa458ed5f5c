"""Relays an AG-UI event stream into a run, for the Pydantic AI adapter and the HTTP adapter.

The stream's own RUN_STARTED and RUN_FINISHED are its side of what the gateway publishes itself: they are not passed on,
and what they report (usage, result) goes into the gateway's own end. Interrupts become `run.ask_all`, and their answers
the `resume` of the next request, in the conversation as the stream left it. Deprecated THINKING_* events become the
REASONING_* of AG-UI 1.0. Not here: order and shape (the engine checks every event and names what is wrong), transport.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from narthex.adapters.agents.surrogates import Halves, cleaned, joined
from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.answer_schema import schema_fault
from narthex.domain.json_patch import PatchedDocument, PatchFault
from narthex.ports.agents import AgentError, Answer, ChatMessage, Event, Question, RunInput
from narthex.ports.tracing import current_span

Start = Callable[[dict[str, Any]], AsyncGenerator[Event, None]]
"""Begins a stream: takes a RunAgentInput in its JSON form. It is closed (`aclose`) when the run is cancelled."""

MAX_INTERRUPTS: Final = 20  # questions of one message: an endpoint that asks for ever is ended
_ROLES: Final = frozenset({"user", "assistant", "system", "tool"})
_PREFIX: Final = re.compile(r"^[0-9a-f]{32}\.(?=.{1,15}$)")
_CODE: Final = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


async def relay(run: RunInput, start: Start) -> AsyncIterator[Event]:
    """Yield the stream's events for the engine.

    Raises:
        AgentError: the stream said RUN_ERROR, ended without an end, or asked too often.
    """
    conversation = Conversation(run.messages, run.state)
    resume = [_entry(answer) for answer in run.resume]
    for _ in range(MAX_INTERRUPTS):
        ended: Event | None = None
        translate = Translation()
        async with aclosing(start(conversation.request(run, resume))) as events:
            async for raw in events:
                if _between_runs(raw):
                    continue
                for event in translate.event(raw):
                    kind = event.get("type")
                    if kind == "RUN_FINISHED":
                        ended = event
                        _report(run, event)
                    elif kind == "RUN_ERROR":
                        _report(run, event)
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
        resume = await _asked(run, interrupts)
        conversation.state = run.state if run.state is not None else conversation.state
    raise AgentError(f"The agent asked more than {MAX_INTERRUPTS} questions in one run.", "agent_flood")


def _between_runs(event: Event) -> bool:
    """Whether another gateway marked it as sent between its runs (`web/agui/thread_stream`): no output of the agent."""
    metadata = event.get("metadata")
    ours = metadata.get("narthex") if isinstance(metadata, dict) else None
    return isinstance(ours, dict) and ours.get("between") is True


def _report(run: RunInput, terminal: Event) -> None:
    usage = terminal.get("usage")
    try:
        run.report(
            usage=[entry for entry in usage if isinstance(entry, dict)] if isinstance(usage, list) else [],
            result=terminal.get("result"),
        )
    except ValueError as fault:
        raise AgentError("The agent's usage or result is not exact JSON.", "agent_event_invalid") from fault


async def _asked(run: RunInput, interrupts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put interrupts to people; the entries for `resume`."""
    questions = [_question(interrupt) for interrupt in interrupts]
    try:
        answers = await run.ask_all(questions)
    except TimeoutError:
        return [{"interruptId": question.question_id, "status": "cancelled"} for question in questions]
    return [_entry(answer) for answer in answers]


def _question(interrupt: dict[str, Any]) -> Question:
    schema = interrupt.get("responseSchema")
    if not isinstance(schema, dict) or schema_fault(schema):
        schema = {}  # not checked here: the endpoint checks its own answers
    reason, metadata = str(interrupt.get("reason") or ""), interrupt.get("metadata")
    return Question(
        schema=schema,
        text=str(interrupt.get("message") or reason or "The agent needs an answer."),
        question_id=str(interrupt.get("id", "")),
        reason=reason or "input_required",
        tool_call_id=str(interrupt.get("toolCallId") or ""),
        metadata=metadata if isinstance(metadata, dict) else {},
        dismissable=True,
    )


def _entry(answer: Answer) -> dict[str, Any]:
    entry = {"interruptId": answer.question_id, "status": answer.status}
    return entry if answer.status == "cancelled" else {**entry, "payload": answer.payload}


def _error(event: Event) -> AgentError:
    code = str(event.get("code") or "")
    return AgentError(str(event.get("message", "")), code if _CODE.match(code) else "agent_failed")


class Conversation:
    """The messages as AG-UI has them, growing with what the stream says."""

    def __init__(self, messages: list[ChatMessage], state: Any = None) -> None:
        self.messages: list[dict[str, Any]] = [
            _message(message) for message in messages if message.role in _ROLES
        ]
        self.state = {} if state is None else state
        self._calls: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, dict[str, Any]] = {}

    @property
    def state(self) -> Any:
        """The agent's state; empty once it was larger than one that the gateway keeps (`domain/agent_state.py`)."""
        return {} if self._document.too_large else self._document.value

    @state.setter
    def state(self, value: Any) -> None:
        self._document = PatchedDocument(value, MAX_BYTES)

    def request(self, run: RunInput, resume: list[dict[str, Any]]) -> dict[str, Any]:
        """A RunAgentInput. The person's identity (never a token) is in `forwardedProps.narthex.user`."""
        ours: dict[str, Any] = {"narthex": {"user": msgspec.to_builtins(run.user), "attempt": run.attempt}}
        context = current_span().context
        if context is not None and "traceparent" in run.forwarded:  # the client's: ours continues it
            ours |= context.headers()
        state = self.state
        self.state = state  # an agent in this process may change the one that it gets: patches go to a copy
        request: dict[str, Any] = {
            "threadId": run.thread_id,
            "runId": run.run_id,
            "state": state,
            "messages": self.messages,
            "tools": run.tools,
            "context": run.context,
            "forwardedProps": {**run.forwarded, **ours},
        }
        if run.parent_run_id:
            request["parentRunId"] = run.parent_run_id
        if run.protocol_version:
            request["protocolVersion"] = run.protocol_version
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
            case "STATE_DELTA":
                with contextlib.suppress(
                    PatchFault
                ):  # as AG-UI's client: a delta that does not fit is left out
                    self._document.apply(event.get("delta") or [])
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
    found: dict[str, Any] = {
        "id": _own_id(message.message_id),
        "role": message.role,
        "content": message.content,
    }
    if message.tool_calls:
        found["toolCalls"] = [
            {
                "id": _own_id(call.call_id),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        found["toolCallId"] = _own_id(message.tool_call_id)
        if message.error:
            found["error"] = message.error
    return found


def _own_id(name: str) -> str:
    """The id as the agent gave it: the gateway puts the run's id before a short one (`m1`)."""
    return _PREFIX.sub("", name) or uuid.uuid4().hex


_DELTA_ENDS: Final = {
    "TEXT_MESSAGE_END": ("TEXT_MESSAGE_CONTENT", "messageId"),
    "REASONING_MESSAGE_END": ("REASONING_MESSAGE_CONTENT", "messageId"),
    "TOOL_CALL_END": ("TOOL_CALL_ARGS", "toolCallId"),
}


class Translation:
    """Events of AG-UI before 1.0 → 1.0. Joins characters that arrive in two halves."""

    __slots__ = ("_halves", "_message", "_span")

    def __init__(self) -> None:
        self._span = ""
        self._message = ""
        self._halves: dict[tuple[str, str], Halves] = {}

    def event(self, event: Event) -> list[Event]:
        """The event as 1.0 has it, usually itself; no event where a delta holds half a character only."""
        return [whole for one in self._renamed(event) for whole in self._whole(one)]

    def _whole(self, event: Event) -> list[Event]:
        kind = event.get("type", "")
        if kind in _DELTA_ENDS:
            name, member = _DELTA_ENDS[kind]
            halves = self._halves.pop((name, str(event.get(member))), None)
            left = halves.end() if halves is not None else ""
            return [{"type": name, member: event.get(member), "delta": left}, event] if left else [event]
        delta = event.get("delta")
        if str(kind).endswith("_CHUNK"):  # the engine's intake joins their halves: it knows whose they are
            if not _broken(event):
                return [event]
            rest = cleaned({name: value for name, value in event.items() if name != "delta"})
            return [rest | {"delta": delta} if isinstance(delta, str) else cleaned(event)]
        if not isinstance(delta, str):
            return [cleaned(event)] if _broken(event) else [event]
        key = (kind, str(event.get("messageId") or event.get("toolCallId") or ""))
        if key not in self._halves:
            if joined(delta) == delta:
                return [event]
            self._halves[key] = Halves()
        text = self._halves[key].feed(delta)
        if delta and not text:
            return []
        return [cleaned({**event, "delta": text})]

    def _renamed(self, event: Event) -> list[Event]:
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


def _broken(event: Event) -> bool:
    """Whether the event holds half a character, which no encoder takes."""
    try:
        msgspec.json.encode(event)
    except (UnicodeEncodeError, msgspec.EncodeError, TypeError):
        return True
    except RecursionError:  # the engine's intake names it
        return False
    return False
