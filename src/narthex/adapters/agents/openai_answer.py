"""One streamed completion of an OpenAI-compatible endpoint → events, as endpoints in the wild write it. No transport.

Rules: what people should read is never dropped: text in any of its shapes, a refusal, an error's own words; what is
not understood is named once a run in `CUSTOM narthex.model_note`. Left out on purpose: `usage`, `logprobs`, keep-alive
chunks, choices but the first. A tool call that was not asked for is shown as one, without a result.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from narthex.adapters.agents.surrogates import Halves
from narthex.domain import events as ev
from narthex.ports.agents import AgentError, Event

MAX_QUOTE: Final = 500  # characters of an endpoint's own words
MAX_NOTES: Final = 8
MAX_CALLS: Final = 128
_NORMAL: Final = frozenset({"stop", "eos", "end_turn", "eos_token", "stop_sequence", "complete", "unknown"})
"""Reasons that say no more than that the answer is whole."""
_QUIET: Final = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"}
)

Item = Event | str


class Answer:
    """Feed it the stream's events; it gives what the agent yields.

    Args:
        hide: takes the secret out of an endpoint's words.
    """

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._reasoning = ""
        self._reason = ""
        self._spoke = False
        self._done = False
        self._notes: set[str] = set()
        self._text = Halves()
        self._thought = Halves()
        self._calls: dict[object, _Call] = {}
        self._last_call: object = None

    @property
    def done(self) -> bool:
        """Whether the stream said that nothing follows."""
        return self._done

    def event(self, kind: str, data: str) -> list[Item]:
        """One server-sent event.

        Raises:
            AgentError: it tells of an error, or is no answer of a model.
        """
        text = data.strip()
        if text == "[DONE]":
            self._done = True
            return []
        try:
            chunk: Any = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            chunk = self._leniently(kind, text)
        if not isinstance(chunk, dict):
            if kind == "error" or isinstance(chunk, str):
                raise self._failed(str(chunk))
            raise AgentError(
                "The model's endpoint sent a chunk that is no JSON object.", "agent_event_invalid"
            )
        self._raise_error(kind, chunk)
        return self._chunk(chunk)

    def end(self) -> list[Item]:
        """After the last event.

        Raises:
            AgentError: the stream broke off, or the answer is empty.
        """
        out = self._spoken(self._text.end())
        out += self._end_thought()
        for call in self._calls.values():
            out += call.end()
        reason = self._reason
        if not reason and not self._done:
            raise Partial(out, "The model's endpoint ended its stream in the middle.", "agent_unavailable")
        if not self._spoke and not self._calls:
            if reason == "content_filter":
                raise Partial(out, "The model's endpoint filtered the answer away.", "agent_failed")
            if not reason:
                raise Partial(out, "The model's endpoint answered nothing.", "agent_unavailable")
        if reason and reason not in _NORMAL:
            out.append(ev.custom("narthex.model_stopped", {"reason": self._hide(reason)[:100]}))
        return out

    # -- errors --------------------------------------------------------------------------------------------

    def _leniently(self, kind: str, text: str) -> Any:
        """What msgspec does not take: halves of characters, or an error that was written as plain text."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as fault:
            if text[:1] in ("{", "["):
                raise AgentError(
                    f"The model's endpoint sent a chunk that is no JSON: {self._quote(text, 120)}",
                    "agent_event_invalid",
                ) from fault
            if kind in ("ping", "keepalive", "heartbeat"):
                return {}
            raise self._failed(text) from fault

    def _raise_error(self, kind: str, chunk: dict[str, Any]) -> None:
        error = chunk.get("error")
        if error:
            raise self._failed(words(error))
        if kind == "error" or chunk.get("object") == "error" or chunk.get("type") == "error":
            raise self._failed(words(chunk))
        if "choices" not in chunk and ("detail" in chunk or ("message" in chunk and "content" not in chunk)):
            raise self._failed(words(chunk))

    def _failed(self, words: str) -> AgentError:
        return AgentError(self._quote(words, MAX_QUOTE) or "The model failed.", "agent_failed")

    def _quote(self, text: str, limit: int) -> str:
        return "".join(self._hide(text).encode("utf-8", "replace").decode().splitlines(keepends=False))[
            :limit
        ]

    # -- chunks --------------------------------------------------------------------------------------------

    def _chunk(self, chunk: dict[str, Any]) -> list[Item]:
        choices = chunk.get("choices")
        out: list[Item] = []
        if choices is None:
            if chunk and not {"usage", "id", "object", "type", "model", "timings"} & set(chunk):
                out += self._note(f"a chunk with {', '.join(sorted(map(str, chunk))[:5])}")
            return out
        if not isinstance(choices, list):
            return self._note("choices that are no list")
        for choice in choices:
            if not isinstance(choice, dict):
                out += self._note("a choice that is no object")
            elif choice.get("index") not in (None, 0):
                out += self._note("more than one choice")
            else:
                out += self._choice(choice)
        return out

    def _choice(self, choice: dict[str, Any]) -> list[Item]:
        out: list[Item] = []
        delta = choice.get("delta")
        if not delta:
            whole = choice.get("message")  # not streamed, or the whole once more behind its parts
            delta = whole if whole and not self._spoke else {}
        if isinstance(delta, str):
            delta = {"content": delta}
        if not isinstance(delta, dict):
            return self._note("a delta that is no object")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            out += self._think(self._plain(thought, out))
        for member in ("content", "refusal"):
            if delta.get(member):
                out += self._spoken(self._text.feed(self._plain(delta[member], out)))
        if not delta and isinstance(choice.get("text"), str):  # the completions API of old
            out += self._spoken(self._text.feed(choice["text"]))
        for call in _listed(delta.get("tool_calls")):
            out += self._called(call)
        if isinstance(delta.get("function_call"), dict):
            out += self._called({"index": 0, "function": delta["function_call"]})
        for name in sorted(set(delta) - _QUIET):
            if delta[name] and name in ("audio", "images", "image", "video"):
                out += self._note(name)
        reason = choice.get("finish_reason")
        if reason:  # some send an empty one with every chunk
            self._reason = str(reason)
        return out

    def _plain(self, content: Any, out: list[Item]) -> str:
        """Text in any of its shapes: a string, a part, a list of parts. Other parts are noted in `out`."""
        if isinstance(content, str):
            return content
        texts = []
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                texts.append(part)
                continue
            found = (
                next(
                    (
                        part[name]
                        for name in ("text", "refusal", "content", "thinking", "reasoning")
                        if name in part
                    ),
                    None,
                )
                if isinstance(part, dict)
                else None
            )
            if isinstance(found, dict):
                found = found.get("value")
            if isinstance(found, str):
                texts.append(found)
            else:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                out += self._note(f"a part of type {kind}")
        return "".join(texts)

    def _spoken(self, text: str) -> list[Item]:
        if not text:
            return []
        out = self._end_thought()
        self._spoke = True
        out.append(text)
        return out

    def _called(self, call: Any) -> list[Item]:
        """A piece of a tool call: found again by its index, else by its id, else it goes on with the last one."""
        if not isinstance(call, dict):
            return self._note("a tool call that is no object")
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        index, call_id, name = call.get("index"), call.get("id"), function.get("name")
        key: object
        if index is not None:
            key = ("index", str(index))
        elif call_id:
            key = ("id", str(call_id))
        elif name or self._last_call is None:
            key = ("new", len(self._calls))
        else:
            key = self._last_call
        if call_id and key in self._calls and self._calls[key].other(str(call_id)):
            key = ("id", str(call_id))  # one index for all of them
        self._last_call = key
        out = self._end_thought()
        found = self._calls.get(key)
        if found is None:
            if len(self._calls) >= MAX_CALLS:
                raise AgentError("The model called more than 128 tools in one answer.", "agent_flood")
            found = self._calls[key] = _Call()
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        return out + found.feed(str(call_id or ""), str(name or ""), arguments or "")

    def _think(self, thought: str) -> list[Item]:
        thought = self._thought.feed(thought)
        if not thought:
            return []
        out: list[Item] = []
        if not self._reasoning:
            self._reasoning = uuid.uuid4().hex
            out.append(ev.reasoning_start(self._reasoning))
            out.append(ev.reasoning_message_start(self._reasoning))
        out.append(ev.reasoning_content(self._reasoning, thought))
        return out

    def _end_thought(self) -> list[Item]:
        out: list[Item] = []
        if left := self._thought.end():
            out += self._think(left)
        if self._reasoning:
            message, self._reasoning = self._reasoning, ""
            out += [ev.reasoning_message_end(message), ev.reasoning_end(message)]
        return out

    def _note(self, what: str) -> list[Item]:
        """Name something that is not understood, once."""
        what = what.encode("utf-8", "replace").decode()[:100]
        if what in self._notes or len(self._notes) >= MAX_NOTES:
            return []
        self._notes.add(what)
        return [ev.custom("narthex.model_note", {"not_understood": what})]


