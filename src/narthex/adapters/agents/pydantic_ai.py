"""Pydantic AI agents: `module:agent`, run in this process through Pydantic AI's own AG-UI adapter.

Tools, thinking and approvals come out as AG-UI events; an approval becomes a question to a person. An agent
whose `deps_type` is `AgentUser` gets the person who asks as its dependencies. Needs the extra
`narthex[pydantic-ai]`. Not here: relaying (`agui_stream`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.ui.ag_ui import AGUIAdapter

from narthex.adapters.agents.agui_stream import relay
from narthex.errors import ConfigError
from narthex.ports.agents import Agent, AgentUser, Event, RunInput

AG_UI_VERSION: Final = (
    "1.0.0"  # for what only clients of that version get: usage, pending calls of client tools
)


def pydantic_agent(spec: str, found: Any, *, name: str = "") -> Agent:
    """A Pydantic AI agent.

    Args:
        spec: as configured, for messages; its object's name is the agent's unless it has one.
        found: the `pydantic_ai.Agent`.
        name: public name.

    Raises:
        ConfigError: it is something else of Pydantic AI.
    """
    if not isinstance(found, PydanticAgent):
        raise ConfigError([f"Agent {spec} is a {type(found).__name__}: name a pydantic_ai.Agent."])
    with_user = found.deps_type is AgentUser

    async def start(request: dict[str, Any], run: RunInput) -> AsyncGenerator[Event, None]:
        from ag_ui.core import RunAgentInput

        adapter: AGUIAdapter[Any, Any] = AGUIAdapter(
            agent=found,
            run_input=RunAgentInput.model_validate({"protocolVersion": AG_UI_VERSION, **request}),
            manage_system_prompt="server",
            include_usage=True,
        )
        async for event in adapter.run_stream(deps=run.user if with_user else None):
            yield event.model_dump(mode="json", by_alias=True)

    async def agent(run: RunInput) -> AsyncIterator[Event | str]:
        async for event in relay(run, lambda request: start(request, run)):
            yield event

    return Agent(
        name=name or found.name or spec.rpartition(":")[2].rpartition(".")[2],
        function=agent,
        description="A Pydantic AI agent.",
    )
