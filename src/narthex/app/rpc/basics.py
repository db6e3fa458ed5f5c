"""`echo`, `time`, `whoami`, `limits`, `agents`: requests about the client, the connection and the agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from narthex.app.connection import Connection
from narthex.app.quotas import Quotas
from narthex.app.rpc.methods import Method, decoded, typed
from narthex.domain.identity import Identity
from narthex.ports.agents import Agent


class NoParams(msgspec.Struct, frozen=True):
    """No params."""


_NOTHING: Final = msgspec.json.Decoder(NoParams)


class BasicMethods:
    """See the module.

    Args:
        node: this node's id.
        clock: seconds since the epoch.
        quotas: for `limits`.
        agents: by name, the default first.
    """

    def __init__(
        self, node: str, clock: Callable[[], float], quotas: Quotas, agents: Mapping[str, Agent]
    ) -> None:
        self._node = node
        self._clock = clock
        self._quotas = quotas
        self._agents = agents

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "echo": Method(_echo, for_probe=True),
            "time": typed(NoParams, self._time, for_probe=True),
            "whoami": Method(self._whoami, params=NoParams),
            "limits": typed(NoParams, lambda who, _: self._quotas.shown(who)),
            "agents": typed(NoParams, self._described),
        }

    def _time(self, identity: Identity, params: NoParams) -> object:  # noqa: ARG002 - every method has one shape
        return {"time": int(self._clock() * 1000)}

    def _whoami(self, connection: Connection, raw: bytes) -> object:
        decoded(_NOTHING, raw)
        identity = connection.identity
        assert identity is not None
        return {
            "user": identity.subject,
            "tenant": identity.tenant,
            "name": identity.name,
            "plan": identity.plan,
            "permissions": list(identity.permissions),
            "class": identity.identity_class.value,
            "e2e": identity.e2e,
            "test_run": identity.test_run,
            "issuer": identity.issuer,
            "expires_at": identity.expires_at,
            "client": connection.client,
            "node": self._node,
            "transport": connection.context.transport,
        }

    def _described(self, identity: Identity, params: NoParams) -> object:  # noqa: ARG002 - every method has one shape
        return {
            "agents": [
                {"name": agent.name, "description": agent.description, "suggestions": list(agent.suggestions)}
                for agent in self._agents.values()
            ]
        }


def _echo(connection: Connection, raw: bytes) -> object:  # noqa: ARG001 - every method has one shape
    return msgspec.Raw(raw)
