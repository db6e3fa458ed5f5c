"""Turns a completion of an OpenAI-compatible endpoint into events, in the many forms that endpoints give it.

Not here: HTTP (`remote`), server-sent events (`sse`). Rules: nothing that users should read is dropped: text in any of
its shapes, a refusal, an error's own words. A part of an unknown kind is named once a run in `CUSTOM
narthex.model_note`. Left out on purpose: `logprobs`, keep-alive chunks, all choices but the first. A tool call, though
no tool is offered, is shown with the result `NOT_OFFERED`: a page executes calls that have no result.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from narthex.adapters.agents.sse import KEEP_ALIVES
from narthex.adapters.agents.surrogates import Halves, joined
from narthex.domain import events as ev
from narthex.ports.agents import AgentError, Event
from narthex.ports.tracing import Value

MAX_QUOTE: Final = 500  # characters of an endpoint's own words
MAX_NOTES: Final = 8
MAX_CALLS: Final = 128
MAX_CALL_NAME: Final = 256  # characters
MAX_NAMELESS: Final = 64 * 1024  # characters of a call's arguments before its name
NOT_OFFERED: Final = "Not executed: the gateway offers no tools to this model."
_USAGE: Final = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
_NORMAL: Final = frozenset({"stop", "eos", "end_turn", "eos_token", "stop_sequence", "complete", "unknown"})
"""Reasons for an end that mean only that the answer is complete."""
_QUIET: Final = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"}
)

Item = Event | str


class ModelAnswer:
    """Feed it the stream's events; it returns what the agent yields.

    Args:
        hide: takes the secret out of an endpoint's words.

    Attributes:
        usage: the last count, in AG-UI's form.
        model: the model's name beside that count.
        done: whether the stream ended with `[DONE]`: nothing follows.
    """

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._reasoning = ""
        self._reason = ""
        self._spoke = False
        self._told: dict[str, Value] = {}
        self.usage: dict[str, Any] = {}
        self.model = ""
        self.done = False
        self._notes: set[str] = set()
        self._text = Halves()
        self._thought = Halves()
        self._calls: dict[object, _Call] = {}
        self._call_ids: set[str] = set()
        self._at_index: dict[str, object] = {}  # the call that pieces of an index without an id continue
        self._at_id: dict[str, object] = {}
        self._last_call: object = None

    def event(self, kind: str, data: str, *, cut: bool = False) -> list[Item]:
        """One server-sent event; `cut`: the end of the stream came before the event's own end.

        Raises:
            AgentError: it reports an error, or is no answer of a model.
        """
        try:
            return self._event(kind, data, cut)
        except RecursionError as fault:
            raise AgentError(
                "The model's endpoint sent a chunk that nests too deep.", "agent_event_invalid"
            ) from fault

    def _event(self, kind: str, data: str, cut: bool) -> list[Item]:
        text = data.strip()
        if text == "[DONE]":
            self.done = True
            return []
        try:
            chunk: Any = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            chunk = self._leniently(kind, text, cut)
        if chunk is None or (
            kind in KEEP_ALIVES
            and not (isinstance(chunk, dict) and ("choices" in chunk or chunk.get("error")))
        ):
            return []
        if not isinstance(chunk, dict):
            if kind == "error" or isinstance(chunk, str):
                raise self._failed(str(chunk))
            raise AgentError(
                "The model's endpoint sent a chunk that is not a JSON object.", "agent_event_invalid"
            )
        self._raise_error(kind, chunk)
        return self._chunk(chunk)

    def told(self) -> dict[str, Value]:
        """What the endpoint said about the answer, in OpenTelemetry's names."""
        return self._told | ({"gen_ai.response.finish_reasons": [self._reason]} if self._reason else {})

    def end(self) -> tuple[list[Item], AgentError | None]:
        """After the last event: the last items, and the error that follows them where the answer is not whole."""
        out = self._spoken(self._text.end())
        out += self._end_thought()
        for call in self._calls.values():
            out += call.end()
        reason = self._reason
        if not reason and not self.done:
            return out, AgentError("The model's endpoint cut its answer short.", "agent_unavailable")
        if not self._spoke and not self._calls:
            if reason == "content_filter":
                return out, AgentError("The model's endpoint withheld the answer (content filter).")
            if not reason:
                return out, AgentError("The model's endpoint answered nothing.", "agent_unavailable")
        if reason and reason not in _NORMAL:
            out.append(ev.custom("narthex.model_stopped", {"reason": self._hide(reason)[:100]}))
        return out, None

    # -- errors --------------------------------------------------------------------------------------------

    def _leniently(self, kind: str, text: str, cut: bool) -> Any:
        """What msgspec refuses: halves of characters, or an error that was written as plain text.

        None for a keep-alive, and for JSON that the end of the stream cut: `end` reports it.
        """
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as fault:
            json_like = text[:1] in ("{", "[")
            if kind in KEEP_ALIVES or (cut and json_like):
                return None
            if json_like:
                raise AgentError(
                    f"The model's endpoint sent a chunk that is not JSON: {self._quote(text, 120)}",
                    "agent_event_invalid",
                ) from fault
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
        return " ".join(joined(self._hide(text)).split())[:limit]

    # -- chunks --------------------------------------------------------------------------------------------

    def _chunk(self, chunk: dict[str, Any]) -> list[Item]:
        self._counted(chunk)
        choices = chunk.get("choices")
        out: list[Item] = []
        if choices is None:
            if chunk and not {"usage", "id", "object", "type", "model", "timings"} & set(chunk):
                out += self._note(f"a chunk with {', '.join(sorted(map(str, chunk))[:5])}")
            return out
        if not isinstance(choices, list):
            return self._note("choices that are not a list")
        for choice in choices:
            if not isinstance(choice, dict):
                out += self._note("a choice that is not an object")
            elif choice.get("index") not in (None, 0):
                out += self._note("more than one choice")
            else:
                out += self._choice(choice)
        return out

    def _counted(self, chunk: dict[str, Any]) -> None:
        model = joined(str(chunk.get("model") or ""))
        if model:
            self._told["gen_ai.response.model"] = model
        if isinstance(usage := chunk.get("usage"), dict):
            for kind, member in _USAGE.items():
                if isinstance(number := usage.get(member), int):
                    self._told[f"gen_ai.usage.{kind}"] = number
            self.usage = _token_usage(usage)
            self.model = model

    def _choice(self, choice: dict[str, Any]) -> list[Item]:
        out: list[Item] = []
        delta = choice.get("delta")
        if not delta:
            delta = self._missed(choice.get("message"))
        if isinstance(delta, str):
            delta = {"content": delta}
        if not isinstance(delta, dict):
            return self._note("a delta that is not an object")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            out += self._think(self._plain(thought, out))
        for member in ("content", "refusal"):
            if delta.get(member):
                out += self._spoken(self._text.feed(self._plain(delta[member], out)))
        if not delta and isinstance(choice.get("text"), str):  # the older completions API
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
            self._reason = joined(str(reason))
        return out

    def _missed(self, whole: Any) -> Any:
        """Of a whole answer, not streamed or repeated behind its parts: what did not come in parts."""
        if not isinstance(whole, dict):
            return whole if whole and not self._spoke else {}
        came = {"content", "refusal"} if self._spoke else set()
        if self._calls:
            came |= {"tool_calls", "function_call"}
        if came:
            came |= {"reasoning_content", "reasoning"}
        return {name: value for name, value in whole.items() if name not in came}

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
        """A piece of a tool call: found again by its index, else by its id, else it continues the last one."""
        if not isinstance(call, dict):
            return self._note("a tool call that is not an object")
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        index, call_id, name = call.get("index"), call.get("id"), function.get("name")
        key: object
        if index is not None:
            key = self._at_index.get(str(index), ("index", str(index)))
        elif call_id:
            key = self._at_id.get(str(call_id), ("id", str(call_id)))
        elif name or self._last_call is None:
            key = ("new", len(self._calls))
        else:
            key = self._last_call
        if call_id and key in self._calls and self._calls[key].other(str(call_id)):
            key = self._at_id.get(str(call_id), ("id", str(call_id)))  # one index for all of them
        self._last_call = key
        out = self._end_thought()
        found = self._calls.get(key)
        if found is None:
            if len(self._calls) >= MAX_CALLS:
                raise AgentError("The model called more than 128 tools in one answer.", "agent_flood")
            found = self._calls[key] = _Call(self._call_ids)
        if index is not None:
            self._at_index[str(index)] = key
        if call_id:
            self._at_id.setdefault(str(call_id), key)
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        return out + found.feed(joined(str(call_id or "")), joined(str(name or "")), arguments or "")

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
        """Name a part that is not understood, once."""
        what = joined(self._hide(what))[:100]
        if what in self._notes or len(self._notes) >= MAX_NOTES:
            return []
        self._notes.add(what)
        return [ev.custom("narthex.model_note", {"not_understood": what})]


