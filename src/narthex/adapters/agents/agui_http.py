"""Agents behind an AG-UI endpoint: `agui+https://host/path` (LangGraph, CrewAI, ADK, Mastra, Pydantic AI …).

One POST with a RunAgentInput per run, answered by server-sent events. Not here: relaying (`agui_stream`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from narthex.adapters.agents.agui_stream import relay
from narthex.adapters.agents.openai_answer import MAX_QUOTE, words
from narthex.adapters.agents.remote import Endpoint, parse_url
from narthex.adapters.agents.sse import KEEP_ALIVES, MESSAGE, ServerEvent
from narthex.adapters.agents.surrogates import joined
from narthex.ports.agents import Agent, AgentError, Event, RunInput
from narthex.ports.tracing import ending

_ERRORS: Final = frozenset({"error", "detail", "message"})


def agui_agent(url: str, *, name: str = "", secrets: Mapping[str, str] | None = None) -> Agent:
    """An agent behind an AG-UI endpoint.

    Args:
        url: http or https.
        name: its public name; by default the last part of the URL's path, or its host.
        secrets: bearer tokens by agent name.

    Raises:
        ConfigError: the URL cannot be used.
    """
    parts = parse_url(url)
    name = name or parts.path.rstrip("/").rpartition("/")[2] or (parts.hostname or "agui").replace(".", "-")
    endpoint = Endpoint(f"agui+{url}", url, (secrets or {}).get(name, ""))

    async def start(request: dict[str, Any], deadline: float) -> AsyncGenerator[Event, None]:
        with ending(endpoint.request_span("POST")) as span:
            async for sent in endpoint.stream(url, request, deadline, span):
                if (event := _event(sent, endpoint)) is not None:
                    yield event

    async def agent(run: RunInput) -> AsyncIterator[Event | str]:
        async for event in relay(run, lambda request: start(request, run.deadline)):
            yield event

    return Agent(
        name=name,
        function=agent,
        description=f"AG-UI agent at {endpoint.shown}.",
        check=endpoint.check(url),
        resumable=True,  # where it stopped is its server's to remember
    )


def _event(sent: ServerEvent, endpoint: Endpoint) -> Event | None:
    """The AG-UI event of a server-sent one; None for a keep-alive, and for JSON that the end of the stream cut.

    Raises:
        AgentError: it is an error that the endpoint reports outside of AG-UI, in its own words, or no event.
    """
    kind, data, cut = sent
    try:
        event: Any = msgspec.json.decode(data)
    except RecursionError as fault:
        raise AgentError(
            "The agent's endpoint sent an event that nests too deep.", "agent_event_invalid"
        ) from fault
    except msgspec.MsgspecError:
        try:
            event = json.loads(data)  # with halves of characters, which `agui_stream` joins
        except (ValueError, RecursionError) as fault:
            json_like = data.lstrip()[:1] in ("{", "[")
            if kind in KEEP_ALIVES or (cut and json_like):
                return None
            if kind == MESSAGE and json_like:
                raise AgentError(
                    "The agent's endpoint sent an event that is not a JSON object.", "agent_event_invalid"
                ) from fault
            raise AgentError(_quoted(data, endpoint), "agent_failed") from fault
    if isinstance(event, dict) and "type" in event and kind != "error":
        return event
    if kind in KEEP_ALIVES or event in ({}, None):
        return None
    if kind == "error" or isinstance(event, str) or (isinstance(event, dict) and event.keys() & _ERRORS):
        raise AgentError(_quoted(words(event), endpoint), "agent_failed")
    raise AgentError("The agent's endpoint sent an event that is not an AG-UI event.", "agent_event_invalid")


def _quoted(text: str, endpoint: Endpoint) -> str:
    return joined(endpoint.hide(text))[:MAX_QUOTE] or "The agent failed."
