"""Models behind an OpenAI-compatible endpoint: `openai+http://host/v1#model` (vLLM, llama.cpp, Ollama, …).

The conversation goes to `/chat/completions` with `stream: true`; the answer's text comes back as text deltas,
its `reasoning_content` as reasoning. No tools are offered. Not here: the forms that endpoints give their answers
(`openai_answer`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from narthex.adapters.agents.openai_answer import ModelAnswer
from narthex.adapters.agents.remote import Endpoint, parse_url
from narthex.errors import ConfigError
from narthex.ports.agents import Agent, Event, RunInput
from narthex.ports.tracing import ending

MAX_MESSAGES: Final = 100  # newest ones; small models have small windows, large ones charge for each
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
    answer = ModelAnswer(endpoint.hide)
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
            url = f"{endpoint.url}/chat/completions"
            async for sent in endpoint.stream(url, body, run.deadline, span, whole=True):
                for item in answer.event(sent.kind, sent.data, cut=sent.cut):
                    yield item
                if answer.done:
                    break
        finally:  # the last count is the whole one; it counts also where the answer was cut short
            if answer.usage:
                run.report(usage=[answer.usage | {"model": answer.model or model}])
        if span.recording:
            span.set(answer.told())
        items, fault = answer.end()
        for item in items:
            yield item
        if fault is not None:
            raise fault