class _Call:
    """A tool call as it grows. It begins once its name is known.

    Args:
        taken: the ids under which the answer's calls are shown: one that is taken is replaced.
    """

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._id = ""  # as the endpoint has it
        self._shown_id = ""
        self._name = ""
        self._waiting = ""
        self._begun = False
        self._halves = Halves()

    def other(self, call_id: str) -> bool:
        """Whether an id names another call."""
        return bool(self._id) and self._id != call_id

    def feed(self, call_id: str, name: str, arguments: str) -> list[Item]:
        """The next piece."""
        self._id = self._id or call_id
        if not self._begun:
            self._name += name
        self._waiting += self._halves.feed(arguments)
        if len(self._name) > MAX_CALL_NAME:
            raise AgentError("The model called a tool by a name of more than 256 characters.", "agent_flood")
        if not self._name and len(self._waiting) > MAX_NAMELESS:  # the engine counts only what it is given
            raise AgentError(
                "The model sent more than 64 KB of arguments to a tool without a name.", "agent_flood"
            )
        return self._show() if self._name and self._waiting else []

    def _show(self) -> list[Item]:
        out: list[Item] = []
        if not self._begun:
            self._begun = True
            self._shown_id = self._id if self._id and self._id not in self._taken else uuid.uuid4().hex
            self._taken.add(self._shown_id)
            out.append(ev.tool_call_start(self._shown_id, self._name or "unknown"))
        if self._waiting:
            out.append(ev.tool_call_args(self._shown_id, self._waiting))
            self._waiting = ""
        return out

    def end(self) -> list[Item]:
        """The answer is over."""
        self._waiting += self._halves.end()
        return [
            *self._show(),
            ev.tool_call_end(self._shown_id),
            ev.tool_call_result(uuid.uuid4().hex, self._shown_id, NOT_OFFERED),
        ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _token_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's `usage` as AG-UI's TokenUsage; what the provider did not count is left out."""
    prompt, completed = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    counts = {
        "inputTokens": usage.get("prompt_tokens"),
        "outputTokens": usage.get("completion_tokens"),
        "totalTokens": usage.get("total_tokens"),
        "cachedInputTokens": prompt.get("cached_tokens") if isinstance(prompt, dict) else None,
        "reasoningTokens": completed.get("reasoning_tokens") if isinstance(completed, dict) else None,
    }
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def words(error: Any) -> str:
    """An error's own words, in whichever member it has them."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg", "description"):
            if error.get(name):
                return words(error[name])
        return json.dumps(error)
    if isinstance(error, list) and error:
        return words(error[0])
    return str(error)
