"""Models behind an OpenAI-compatible endpoint: `openai+http://host/v1#model` (vLLM, llama.cpp, Ollama, …).

The conversation goes to `/chat/completions` with `stream: true`; the answer's text comes back as text deltas,
its `reasoning_content` as reasoning. No tools are offered. How answers look in the wild is `openai_answer`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from narthex.adapters.agents.openai_answer import Answer, Partial
from narthex.adapters.agents.remote import Endpoint
from narthex.errors import ConfigError
from narthex.ports.agents import Agent, AgentError, Event, RunInput

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
    parts = urlsplit(url)
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
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    answer = Answer(endpoint.hide)
    async for event in endpoint.stream(f"{endpoint.url}/chat/completions", body, run.deadline, whole=True):
        for item in answer.event(event.kind, event.data):
            yield item
        if answer.done:
            break
    try:
        rest = answer.end()
    except Partial as fault:
        for item in fault.items:
            yield item
        raise AgentError(fault.message, fault.code) from None
    for item in rest:
        yield item
