"""narthex for your tests: a real gateway on a free port, inside the test's loop.

    async with narthex.testing.gateway(tmp_path, agents=[my_agent]) as running:
        token = running.token("ada")
        ...connect to running.ws with any SDK...

It is the real program with real sockets, not a stand-in: an in-memory client would hide what a handshake is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute

from narthex.domain import endpoints
from narthex.domain.identity import Identity
from narthex.errors import ClientError
from narthex.ports.agents import Agent, AgentFunction
from narthex.ports.tokens import TokenVerifier
from narthex.settings import load
from narthex.wiring.embedding import create_gateway
from narthex.wiring.gateway import GatewayServer


class Running:
    """A running gateway: `http` and `ws` are its URLs."""

    def __init__(self, gateway: GatewayServer, http: str) -> None:
        self.gateway = gateway
        self.http = http
        self.ws = http.replace("http", "ws", 1) + endpoints.WEBSOCKET

    def token(self, subject: str, *, ttl_s: float = 3600.0, **identity: Any) -> str:
        """A token that this gateway admits. `identity`: more fields of `Identity` (tenant, plan, permissions).

        Raises ClientError where the settings have no plan of that name: the gateway would treat the user as `free`.
        """
        parts = self.gateway.parts
        assert parts is not None
        assert parts.tokens.provider_keys is not None
        who = Identity(subject=subject, **identity)
        if who.plan not in parts.core.config.plans:
            raise ClientError(
                "bad_plan",
                f"No plan is named {who.plan!r}.",
                f"Choose from {', '.join(parts.core.config.plans)}.",
            )
        return parts.tokens.provider_keys.mint(who, ttl_s=ttl_s, now=parts.now())


@contextlib.asynccontextmanager
async def gateway(
    data_dir: Path,
    *,
    environ: Mapping[str, str] | None = None,
    agents: Iterable[Agent | AgentFunction | str] | None = None,
    routes: Sequence[BaseRoute] = (),
    verifier: TokenVerifier | None = None,
    **options: Any,
) -> AsyncIterator[Running]:
    """Start a gateway, end it afterwards.

    Args:
        data_dir: where its SQLite files go.
        environ: instead of the process's environment; None: an empty one, so that tests do not depend on it.
        agents: see `narthex.create_gateway`.
        routes: see `narthex.create_gateway`.
        verifier: see `narthex.create_gateway`.
        options: settings by name, as in narthex.toml.
    """
    flags = {"port": 0, "data_dir": data_dir, "embedded_provider": "on", "drain_grace_s": 1.0} | options
    made = create_gateway(load(flags, environ or {}), agents=agents, routes=routes, verifier=verifier)
    async with made.running() as http:
        yield Running(made, http)
