"""`echo`, `time`, `whoami`, `limits`, `agents`: what a client asks about itself, the connection and the agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from narthex.app.rpc.methods import Method, typed, who

if TYPE_CHECKING:
    from narthex.app.connection import Connection


class NoParams(msgspec.Struct, frozen=True):
    """No params."""


def _echo(connection: Connection, raw: bytes) -> object:  # noqa: ARG001 - every call has one shape
    return msgspec.Raw(raw)


def _time(connection: Connection, params: NoParams) -> object:  # noqa: ARG001 - every call has one shape
    return {"time": int(connection.services.now() * 1000)}


def _whoami(connection: Connection, params: NoParams) -> object:  # noqa: ARG001 - every call has one shape
    identity = who(connection)
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
        "node": connection.services.node,
        "transport": connection.context.transport,
    }


async def _limits(connection: Connection, params: NoParams) -> object:  # noqa: ARG001 - every call has one shape
    return await connection.services.quotas.shown(who(connection))


def _agents(connection: Connection, params: NoParams) -> object:  # noqa: ARG001 - every call has one shape
    who(connection)
    return {
        "agents": [
            {"name": agent.name, "description": agent.description, "suggestions": list(agent.suggestions)}
            for agent in connection.services.engine.agents.values()
        ]
    }


METHODS: Final = {
    "echo": Method(_echo, for_probe=True),
    "time": typed(NoParams, _time, for_probe=True),
    "whoami": typed(NoParams, _whoami),
    "limits": typed(NoParams, _limits),
    "agents": typed(NoParams, _agents),
}
