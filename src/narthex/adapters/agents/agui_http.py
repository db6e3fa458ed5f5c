"""Agents behind an AG-UI endpoint: `agui+https://host/path` (LangGraph, CrewAI, ADK, Mastra, Pydantic AI …).

One POST with a RunAgentInput per run, answered by server-sent events. Not here: relaying (`agui_stream`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec

from narthex.adapters.agents.agui_stream import relay
from narthex.adapters.agents.remote import Endpoint, parse_url
from narthex.ports.agents import Agent, AgentError, Event, RunInput
from narthex.ports.tracing import ending


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
            async for data in endpoint.stream(url, request, deadline, span):
                yield _event(data)

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


def _event(data: str) -> Event:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as fault:
        raise AgentError(
            "The agent's endpoint sent an event that is not a JSON object.", "agent_event_invalid"
        ) from fault
