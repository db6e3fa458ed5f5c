"""`narthex.create_gateway`: narthex inside your own program, on one port with your own routes.

    import narthex
    from starlette.routing import Mount
    from myapp import fastapi_app, my_agent

    gateway = narthex.create_gateway(
        {"port": 8000}, agents=[my_agent], routes=[Mount("/mine", app=fastapi_app)]
    )
    gateway.run()                       # or: `await gateway.serve()` in a loop of your own

Not here: composing (`parts`, `web_application`), the settings' meaning (narthex.settings).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute

from narthex.adapters.agents.concierge_watch import Facts
from narthex.adapters.agents.loading import load_agent
from narthex.adapters.agents.python import python_agent
from narthex.errors import ConfigError
from narthex.extras import require
from narthex.ports.agents import Agent, AgentFunction
from narthex.ports.tokens import TokenVerifier
from narthex.settings import Settings, load
from narthex.settings.requirements import requirements
from narthex.wiring.gateway import GatewayServer


def create_gateway(
    settings: Settings | Mapping[str, Any] | None = None,
    *,
    agents: Iterable[Agent | AgentFunction | str] | None = None,
    routes: Sequence[BaseRoute] = (),
    verifier: TokenVerifier | None = None,
) -> GatewayServer:
    """A gateway that is not serving yet.

    Args:
        settings: from `narthex.settings.load`, or options by name (as in narthex.toml) that go before the
            environment; None: environment and narthex.toml only.
        agents: agent functions (with or without `@narthex.agent`), `Agent`s, or specs as of `--agent` (such as
            `"concierge"`, the built-in agent); the first is the default. None: those of the settings, else the
            concierge.
        routes: Starlette routes or mounts, FastAPI applications among them, served beside narthex's own on the
            same port. They come first; admission does not guard them: they are yours. A mounted application's
            lifespan is run.
        verifier: verifies tokens instead of the configured issuers. It keeps the guarantees of
            `narthex.ports.tokens.TokenVerifier`: never raises for a bad token, answers `Valid`, `Rejected` or
            `Unavailable`, waits only when it must. The gateway calls `start` first and `stop` last.

    Returns:
        The gateway: `run()`, `serve()`, or `running()` inside another loop.

    Raises:
        ConfigError: with every problem.
    """
    found = settings if isinstance(settings, Settings) else load(dict(settings or {}), os.environ)
    require(*requirements(found))
    by_name: dict[str, Agent] | None = None
    gateways: list[GatewayServer] = []

    async def facts() -> Mapping[str, object]:
        return await gateways[0].facts()

    if agents is not None:
        secrets = found.agent_secrets_by_name()
        made = [_made(agent, secrets, facts) for agent in agents]
        by_name = {agent.name: agent for agent in made}
        if not made or len(by_name) != len(made):
            raise ConfigError(["`agents` needs at least one agent, each with a unique name."])
    gateways.append(GatewayServer(found, agents=by_name, routes=routes, verifier=verifier))
    return gateways[0]


def _made(agent: Agent | AgentFunction | str, secrets: Mapping[str, str], facts: Facts) -> Agent:
    if isinstance(agent, Agent):
        return agent
    if isinstance(agent, str):
        return load_agent(agent, secrets=secrets, facts=facts)
    return python_agent(_name(agent), agent)


def _name(function: AgentFunction) -> str:
    return str(getattr(function, "__qualname__", function))
