"""Models behind an OpenAI-compatible endpoint: `openai+http://host/v1#model` (vLLM, llama.cpp, Ollama, …).

The conversation goes to `/chat/completions` with `stream: true`; the answer's text comes back as text deltas,
its `reasoning_content` as reasoning. No tools are offered. Rule: an answer that was cut off says so.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from narthex.adapters.agents.remote import Endpoint, parse_url
from narthex.domain import events as ev
from narthex.errors import ConfigError
from narthex.ports.agents import Agent, AgentError, Event, RunInput
from narthex.ports.tracing import Value, ending

MAX_MESSAGES: Final = 100  # newest ones; small models have small windows, large ones charge for each
_USAGE: Final = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
_ROLES: Final = frozenset({"user", "assistant", "system"})


def openai_agent(
    url: str, *, name: str = "", secrets: Mapping[str, str] | None = None, system: str = ""
) -> Agent:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        url: the API's base URL (with `/v1`), the model's name as its fragment.
        name: public name; by default the model's, without what no mention can hold.
        secrets: API keys by agent name.
        system: a system prompt; empty for none.

    Raises:
        ConfigError: no model is named, or the URL cannot be used.
    """
    parts = parse_url(url)
    model = unquote(parts.fragment)
    if not model:
        raise ConfigError([f"Agent openai+{parts.scheme}://{parts.hostname}: name the model: …/v1#model."])
    base = parts._replace(fragment="", query="").geturl().rstrip("/")
    name = name or "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in model)
    endpoint = Endpoint(f"openai+{base}", base, (secrets or {}).get(name, ""))

    async def agent(run: RunInput) -> AsyncIterator[Event | str]:
        async for item in completion(run, endpoint, model, system=system):
            yield item

    return Agent(
        name=name,
        function=agent,
        restartable=True,  # asking a model again is all that a restart does
        description=f"{model} at {endpoint.shown}.",
        check=endpoint.check(f"{base}/models"),
    )


async def completion(
    run: RunInput, endpoint: Endpoint, model: str, *, system: str = "", max_tokens: int | None = None
) -> AsyncIterator[Event | str]:
    """Ask a model to go on with the run's conversation; `endpoint.url` is the API's base. Raises AgentError."""
    messages = [
        {"role": message.role, "content": message.content}
        for message in run.messages
        if message.role in _ROLES and message.content
    ][-MAX_MESSAGES:]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    answer = _Answer(endpoint.hide)
    span = endpoint.request_span(
        f"chat {model}",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",  # whose interface it is
            "gen_ai.request.model": model,
            "gen_ai.output.type": "text",
            "gen_ai.conversation.id": run.thread_id,
        },
    )
    with ending(span):
        try:
            async for data in endpoint.stream(f"{endpoint.url}/chat/completions", body, run.deadline, span):
                if data.strip() == "[DONE]":
                    break
                for item in answer.chunk(data):
                    yield item
        finally:  # the last count is the whole one; it counts also where the answer was cut short
            if answer.usage:
                run.report(usage=[answer.usage | {"model": answer.model or model}])
        if span.recording:
            span.set(answer.told())
        for item in answer.end():
            yield item


def token_usage(usage: dict[str, Any]) -> dict[str, Any]:
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


class _Answer:
    """One streamed completion → events: reasoning first, then text."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._reasoning = ""
        self._reason = ""
        self._spoke = False
        self._told: dict[str, Value] = {}
        self.usage: dict[str, Any] = {}  # the last count, in AG-UI's form
        self.model = ""

    def chunk(self, data: str) -> list[Event | str]:
        """One `chat.completion.chunk`."""
        try:
            chunk: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError as fault:
            raise AgentError(
                "The model's endpoint sent a chunk that is not JSON.", "agent_event_invalid"
            ) from fault
        if isinstance(chunk.get("error"), dict):
            words = str(chunk["error"].get("message", "The model failed."))
            raise AgentError(self._hide(words)[:500], "agent_failed")
        if isinstance(chunk.get("model"), str):
            self._told["gen_ai.response.model"] = chunk["model"]
        if isinstance(usage := chunk.get("usage"), dict):
            for kind, member in _USAGE.items():
                if isinstance(number := usage.get(member), int):
                    self._told[f"gen_ai.usage.{kind}"] = number
            self.usage = token_usage(usage)
            self.model = str(chunk.get("model") or "")
        out: list[Event | str] = []
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(thought, str) and thought:
                out += self._think(thought)
            if isinstance(delta.get("content"), str) and delta["content"]:
                out += self._end_thought()
                self._spoke = True
                out.append(delta["content"])
            self._reason = choice.get("finish_reason") or self._reason
        return out

    def told(self) -> dict[str, Value]:
        """What the endpoint said about the answer, in OpenTelemetry's names."""
        return self._told | ({"gen_ai.response.finish_reasons": [str(self._reason)]} if self._reason else {})

    def end(self) -> list[Event | str]:
        """After the last chunk."""
        out = self._end_thought()
        if not self._reason:
            raise AgentError("The model's endpoint cut its answer short.", "agent_unavailable")
        if self._reason != "stop":
            out.append(ev.custom("narthex.model_stopped", {"reason": str(self._reason)}))
        if not self._spoke and self._reason == "content_filter":
            raise AgentError("The model's endpoint withheld the answer (content filter).", "agent_failed")
        return out

    def _think(self, thought: str) -> list[Event | str]:
        out: list[Event | str] = []
        if not self._reasoning:
            self._reasoning = uuid.uuid4().hex
            out.append(ev.reasoning_start(self._reasoning))
            out.append(ev.reasoning_message_start(self._reasoning))
        out.append(ev.reasoning_content(self._reasoning, thought))
        return out

    def _end_thought(self) -> list[Event | str]:
        if not self._reasoning:
            return []
        message, self._reasoning = self._reasoning, ""
        return [ev.reasoning_message_end(message), ev.reasoning_end(message)]
