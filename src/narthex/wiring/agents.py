"""Loads the agents of this process (those of the settings by their specs, else the concierge), and their bounds.

Not here: the adapters of agents (`adapters/agents`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from narthex.adapters.agents.concierge import concierge
from narthex.adapters.agents.loading import load_agent
from narthex.app.runs.services import RunLimits
from narthex.errors import ConfigError
from narthex.ports.agents import Agent
from narthex.settings import Settings


def load_agents(settings: Settings, facts: Callable[[], Awaitable[Mapping[str, object]]]) -> dict[str, Agent]:
    """The agents by public name, the default first. Raises ConfigError with every spec that does not load, and every
    secret that no agent would get.
    """
    secrets = settings.agent_secrets_by_name()
    if not settings.agents:
        agent = concierge(facts)
        return {agent.name: agent}
    found: dict[str, Agent] = {}
    problems: list[str] = []
    for spec in settings.agents:
        try:
            agent = load_agent(spec, secrets=secrets, facts=facts)
        except ConfigError as fault:
            problems += fault.problems
            continue
        if agent.name in found:
            problems.append(f"Two agents are named {agent.name!r}. Give one of them another name.")
        found[agent.name] = agent
    if not problems:
        problems += [
            f"NARTHEX_AGENT_SECRETS has a secret for {name!r}, but no agent has that name ({', '.join(found)}). Use "
            f"an agent's name in the secret, or name the agent with NAME=SPEC."
            for name in secrets
            if name not in found
        ]
    if problems:
        raise ConfigError(problems)
    return found


def run_limits(settings: Settings) -> RunLimits:
    """The bounds of every run; only development and testing show an exception's own text."""
    return RunLimits(
        run_deadline_s=settings.run_deadline_s,
        answer_s=settings.run_answer_s,
        thread_queue=settings.run_queue_limit,
        show_errors=not settings.policy.environment.remote,
    )
