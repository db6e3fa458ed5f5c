"""Which agents run here: those of the settings by their specs, else the built-in concierge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.loading import load_agent
from narthex.errors import ConfigError
from narthex.ports.agents import Agent
from narthex.settings import Settings


def load_agents(settings: Settings, facts: Callable[[], Awaitable[Mapping[str, object]]]) -> dict[str, Agent]:
    """By public name, the default first. Raises ConfigError with every spec that does not load."""
    if not settings.agents:
        agent = concierge(facts)
        return {agent.name: agent}
    found: dict[str, Agent] = {}
    problems: list[str] = []
    for spec in settings.agents:
        try:
            agent = load_agent(spec, secrets=settings.agent_secrets_by_name())
        except ConfigError as fault:
            problems += fault.problems
            continue
        if agent.name in found:
            problems.append(f"Two agents are named {agent.name!r}. Give one of them another name.")
        found[agent.name] = agent
    if problems:
        raise ConfigError(problems)
    return found