class Partial(AgentError):
    """The end of an answer that is not whole: `items` are shown before the error."""

    def __init__(self, items: list[Item], message: str, code: str) -> None:
        super().__init__(message, code)
        self.items = items


class _Call:
    """A tool call as it grows. It begins once its name is known."""

    def __init__(self) -> None:
        self._id = ""
        self._name = ""
        self._waiting = ""
        self._begun = False
        self._halves = Halves()

    def other(self, call_id: str) -> bool:
        """Whether an id is another call's."""
        return bool(self._id) and self._id != call_id

    def feed(self, call_id: str, name: str, arguments: str) -> list[Item]:
        """The next piece."""
        self._id = self._id or call_id
        if not self._begun:
            self._name += name
        self._waiting += self._halves.feed(arguments)
        return self._show() if self._name and self._waiting else []

    def _show(self) -> list[Item]:
        out: list[Item] = []
        if not self._begun:
            self._begun = True
            self._id = self._id or uuid.uuid4().hex
            out.append(ev.tool_call_start(self._id, self._name or "unknown"))
        if self._waiting:
            out.append(ev.tool_call_args(self._id, self._waiting))
            self._waiting = ""
        return out

    def end(self) -> list[Item]:
        """No more of it comes."""
        self._waiting += self._halves.end()
        return [*self._show(), ev.tool_call_end(self._id)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def words(error: Any) -> str:
    """An error's own words, wherever it has them."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg", "description"):
            if error.get(name):
                return words(error[name])
        return json.dumps(error)
    if isinstance(error, list) and error:
        return words(error[0])
    return str(error)
