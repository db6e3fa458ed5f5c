"""Pydantic AI agents: `module:agent`, run in this process through Pydantic AI's own AG-UI adapter.

Tools, thinking and approvals come out as AG-UI events; an approval becomes a question to a person. An agent
whose `deps_type` is `AgentUser` gets the person who asks as its dependencies. Pydantic AI's adapter reports tokens only
where a run finishes; those of a run that fails or is cancelled are counted here. Needs the extra
`narthex[pydantic-ai]`. Not here: relaying (`agui_stream`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import capture_run_messages
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.ui.ag_ui import AGUIAdapter
from pydantic_ai.usage import RequestUsage

from narthex.adapters.agents.agui_stream import relay
from narthex.domain.events import RUN_ERROR, TERMINAL
from narthex.errors import ConfigError
from narthex.ports.agents import Agent, AgentUser, Event, RunInput

AG_UI_VERSION: Final = (
    "1.0.0"  # for what only clients of that version get: usage, pending calls of client tools
)


def token_usage(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """What the models counted, as AG-UI's TokenUsage, an entry for each; what they did not count is left out."""
    totals: dict[tuple[str | None, str | None], RequestUsage] = {}
    for message in messages:
        if isinstance(message, ModelResponse):
            totals.setdefault((message.provider_name, message.model_name), RequestUsage()).incr(message.usage)
    return [
        {name: value for name, value in _counts(used, *model).items() if value}
        for model, used in totals.items()
        if used.input_tokens or used.output_tokens
    ]


def _counts(used: RequestUsage, provider: str | None, model: str | None) -> dict[str, Any]:
    return {
        "provider": provider,
        "model": model,
        "inputTokens": used.input_tokens,
        "outputTokens": used.output_tokens,
        "totalTokens": used.input_tokens + used.output_tokens,
        "reasoningTokens": used.output_reasoning_tokens,
        "cachedInputTokens": used.cache_read_tokens,
        "cacheWriteInputTokens": used.cache_write_tokens,
    }


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
        ended = False
        with capture_run_messages() as messages:
            stream = cast(
                "AsyncGenerator[Any, None]", adapter.run_stream(deps=run.user if with_user else None)
            )
            try:
                async with aclosing(stream) as events:
                    async for each in events:
                        event: Event = each.model_dump(mode="json", by_alias=True)
                        ended = event["type"] in TERMINAL
                        if event["type"] == RUN_ERROR:
                            event["usage"] = token_usage(messages)
                        yield event
            finally:
                if not ended:  # cancelled
                    run.report(usage=token_usage(messages))

    async def agent(run: RunInput) -> AsyncIterator[Event | str]:
        async for event in relay(run, lambda request: start(request, run)):
            yield event

    return Agent(
        name=name or found.name or spec.rpartition(":")[2].rpartition(".")[2],
        function=agent,
        description="A Pydantic AI agent.",
    )
